"""The messages of the package's errors and log lines, from the source; ``{name}`` stands for a value."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

from flask_background import errors

PACKAGE = Path(errors.__file__).parent
#: Functions that make an error of a sentence, and that error.
MAKERS: dict[str, tuple[str, Callable[..., str]]] = {
    "wrong_option": ("ConfigurationError", "the task's option {} is {}; allowed is {}".format),
    "wrong_setting": ("ConfigurationError", "{} is {}; allowed is {}".format),
}
#: Python's own errors, which a caller may meet as well.
BUILTIN = ("RuntimeError", "TypeError", "ValueError")


class Message(NamedTuple):
    """One sentence of the package: the error or log level, the text, and the room that it comes from."""

    kind: str
    text: str
    room: str


def error_messages() -> list[Message]:
    """Return the messages of all errors, sorted by class and text."""
    names = {name for name, value in vars(errors).items() if isinstance(value, type)} | {*BUILTIN}
    found = set()
    for room, node in _calls():
        name = _name(node.func)
        if not node.args:
            continue
        if name in MAKERS:
            kind, pattern = MAKERS[name]
            text = pattern(*map(_text, node.args[:3]))
        elif name in names:
            kind, text = name, _text(node.args[0])
        elif name == "cls" and room == "errors":
            kind, text = "Stopping", _text(node.args[0])
        else:
            continue
        if _says_something(text):
            found.add(Message(kind, text.strip(), room))
    for cause in _journal_causes():
        found.add(Message("JournalError", f"the journal in {{folder}} cannot be used: {cause}", "durable"))
    for what, cure in _refused_arguments():
        found.add(
            Message("ArgumentError", f"{{where}} is {what}, and cannot be handed over: {cure}", "payload")
        )
    return sorted(found)


def log_messages() -> list[Message]:
    """Return the lines of the logger ``background``, sorted by level and text."""
    found = set()
    for room, node in _calls():
        name = _name(node.func)
        if len(node.args) > 1 and _is_level(node.args[0]):
            kind, text = _name(node.args[0]).lower(), _log_text(node.args[1:])
        elif name in ("log_error", "log_warning") and node.args:
            kind, text = name.removeprefix("log_"), _text(node.args[0])
        elif name in ("warning", "error", "info") and _is_logger(node.func) and node.args:
            kind, text = name, _log_text(node.args)
        else:
            continue
        if _says_something(text):
            found.add(Message(kind, text.strip(), room))
    return sorted(found)


def _journal_causes() -> set[str]:
    """Return the causes that a failed use of the journal may have, with their cures."""
    tree = ast.parse((PACKAGE / "durable" / "journal" / "failure.py").read_text())
    assigned = (node.value for node in tree.body if isinstance(node, ast.Assign))
    flat = (part for value in assigned for part in ast.walk(value))
    returned = (node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value)
    texts = map(_text, (part for part in (*flat, *returned) if isinstance(part, ast.Constant)))
    return {text for text in texts if ":" in text and _says_something(text)}


def _refused_arguments() -> set[tuple[str, str]]:
    """Return the kinds of arguments that live only in the request, each with its cure."""
    tree = ast.parse((PACKAGE / "payload" / "live.py").read_text())
    _put_in_variables(tree)
    strings = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found = set()
    for node in ast.walk(tree):
        pair: list[ast.expr] = []
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            pair = node.elts
        elif isinstance(node, ast.Call) and _name(node.func) == "_refuse" and len(node.args) == 3:
            pair = node.args[1:]
        pair = [strings.get(part.id, part) if isinstance(part, ast.Name) else part for part in pair]
        texts = [_text(part) for part in pair if isinstance(part, (ast.Constant, ast.JoinedStr))]
        if len(texts) == 2 and " " in texts[1]:
            found.add((texts[0], texts[1]))
    return found


def _calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text())
        others = _put_in_variables(tree)
        for node in (*ast.walk(tree), *others):
            if isinstance(node, ast.Call):
                yield room, node


def _put_in_variables(tree: ast.AST) -> list[ast.Call]:
    """Replace variables in messages by the strings that the lines above have assigned to them.

    Where one of two strings is assigned, ``tree`` has the call with the first one; the calls with the second
    one are returned.
    """
    others = []
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        assigned = {
            node.targets[0].id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        strings = {
            name: value
            for name, value in assigned.items()
            if isinstance(value, (ast.Constant, ast.JoinedStr, ast.BinOp))
        }
        for node in list(ast.walk(function)):
            if not isinstance(node, ast.Call):
                continue
            node.args = [strings.get(arg.id, arg) if isinstance(arg, ast.Name) else arg for arg in node.args]
            for name, value in assigned.items():
                if isinstance(value, ast.IfExp) and _is_text(value.body) and _is_text(value.orelse):
                    other = deepcopy(node)
                    if _fill(node, name, value.body) and _fill(other, name, value.orelse):
                        others.append(other)
    return others


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value


def _fill(call: ast.Call, name: str, text: ast.expr) -> bool:
    """Put a text in the place of a variable in the strings of a call; return whether there was one."""
    filled = False
    for string in call.args:
        if isinstance(string, ast.JoinedStr):
            for index, part in enumerate(string.values):
                if isinstance(part, ast.FormattedValue) and _name(part.value) == name:
                    string.values[index] = text
                    filled = True
    return filled


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_level(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _name(node.value) == "logging" and node.attr.isupper()


def _is_logger(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _name(node.value) == "log"


def _text(node: ast.expr) -> str:
    """Return a string expression as text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Constant):
        return f"({node.value.value!s})"  # the s of a plural
    return f"{{{_words(node)}}}"


def _words(node: ast.expr) -> str:
    """Name a value by the last word of its expression: ``self.task.name`` is a ``name``."""
    while isinstance(node, ast.Call) and node.args and _name(node.func) in ("str", "repr", "shown", "type"):
        node = node.args[0]
    words: list[str] = re.findall(r"[A-Za-z_]\w*", ast.unparse(node))
    return words[-1].strip("_").lower() if words else "value"


def _log_text(nodes: list[ast.expr]) -> str:
    first, *values = nodes
    text = _text(first)
    if text.startswith("{") or "%" not in text:
        return text
    names = iter(map(_text, values))
    return re.sub(r"%(?:\.\d)?[sdf]", lambda _: next(names, "{value}"), text)


def _says_something(text: str) -> bool:
    """Return whether words are left besides what varies."""
    return len(re.sub(r"\{[^{}]*\}", "", text).split()) > 1
