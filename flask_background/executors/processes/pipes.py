"""Messages between a process and its child, through two pipes."""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import termios

from flask_background.concurrency import native
from flask_background.executors.processes.messages import (
    Call,
    CancelledSelf,
    Message,
    ProgressReported,
    RunEnded,
    Setup,
    Started,
    TokenFired,
)

# A message is sent as a plain tuple after its kind's number: a class of one's own costs ten times as much.
_KINDS: tuple[type[Message], ...] = (
    Setup,
    Started,
    Call,
    TokenFired,
    ProgressReported,
    CancelledSelf,
    RunEnded,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 16


class Pipes:
    """One end of both. Any thread may send, and one receives; if it is not to block, one does both."""

    def __init__(self, inbound: int, outbound: int, blocking: bool = True) -> None:
        self.inbound = inbound
        self.outbound = outbound
        self._lock = native.new_lock()
        self._buffer = bytearray()
        self._unsent: list[memoryview] = []
        os.set_blocking(inbound, blocking)
        os.set_blocking(outbound, blocking)

    @property
    def is_sending(self) -> bool:
        """Whether there is something that the pipe has not taken yet."""
        return bool(self._unsent)

    @property
    def is_unread(self) -> bool:
        """Whether the other side has not read all that it was told."""
        if self._unsent:
            return True
        left = bytearray(struct.calcsize("i"))
        try:
            fcntl.ioctl(self.outbound, termios.FIONREAD, left)
        except OSError:  # not every system tells this end
            return False
        return any(left)

    def send(self, message: Message) -> None:
        """Tell the other side. Raises OSError if that has ended.

        If this end does not block, what finds no room is left for ``send_more``.
        """
        body = pickle.dumps((_NUMBERS[type(message)], *message), pickle.HIGHEST_PROTOCOL)
        with self._lock:
            # A small one goes in one write; a large one is not copied for that.
            parts = (
                [_LENGTH.pack(len(body)), body] if len(body) > _CHUNK else [_LENGTH.pack(len(body)) + body]
            )
            self._unsent += map(memoryview, parts)
            self.send_more()

    def send_more(self) -> None:
        """Send what was left, as far as it goes now."""
        unsent = self._unsent
        try:
            while unsent:
                unsent[0] = unsent[0][os.write(self.outbound, unsent[0]) :]
                if not unsent[0]:
                    del unsent[0]
        except BlockingIOError:
            pass

    def receive(self) -> Message:
        """What the other side says next. Raises EOFError when that has ended."""
        while (message := self.take()) is None:
            self.read()
        return message

    def read(self) -> None:
        """Read some of what there is. Raises EOFError when the other side has ended."""
        data = os.read(self.inbound, _CHUNK)
        if not data:
            raise EOFError
        self._buffer += data

    def take(self) -> Message | None:
        """The next of the messages that have been read, if one is complete."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return None
        try:
            with memoryview(buffer) as view, view[_LENGTH.size : end] as body:
                number, *values = pickle.loads(body)
        finally:
            del buffer[:end]  # what cannot be read is not read again
        message: Message = _KINDS[number]._make(values)
        return message

    def close(self) -> None:
        """Close both; the other side then comes to the end."""
        for end in (self.inbound, self.outbound):
            if end != -1:
                os.close(end)
        self.inbound = self.outbound = -1
