"""The check of the rules finds each planted breach, by file and line, and none in the package itself."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tools.check_rules import ALLOWED, PACKAGE, check
from tools.rules.prose import VAGUE

ITEM = """\
class WorkItem(Generic[R]):
    __slots__ = ("_source", "_status")

    def _end(self):
        self._status = 1
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with an item."""
    folder = tmp_path / "package"
    (folder / "core").mkdir(parents=True)
    (folder / "core" / "item.py").write_text(ITEM)
    return folder


def found(package: Path, path: str, source: str) -> list[str]:
    """The findings in one more file, without its folder."""
    file = package / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(dedent(source))
    return [line.removeprefix("package/") for line in check(package, {})]


def test_package() -> None:
    """The package keeps the rules."""
    assert check(PACKAGE, ALLOWED) == []


def test_clean(package: Path) -> None:
    """The check finds nothing in a package that keeps the rules."""
    assert check(package, {}) == []


@pytest.mark.parametrize(
    "write",
    [
        "item._status = 1",
        "item._status += 1",
        "del item._status",
        "first, item._status = 1, 2",
        "for item._status in range(3): pass",
        "self.items[0]._status = 1",
        'setattr(item, "_status", 1)',
        'object.__setattr__(item, "_status", 1)',
        'WorkItem.__dict__["_status"].__set__(item, 1)',
    ],
)
def test_item_written_elsewhere(package: Path, write: str) -> None:
    """A slot of the item that is written in another file is found."""
    (line,) = found(package, "local/backend.py", f"\n{write}\n")
    assert line.startswith("local/backend.py:2: ")
    assert "_status" in line


def test_item_written_by_a_subclass(package: Path) -> None:
    """A subclass writes its own slots, and uses verbs for those of its base."""
    source = """\
        from core.item import WorkItem

        class Handle(WorkItem[R]):
            __slots__ = ("entry",)

            def look(self):
                self.entry = 1
                self._status = 2

        class Backend:
            def __init__(self):
                self._status = 3  # is no item

            def begin(self, request: Request):
                request._source = 4
                self._source = 5
        """
    assert [line.split(" ")[0] for line in found(package, "durable/handle.py", source)] == [
        "durable/handle.py:8:",
    ]


def test_slot_of_a_subclass(package: Path) -> None:
    """A slot of a subclass is written where it is defined."""
    handle = 'class Handle(WorkItem[R]):\n    __slots__ = ("entry",)\n'
    assert found(package, "durable/handle.py", handle) == []
    (line,) = found(package, "durable/intake.py", "def accept(item: Handle) -> None:\n    item.entry = 1\n")
    assert line.startswith("durable/intake.py:2: item.entry is written: use a verb of durable/handle.py")


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("import celery\ncelery.app.base._foo()", 2),
        ("from kombu.transport import redis as transport\ntransport.Channel._foo", 2),
        ("from kombu.transport.redis import Channel\nChannel._mine = 1", 2),
        ("from kombu import Queue\ndef take(queue: Queue | None):\n    queue._mine", 3),
        ('from kombu import Queue\ndef take(queue: "Queue"):\n    getattr(queue, "_mine")', 3),
        ("def take(queue):\n    queue._nobody_here_has_this()", 2),
        ("def take(queue):\n    return hasattr(queue, '_nobody_here_has_this')", 2),
        ("from gevent import _patched", 1),
        ("import celery._state", 1),
        ("from kombu.transport.virtual import Channel\nclass Mine(Channel):\n    def _mine(self): pass", 3),
        ("from kombu.transport.redis import Transport\nTransport.Channel = object", 2),
        ("from celery.worker import state\nstate.should_stop = True", 2),
        ('import gevent.hub\nsetattr(gevent.hub, "Hub", object)', 2),
    ],
)
def test_foreign(package: Path, source: str, number: int) -> None:
    """The check finds a private name of another library, and a change to a library."""
    mine = "class Mine:\n    def __init__(self):\n        self._mine = self._foo = 1\n"
    assert found(package, "core/mine.py", mine) == []
    lines = found(package, "hosts/theirs.py", source)
    assert lines
    assert {line.split(" ")[0] for line in lines} == {f"hosts/theirs.py:{number}:"}


def test_own_private_names(package: Path) -> None:
    """Private names of the package, and those that a library documents, are allowed."""
    source = """\
        from celery import Celery

        class Mine:
            def __init__(self, celery: Celery) -> None:
                self._celery = celery

            def work(self, other: Mine, record) -> None:
                other._celery.conf.update(x=1)
                record._replace(x=1)
        """
    assert found(package, "hosts/mine.py", source) == []


@pytest.mark.parametrize(
    "look",
    [
        'app.extensions["background"]',
        'self.app.extensions.get("background")',
        '"background" in app.extensions',
        'extensions["background.state"]',
    ],
)
def test_look_up(package: Path, look: str) -> None:
    """The check finds a look-up of the Background below app_state; above that, it is allowed."""
    (line,) = found(package, "durable/backend.py", f"state = {look}\n")
    assert line.startswith("durable/backend.py:1: ")
    (package / "durable" / "backend.py").unlink()
    assert found(package, "extension.py", f"state = {look}\n") == []


def test_flask(package: Path) -> None:
    """The check finds an import of Flask below app_state, but not one for types."""
    source = """\
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            from flask import Flask

        def work():
            from flask.globals import request
        """
    (line,) = found(package, "local/backend.py", source)
    assert line.startswith("local/backend.py:7: from flask.globals import request")
    assert len(found(package, "extension.py", source)) == 1


def test_allowed(package: Path) -> None:
    """A file that may break a rule is let pass, and an entry that nothing needs is an error."""
    found(package, "celery/app.py", 'state = app.extensions["background"]\n')
    assert check(package, {"extensions": ("celery/",)}) == []
    (line,) = check(package, {"extensions": ("celery/",), "item": ("celery/",)})
    assert "'celery/' in ALLOWED['item']" in line


@pytest.mark.parametrize("word", sorted(VAGUE))
def test_docstring_without_subject(package: Path, word: str) -> None:
    """A docstring that begins with a word that names no subject is found: of a module, class or function."""
    source = f"""\
        \"\"\"{word}, for a module.\"\"\"

        class Handle:
            \"\"\"{word} of a class.

            It may be here.
            \"\"\"

            async def look(self):
                \"\"\"{word}.\"\"\"
        """
    lines = found(package, "local/handle.py", source)
    assert [line.split(" ")[0] for line in lines] == [f"local/handle.py:{number}:" for number in (1, 4, 10)]
    assert all(f"begins with {word!r}" in line for line in lines)


def test_docstring_with_subject(package: Path) -> None:
    """A docstring that begins with another word passes, and so does an empty one."""
    source = """\
        \"\"\"Items that wait, and what they wait for.\"\"\"

        def look():
            \"\"\"Itself a subject: a longer word may begin with the same letters.\"\"\"

        def see():
            \"\"\"\"\"\"
        """
    assert found(package, "local/handle.py", source) == []
