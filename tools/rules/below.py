"""The rule below the composition root: modules there look nothing up, and import Flask for types alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.rules.reading import last_name, line_of

#: The keys of an app's extensions that are ours.
KEYS = ("background", "background.state")


def find_look_ups(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Where the extensions of an app are asked for what is ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            place, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            place, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Compare):
            place, key = node.comparators[0], node.left
        else:
            continue
        if last_name(place) == "extensions" and isinstance(key, ast.Constant) and key.value in KEYS:
            yield node.lineno, f"{ast.unparse(node)}: have app_state hand over what is needed here"


def find_flask_imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Where Flask is imported at run time."""
    if isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING":
        return
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    if any(module.split(".")[0] == "flask" for module in modules):
        yield (
            line_of(node),
            f"{ast.unparse(node)}: only app_state and the packages above it import Flask, but for types",
        )
    for child in ast.iter_child_nodes(node):
        yield from find_flask_imports(child)
