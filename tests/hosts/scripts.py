"""The beginning of the scripts that the tests of hosts start, and their output."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..helpers import Script

#: Starts a script from pieces of source.
Start = Callable[..., Script]

#: What every script begins with.
APP = """
    import asyncio, concurrent.futures, multiprocessing, os, signal, sys, threading, time
    from flask import Flask
    from flask_background import Background, current_item

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + os.linesep).encode())  # whole lines, whoever else writes

    apps = []  # a Background does not keep its app alive

    def make(**settings):
        app = Flask("shop")
        apps.append(app)
        app.config.update({f"BACKGROUND_{name}": value for name, value in settings.items()})
        return Background(app)

    def work(seconds=0.3, name="item"):
        say(name, "started")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        say(name, "done")

    def idle():
        while True:
            time.sleep(0.05)  # Python does not notice a signal that comes just before a sleep until that ends

    def obey():
        say("item started")
        assert current_item.token.wait(10)
        say("item told", current_item.token.reason.value, current_item.token.remaining)
        time.sleep(0.1)
        say("item done")

    def stubborn():
        say("item started")
        time.sleep(60)
"""


def remaining(said: str) -> float:
    """How many seconds the token said that there were."""
    found = re.search(r"item told shutdown ([\d.]+)", said)
    assert found, said
    return float(found[1])
