"""Pictures and two workers: either of them may stop or be killed, and each knows what the other does."""

from __future__ import annotations

import json
import os
import signal

from .conftest import Start
from .driver import item_ids, picture, until
from .test_gallery import added


def test_pictures_in_flight_survive_a_stop(start_demo: Start) -> None:
    """Pictures that were taken when the server was stopped are all in the gallery of the next one."""
    demo = start_demo()
    large = picture("PNG", (2400, 1600))
    demo.upload(*[(f"{number}.png", large) for number in range(6)])
    demo.signal(signal.SIGTERM)
    assert demo.process.wait(60) == 0
    demo = start_demo(after=demo)
    assert until(lambda: len(demo.pictures()) == 6)


def test_pictures_survive_a_kill(start_demo: Start) -> None:
    """Pictures whose worker is killed are made by the other one, each once, and are named as they were."""
    demo = start_demo()
    large = picture("PNG", (2400, 1600))
    names = {f"{number}.png" for number in range(6)}
    ids = item_ids(demo.upload(*[(name, large) for name in sorted(names)]))
    assert len(ids) >= 4, "most of them are not done yet"
    os.kill(demo.workers()[0], signal.SIGKILL)
    until(lambda: len(demo.pictures()) == 6)
    abouts = [json.loads((path / "about.json").read_text())["name"] for path in demo.pictures()]
    assert sorted(abouts) == sorted(names)
    for item_id in ids:
        assert demo.ended(item_id)["status"] == "succeeded"


def test_other_worker_knows_them(start_demo: Start) -> None:
    """Names, progress and messages of uploads are the same whichever worker answers."""
    demo = start_demo()
    answer = demo.upload(("none.jpg", b"MZ"), ("Ünique.png", picture("PNG", (3000, 2000))))
    for item_id in item_ids(answer):
        demo.ended(item_id)
    words = ("none.jpg", "This is not a JPEG, PNG, WebP or GIF picture.", "Ünique.png")
    for pid in demo.workers():
        os.kill(pid, signal.SIGSTOP)
        try:
            # The worker that ran an item hears of its end just after the journal does.
            until(lambda: all(word in demo.get("/gallery").text for word in words))
        finally:
            os.kill(pid, signal.SIGCONT)


def test_old_files_are_pruned(start_demo: Start) -> None:
    """A periodic task deletes what is older than the demo keeps it, and leaves what is not."""
    demo = start_demo(DEMO_KEEP="3600", DEMO_PRUNE_EVERY="0.5")
    old = [added(demo, f"{number}.png", picture("PNG")) for number in range(2)]
    young = added(demo, "young.png", picture("PNG"))
    leftover = demo.instance / "pictures" / "tmpkilled"
    leftover.mkdir()
    for path in (*old, leftover):
        os.utime(path, (0, 0))
    until(lambda: not any(path.exists() for path in (*old, leftover)))
    assert demo.pictures() == [young]
    assert "young.png" in demo.get("/gallery").text
    assert "Traceback" not in demo.log()
