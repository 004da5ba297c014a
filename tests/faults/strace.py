"""Runs a Python program under strace, and reads what it did to its files, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..helpers import ROOT

#: What changes files or their names, makes changes durable, or is needed to know which file is meant. A
#: change through mmap is no call: SQLite makes those only to its -shm file, which it can rebuild.
FILES = (
    "openat,open,creat,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,rename,"
    "renameat,renameat2,write,writev,pwrite64,pwritev,pwritev2,sendfile,copy_file_range,splice,truncate,ftruncate,"
    "fallocate,lseek,fsync,fdatasync,sync_file_range,sync,syncfs,msync,close,dup,dup2,dup3,clone,clone3,fork,vfork"
)

# A value in the log: a string in hexadecimal digits, a descriptor with its path, a number, or a word.
_VALUE = re.compile(
    r'"(?P<text>(?:\\x[0-9a-f]{2})*)"(?P<cut>\.{3})?'
    r"|(?P<fd>-?\d+|AT_FDCWD)<(?P<path>[^>]*)>(?P<gone>\(deleted\))?"
    r"|(?P<number>-?(?:0x[0-9a-f]+|\d+))|(?P<word>[A-Z_a-z][A-Z_a-z0-9|=]*)"
)
_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?P<resumed> resumed>|\()(?P<rest>.*)")
_LONGEST = 1 << 22


@dataclass(slots=True)
class Call:
    """One system call. Of several threads' calls, some are begun before others are done."""

    thread: int
    name: str
    #: The thread's how manieth call of that name it is, from 1: what strace's when= counts.
    number: int
    #: The arguments as strace writes them.
    written: str
    #: What it returned, -1 for an error, None if it never did.
    result: int | None = None
    #: The path of the descriptor that was returned.
    opened: str | None = None
    strings: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    #: Descriptors, with their paths; a file that has no name any more has the path None.
    files: list[tuple[int, str | None]] = field(default_factory=list)

    @property
    def process_begins(self) -> bool:
        """Whether the call starts a process, not a thread."""
        return self.name in ("fork", "vfork") or (
            self.name in ("clone", "clone3") and "CLONE_THREAD" not in self.written
        )

    def path(self, which: int = 0) -> str:
        """The path given by string number ``which``, made absolute as the kernel does it."""
        path = os.fsdecode(self.strings[which])
        folders = [name for number, name in self.files if name is not None]
        if folders and not os.path.isabs(path):
            path = os.path.join(folders[min(which, len(folders) - 1)], path)
        return os.path.normpath(path)

    def touches(self, folder: str) -> bool:
        """Whether the call is about something in the folder."""
        paths = [path for _, path in self.files if path and self.name not in ("openat", "mkdirat")]
        if self.name in ("openat", "open", "creat", "truncate") or self.name[:4] in ("mkdi", "unli", "rena"):
            paths += [self.path(which) for which in range(len(self.strings))]
        return any(path == folder or path.startswith(folder + "/") for path in paths)


@dataclass(frozen=True, slots=True)
class Moment:
    """A call begins, or is done."""

    call: Call
    done: bool


def command(log: Path, program: Sequence[str], *options: str, calls: str = FILES) -> list[str]:
    """The command line that runs a Python program under strace.

    Without --seccomp-bpf: that is faster, but strace then forgets the signals that it should inject.
    """
    known = ",".join("?" + name for name in calls.split(","))
    return [
        *("strace", "-f", "-qq", "-y", "-xx", "-s", str(_LONGEST), "-o", str(log)),
        *("-e", "signal=none", "-e", f"trace={known}", *options, sys.executable, *program),
    ]


def run(
    log: Path,
    program: Sequence[str],
    *options: str,
    calls: str = FILES,
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. A program that was killed has the return code -9."""
    return subprocess.run(
        command(log, program, *options, calls=calls),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


def read(log: Path) -> Iterator[Moment]:
    """The calls, in the order in which strace saw them."""
    counts: Counter[tuple[int, str]] = Counter()
    begun: dict[int, Call] = {}
    with log.open(encoding="ascii") as lines:
        for line in lines:
            found = _LINE.match(line)
            if found is None:  # a signal, or an end
                continue
            thread, rest = int(found["thread"]), found["rest"]
            if found["resumed"] != "(":
                call = begun.pop(thread)
            else:
                counts[thread, found["name"]] += 1
                call = Call(thread, found["name"], counts[thread, found["name"]], "")
                if rest.endswith("<unfinished ...>"):
                    _arguments(call, rest.removesuffix("<unfinished ...>"))
                    begun[thread] = call
                    yield Moment(call, False)
                    continue
            arguments, _, result = rest.rpartition(") ")
            _arguments(call, arguments)
            if found["resumed"] == "(":
                yield Moment(call, False)
            _result(call, result.strip().removeprefix("= "))
            yield Moment(call, True)


def _arguments(call: Call, written: str) -> None:
    call.written += written
    for value in _VALUE.finditer(written):
        if value["cut"]:
            raise ValueError(
                f"{call.name} writes more than {_LONGEST} bytes at once, which the log leaves out"
            )
        if value["text"] is not None:
            call.strings.append(_bytes(value["text"]))
        elif value["fd"]:
            number = -1 if value["fd"] == "AT_FDCWD" else int(value["fd"])
            call.files.append((number, None if value["gone"] else os.fsdecode(_bytes(value["path"]))))
        elif value["number"]:
            call.numbers.append(_number(value["number"]))


def _result(call: Call, written: str) -> None:
    value = _VALUE.match(written)
    if value is None:  # "?": it was killed
        return
    if value["fd"]:
        call.result = int(value["fd"])
        call.opened = os.fsdecode(_bytes(value["path"]))
    elif value["number"]:
        call.result = _number(value["number"])


def _number(text: str) -> int:
    octal = len(text) > 1 and text.startswith("0") and text[1] != "x"
    return int(text, 8) if octal else int(text, 0)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()
