"""The demo's own SMTP server: it delivers nothing, and keeps what it receives in a folder.

It runs as a process of its own, so that letters go through a real connection, and ends when its
standard input does. That is when whoever started it is gone: a worker, and with it the last item of
its grace period.
"""

from __future__ import annotations

import asyncio
import email
import email.message
import email.policy
import email.utils
import secrets
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from aiosmtpd.smtp import SMTP, Envelope, Session

LETTERS_SHOWN = 12


class Attachment(NamedTuple):
    """A file that came with a letter."""

    name: str
    size: int
    picture: str | None  # as a data: URL


class Letter(NamedTuple):
    """A received letter."""

    id: str
    sender: str
    recipient: str
    subject: str
    text: str
    attachments: list[Attachment]


class LocalMailServer:
    """Starts the server on a free port of this machine, and reads what it received."""

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        with socket.create_server((self.host, 0)) as listener:
            # Bound here, so that letters can be sent at once: they wait until the server runs.
            self.port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(listener.fileno()), str(folder)],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for gunicorn, which still has items to finish
            )

    def close(self) -> None:
        """Stop the server."""
        self._process.communicate()

    def letters(self) -> list[Letter]:
        """The newest letters."""
        paths = sorted(self.folder.glob("*.eml"), reverse=True)[:LETTERS_SHOWN]
        return [read(path) for path in paths]


def read(path: Path) -> Letter:
    """Read a letter from a file."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = message.get_body(("plain",))
    return Letter(
        id=path.stem,
        sender=str(message["From"] or ""),
        recipient=str(message["To"] or ""),
        subject=str(message["Subject"] or ""),
        text=bytes_of(body).decode("utf-8", "replace") if body else "",
        attachments=[attachment(part) for part in message.iter_attachments()],
    )


def bytes_of(part: email.message.MIMEPart) -> bytes:
    """The content of a part."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def attachment(part: email.message.MIMEPart) -> Attachment:
    """Describe a file that came with a letter."""
    content = bytes_of(part)
    picture = None
    if part.get_content_type() == "image/png":
        picture = f"data:image/png;base64,{b64encode(content).decode()}"
    return Attachment(part.get_filename() or "unnamed", len(content), picture)


class Keeper:
    """Keeps each letter in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep a letter whose last line was received. Readers see all of it or nothing."""
        content = envelope.content
        assert isinstance(content, bytes)
        path = self.folder / f"{time.time_ns()}-{secrets.token_hex(4)}.eml"
        draft = path.with_suffix(".part")
        draft.write_bytes(content)
        draft.replace(path)
        return "250 Kept"


async def serve(listener: socket.socket, folder: Path) -> None:
    """Receive letters until standard input ends."""
    loop = asyncio.get_running_loop()
    keeper = Keeper(folder)
    await loop.create_server(lambda: SMTP(keeper, loop=loop, hostname="localhost"), sock=listener)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])))
