"""The letters that the demo's own mail server has received, as the page shows them."""

from __future__ import annotations

import email
import email.message
import email.policy
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

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


def letters(folder: Path) -> list[Letter]:
    """The newest letters."""
    paths = sorted(folder.glob("*.eml"), reverse=True)[:LETTERS_SHOWN]
    return [letter for path in paths if (letter := read(path))]


def read(path: Path) -> Letter | None:
    """Read a letter from a file; None if it was just pruned."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    message = email.message_from_bytes(content, policy=email.policy.default)
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
