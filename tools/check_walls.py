"""Checks the walls of the house by reading the source: ``python -m tools.check_walls`` in ``make lint``.

Four rules, each with the file and line where it is broken:

- *item*: a slot of ``WorkItem`` is written in ``core/item.py`` alone, a slot of a subclass where that is.
- *foreign*: no private name of another library is used, and nothing of Celery, kombu, redis-py, gevent,
  billiard or amqp is changed.
- *extensions*: nothing below ``app_state`` looks into ``app.extensions["background"]``.
- *flask*: nothing below ``app_state`` imports Flask but for types.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "flask_background"
FOREIGN = {"celery", "kombu", "redis", "gevent", "billiard", "amqp"}
#: The rooms below ``app_state``.
BELOW = {
    "celery",
    "durable",
    "local",
    "hosts",
    "executors",
    "globals",
    "payload",
    "core",
    "signals",
    "errors",
    "concurrency",
}
#: The keys of an app's extensions that are ours.
KEYS = ("background", "background.state")
#: Private names that their libraries document, or Python does.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_get_current_object", "_make", "_replace"}
#: Private names that cannot be done without, by file. Each has a test that fails when the name is gone.
NEEDED = {
    "hosts/gunicorn.py": {"_current_frames", "_getframe"},
    "payload/arguments.py": {"_sa_class_manager", "_sa_instance_state"},
    "payload/data.py": {"_sa_class_manager"},
}
#: Files that may break a rule, by their path in the package. An entry that nothing needs is an error.
ALLOWED: dict[str, tuple[str, ...]] = {
    "item": ("celery/",),
    "flask": ("payload/tagged_json.py",),  # Flask's own way to write JSON
}


class Finding(NamedTuple):
    """One place where a rule is broken."""

    rule: str
    path: str
    line: int
    what: str


def check(package: Path, allowed: dict[str, tuple[str, ...]]) -> list[str]:
    """All findings in the files of a package, as lines of text."""
    sources = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    findings: list[Finding] = []
    slots, ours = _slots_of_items(sources), _private_names_of(sources.values())
    for path, tree in sources.items():
        name = path.relative_to(package).as_posix()
        findings += (Finding("item", name, line, what) for line, what in _item_writes(tree, path, slots))
        known = ours | DOCUMENTED | NEEDED.get(name, set())
        findings += (Finding("foreign", name, line, what) for line, what in _foreign_names(tree, known))
        if name.split("/")[0].removesuffix(".py") in BELOW:
            findings += (Finding("extensions", name, line, what) for line, what in _look_ups(tree))
            findings += (Finding("flask", name, line, what) for line, what in _flask_imports(tree))
    needed: set[tuple[str, str]] = set()
    lines = []
    for finding in findings:
        entry = next((each for each in allowed.get(finding.rule, ()) if finding.path.startswith(each)), None)
        if entry is None:
            lines.append(f"{package.name}/{finding.path}:{finding.line}: {finding.what}")
        else:
            needed.add((finding.rule, entry))
    for rule, entries in allowed.items():
        lines += [
            f"{Path(__file__).name}: nothing needs {entry!r} in ALLOWED[{rule!r}] any more: delete it"
            for entry in entries
            if (rule, entry) not in needed
        ]
    return lines


# The wall around the item.


class _Slots(NamedTuple):
    """The slots of items, each with the files that may write it; and the names of all item classes."""

    writers: dict[str, set[Path]]
    kinds: set[str]


def _slots_of_items(sources: dict[Path, ast.Module]) -> _Slots:
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
    return _Slots(writers, kinds)


def _heirs(name: str, classes: list[tuple[Path, ast.ClassDef]]) -> set[str]:
    heirs = {name}
    while more := {node.name for _, node in classes if _bases(node) & heirs} - heirs:
        heirs |= more
    return heirs


def _bases(node: ast.ClassDef) -> set[str]:
    return {name for base in node.bases if (name := _last_name(base)) is not None}


def _last_name(node: ast.expr) -> str | None:
    """The class that an expression such as ``item.WorkItem[R]`` names."""
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _own_slots(node: ast.ClassDef) -> set[str]:
    return {
        slot.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "__slots__" for target in statement.targets)
        for slot in ast.walk(statement.value)
        if isinstance(slot, ast.Constant) and isinstance(slot.value, str)
    }


def _item_writes(tree: ast.Module, path: Path, slots: _Slots) -> Iterator[tuple[int, str]]:
    for scope, node in _with_scopes(tree):
        for target, attribute in _writes(node):
            if attribute not in slots.writers or path in slots.writers[attribute]:
                continue
            kind = scope.kind_of(target)
            if kind is None or kind in slots.kinds:
                yield (
                    node.lineno,
                    f"{ast.unparse(target)}.{attribute} is written: use a verb of"
                    f" {_names(slots, attribute)}, which alone changes items",
                )
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Attribute)
            and node.value.attr == "__dict__"
            and _last_name(node.value.value) in slots.kinds
        ):
            yield node.lineno, f"{ast.unparse(node)} opens the slots of items: use a verb of the item"


def _names(slots: _Slots, attribute: str) -> str:
    return " or ".join(sorted("/".join(path.parts[-2:]) for path in slots.writers[attribute]))


def _writes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The attributes that a node sets or deletes: the object, and the attribute's name."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield node.value, node.attr
    elif (named := _named(node, {"setattr", "delattr", "__setattr__", "__delattr__"})) is not None:
        yield named


def _named(node: ast.AST, functions: set[str]) -> tuple[ast.expr, str] | None:
    """The object and the attribute's name in a call such as ``getattr(object, "name")``."""
    if isinstance(node, ast.Call) and _last_name(node.func) in functions and len(node.args) >= 2:
        name = node.args[1]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return node.args[0], name.value
    return None


