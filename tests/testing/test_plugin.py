"""The pytest plugin, in suites that pytest runs in a process of its own."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.process

APP = """
import pytest
from flask import Flask
from flask_background import Background

background = Background()

@background.task
def greet(name):
    if name == "nobody":
        raise LookupError(name)
    return f"Hello {name}"

@background.task
def wait(gate):
    gate.wait(20)

@pytest.fixture(SCOPE)
def app():
    app = Flask("shop")
    background.init_app(app)

    @app.post("/<name>")
    def view(name):
        greet.enqueue(name)
        return "done"

    return app
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with an app, made for each test."""
    pytester.makeconftest(APP.replace("SCOPE", ""))
    return pytester


def test_items(suite: pytest.Pytester) -> None:
    """background_items records items, which wait; no app context is needed."""
    suite.makepyfile("""
        from flask_background import Status
        from flask_background.testing import *
        from conftest import greet

        def test_it(app, background_items):
            assert app.test_client().post("/bo").text == "done"
            assert_enqueued(greet, args=("bo",), count=1)
            item = background_items[0].item
            assert item.status is Status.QUEUED
            assert run_items() == [item]
            assert item.result(0) == "Hello bo" == perform(greet, "bo")
            assert greet.enqueue("al").status is Status.QUEUED

        def test_nothing_is_left_over(app, background_items):
            assert background_items == []
            assert run_items() == []
            refute_enqueued(greet)
        """)
    suite.runpytest_subprocess().assert_outcomes(passed=2)


def test_inline(suite: pytest.Pytester) -> None:
    """background_inline runs items inside enqueue, and records them."""
    suite.makepyfile("""
        from flask_background.testing import assert_enqueued
        from conftest import greet

        def test_it(app, background_inline):
            app.test_client().post("/bo")
            assert assert_enqueued(greet).item.result(0) == "Hello bo"
        """)
    suite.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize("fixture", ["background_items", "background_inline"])
def test_failures(suite: pytest.Pytester, fixture: str) -> None:
    """A failed item fails its test, with its traceback and what was enqueued; an expected one does not."""
    run = "run_items()" if fixture == "background_items" else "pass"
    suite.makepyfile(f"""
        from flask_background.testing import expect_failures, run_items
        from conftest import greet

        def test_fails(app, {fixture}):
            greet.enqueue("nobody")
            {run}

        def test_expects(app, {fixture}):
            with expect_failures(LookupError):
                greet.enqueue("nobody")
                {run}
        """)
    result = suite.runpytest_subprocess("-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*raise LookupError(name)*",
            "*an item failed: conftest.greet (LookupError)*",
            "*1. conftest.greet('nobody')",
        ]
    )


def test_failed_test_tells_what_was_enqueued(suite: pytest.Pytester) -> None:
    """A test that fails itself is reported as it is, with its items and those that failed."""
    suite.makepyfile("""
        from conftest import greet

        def test_it(app, background_inline):
            greet.enqueue("nobody")
            assert 1 == 2
        """)
    result = suite.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*assert 1 == 2",
            "*Captured background items call*",
            "*1. conftest.greet('nobody')",
            "an item failed: *",
        ]
    )


def test_end_of_a_test(suite: pytest.Pytester) -> None:
    """At its end the apps of a test are stopped, also others than the fixture's, and nothing is left."""
    suite.makepyfile("""
        import os, threading
        import pytest
        from flask import Flask
        from flask_background import Background
        from flask_background.testing import run_items

        def ours():
            return [thread.name for thread in threading.enumerate() if thread.name.startswith("background-")]

        @pytest.fixture(autouse=True)
        def nothing_is_left():
            before = len(os.listdir("/proc/self/fd"))
            yield
            assert ours() == []
            assert len(os.listdir("/proc/self/fd")) <= before

        @pytest.mark.parametrize("number", range(3))
        def test_it(app, background_items, number, tmp_path):
            other = Flask("other")
            other.config["BACKGROUND_JOURNAL"] = tmp_path
            others = Background(other)

            @others.task(durable=True, timeout=60)
            async def durable():
                return 42

            items = [durable.enqueue(), others.enqueue(lambda: 42), durable.using(delay=60).enqueue()]
            assert [item.result(20) for item in items[:2]] == [42, 42]
            assert ours()
        """)
    suite.runpytest_subprocess().assert_outcomes(passed=3)


