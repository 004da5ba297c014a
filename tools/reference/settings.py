"""The table of settings: names and descriptions from the source of ``Settings``, defaults from its code."""

from __future__ import annotations

import ast
import inspect
from typing import NamedTuple

from flask_background.core import settings as source
from flask_background.core.settings import Settings


class Row(NamedTuple):
    """One setting: its key in ``app.config``, its default as text, and its description."""

    key: str
    default: str
    description: str


def rows() -> list[Row]:
    """Return all settings, in the order of the source. Raises LookupError for one without a description."""
    defaults = Settings.from_config({})
    found = []
    for name, description in comments(inspect.getsource(source), "Settings").items():
        default = getattr(defaults, name)
        text = "`{}`" if name == "executors" else f"`{_literal(default)}`"
        found.append(Row(f"BACKGROUND_{name.upper()}", text, description))
        if name == "executors":
            found.insert(
                len(found) - 1,
                Row(
                    "BACKGROUND_WORKERS",
                    "CPUs + 4, at most 32",
                    'The number of threads of the executor `"thread"`, or of its greenlets under gevent.',
                ),
            )
    return found


def comments(text: str, class_name: str) -> dict[str, str]:
    """Return the ``#:`` comments above the fields of a class. Raises LookupError for a field without one."""
    lines = text.splitlines()
    (cls,) = (
        node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    found = {}
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        number = node.lineno - 2
        while (line := lines[number].strip()).startswith("#:"):
            above.insert(0, line.removeprefix("#:").strip())
            number -= 1
        if not above:
            raise LookupError(f"{class_name}.{node.target.id} has no comment that begins with #:")
        found[node.target.id] = " ".join(above)
    return found


def _literal(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    return repr(value)
