"""What ``flask background doctor`` has found: what is safe as it is, and what is not."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One of them."""

    level: Literal["ok", "warning", "error"]
    #: What was looked at, how it is, and what to do about it where it is not ok.
    subject: str
    text: str
    cure: str | None = None
