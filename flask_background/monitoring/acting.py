"""Acts on items, schedules and pauses. Each action is logged, with who has asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask_background.monitoring.reading import Reader
from flask_background.monitoring.snapshots import ItemQuery, PauseKind

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


class Actions:
    """The part of a ``Monitor`` that acts."""

    def __init__(self, state: BackgroundState, reader: Reader) -> None:
        self._state = state
        self._reader = reader

    def cancel(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        raise NotImplementedError

    def retry(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        raise NotImplementedError

    def delete(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        raise NotImplementedError

    def run_now(self, task: str, by: str | None) -> str | None:
        raise NotImplementedError

    def pause(self, kind: PauseKind, name: str, by: str | None) -> bool:
        raise NotImplementedError

    def resume(self, kind: PauseKind, name: str, by: str | None) -> bool:
        raise NotImplementedError