# Scopes: what can be told of a name's class.


class _Scope:
    """The names of one function whose class is known: ``self``, and what has an annotation."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds

    def kind_of(self, node: ast.expr) -> str | None:
        """The name of a name's class, if that can be told."""
        return self._kinds.get(node.id) if isinstance(node, ast.Name) else None


def _with_scopes(tree: ast.Module) -> Iterator[tuple[_Scope, ast.AST]]:
    yield from _walk(tree, _Scope({}), {}, None)


def _walk(
    node: ast.AST, scope: _Scope, kinds: dict[str, str], kind: str | None
) -> Iterator[tuple[_Scope, ast.AST]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        kinds = {**kinds, **_annotated(node)}
        first = next(iter([*node.args.posonlyargs, *node.args.args]), None)
        if kind is not None and first is not None and first.annotation is None:
            kinds[first.arg] = kind
        scope = _Scope(kinds)
    elif isinstance(node, ast.ClassDef):
        kind = node.name
    yield scope, node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, scope, kinds, None if isinstance(node, ast.FunctionDef) else kind)


def _annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    arguments = function.args
    annotated = [
        (each.arg, each.annotation)
        for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if each.annotation is not None
    ]
    annotated += [
        (node.target.id, node.annotation)
        for node in ast.walk(function)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    return {name: kind for name, annotation in annotated if (kind := _kind(annotation)) not in (None, "Any")}


def _kind(annotation: ast.expr) -> str | None:
    """The class that an annotation names, without ``| None``."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _kind(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.BinOp):
        return _kind(annotation.left) or _kind(annotation.right)
    return _last_name(annotation)


# The wall around other people's libraries.


def _private_names_of(trees: Iterable[ast.Module]) -> set[str]:
    """The private names that the package itself defines."""
    names: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
    return names


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _imported(tree: ast.Module) -> set[str]:
    """The names in a module that come from one of their libraries."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0] for alias in node.names if _is_foreign(alias.name)
            }
        elif isinstance(node, ast.ImportFrom) and _is_foreign(node.module or "") and not node.level:
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _is_foreign(module: str) -> bool:
    return module.split(".")[0] in FOREIGN


def _foreign_names(tree: ast.Module, known: set[str]) -> Iterator[tuple[int, str]]:
    imported = _imported(tree)
    for scope, node in _with_scopes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _private_imports(node)
        elif isinstance(node, ast.ClassDef) and any(_root(base) in imported for base in node.bases):
            yield from _private_members(node)
        elif (private := _private_name(node)) is not None:
            value, name = private
            if name not in known:
                yield node.lineno, f"{ast.unparse(value)}.{name}: no class of ours has this private name"
            elif _root(value) in imported or _root_kind(value, scope) in imported:
                yield node.lineno, f"{ast.unparse(value)}.{name} is private to another library"
        for target, name in _writes(node):
            if _root(target) in imported and _is_plain(target):
                yield (
                    node.lineno,
                    f"{ast.unparse(target)}.{name} is changed, which belongs to another library",
                )


def _root_kind(node: ast.expr, scope: _Scope) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return scope.kind_of(node)


def _root(node: ast.expr) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_plain(node: ast.expr) -> bool:
    """Whether an expression is a name with attributes, and so a module or class where it begins with one."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _private_name(node: ast.AST) -> tuple[ast.expr, str] | None:
    """The object and the name, where a node reads or writes a private attribute of something."""
    if isinstance(node, ast.Attribute) and _is_private(node.attr):
        return node.value, node.attr
    named = _named(node, {"getattr", "hasattr", "setattr", "delattr"})
    return named if named is not None and _is_private(named[1]) else None


def _private_imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
    for module in modules:
        if _is_foreign(module) and any(_is_private(part) for part in [*module.split("."), *names]):
            yield node.lineno, f"{ast.unparse(node)} imports a private name of another library"


def _private_members(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """A class of ours that inherits from one of theirs has no private names: they may be theirs as well."""
    for each in ast.walk(node):
        name: str | None = None
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = each.name
        elif (
            isinstance(each, ast.Attribute)
            and isinstance(each.value, ast.Name)
            and each.value.id in ("self", "cls")
        ):
            name = each.attr
        if name is not None and _is_private(name):
            yield (
                each.lineno,
                f"{node.name}.{name} may be private to the library that the class is from",
            )


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


# The wall around the composition root.


def _look_ups(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            place, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            place, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Compare):
            place, key = node.comparators[0], node.left
        else:
            continue
        if _last_name(place) == "extensions" and isinstance(key, ast.Constant) and key.value in KEYS:
            yield node.lineno, f"{ast.unparse(node)}: have app_state hand over what is needed here"


def _flask_imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
        return
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    if any(module.split(".")[0] == "flask" for module in modules):
        yield node.lineno, f"{ast.unparse(node)}: only rooms from app_state on import Flask, but for types"
    for child in ast.iter_child_nodes(node):
        yield from _flask_imports(child)


def main() -> None:
    """Print the findings, and fail if there are some."""
    lines = check(PACKAGE, ALLOWED)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
