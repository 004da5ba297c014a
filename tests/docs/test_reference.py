"""The reference: what is made from the source says what the source says, and leaves nothing out."""

from __future__ import annotations

import builtins
import configparser
import logging
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click import Context
from flask import Flask, g
from flask.cli import AppGroup

import flask_background
from flask_background import Background, errors, signals
from flask_background.cli import background as commands
from flask_background.core.options import Options, Using
from flask_background.core.settings import Settings
from flask_background.errors import BackgroundError
from tools.reference.messages import error_messages, log_messages
from tools.reference.settings import comments, rows

from ..helpers import Site
from .pages import DOCS

pytestmark = pytest.mark.process

REFERENCE = DOCS / "reference"
MESSAGES = error_messages()
LINES = log_messages()
# Errors of other libraries that pages name.
OTHERS = {"CancelledError", "UnidentifiedImageError"}
# Extras for those who work on the package.
DEVELOPMENT = {"bench", "demo", "demo-celery", "docs", "lint", "package", "quick", "test", "types"}


class TestSettings:
    """The table of settings."""

    def test_every_setting(self) -> None:
        """Each setting has a row, in which a sentence says what it is."""
        names = {f"BACKGROUND_{field.name.upper()}" for field in fields(Settings)}
        assert {row.key for row in rows()} == names | {"BACKGROUND_WORKERS"}
        assert all(row.description.endswith(".") for row in rows())

    def test_defaults(self) -> None:
        """A default of the table can be set."""
        for row in rows():
            if row.key != "BACKGROUND_WORKERS":
                Settings.from_config({row.key: eval(row.default.strip("`"))})

    def test_missing_comment(self) -> None:
        """A setting without a comment stops the making of the pages."""
        with pytest.raises(LookupError, match=r"Sample\.b has no comment"):
            comments("class Sample:\n    #: Fine.\n    a: int = 1\n    b: int = 2\n", "Sample")

    def test_named_elsewhere(self) -> None:
        """Each setting that a page names is one."""
        known = {row.key for row in rows()}
        for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
            for key in re.findall(r"BACKGROUND_[A-Z_]*[A-Z]", page.read_text()):
                assert key in known, f"{page} names {key}"


class TestApi:
    """The page of the interface."""

    def test_every_name(self) -> None:
        """Each public name of the package is on the page."""
        page = (REFERENCE / "api.md").read_text()
        for name in flask_background.__all__:
            assert (
                re.search(rf"auto\w+:: (flask_background\.)?{name}\b|data:: {name}\b", page)
                or name == "__version__"
            )

    def test_every_method(self) -> None:
        """Each public method of Background is on the page."""
        page = (REFERENCE / "api.md").read_text()
        public = {name for name in vars(Background) if not name.startswith("_")} - {"backend"}
        (members,) = re.findall(r"autoclass:: Background\n +:members: (.+)", page)
        assert {*members.split(", "), *re.findall(r"   \.\. automethod:: (\w+)", page)} >= public

    def test_every_command(self) -> None:
        """The page of commands is made of a group that has them all."""
        assert isinstance(commands, AppGroup)
        page = (REFERENCE / "cli.md").read_text()
        assert ".. click:: flask_background.cli:background" in page

    def test_every_signal(self) -> None:
        """Each signal has a comment, from which its line on the page is made."""
        source = Path(str(signals.__file__)).read_text()
        for name in re.findall(r"^(\w+) = _signals", source, flags=re.M):
            assert re.search(rf"^#: .+\n{name} =", source, flags=re.M)


def pattern(text: str) -> re.Pattern[str]:
    """A message of the page as a pattern of what a user reads."""
    parts = re.split(r"\{[^{}]*\}", text)
    return re.compile(".*?".join(map(re.escape, parts)), re.S)


