"""Soaks, and prints what it has seen; see the package."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic, sleep

from benchmarks.programs import free_port
from benchmarks.soak.samples import Growth, Sample, descendants, growth, sample

# The clients: what each enqueues, how many items a request, and the pause between two requests in seconds.
_CLIENTS = (
    *[("memory", 50, 0.02)] * 2,
    ("coroutine", 50, 0.05),
    *[("durable", 1, 0.0)] * 3,
    ("child", 5, 0.1),
)
_EVERY = 5.0
_PATIENCE = 60.0
_STOPS_WITHIN = 120.0
# How long items that wait for their next attempt are left alone: a stop would cut that short.
_RETRIES_WITHIN = 2.0


class Client:
    """Enqueues items until it is told to stop, and adds up the ids that were acknowledged."""

    def __init__(self, port: int, kind: str, count: int, pause: float, first: int) -> None:
        self.kind = kind
        self.accepted = Tally()
        self.refused = 0
        self.errors: list[str] = []
        self._path = f"/{kind}/{{}}/{count}"
        self._port, self._count, self._pause, self._number = port, count, pause, first

    def run(self, over: Event) -> None:
        """Ask again and again."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)
        while not over.is_set():
            self._number += self._count
            try:
                connection.request("POST", self._path.format(self._number))
                response = connection.getresponse()
                body = response.read().decode()
            except (OSError, HTTPException) as error:
                self.errors.append(repr(error))
                connection.close()
                continue
            if response.status == 200:
                for item_id in body.split():
                    self.accepted.add(item_id)
            elif response.status == 503:  # the queue is full: some of these items may have been accepted
                self.refused += 1
                over.wait(0.5)
            else:
                self.errors.append(f"{response.status}: {body[:200]}")
            over.wait(self._pause)
        connection.close()


class Tally:
    """Ids, added up: two tallies of the same ids are equal, in whatever order they came."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0

    def add(self, item_id: str) -> None:
        """Add an id."""
        self.count += 1
        self.sum += int(item_id, 16)


@contextmanager
def _gunicorn(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    command += ["-k", "gthread", "--threads", "8", "--graceful-timeout", "100", "--keep-alive", "60"]
    environ = os.environ | {"SOAK_FOLDER": str(folder), "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "benchmarks.soak.site:create_app()"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_up(port: int) -> None:
    end = monotonic() + _PATIENCE
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except OSError:
            if monotonic() > end:
                raise TimeoutError("gunicorn does not answer") from None
            sleep(0.1)
        finally:
            connection.close()


def _soak(seconds: float, folder: Path) -> bool:
    """Soak for so many seconds, and print the result; return whether all is well."""
    port, over = free_port(), Event()
    samples: dict[int, list[Sample]] = defaultdict(list)
    clients = [Client(port, *one, first=number * 10**9) for number, one in enumerate(_CLIENTS)]
    with _gunicorn(folder, port) as server:
        _wait_until_up(port)
        threads = [Thread(target=client.run, args=(over,), daemon=True) for client in clients]
        began = monotonic()
        for thread in threads:
            thread.start()
        while monotonic() - began < seconds:
            sleep(min(_EVERY, seconds / 20))
            for pid in (server.pid, *descendants(server.pid)):
                if (found := sample(pid)) is not None:
                    samples[pid].append(found)
        over.set()
        for thread in threads:
            thread.join(_PATIENCE)
        lasted = monotonic() - began
        sleep(_RETRIES_WITHIN)
        server.terminate()
        stopping = monotonic()
        status = server.wait(_STOPS_WITHIN)
        stopped = monotonic() - stopping
    print(f"\n{lasted:.0f} s of load; gunicorn ended {stopped:.1f} s after TERM with exit status {status}.\n")
    are_all_ended = _report_items(clients, folder, lasted)
    is_flat = _report_growth([growth(f"process {pid}", found) for pid, found in samples.items()])
    errors = [error for client in clients for error in client.errors]
    for error, count in Counter(errors).most_common(5):
        print(f"{count} requests: {error}")
    return are_all_ended and is_flat and not errors and status == 0


def _report_items(clients: list[Client], folder: Path, lasted: float) -> bool:
    ended: dict[str, Tally] = defaultdict(Tally)
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    with (folder / "ends").open() as lines:
        for line in lines:
            kind, item_id, status = line.split()
            ended[kind].add(item_id)
            statuses[kind][status] += 1
    is_right = True
    for kind in dict.fromkeys(client.kind for client in clients):
        own = [client for client in clients if client.kind == kind]
        accepted = sum(client.accepted.count for client in own)
        refused = sum(client.refused for client in own)
        told = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses[kind].items()))
        lost = accepted - ended[kind].count
        same = ended[kind].sum == sum(client.accepted.sum for client in own)
        # A request that was refused in its midst may have had some of its items accepted.
        is_right &= set(statuses[kind]) <= {"succeeded", "failed"} and (same or bool(refused and lost < 0))
        print(
            f"{kind}: {accepted:,} acknowledged ({accepted / lasted:,.0f}/s), {told};"
            f" {max(0, lost)} lost; {refused} requests refused"
        )
    return is_right


def _report_growth(grown: list[Growth]) -> bool:
    print("\nMedians of the second and of the last quarter:")
    for one in grown:
        early, late = one.early, one.late
        print(
            f"{one.name}: {early.memory:.1f} -> {late.memory:.1f} MiB,"
            f" {early.threads:g} -> {late.threads:g} threads,"
            f" {early.descriptors:g} -> {late.descriptors:g} descriptors{'' if one.is_flat else '  GROWS'}"
        )
    return all(one.is_flat for one in grown)


def main() -> None:
    """Soak as long as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Load gunicorn for long.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    minutes = parser.parse_args().minutes
    with TemporaryDirectory(prefix="soak-") as folder:
        is_well = _soak(minutes * 60, Path(folder))
        if not is_well:
            print((Path(folder) / "log").read_text(errors="replace")[-3000:], file=sys.stderr)
    print("\nAll is well." if is_well else "\nNot all is well.")
    sys.exit(not is_well)


main()
