"""Reading Python source: names, attributes that are written, and what can be told of an object's class."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def last_name(node: ast.expr) -> str | None:
    """The class that an expression such as ``item.WorkItem[R]`` names."""
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def writes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The attributes that a node sets or deletes: the object, and the attribute's name."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield node.value, node.attr
    elif (named := named_attribute(node, {"setattr", "delattr", "__setattr__", "__delattr__"})) is not None:
        yield named


def named_attribute(node: ast.AST, functions: set[str]) -> tuple[ast.expr, str] | None:
    """The object and the attribute's name in a call such as ``getattr(object, "name")``."""
    if isinstance(node, ast.Call) and last_name(node.func) in functions and len(node.args) >= 2:
        name = node.args[1]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return node.args[0], name.value
    return None


def line_of(node: ast.AST) -> int:
    """The number of a node's line."""
    return int(getattr(node, "lineno", 0))


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore, and is more than that."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


class Scope:
    """The names of one function whose class is known: ``self``, and what has an annotation."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds

    def kind_of(self, node: ast.expr) -> str | None:
        """The name of a name's class, if that can be told."""
        return self._kinds.get(node.id) if isinstance(node, ast.Name) else None


def with_scopes(tree: ast.Module) -> Iterator[tuple[Scope, ast.AST]]:
    """All nodes, each with the scope that it is in."""
    yield from _walk(tree, Scope({}), {}, None)


def _walk(
    node: ast.AST, scope: Scope, kinds: dict[str, str], kind: str | None
) -> Iterator[tuple[Scope, ast.AST]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        kinds = {**kinds, **_annotated(node)}
        first = next(iter([*node.args.posonlyargs, *node.args.args]), None)
        if kind is not None and first is not None and first.annotation is None:
            kinds[first.arg] = kind
        scope = Scope(kinds)
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
    return {
        name: kind for name, annotation in annotated if (kind := kind_of(annotation)) not in (None, "Any")
    }


def kind_of(annotation: ast.expr) -> str | None:
    """The class that an annotation names, without ``| None``."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return kind_of(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.BinOp):
        return kind_of(annotation.left) or kind_of(annotation.right)
    return last_name(annotation)