def test_unfinished_items_are_named(suite: pytest.Pytester) -> None:
    """An item that does not end within five seconds is an error of its test, which names it."""
    suite.makepyfile("""
        import threading
        from flask import Flask
        from flask_background import Background

        gate = threading.Event()

        def test_it(app, background_items):
            other = Flask("other")
            background = Background(other)
            item = background.task(name="stuck")(gate.wait).enqueue(30)
            while item.status == "queued":
                pass

        def test_next(app, background_items):
            gate.set()
        """)
    result = suite.runpytest_subprocess("-p", "no:randomly")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*items that have not ended: <WorkItem * stuck interrupted>*"])


def test_app_of_the_session(pytester: pytest.Pytester) -> None:
    """One app may serve all tests; each starts it anew."""
    pytester.makeconftest(APP.replace("SCOPE", 'scope="session"'))
    pytester.makepyfile("""
        import pytest
        from flask_background.testing import run_items
        from conftest import greet

        @pytest.mark.parametrize("number", range(3))
        def test_items(app, background_items, number):
            greet.enqueue("bo")
            assert len(run_items()) == 1

        def test_threads(app):
            with app.app_context():
                assert greet.enqueue("bo").result(20) == "Hello bo"

        @pytest.mark.parametrize("number", range(3))
        def test_inline(app, background_inline, number):
            greet.enqueue("bo")
            assert len(background_inline) == 1
        """)
    pytester.runpytest_subprocess().assert_outcomes(passed=7)


def test_unittest(suite: pytest.Pytester) -> None:
    """A TestCase uses the fixtures, too."""
    suite.makepyfile("""
        import unittest
        import pytest
        from flask_background.testing import assert_enqueued, run_items
        from conftest import greet

        @pytest.mark.usefixtures("background_items")
        class TestIt(unittest.TestCase):
            def test_works(self):
                greet.enqueue("bo")
                assert_enqueued(greet, args=("bo",))
                run_items()

            def test_fails(self):
                greet.enqueue("nobody")
                run_items()
        """)
    suite.runpytest_subprocess().assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("options", [("-n", "2", "-p", "no:randomly"), (), ("-n", "2")])
def test_other_plugins(suite: pytest.Pytester, options: tuple[str, ...]) -> None:
    """The plugin works with pytest-xdist, with pytest-randomly, and with both."""
    suite.makepyfile("""
        import random
        import pytest
        from flask_background.testing import assert_enqueued, run_due, run_items
        from conftest import greet, background

        @pytest.mark.parametrize("number", range(20))
        def test_items(app, background_items, number):
            greet.using(delay=60).enqueue(f"{number} {random.random()}")
            assert run_due(59) == []
            assert len(run_due(2)) == 1
            assert_enqueued(greet, count=1)

        @pytest.mark.parametrize("number", range(20))
        def test_inline(app, background_inline, number):
            greet.enqueue(str(number))
            assert_enqueued(greet, args=(str(number),), count=1)
        """)
    result = suite.runpytest_subprocess(*options)
    result.assert_outcomes(passed=40)
    shuffled = "no:randomly" not in options
    assert ("Using --randomly-seed" in result.stdout.str()) is shuffled


def test_costs_nothing_elsewhere(pytester: pytest.Pytester) -> None:
    """A suite that does not use the plugin imports neither Flask nor this package."""
    pytester.makepyfile("""
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("flask_background")
            assert not {"flask", "flask_background", "werkzeug"} & {*sys.modules}
        """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_imported_before(pytester: pytest.Pytester) -> None:
    """A program that has imported its app before it calls pytest gets no warning."""
    pytester.makepyfile("def test_it(): pass")
    path = pytester.makepyfile(
        run="import flask_background, pytest, sys; sys.exit(pytest.main(['-W', 'error']))"
    )
    assert pytester.runpython(path).ret == 0


def test_without_an_app_fixture(pytester: pytest.Pytester) -> None:
    """Where the suite has no fixture ``app``, pytest says so."""
    pytester.makepyfile("def test_it(background_items): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'app' not found"])
