"""A row of the journal, which tests change as they need it; and the ids of processes that are dead."""

from __future__ import annotations

import secrets

from flask_background.core.status import Status
from flask_background.durable.journal import process_identity
from flask_background.durable.journal.row import ItemRow

ROW = ItemRow(
    id="0" * 24,
    task="mail",
    executor="thread",
    options="{}",
    payload="[[],{}]",
    status=Status.QUEUED,
    max_crashes=3,
    due=5.0,
    enqueued=4.0,
)


def dead_process_id() -> str:
    """The id of a process of which the kernel says that it is dead: its pid has another one by now."""
    pid, _, namespace, boot, _ = process_identity.new_id().split("-")
    return f"{pid}-1-{namespace}-{boot}-{secrets.token_hex(8)}"
