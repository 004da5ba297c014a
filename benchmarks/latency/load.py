"""Asks a server for one page so many times a second, and prints what each answer took, in ms.

It does not wait for one answer before it asks for the next. What is asked for too late, because this process
was not on a CPU, counts from when it should have been.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from threading import local
from time import perf_counter, sleep

_PER_SECOND = 100
_CONNECTIONS = 16
_PATIENCE = 30.0


def main(port: int, seconds: float) -> None:
    """Ask for so many seconds."""
    own = local()

    def ask(due: float) -> float:
        connection = getattr(own, "connection", None)
        if connection is None:
            connection = own.connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        connection.request("GET", "/")
        if connection.getresponse().read() != b"ok":
            raise AssertionError("that was another page")
        return (perf_counter() - due) * 1e3

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        began = perf_counter()
        answers = []
        for number in range(int(seconds * _PER_SECOND)):
            due = began + number / _PER_SECOND
            sleep(max(0.0, due - perf_counter()))
            answers.append(pool.submit(ask, due))
        for answer in answers:
            print(answer.result())


main(int(sys.argv[1]), float(sys.argv[2]))
