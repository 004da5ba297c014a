"""Does a recorded run again, to a disk that knows what was synced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .disk import Disk, Names, Node
from .record import Mark, marks
from .strace import Call, Moment

# Calls that would change files in ways that are not known here; nobody has used them yet.
_UNKNOWN = (
    *("pwritev", "pwritev2", "fallocate", "sync_file_range", "sendfile", "copy_file_range", "splice"),
    *("syncfs", "msync"),
)


class Replay:
    """Does to a disk what a recorded run did below ``root``."""

    def __init__(self, root: Path, record: Path, *, names: Names) -> None:
        self.disk = Disk(names)
        self._root = f"{root}/"
        self._record = str(record)
        # Per process, as threads share them: what its descriptors are open on.
        self._opened: dict[int, dict[int, _Opened]] = {}
        self._process: dict[int, int] = {}
        self._syncing: dict[int, Callable[[], None]] = {}
        #: What is acknowledged so far.
        self.acknowledged: set[str] = set()

    def step(self, moment: Moment) -> bool:
        """Do this again; returns whether it can have changed what a power cut leaves, or may leave."""
        call = moment.call
        if not moment.done:
            return self._begin(call)
        if call.result is None or call.result < 0:
            self._syncing.pop(call.thread, None)
            return False
        if call.thread in self._syncing:
            self._syncing.pop(call.thread)()
            return True
        process, files = self._files_of(call.thread)
        if call.name in ("fork", "vfork", "clone", "clone3"):
            if call.process_begins:
                self._opened[call.result] = dict(files)
            self._process[call.result] = call.result if call.process_begins else process
            return False
        return self._files(call, files) or self._names(call, files)

    def _begin(self, call: Call) -> bool:
        if call.name in ("fsync", "fdatasync") and (path := self._path(call)) is not None:
            node = self.disk.find(path)
            assert node is not None, f"{path} was opened before the record began"
            self._syncing[call.thread] = self.disk.begin_sync(node)
        if call.name == "close" and call.files:  # before it is done, another thread may have the number again
            _, files = self._files_of(call.thread)
            files.pop(call.files[0][0], None)
        if call.name == "write" and call.files[0][1] == self._record:
            for mark in marks(call.strings[0]):
                self._mark(mark)
            return True
        return False

    def _files_of(self, thread: int) -> tuple[int, dict[int, _Opened]]:
        """The process of a thread, and what its descriptors are open on."""
        process = self._process.setdefault(thread, thread)
        return process, self._opened.setdefault(process, {})

    def _mark(self, mark: Mark) -> None:
        if mark.kind == "ack":
            self.acknowledged.add(mark.what)
        elif mark.kind == "drop":
            self.acknowledged.discard(mark.what)

    def _files(self, call: Call, files: dict[int, _Opened]) -> bool:
        """A call about what is in a file."""
        number = call.files[0][0] if call.files else -1
        opened = files.get(number)
        if call.name in ("openat", "open", "creat"):
            return self._open(call, files)
        if call.name in ("dup", "dup2", "dup3") and opened is not None:
            files[call.result or 0] = opened
        elif call.name == "lseek" and opened is not None:
            opened.position = call.result or 0
        elif call.name in ("write", "writev") and opened is not None:
            if opened.append:
                opened.position = len(opened.node.content)
            self._write(call, opened.node, opened.position)
            opened.position += call.result or 0
            return True
        elif call.name == "pwrite64" and opened is not None:
            self._write(call, opened.node, call.numbers[-1])
            return True
        elif call.name == "ftruncate" and opened is not None:
            opened.node.resize(call.numbers[-1])
            return True
        elif call.name in _UNKNOWN and any(self._is_inside(path) for _, path in call.files):
            raise NotImplementedError(f"{call.name}({call.written})")
        return False

    def _write(self, call: Call, node: Node, offset: int) -> None:
        node.write(offset, b"".join(call.strings)[: call.result])

    def _open(self, call: Call, files: dict[int, _Opened]) -> bool:
        path = self._inside(call.path())
        if path is None or "O_DIRECTORY" in call.written or "O_PATH" in call.written:
            return False
        if "O_TMPFILE" in call.written:
            files[call.result or 0] = _Opened(Node(), append=False)
            return False
        node = self.disk.find(path)
        changed = False
        if node is None:
            if path.endswith("-shm") or not ("O_CREAT" in call.written or call.name == "creat"):
                return False  # SQLite's shared memory, or made by a call that is not followed, such as mkfifo
            node, changed = Node(), True
            self.disk.name(path, node)
        elif "O_TRUNC" in call.written or call.name == "creat":
            node.resize(0)
            changed = True
        if not node.folder:
            files[call.result or 0] = _Opened(node, append="O_APPEND" in call.written)
        return changed

    def _names(self, call: Call, files: dict[int, _Opened]) -> bool:
        """A call about the names of files."""
        kind = call.name.removesuffix("2").removesuffix("at")
        if kind not in ("mkdir", "unlink", "rmdir", "rename", "link", "symlink", "mknod", "truncate"):
            return False
        paths = [self._inside(call.path(which)) for which in range(len(call.strings))]
        if kind in ("symlink", "truncate") and any(path is not None for path in paths):
            raise NotImplementedError(f"{call.name}({call.written})")
        if kind in ("unlink", "rmdir") and paths[0] is not None:
            if self.disk.find(paths[0]) is None:  # one that is not followed
                return False
            self.disk.remove(paths[0])
        elif kind == "mkdir" and paths[0] is not None:
            self.disk.name(paths[0], Node(folder=True))
        elif kind == "rename" and paths != [None, None]:
            source, target = paths
            if source is None or target is None:
                raise NotImplementedError(
                    "a file comes in from outside or goes there: let the root hold both"
                )
            if self.disk.find(source) is None:
                return False
            self.disk.rename(source, target)
        elif kind == "link" and paths[1] is not None:
            self.disk.name(paths[1], self._linked(call, files))
        else:
            return False
        return True

    def _linked(self, call: Call, files: dict[int, _Opened]) -> Node:
        source = call.path(0)
        if source.startswith("/proc/self/fd/"):
            return files[int(source.removeprefix("/proc/self/fd/"))].node
        path = self._inside(source)
        node = None if path is None else self.disk.find(path)
        if node is None:
            raise NotImplementedError(f"{call.name}({call.written})")
        return node

    def _path(self, call: Call) -> str | None:
        return self._inside(call.files[0][1]) if call.files and call.files[0][1] is not None else None

    def _is_inside(self, path: str | None) -> bool:
        return path is not None and not path.endswith("-shm") and self._inside(path) is not None

    def _inside(self, path: str) -> str | None:
        if f"{path}/" == self._root:
            return ""
        return path.removeprefix(self._root) if path.startswith(self._root) else None


@dataclass(slots=True)
class _Opened:
    """The file that a descriptor is open on; duplicates share the position."""

    node: Node
    append: bool
    position: int = 0
