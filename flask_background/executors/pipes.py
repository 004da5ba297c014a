"""Messages between a process and its child, through two pipes."""

from __future__ import annotations

import os
import pickle
import struct

from .. import native
from .parcels import Asked, Call, Ended, Message, Progressed, Setup, Started, Withdrawn

# A message is sent as a plain tuple after its kind's number: a class of one's own costs ten times as much.
_KINDS: tuple[type[Message], ...] = (Setup, Started, Call, Asked, Progressed, Withdrawn, Ended)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 16


class Pipes:
    """One end of both. Any thread may send; one receives."""

    def __init__(self, inbound: int, outbound: int) -> None:
        self.inbound = inbound
        self._outbound = outbound
        self._lock = native.new_lock()
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Tell the other side. Raises OSError if that has ended."""
        body = pickle.dumps((_NUMBERS[type(message)], *message), pickle.HIGHEST_PROTOCOL)
        data = memoryview(_LENGTH.pack(len(body)) + body)
        with self._lock:
            while data:
                data = data[os.write(self._outbound, data) :]

    def receive(self) -> Message:
        """What the other side says next. Raises EOFError when that has ended."""
        while (message := self.take()) is None:
            data = os.read(self.inbound, _CHUNK)
            if not data:
                raise EOFError
            self._buffer += data
        return message

    def take(self) -> Message | None:
        """The next of the messages that have been read, if one is complete."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view, view[_LENGTH.size : end] as body:
            number, *values = pickle.loads(body)
        del buffer[:end]
        message: Message = _KINDS[number]._make(values)
        return message

    def close(self) -> None:
        """Close both; the other side then comes to the end."""
        for end in (self.inbound, self._outbound):
            if end != -1:
                os.close(end)
        self.inbound = self._outbound = -1
