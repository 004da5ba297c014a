"""A disk that remembers what was synced and what was not, and says what a power cut may leave of it.

Assumed of the file system, and no more than that:

- What a file held when fsync or fdatasync began is there once that has returned, its length included.
- Of what was written since, any page of 4096 bytes may be there or not, in any of the versions it had,
  and any one may be torn between two versions at a sector of 512 bytes. The length is any that the file
  had since; what was cut off is gone if the length says so.
- Names (created, removed, renamed) are there for certain once their folder was synced. That is what POSIX
  promises, and ``names="folder"``. Under ``names="file"``, as on ext4, XFS and Btrfs, those of a file are
  there also once the file itself was synced, with the names of the folders that it is in. Names that no
  sync covers reach the disk in their order, at any time, a rename in one piece.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Literal

Names = Literal["folder", "file"]
#: Paths below the root, with what is in the files; None is a folder.
State = dict[str, bytes | None]

_PAGE = 4096
_SECTOR = 512


@dataclass(slots=True)
class _Write:
    """Bytes at an offset; or, where data is None, a length."""

    offset: int
    data: bytes | None

    def to(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            end = self.offset
        else:
            end = self.offset + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        if self.data is not None:
            content[self.offset : end] = self.data


@dataclass(slots=True, eq=False)
class Node:
    """A file or a folder, under whatever name."""

    folder: bool = False
    content: bytearray = field(default_factory=bytearray)
    #: What would be left of the content, and what came after it.
    durable: bytes = b""
    pending: list[_Write] = field(default_factory=list)
    #: How many writes are durable.
    written: int = 0
    parent: Node | None = None
    #: In a folder: what has which name now.
    entries: dict[str, Node] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        """Write, not to the disk yet."""
        self._change(_Write(offset, data))

    def resize(self, length: int) -> None:
        """Cut, or lengthen with zeros."""
        self._change(_Write(length, None))

    def _change(self, write: _Write) -> None:
        write.to(self.content)
        self.pending.append(write)

    def begin_sync(self) -> int:
        """The end of the writes that a sync which begins now makes durable."""
        return self.written + len(self.pending)

    def sync(self, until: int) -> None:
        """Such a sync has returned."""
        count = max(0, until - self.written)
        content = bytearray(self.durable)
        for write in self.pending[:count]:
            write.to(content)
        self.durable = bytes(content)
        del self.pending[:count]
        self.written += count

    def mixed(self, chance: random.Random) -> bytes:
        """The durable content with some of what came after."""
        count = len(self.pending)
        cut = chance.choice((0, count, chance.randint(0, count)))
        length = len(self._content(cut, cut))
        versions: dict[int, bytes] = {}

        def any_version() -> bytes:
            until = chance.choice((0, count, chance.randint(0, count)))
            if until not in versions:
                versions[until] = self._content(until, cut).ljust(length, b"\0")
            return versions[until]

        pages = []
        for start in range(0, length, _PAGE):
            page = any_version()[start : start + _PAGE]
            if chance.random() < 0.25:
                tear = chance.randrange(_SECTOR, _PAGE, _SECTOR)
                page = page[:tear] + any_version()[start + tear : start + _PAGE]
            pages.append(page)
        return b"".join(pages)[:length]

    def _content(self, writes: int, cuts: int) -> bytes:
        """The durable content with the first so many of what came after, of which cuts go by themselves.

        A cut is in the file's metadata: what it took away is gone if the cut is there, else it is not.
        """
        content = bytearray(self.durable)
        for index, write in enumerate(self.pending):
            if index < (cuts if write.data is None else writes):
                write.to(content)
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Naming:
    """Names that change together: in which folder, and what has the name then."""

    changes: list[tuple[Node, str, Node | None]]
    subject: Node
    durable: bool = False


class Disk:
    """The files below a root. Paths are relative to it; the root is ''."""

    def __init__(self, names: Names = "folder") -> None:
        self.root = Node(folder=True)
        self._by_file = names == "file"
        # The durable names, and all changes since the first one that is not durable.
        self._names: dict[Node, dict[str, Node]] = {self.root: {}}
        self._namings: list[_Naming] = []

    def find(self, path: str) -> Node | None:
        """The file that has this path now."""
        node: Node | None = self.root
        for name in path.split("/") if path else ():
            node = node.entries.get(name) if node else None
        return node

    def name(self, path: str, node: Node) -> None:
        """Give a node this path, in place of what has it now."""
        self._rename([(path, node)], node)

    def remove(self, path: str) -> None:
        """Take a path away."""
        node = self.find(path)
        assert node is not None, path
        self._rename([(path, None)], node)

    def rename(self, source: str, target: str) -> None:
        """Move what has a path."""
        node = self.find(source)
        assert node is not None, source
        self._rename([(source, None), (target, node)], node)

    def begin_sync(self, node: Node) -> Callable[[], None]:
        """A sync begins: returns what to call once it has returned."""
        until, namings = node.begin_sync(), tuple(self._namings)

        def done() -> None:
            node.sync(until)
            for naming in namings:
                if any(folder is node for folder, _, _ in naming.changes):
                    naming.durable = True
            if self._by_file:
                named: Node | None = node
                while named is not None:
                    for naming in namings:
                        naming.durable |= naming.subject is named
                    named = named.parent
            self._settle()

        return done

    def states(self, chance: random.Random, mixes: int) -> Iterator[tuple[str, State]]:
        """The disks that a power cut may leave now, with their cases: all, nothing, one file less, mixes."""
        waiting = [naming for naming in self._namings if not naming.durable]
        every, files = len(waiting), [node for node in self._nodes() if node.pending]
        yield "all", self._state(every, _now)
        if not waiting and not files:
            return
        yield "nothing", self._state(0, _durable)
        if waiting and files:
            yield "names", self._state(every, _durable)
            yield "contents", self._state(0, _now)
        for lost in files if len(files) > 1 else ():
            yield "without one", self._state(every, partial(_all_but, lost))
        for _ in range(mixes):
            yield "mixed", self._state(chance.randint(0, every), partial(_some, chance))

    def _rename(self, changes: list[tuple[str, Node | None]], subject: Node) -> None:
        naming = _Naming([], subject)
        for path, node in changes:
            parent, _, name = path.rpartition("/")
            folder = self.find(parent)
            assert folder is not None, path
            if node is None:
                del folder.entries[name]
            else:
                folder.entries[name] = node
                node.parent = folder
            naming.changes.append((folder, name, node))
        self._namings.append(naming)

    def _settle(self) -> None:
        """Forget the namings that are durable, up to the first that is not."""
        while self._namings and self._namings[0].durable:
            self._apply(self._namings.pop(0), self._names)

    @staticmethod
    def _apply(naming: _Naming, names: dict[Node, dict[str, Node]]) -> None:
        for folder, name, node in naming.changes:
            entries = names.setdefault(folder, {})
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node

    def _nodes(self) -> list[Node]:
        """Everything that has a name, or may still have one after a power cut."""
        found = {self.root: None}
        for node in (node for entries in self._names.values() for node in entries.values()):
            found[node] = None
        for naming in self._namings:
            found[naming.subject] = None
        return list(found)

    def _state(self, names: int, content: Callable[[Node], bytes]) -> State:
        """The tree with the first so many of the namings that are not durable, and the durable ones."""
        entries = {folder: dict(inside) for folder, inside in self._names.items()}
        counts = accumulate(not naming.durable for naming in self._namings)
        for naming, count in zip(self._namings, counts, strict=True):
            if naming.durable or count <= names:
                self._apply(naming, entries)
        state: State = {}
        contents: dict[Node, bytes] = {}

        def walk(folder: Node, prefix: str) -> None:
            for name, node in sorted(entries.get(folder, {}).items()):
                if node.folder:
                    state[prefix + name] = None
                    walk(node, f"{prefix}{name}/")
                else:
                    if node not in contents:  # one file under two names has one content
                        contents[node] = content(node)
                    state[prefix + name] = contents[node]

        walk(self.root, "")
        return state


def _now(node: Node) -> bytes:
    return bytes(node.content)


def _durable(node: Node) -> bytes:
    return node.durable


def _all_but(lost: Node, node: Node) -> bytes:
    return node.durable if node is lost else bytes(node.content)


def _some(chance: random.Random, node: Node) -> bytes:
    pick = chance.random()
    if pick < 0.2:
        return node.durable
    return bytes(node.content) if pick < 0.4 else node.mixed(chance)
