"""The demo's own SMTP server: it delivers nothing, and keeps what it receives in a folder.

The server runs as a process of its own, so that letters go through a real connection. It ends when its
standard input ends, which is when all processes that hold the other end are gone: the master that started
the server, and the workers that the master has forked, after the last item of their grace period.

The configuration of gunicorn runs this file for ``start``, so it imports nothing of the demo: workers would
not load a module anew at a reload if the master had imported it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


def start(folder: Path) -> int:
    """Start the server on a free port of this machine, and return that port."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    # The writing end is never closed, and never passed on but by a fork.
    reading, _ = os.pipe()
    with socket.create_server((HOST, 0)) as listener:
        # Bound here, so that letters can be sent at once: they wait until the server runs.
        subprocess.Popen(
            [sys.executable, "-P", __file__, str(listener.fileno()), str(folder)],
            pass_fds=[listener.fileno()],
            stdin=reading,
            start_new_session=True,  # Ctrl-C is for gunicorn, which still has items to finish
        )
        os.close(reading)
        port: int = listener.getsockname()[1]
        return port


class Keeper:
    """Keeps each letter in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep a letter whose last line was received. Readers see all of it or nothing."""
        path = self.folder / f"{time.time_ns()}-{secrets.token_hex(4)}.eml"
        draft = path.with_suffix(".part")
        draft.write_bytes(envelope.content)
        draft.replace(path)
        return "250 Kept"


async def serve(listener: socket.socket, folder: Path) -> None:
    """Receive letters until standard input ends."""
    from aiosmtpd.smtp import SMTP

    loop = asyncio.get_running_loop()
    keeper = Keeper(folder)
    await loop.create_server(lambda: SMTP(keeper, loop=loop, hostname="localhost"), sock=listener)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])))
