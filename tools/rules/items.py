"""The rule about the item: its slots are written in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.rules.reading import last_name, line_of, with_scopes, writes


class Slots(NamedTuple):
    """The slots of items, each with the files that may write it; and the names of all item classes."""

    writers: dict[str, set[Path]]
    kinds: set[str]


def slots_of_items(sources: dict[Path, ast.Module]) -> Slots:
    """The slots of ``WorkItem`` and of the classes that inherit from it."""
    classes = [
        (path, node)
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    kinds = {"WorkItem"}
    while more := {node.name for _, node in classes if _bases(node) & kinds} - kinds:
        kinds |= more
    writers: dict[str, set[Path]] = {}
    for path, node in classes:
        if node.name in kinds:
            for slot in _own_slots(node):
                heirs = kinds if node.name == "WorkItem" else _heirs(node.name, classes)
                files = (
                    {path}
                    if node.name == "WorkItem"
                    else {file for file, kind in classes if kind.name in heirs}
                )
                writers.setdefault(slot, set()).update(files)
    return Slots(writers, kinds)


def _heirs(name: str, classes: list[tuple[Path, ast.ClassDef]]) -> set[str]:
    heirs = {name}
    while more := {node.name for _, node in classes if _bases(node) & heirs} - heirs:
        heirs |= more
    return heirs


def _bases(node: ast.ClassDef) -> set[str]:
    return {name for base in node.bases if (name := last_name(base)) is not None}


def _own_slots(node: ast.ClassDef) -> set[str]:
    return {
        slot.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "__slots__" for target in statement.targets)
        for slot in ast.walk(statement.value)
        if isinstance(slot, ast.Constant) and isinstance(slot.value, str)
    }


def find_writes(tree: ast.Module, path: Path, slots: Slots) -> Iterator[tuple[int, str]]:
    """Where this file writes a slot that others write."""
    for scope, node in with_scopes(tree):
        for target, attribute in writes(node):
            if attribute not in slots.writers or path in slots.writers[attribute]:
                continue
            kind = scope.kind_of(target)
            if kind is None or kind in slots.kinds:
                yield (
                    line_of(node),
                    f"{ast.unparse(target)}.{attribute} is written: use a verb of"
                    f" {_names(slots, attribute)}, which alone changes items",
                )
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Attribute)
            and node.value.attr == "__dict__"
            and last_name(node.value.value) in slots.kinds
        ):
            yield line_of(node), f"{ast.unparse(node)} opens the slots of items: use a verb of the item"


def _names(slots: Slots, attribute: str) -> str:
    return " or ".join(sorted("/".join(path.parts[-2:]) for path in slots.writers[attribute]))
