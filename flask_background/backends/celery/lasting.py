"""Lets a worker live on when Redis, as the broker, is away for a while.

Kombu 5.7 hands messages back, and acknowledges them, also by a connection that was lost and has been taken
apart. What that raises Celery takes for the worker's end. Such messages come again by the visibility timeout.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import Channel, QoS

from .channels import keep_client


class LastingQoS(QoS):  # type: ignore[misc]
    """What has been delivered by one channel."""

    def __init__(self, channel: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        keep_client(channel)

    @property
    def _is_apart(self) -> bool:
        return getattr(self.channel.connection, "client", None) is None

    def restore_unacked(self, client: Any = None) -> Any:
        """When the channel is closed."""
        return None if self._is_apart else super().restore_unacked(client)

    def ack(self, delivery_tag: str) -> None:
        """A run has ended."""
        if not self._is_apart:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A message is to go back, or away."""
        if not self._is_apart:
            super().reject(delivery_tag, requeue)


def outlive_redis() -> None:
    """In a worker, before it connects."""
    if Channel.QoS is QoS:  # else somebody has one of their own
        Channel.QoS = LastingQoS
