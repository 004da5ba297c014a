"""Redis channels of kombu with one client each, where kombu makes a new one for each thing that it asks.

To make one takes as long as half a question does: a tenth of what it costs to send a message, and a sixth of
what a worker's main process does for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport.redis import Channel


def keep_client(channel: Any) -> None:
    """Let a channel keep its client; one to something else is left as it is."""
    if not isinstance(channel, Channel) or "conn_or_acquire" in vars(channel):
        return
    make, kept = channel._create_client, None

    @contextmanager
    def conn_or_acquire(client: Any = None) -> Iterator[Any]:
        nonlocal kept
        if client is None and (kept is None or kept.connection_pool is not channel.pool):
            kept = make()  # the channel has a new pool when its connections were lost
        yield kept if client is None else client

    channel.conn_or_acquire = conn_or_acquire
