"""``create_status``: what a visitor is told about an item, and what is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, redirect
from werkzeug.test import TestResponse

from flask_background import Background, Status, WorkItem, current_item
from flask_background.dashboard import create_status

from ..helpers import BOUND, Site, until

Ask = Callable[..., TestResponse]


@pytest.fixture
def ask(site: Site) -> Ask:
    """Registers a status blueprint with these options, and asks it about an item."""

    def ask(item: WorkItem[Any] | str, **options: Any) -> TestResponse:
        site.app.register_blueprint(create_status(**options), url_prefix="/items")
        return site.client.get(f"/items/{item if isinstance(item, str) else item.id}")

    return ask


def ended(site: Site, func: Callable[[], object]) -> WorkItem[Any]:
    """An item that has ended."""
    with site.app.app_context():
        item = site.background.task(name="shop.ended")(func).enqueue()
    assert item.wait(BOUND)
    return item


def fail() -> None:
    """Fail with a text that is nothing for visitors."""
    raise ValueError("s3cret")


def test_running_item(site: Site, ask: Ask, gate: threading.Event) -> None:
    """A running item has its progress and times, and the answer says when to ask again."""

    def work() -> None:
        current_item.report_progress(1, 4, "one")
        gate.wait(BOUND)

    with site.app.app_context():
        item = site.background.enqueue(work)
    until(lambda: item.progress)
    answer = ask(item)
    assert answer.json == {
        "id": item.id,
        "status": "running",
        "is_final": False,
        "progress": {"done": 1, "total": 4, "message": "one"},
        "attempt": 1,
        "enqueued_at": item.enqueued_at.isoformat(timespec="milliseconds"),
        "started_at": item.started_at and item.started_at.isoformat(timespec="milliseconds"),
        "finished_at": None,
    }
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Cache-Control"] == "no-store"


def test_ended_item(site: Site, ask: Ask) -> None:
    """The result is not shown unless the app says so, and nobody is asked to come again."""
    item = ended(site, lambda: "s3cret")
    answer = ask(item)
    assert answer.json is not None
    assert (answer.json["status"], answer.json["is_final"]) == ("succeeded", True)
    assert answer.json["finished_at"].endswith("+00:00")
    assert "Retry-After" not in answer.headers
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("show", "expected"), [(True, {"rows": 3}), (lambda item: item.result(0)["rows"], 3), (False, None)]
)
def test_result(site: Site, ask: Ask, show: Any, expected: object) -> None:
    """``show_result`` sends the result, or what a function makes of it."""
    answer = ask(ended(site, lambda: {"rows": 3}), show_result=show).json
    assert answer is not None
    assert answer.get("result") == expected
    assert "error" not in answer


@pytest.mark.parametrize(
    ("show", "expected"),
    [
        (False, None),
        (True, "item ID (shop.ended) failed with builtins.ValueError: s3cret"),
        (lambda item: f"{item.task_name}: please try again", "shop.ended: please try again"),
    ],
)
def test_error(site: Site, ask: Ask, show: Any, expected: object) -> None:
    """An error stays hidden unless ``show_error`` says otherwise."""
    item = ended(site, fail)
    answer = ask(item, show_error=show).json
    assert answer is not None
    assert answer["status"] == "failed"
    assert answer.get("error") == (expected and str(expected).replace("ID", item.id))


def test_error_is_the_same_in_every_process(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A process that reads the error in the journal says what the process says that ran the item."""
    sites = [make_site(BACKGROUND_JOURNAL=tmp_path / "journal") for _ in range(2)]
    for one in sites:
        one.app.register_blueprint(create_status(show_error=True), url_prefix="/items")
    with sites[0].app.app_context():
        item = sites[0].background.task(durable=True, name="shop.again")(fail).enqueue()
        assert item.wait(BOUND)
    answers = [until(lambda one=one: one.client.get(f"/items/{item.id}").json) for one in sites]  # type: ignore[misc]
    assert answers[0]["error"] == answers[1]["error"]


