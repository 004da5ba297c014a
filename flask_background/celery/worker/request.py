"""A message in the worker's main process: what Celery itself ends there has things to let go."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

from flask_background.celery.envelope import Envelope
from flask_background.celery.records import Records
from flask_background.celery.resources import Belongings
from flask_background.core.events import Events


class ItemRequest(Request):  # type: ignore[misc]
    """A message that is an item."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Celery has killed the run, or asked it to end."""
        super().on_timeout(soft, timeout)
        if not soft:
            self._let_go()

    def _announce_revoked(self, *args: Any) -> None:
        """Celery has revoked the item, which may have been running."""
        super()._announce_revoked(*args)
        self._let_go()

    def _let_go(self) -> None:
        part, envelope = self.task.part, Envelope.open(self.request_dict)
        if envelope.uploads is None and envelope.key is None:
            return
        events = Events(part.app)
        try:
            record = Records(self.app).read(self.id)
            if record is not None and record.status.is_final:
                belongings = Belongings(part.settings, self.app, events)
                belongings.let_go(self.id, envelope.uploads, envelope.key)
        except Exception as error:  # then it is found out later, by who comes across them
            events.log_error(f"What item {self.id} had could not be let go", error)
