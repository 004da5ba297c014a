"""The app of ``README.md``, taken from the page and started by the page's command."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .helpers import ROOT, until

PAGE = (ROOT / "README.md").read_text()


@contextmanager
def serve_readme(python: Path | str, folder: Path, **environment: str) -> Iterator[str]:
    """The address of the page's app, which was pasted into a folder and started there with this Python."""
    (app,) = re.findall(r"^```python\n(# shop\.py\n.*?)^```", PAGE, flags=re.M | re.S)
    (folder / "shop.py").write_text(app)
    (command,) = re.findall(r"^    gunicorn (.+)$", PAGE, flags=re.M)
    log = folder / "gunicorn.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python, "-m", "gunicorn", "--bind", "127.0.0.1:0", *shlex.split(command)],
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield until(lambda: re.search(r"Listening at: (http://\S+)", log.read_text()), 60)[1]
        server.terminate()
        assert server.wait(30) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)