def test_result_that_is_not_json(site: Site, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """A result that JSON cannot have is the app's error, and its message says what to do."""
    item = ended(site, lambda: object())
    assert ask(item, show_result=True).status_code == 500
    assert f"result or error of item {item.id} (shop.ended) is not JSON" in caplog.text
    assert "give create_status a function" in caplog.text


@pytest.mark.parametrize("item_id", ["0" * 24, "x", "%ff", "a%00b", "%ED%A0%80"])
def test_unknown_id(ask: Ask, item_id: str) -> None:
    """An id that is not known here is answered as such."""
    answer = ask(item_id)
    assert answer.status_code == 404
    assert answer.json == {"status": "unknown"}
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("refusal", [False, None, ""])
def test_allow_refuses(site: Site, ask: Ask, refusal: object) -> None:
    """An item that a visitor may not see looks like one that is not known."""
    item = ended(site, lambda: 1)
    answer = ask(item, allow=lambda item: refusal)
    assert (answer.status_code, answer.json) == (404, {"status": "unknown"})
    assert answer.headers == ask_again(site, "0" * 24).headers


def ask_again(site: Site, item_id: str) -> TestResponse:
    """Ask a blueprint that is there."""
    return site.client.get(f"/items/{item_id}")


def test_allow_answers(site: Site, ask: Ask) -> None:
    """``allow`` sees the item, and may answer itself."""
    seen = []

    def allow(item: WorkItem[Any]) -> Any:
        seen.append(item.id)
        return redirect("/login") if len(seen) == 1 else True

    item = ended(site, lambda: 1)
    assert ask(item, allow=allow).location == "/login"
    answer = ask_again(site, item.id)
    assert answer.json is not None
    assert answer.json["status"] == "succeeded"
    assert seen == [item.id] * 2


@pytest.mark.parametrize(
    ("reported", "shown"),
    [
        ((0.5,), {"done": 0.5, "total": None, "message": None}),
        ((float("nan"), float("inf"), 5), {"done": None, "total": None, "message": "5"}),
        (("x", object, "</script>"), {"done": None, "total": None, "message": "</script>"}),
        ((10**400, 2, None), {"done": None, "total": 2, "message": None}),
    ],
)
def test_odd_progress(
    site: Site, ask: Ask, gate: threading.Event, reported: Any, shown: dict[str, object]
) -> None:
    """Whatever an item reports, the answer is JSON."""

    def work() -> None:
        current_item.report_progress(*reported)
        gate.wait(BOUND)

    with site.app.app_context():
        item = site.background.enqueue(work)
    until(lambda: item.progress)
    answer = ask(item).get_json()
    assert answer["progress"] == shown


def test_durable_item_of_another_process(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A process that does not run a durable item knows it, as long as the journal does."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_RUN_IN_WEB=False)
    other = Flask("shop")
    other.config.update(site.app.config)
    background = Background(other)
    with site.app.app_context():
        item = site.background.task(durable=True, name="shop.print")(print).enqueue()
    other.register_blueprint(create_status())
    answer = other.test_client().get(f"/{item.id}")
    assert answer.json is not None
    assert answer.json["status"] == Status.QUEUED
    assert answer.headers["Retry-After"] == "1"
    with other.app_context():
        background.monitor.cancel([item.id])
        background.monitor.delete([item.id])
    assert other.test_client().get(f"/{item.id}").status_code == 404


def test_two_blueprints(site: Site) -> None:
    """An app may have several, by different names."""
    site.app.register_blueprint(create_status(), url_prefix="/items")
    site.app.register_blueprint(create_status(name="own", allow=lambda item: False), url_prefix="/own")
    item = ended(site, lambda: 1)
    assert site.client.get(f"/items/{item.id}").status_code == 200
    assert site.client.get(f"/own/{item.id}").status_code == 404


def test_element(ask: Ask, site: Site) -> None:
    """The element is a small file, which a browser may keep as long as it is the same."""
    ask("x")
    answer = site.client.get("/items/progress.js")
    assert answer.mimetype == "text/javascript"
    assert len(answer.data) < 3_200
    again = site.client.get("/items/progress.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
