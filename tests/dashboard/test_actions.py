"""Admins act on one item, on all items of a filter, on schedules and pauses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..helpers import until
from .conftest import Shop, Visitor, text_of


def after(admin: Visitor, answer: object) -> str:
    """Return the text of the page to which an action has led."""
    location = getattr(answer, "location", None)
    assert location, getattr(answer, "text", answer)
    assert location.startswith("/background/")
    return text_of(admin.client.get(location).text)


def test_retry(shop: Shop, admin: Visitor) -> None:
    """A failed item is queued again."""
    item = shop.ended("bounce", "no such address")
    assert "The item was queued again." in after(admin, admin.submit(f"/items/{item}", "/retry"))
    until(lambda: "Attempt 1" in admin.text(f"/items/{item}"))


def test_cancel(shop: Shop, admin: Visitor) -> None:
    """A running item is asked to end, in the journal and in memory."""
    for name, arguments in (("count", [40]), ("cache", [])):
        item = shop.running(name, *arguments)
        said = after(admin, admin.submit(f"/items/{item}", "/cancel"))
        assert "The item was cancelled, or asked to end." in said
        until(lambda item=item: shop.status(item) == "cancelled")  # type: ignore[misc]


def test_delete(shop: Shop, admin: Visitor) -> None:
    """An item that has ended is gone, and the visitor is back at the list."""
    item = shop.ended("welcome", "Ada")
    assert "The item was deleted." in after(admin, admin.submit(f"/items/{item}", "/delete"))
    assert admin.get(f"/items/{item}").status_code == 404


def test_too_late(shop: Shop, admin: Visitor) -> None:
    """An action that the item's status no longer allows says so."""
    item = shop.ended("bounce", "no such address")
    fields = admin.forms(f"/items/{item}")
    for number in range(2):
        path = f"/background/items/{item}/delete"
        said = admin.client.post(path, data=fields[path])
        assert said.status_code == 303
        page = admin.client.get(said.location)
        assert ("The item was deleted." in page.text) is (number == 0)
        assert ("The item was not deleted" in page.text) is (number == 1)


def test_many(shop: Shop, admin: Visitor) -> None:
    """The page asks back with the number and the filter in words, and only those items are changed."""
    failed = [shop.ended("bounce", f"no such address {number}") for number in range(3)]
    other, well = shop.ended("resize"), shop.ended("welcome", "Ada")
    path = "/confirm/delete?status=failed&task=mail.*&text=ADDRESS"
    text = admin.text(path)
    assert "Delete 3 items?" in text
    assert "All failed items of the task “mail.*”, with “ADDRESS” in their description or error" in text
    assert {shop.status(item) for item in failed} == {"failed"}
    assert "3 items were deleted." in after(admin, admin.submit(path, "/act/delete"))
    assert {shop.status(item) for item in failed} == {None}
    assert (shop.status(other), shop.status(well)) == ("failed", "succeeded")


def test_newer_items_were_not_asked_about(shop: Shop, admin: Visitor) -> None:
    """Items that are enqueued after the page has asked stay as they are."""
    shop.ended("bounce", "old")
    ((action, fields),) = admin.forms("/confirm/delete?status=failed").items()
    newer = shop.ended("bounce", "new")
    assert "1 item was deleted." in after(admin, admin.client.post(action, data=fields))
    assert shop.status(newer) == "failed"
    for asked_at in ("", "today", "2030-01-01T00:00:00"):
        answer = admin.client.post(action, data={**fields, "asked_at": asked_at})
        assert answer.status_code in (303, 400)
    del fields["asked_at"]
    assert admin.client.post(action, data=fields).status_code == 400


@pytest.mark.parametrize("query", ["statuss=failed", "status=odd", "since=never", "status=failed&live=1"])
def test_filters_that_are_not_understood(shop: Shop, admin: Visitor, query: str) -> None:
    """A filter with a typing error selects no item, rather than all."""
    item = shop.ended("bounce", "no such address")
    assert admin.get(f"/confirm/delete?{query}").status_code == 400
    ((action, fields),) = admin.forms("/confirm/delete?status=failed").items()
    wrong = action.replace("status=failed", query)
    assert admin.client.post(wrong, data=fields).status_code == 400
    assert shop.status(item) == "failed"


def test_nothing_to_do(shop: Shop, admin: Visitor) -> None:
    """Where no item matches, or an action is not for the status, there is no form."""
    shop.ended("welcome", "Ada")
    assert "There is no item to retry" in admin.text("/confirm/retry?status=succeeded")
    assert "There is no item to cancel among the items with the status failed" in admin.text(
        "/confirm/cancel?status=failed"
    )
    assert admin.forms("/confirm/retry") == {}
    assert admin.get("/confirm/burn").status_code == 404


def test_pause_of_a_task(shop: Shop, admin: Visitor) -> None:
    """Items of a paused task wait, and run when the task is resumed; pages show the pause and who made it."""
    said = after(admin, admin.submit("/tasks", "name=mail.welcome"))
    assert "The task mail.welcome was paused." in said
    assert "by ann" in said
    item = shop.enqueue("welcome", "Ada")
    assert "paused" in admin.text(f"/items/{item}")
    assert shop.status(item) == "queued"
    assert "The task mail.welcome was resumed." in after(admin, admin.submit("/", "name=mail.welcome"))
    until(lambda: shop.status(item) == "succeeded")


def test_pause_of_an_executor(shop: Shop, admin: Visitor) -> None:
    """An executor's durable items wait until it is resumed."""
    shop.ended("welcome", "Ada")  # so that the executor is there
    said = after(admin, admin.submit("/processes", "pause?kind=executor&name=thread"))
    assert "The executor thread was paused." in said
    item = shop.enqueue("welcome", "Bob")
    assert "thread The executor is paused since" in admin.text()
    assert shop.status(item) == "queued"
    admin.submit("/processes", "resume?kind=executor&name=thread")
    until(lambda: shop.status(item) == "succeeded")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pauses/pause?kind=task&name=unknown&page=tasks", 400),
        ("/pauses/pause?kind=disk&name=mail.welcome&page=tasks", 404),
        ("/pauses/burn?kind=task&name=mail.welcome&page=tasks", 404),
        ("/pauses/pause?kind=task&name=mail.welcome&page=https://evil.example", 404),
        ("/pauses/pause?kind=task&name=mail.welcome", 404),
        ("/schedules/run?task=mail.welcome", 400),
        ("/schedules/run", 400),
        ("/items/0123/burn", 404),
        ("/act/burn", 404),
    ],
)
def test_addresses_that_are_wrong(admin: Visitor, path: str, status: int) -> None:
    """An action on what is not there is an error, with a page that says so."""
    fields = next(iter(admin.forms("/tasks").values()))
    answer = admin.client.post(f"/background{path}", data=fields)
    assert answer.status_code == status
    assert "<h1>" in answer.text


def test_schedule_that_waits_already(make_shop: Callable[..., Shop]) -> None:
    """A schedule whose item waits gets no second one, and the message says why."""
    shop = make_shop()
    admin = shop.visitor("admin")
    admin.submit("/tasks", "name=shop.tidy")
    admin.submit("/schedules", "/run")
    said = after(admin, admin.submit("/schedules", "/run"))
    assert "shop.tidy was not enqueued: an item of it waits already." in said
    admin.submit("/tasks", "name=shop.tidy")
    until(lambda: "queued" not in admin.text("/schedules"))