def is_listed(error: BaseException) -> bool:
    """Return whether the page has an error's message."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return any(message.kind in kinds and pattern(message.text).fullmatch(str(error)) for message in MESSAGES)


def _no_app(site: Site) -> Any:
    return Background().stats()


def _other_app(site: Site) -> Any:
    with Flask("other").app_context():
        site.background.stats()


def _twice(site: Site) -> Any:
    Background(site.app)


def _live(site: Site) -> Any:
    with site.app.test_request_context():
        site.background.enqueue(print, g)


def _not_data(site: Site) -> Any:
    with site.app.app_context():
        site.background.task(durable=True)(print).enqueue(object())


def _option(site: Site) -> Any:
    site.background.task(max_retries=3)  # type: ignore[call-arg]


def _wrong_option(site: Site) -> Any:
    site.background.task(timeout=-1)(print)


def _periodic(site: Site) -> Any:
    site.background.periodic("30 25 * * *")(lambda: None)


def _executor(site: Site) -> Any:
    site.background.task(executor="none")(print).enqueue()


def _called(site: Site) -> Any:
    site.background.enqueue("x")  # type: ignore[arg-type]


def _commit(site: Site) -> Any:
    with site.app.app_context():
        site.background.task(when="commit")(print).enqueue()


def _generator(site: Site) -> Any:
    def rows() -> Any:
        yield 1

    site.background.task(rows)


def _stopped(site: Site) -> Any:
    with site.app.app_context():
        site.background.stop(0)
        site.background.enqueue(print)


def _setting(site: Site) -> Any:
    Settings.from_config({"BACKGROUND_OVERFLOW": "drop"})


def _class(site: Site) -> Any:
    site.background.task(dict)


def _state(site: Site) -> Any:
    site.background.state_processor(lambda: {"a": object()})
    with site.app.test_request_context():
        site.background.enqueue(print)


CAUSES = [
    _no_app,
    _other_app,
    _twice,
    _live,
    _not_data,
    _option,
    _wrong_option,
    _periodic,
    _executor,
    _called,
    _commit,
    _generator,
    _stopped,
    _setting,
    _class,
    _state,
]


class TestMessages:
    """The list of error messages."""

    @pytest.mark.parametrize("cause", CAUSES)
    def test_listed(self, make_site: Callable[..., Site], tmp_path: Path, cause: Any) -> None:
        """A message that a user reads is on the page."""
        site = make_site(BACKGROUND_JOURNAL=str(tmp_path / "journal"))
        with pytest.raises((BackgroundError, RuntimeError, TypeError)) as raised:
            cause(site)
        assert is_listed(raised.value), raised.value

    def test_each_class(self) -> None:
        """Each class that is raised in the package has a message there; nobody raises the base classes."""
        classes = {
            name
            for name, value in vars(errors).items()
            if isinstance(value, type) and value.__module__ == errors.__name__
        }
        assert classes - {message.kind for message in MESSAGES} == {"EnqueueError"}

    def test_no_code(self) -> None:
        """The texts have words for what varies, and no code."""
        for message in [*MESSAGES, *LINES]:
            assert not re.search(r"\{[^{}'\"]*[.(\[][^{}'\"]*\}", message.text), message

    def test_log(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        """Lines that an item logs are on the page of log lines."""
        known = [(message.kind.upper(), pattern(message.text)) for message in LINES]
        caplog.set_level(logging.DEBUG, f"{site.app.name}.background")

        @site.background.task
        def fine() -> None:
            pass

        @site.background.task(max_attempts=2, backoff=0)
        def fails() -> None:
            raise KeyError

        with site.app.app_context():
            fine.enqueue().wait(10)
            fails.enqueue().wait(10)
            site.background.stop(0)
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert len(lines) >= 7
        for level, line in lines:
            assert any(level == kind and one.fullmatch(line) for kind, one in known), line


class TestProse:
    """Names and quotations in the text of the pages."""

    TEXT = "\n".join(page.read_text() for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"])

    def test_attributes(self) -> None:
        """Each attribute that the text names is one."""
        owners = {
            "background": flask_background.Background,
            "item": flask_background.WorkItem,
            "current_item": flask_background.WorkItem,
            "token": flask_background.CancellationToken,
            "signals": signals,
        }
        names = re.findall(rf"`(?:@|await )?({'|'.join(owners)})\.(\w+)[^`]*`", self.TEXT)
        assert len(names) > 50
        for owner, name in names:
            assert hasattr(owners[owner], name), f"{owner}.{name}"

    def test_commands(self) -> None:
        """Each command that the text names is one."""
        known = commands.list_commands(Context(commands))
        names = re.findall(r"flask (?:--app \S+ )?background ([a-z-]+)", self.TEXT)
        assert set(names) - {"command"} <= set(known)

    def test_options(self) -> None:
        """The table of a task's options has them all, and their defaults."""
        table = (DOCS / "guides" / "tasks.md").read_text()
        for name in {*Options.__optional_keys__, *Using.__optional_keys__}:
            assert re.search(rf"^\|.*`{name}`.*\|", table, flags=re.M), name

    def test_extras(self) -> None:
        """The page of the installation names the extras for users, and only such as there are."""
        config = configparser.ConfigParser(interpolation=None)
        config.read(DOCS.parent / "setup.cfg")
        table = (DOCS / "start" / "installation.md").read_text()
        named = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M))
        assert named == set(config["options.extras_require"]) - DEVELOPMENT

    def test_errors(self) -> None:
        """Each error that the text names is one of ours or of Python."""
        for name in re.findall(r"\b([A-Z][A-Za-z]+Error)\b", self.TEXT):
            assert hasattr(errors, name) or hasattr(builtins, name) or name in OTHERS, name

    def test_quotations(self) -> None:
        """A quotation in the questions and answers is in a message or a log line."""
        page = (DOCS / "help" / "faq.md").read_text()
        texts = [message.text for message in [*MESSAGES, *LINES]]
        quoted = re.findall(r'(?:^\*\*|: )(?:\w+: )?"(.+?)"', page, flags=re.M)
        assert len(quoted) > 8
        for quotation in quoted:
            parts = [part.strip() for part in re.split("…", quotation) if part.strip()]
            assert any(all(part in text for part in parts) for text in texts), quotation


def test_build(tmp_path: Path) -> None:
    """Sphinx makes the pages without a warning, and each link between them leads somewhere."""
    import subprocess
    import sys

    built = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "--fail-on-warning", "--nitpicky", "--quiet"),
            *("--builder", "html", "--doctree-dir", tmp_path / "trees", DOCS, tmp_path / "html"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert built.returncode == 0, built.stderr
    settings = (tmp_path / "html" / "reference" / "settings.html").read_text()
    assert "BACKGROUND_GRACE_PERIOD" in settings
    assert "was not enqueued" in (tmp_path / "html" / "help" / "messages.html").read_text()
    assert "celery-worker" in (tmp_path / "html" / "reference" / "cli.html").read_text()
    for page in (tmp_path / "html").rglob("*.html"):
        text = re.sub(r"<(pre|code).*?</\1>", "", page.read_text(), flags=re.S)
        raw = re.search(r"^\.\. \w+::|<p>\.\. |```|\]\(", text, flags=re.M)
        assert raw is None, f"{page}: {raw}"  # markup that was not understood
