"""The rule about other libraries: their private names are not used, and nothing of theirs is changed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from tools.rules.reading import (
    Scope,
    is_private,
    line_of,
    named_attribute,
    with_scopes,
    writes,
)

FOREIGN = {"celery", "kombu", "redis", "gevent", "billiard", "amqp"}


def private_names_of(trees: Iterable[ast.Module]) -> set[str]:
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


def find_foreign(tree: ast.Module, known: set[str]) -> Iterator[tuple[int, str]]:
    """Where a private name that is not among the known ones is used, or a library is changed."""
    imported = _imported(tree)
    for scope, node in with_scopes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _private_imports(node)
        elif isinstance(node, ast.ClassDef) and any(_root(base) in imported for base in node.bases):
            yield from _private_members(node)
        elif (private := private_name(node)) is not None:
            value, name = private
            if name not in known:
                yield line_of(node), f"{ast.unparse(value)}.{name}: no class of ours has this private name"
            elif _root(value) in imported or _root_kind(value, scope) in imported:
                yield line_of(node), f"{ast.unparse(value)}.{name} is private to another library"
        for target, name in writes(node):
            if _root(target) in imported and _is_plain(target):
                yield (
                    line_of(node),
                    f"{ast.unparse(target)}.{name} is changed, which belongs to another library",
                )


def _root_kind(node: ast.expr, scope: Scope) -> str | None:
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


def private_name(node: ast.AST) -> tuple[ast.expr, str] | None:
    """The object and the name, where a node reads or writes a private attribute of something."""
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        return node.value, node.attr
    named = named_attribute(node, {"getattr", "hasattr", "setattr", "delattr"})
    return named if named is not None and is_private(named[1]) else None


def _private_imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
    for module in modules:
        if _is_foreign(module) and any(is_private(part) for part in [*module.split("."), *names]):
            yield line_of(node), f"{ast.unparse(node)} imports a private name of another library"


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
        if name is not None and is_private(name):
            yield (
                line_of(each),
                f"{node.name}.{name} may be private to the library that the class is from",
            )
