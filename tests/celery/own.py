"""An app with a Celery and tasks of its own, and with or without items of ours beside them.

``OWN_WITH`` is "nothing", "background" (a Background, no item for Celery) or "items".
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery
from flask import Flask

from flask_background import Background, current_item

FOLDER = Path(os.environ["OWN_FOLDER"])
WITH = os.environ["OWN_WITH"]

app = Flask("own")
app.config["BACKGROUND_GRACE_PERIOD"] = 0.3
url = os.environ["OWN_REDIS"]
celery_app = Celery("own", broker=f"{url}/0", backend=f"{url}/1")
app.extensions["celery"] = celery_app
if WITH != "nothing":
    background = Background(app)

    @background.task(name="own.item", backend="celery" if WITH == "items" else None)
    def item() -> None:
        """Run until the grace period is over."""
        (FOLDER / "item").write_text("begun")
        while True:
            current_item.token.wait(0.05)
            time.sleep(0.01)


def work(name: str) -> str:
    """Take two seconds, until long after the grace period."""
    mark = FOLDER / name
    mark.write_text("begun")
    time.sleep(2)
    mark.write_text("done")
    return name


early = celery_app.task(name="own.early")(work)
late = celery_app.task(name="own.late", acks_late=True)(work)
