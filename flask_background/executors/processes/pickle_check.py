"""A check of a pickle before it is read: it may add to lists, dicts and sets of its own, and change no more.

The opcodes are followed as the unpickler will, with a stack and a memo that tell for each value only whether
it is such a container, and otherwise how deep tuples are nested in it: CPython hashes a tuple with all that
is in it on the stack of C, whose end is the end of the process. Opcodes that a pickler of the highest
protocol does not write for data are refused.
"""

from __future__ import annotations

import pickle
import pickletools

# How deep tuples, frozensets and objects may be nested in one another. Python pickles nothing deeper.
_DEEPEST = 1_000
# Stands for a list, dict or set.
_OWN = -1

_CODES = {one.name: ord(one.code) for one in pickletools.opcodes}


def _codes(names: str) -> set[int]:
    return {_CODES[name] for name in names.split()}


# What pushes a value: the size of its argument, or of the length before its argument.
_FIXED = {
    **dict.fromkeys(_codes("NONE NEWTRUE NEWFALSE EMPTY_TUPLE"), 0),
    _CODES["BININT1"]: 1,
    _CODES["BININT2"]: 2,
    _CODES["BININT"]: 4,
    _CODES["BINFLOAT"]: 8,
}
_SIZED = {
    **dict.fromkeys(_codes("SHORT_BINUNICODE SHORT_BINBYTES LONG1"), 1),
    **dict.fromkeys(_codes("BINUNICODE BINBYTES LONG4"), 4),
    **dict.fromkeys(_codes("BINUNICODE8 BINBYTES8 BYTEARRAY8"), 8),
}
_EMPTY = _codes("EMPTY_LIST EMPTY_DICT EMPTY_SET")
_ADD_MARKED = _codes("APPENDS SETITEMS ADDITEMS")
_MAKE_MARKED = _codes("TUPLE FROZENSET")
_ADD = {_CODES["APPEND"]: 1, _CODES["SETITEM"]: 2}
_MAKE = {_CODES[name]: taken for name, taken in {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}.items()} | {
    _CODES["STACK_GLOBAL"]: 2,
    _CODES["REDUCE"]: 2,
}
_GET = {_CODES["BINGET"]: 1, _CODES["LONG_BINGET"]: 4}
_SKIP = {_CODES["PROTO"]: 1, _CODES["FRAME"]: 8}
_MEMOIZE, _SHORT_TEXT, _MARK, _POP, _POP_MARK, _STOP = (
    _CODES[name] for name in ("MEMOIZE", "SHORT_BINUNICODE", "MARK", "POP", "POP_MARK", "STOP")
)


def check(data: bytes) -> None:
    """Raise pickle.UnpicklingError for a pickle that does more than make values."""
    try:
        _follow(data)
    except IndexError:
        raise pickle.UnpicklingError("a pickle that is no data: it ends too early") from None


def _follow(data: bytes) -> None:
    stack: list[int] = []
    memo: list[int] = []
    marks: list[int] = []
    at = 0
    while (code := data[at]) != _STOP:
        at += 1
        if code == _MEMOIZE:
            memo.append(stack[-1])
        elif code == _SHORT_TEXT:
            at += 1 + data[at]
            stack.append(0)
        elif (size := _FIXED.get(code)) is not None:
            at += size
            stack.append(0)
        elif size := _SIZED.get(code):
            at += size + int.from_bytes(data[at : at + size], "little")
            stack.append(0)
        elif size := _GET.get(code):
            stack.append(memo[int.from_bytes(data[at : at + size], "little")])
            at += size
        elif code in _EMPTY:
            stack.append(_OWN)
        elif code == _MARK:
            marks.append(len(stack))
        elif code in _ADD_MARKED:
            del stack[marks.pop() :]
            _require_own(stack)
        elif code in _MAKE_MARKED:
            _nest(stack, marks.pop())
        elif taken := _MAKE.get(code):
            _nest(stack, len(stack) - taken)
        elif taken := _ADD.get(code):
            del stack[len(stack) - taken :]
            _require_own(stack)
        elif size := _SKIP.get(code):
            at += size
        elif code == _POP and len(stack) > (marks[-1] if marks else 0):
            stack.pop()
        elif code == _POP_MARK:
            del stack[marks.pop() :]
        else:
            raise pickle.UnpicklingError(f"a pickle that is no data: it has the opcode {code:#04x}")


def _nest(stack: list[int], start: int) -> None:
    """Replace the values from start on by one that contains them."""
    depth = 1 + max(stack[start:], default=0)
    if depth > _DEEPEST:
        raise pickle.UnpicklingError(f"a pickle that is no data: it nests more than {_DEEPEST} tuples")
    stack[start:] = [max(1, depth)]


def _require_own(stack: list[int]) -> None:
    if stack[-1] != _OWN:
        raise pickle.UnpicklingError("a pickle that is no data: it adds to what is no list, dict or set")
