"""The findings of ``flask background doctor``."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One finding: whether a subject is ok, and a message about it."""

    level: Literal["ok", "warning", "error"]
    #: The name of the examined setting, folder or server.
    subject: str
    #: Its condition, and the cure if it is not ok.
    text: str
    cure: str | None = None
