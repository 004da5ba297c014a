"""``list`` and ``show``."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from click.testing import Result

from flask_background import current_item

from ..helpers import Site
from .conftest import one_line, said

Command = Callable[..., Result]


def enqueue(flask: Command, *args: str) -> str:
    """Enqueue an item, and return its id."""
    return str(said(flask("run", *args, "--json"))["id"])


def test_list(flask: Command) -> None:
    """Items are listed, those enqueued last first, without their arguments."""
    first = enqueue(flask, "double", "21", "s3cret")
    second = enqueue(flask, "fail")
    shown = flask("list")
    titles, *rows = shown.output.splitlines()
    assert titles.split() == [
        *("id", "status", "task", "attempt", "enqueued", "due", "progress", "error", "description")
    ]
    assert [row.split()[:3] for row in rows] == [
        [second, "queued", "shop.fail"],
        [first, "queued", "shop.double"],
    ]
    assert "s3cret" not in shown.output + flask("list", "--json").output + flask("show", first).output


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--status", "queued"], ["shop.fail", "shop.double"]),
        (["--status", "failed"], []),
        (["--task", "shop.double"], ["shop.double"]),
        (["--task", "*.f*"], ["shop.fail"]),
        (["--executor", "asyncio"], []),
        (["--key", "k"], []),
        (["--text", "no such text"], []),
        (["--since", "1h"], ["shop.fail", "shop.double"]),
        (["--until", "1h"], []),
        (["--since", (datetime.now() + timedelta(days=1)).isoformat()], []),
        (["--until", "2100-01-01T00:00:00Z"], ["shop.fail", "shop.double"]),
    ],
)
def test_filters(flask: Command, filters: list[str], expected: list[str]) -> None:
    """Each option selects items."""
    enqueue(flask, "double", "1")
    enqueue(flask, "fail")
    assert [item["task"] for item in said(flask("list", "--json", *filters))["items"]] == expected


def test_pages(flask: Command) -> None:
    """A page says how to go on, and ``--all`` goes on to the end."""
    ids = [enqueue(flask, "double", str(number)) for number in range(5)][::-1]
    page = said(flask("list", "--limit", "2", "--json"))
    assert [item["id"] for item in page["items"]] == ids[:2]
    assert page["looked_back_to"] is None
    page = said(flask("list", "--limit", "3", "--json", "--after", page["next"]))
    assert [item["id"] for item in page["items"]] == ids[2:]
    told = flask("list", "--limit", "1")
    assert "There may be more: --after " in told.stderr
    assert "There may be more" not in told.stdout
    everything = said(flask("list", "--all", "--limit", "1", "--json"))
    assert [item["id"] for item in everything["items"]] == ids
    assert everything["next"] is None


def test_empty_list(flask: Command) -> None:
    """A journal without an item is a list without an item."""
    assert said(flask("list", "--json", "--all")) == {"items": [], "next": None, "looked_back_to": None}
    assert len(flask("list").output.splitlines()) == 1


def test_show(site: Site, flask: Command) -> None:
    """An item is shown with its description, its runs and its traceback, and its values in JSON."""

    def fail(order: int) -> None:
        current_item.report_progress(1, 4, "packing")
        raise ValueError(f"order {order} is empty")

    task = site.background.task(
        durable=True,
        name="shop.pack",
        max_attempts=2,
        backoff=0,
        describe=lambda order: f"order {order} of Ada",
    )(fail)
    with site.app.test_request_context("/orders", method="POST"):
        item_id = task.enqueue(7).id
    assert flask("worker", "--burst").exit_code == 0
    text = flask("show", item_id).output
    for line in (
        "description: order 7 of Ada",
        "attempt:     2 of 2",
        "progress:    1 of 4, packing",
        "error:       ValueError: order 7 is empty",
        "  ValueError: order 7 is empty",
    ):
        assert line in text.splitlines()
    assert "Traceback (most recent call last):" in text
    shown = said(flask("show", item_id, "--json"))
    assert [run["how"] for run in shown["runs"]] == ["failed", "failed"]
    assert shown["progress"] == {"done": 1.0, "total": 4.0, "message": "packing"}
    assert shown["enqueued_at"].endswith("+00:00")
    assert shown["state"]["method"] == "POST"
    assert shown["description"] == "order 7 of Ada"
    assert "order 7 of Ada" in flask("list", "--text", "OF ADA").output
    assert json.dumps(shown).isascii()


def test_show_next_run(site: Site, flask: Command) -> None:
    """Between two runs ``show`` says when the next one is due."""
    site.background.task(durable=True, name="shop.retry", max_attempts=2, backoff=3600)(lambda: [][0])
    item_id = enqueue(flask, "retry")
    assert flask("worker", "--burst").exit_code == 0
    text = flask("show", item_id).output
    assert "next run:" in text
    assert "(in 60 min)" in text
    assert one_line(flask("retry", item_id)) == f"Error: item {item_id}: it is queued"
