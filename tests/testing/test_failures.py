"""Items that fail fail the test, unless it expects that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_background import Status
from flask_background.testing import expect_failures, perform, record_items, run_due, run_items

from ..helpers import BOUND, Site


@pytest.fixture(params=["manual", "immediate"])
def backend(request: pytest.FixtureRequest) -> Any:
    """The backends whose failures count."""
    return request.param


@pytest.fixture
def site(make_site: Callable[..., Site], backend: str) -> Site:
    """An app with that backend."""
    return make_site(BACKGROUND_BACKEND=backend)


@pytest.fixture
def run(backend: str) -> Callable[[], object]:
    """Runs what waits."""
    return run_items if backend == "manual" else lambda: None


def divide(by: int) -> float:
    """Return something, or fail."""
    return 1 / by


def test_unexpected(site: Site, run: Callable[[], object]) -> None:
    """The end of the block raises, from the item's error; a second one is told of with it."""
    task = site.background.task(name="divide")(divide)

    def test() -> None:
        with record_items(site.app):
            task.enqueue(1)
            task.enqueue(0)
            task.enqueue(0)
            run()

    with pytest.raises(
        AssertionError, match=r"2 items failed: divide \(ZeroDivisionError\), divide"
    ) as raised:
        test()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("run_them", [run_items, run_due])
def test_unexpected_in_a_run(make_site: Callable[..., Site], run_them: Callable[[], object]) -> None:
    """The run raises when all items have run, once; no block is needed."""
    site = make_site(BACKGROUND_BACKEND="manual")
    task = site.background.task(divide)
    with site.app.app_context():
        failing, other = task.enqueue(0), task.enqueue(1)
        with pytest.raises(AssertionError, match=r"an item failed.*expect_failures"):
            run_them()
        assert (failing.status, other.status) == (Status.FAILED, Status.SUCCEEDED)
        run_them()


def test_expected(site: Site, run: Callable[[], object]) -> None:
    """Expected failures are listed, and fail nothing."""
    task = site.background.task(divide)
    with record_items(site.app):
        with expect_failures(ZeroDivisionError) as failed:
            item = task.enqueue(0)
            run()
        assert failed == [item]
        with expect_failures(count=2):
            task.enqueue(0)
            task.enqueue("text")  # type: ignore[arg-type]
            run()


def test_none_failed(site: Site, run: Callable[[], object]) -> None:
    """An expectation that is not met fails the test; another error than the expected one says more."""
    task = site.background.task(name="divide")(divide)

    def expect(value: int, *errors: type[Exception], count: int | None = None) -> None:
        with expect_failures(*errors, count=count):
            task.enqueue(value)
            run()

    with record_items(site.app):
        with pytest.raises(AssertionError, match=r"an item should have failed with OSError; failed: none"):
            expect(1, OSError)
        with pytest.raises(
            AssertionError, match=r"2 items should have failed with any error; failed: divide$"
        ):
            expect(0, count=2)
        with pytest.raises(AssertionError, match=r"divide \(ZeroDivisionError\)"):
            expect(0, OSError)


def test_error_of_the_block(site: Site) -> None:
    """An error of the test itself is not hidden by those of items."""
    task = site.background.task(divide)

    def test() -> None:
        with record_items(site.app):
            task.enqueue(0)
            raise KeyError("mine")

    with pytest.raises(KeyError):
        test()


def test_failed_attempts(site: Site, run: Callable[[], object]) -> None:
    """An attempt that another one follows is no failure."""
    tries: list[int] = []

    def flaky() -> None:
        tries.append(1)
        divide(len(tries) - 1)

    with record_items(site.app):
        item = site.background.task(max_attempts=2)(flaky).enqueue()
        run()
        assert item.result(0) is None
        assert len(tries) == 2


def test_perform_raises_itself(site: Site) -> None:
    """The error of perform() is the caller's, and is not told twice."""
    task = site.background.task(divide)
    with record_items(site.app), pytest.raises(ZeroDivisionError):
        perform(task, 0)


def test_local_items_do_not_count(make_site: Callable[..., Site]) -> None:
    """Items on threads may fail at any time: no block is failed by them."""
    site = make_site()
    with record_items(site.app) as items:
        item = site.background.task(divide).enqueue(0)
        assert item.wait(BOUND)
        items.check_failures()
