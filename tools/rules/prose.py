"""The voice of docstrings: the first word is not one that leaves the reader to guess the subject."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

#: First words that stand for a subject, and do not name it.
VAGUE = {"It", "Its", "That", "They", "Those", "What", "Whatever", "Who", "Whoever"}


def find_vague(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find the docstrings that begin with such a word."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = re.match(r"\w+", ast.get_docstring(node) or "")
            if first is not None and first.group() in VAGUE:
                yield (
                    node.body[0].lineno,
                    f"a docstring begins with {first.group()!r}: begin with its subject, or with a verb",
                )
