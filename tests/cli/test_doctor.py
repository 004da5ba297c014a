"""The checks of ``flask background doctor``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flask_background.app_state import state_of
from flask_background.cli.doctor import examine

from ..helpers import Site


def test_examine(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """Programs can call the doctor's examination of an app."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    site.background.task(durable=True)(print)
    with site.app.app_context():
        findings = list(examine(state_of(site.app)))
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.subject for finding in findings} >= {"grace period", "journal"}


@pytest.mark.parametrize(("location", "level"), [(None, "error"), ("tests.children:create_app", "ok")])
def test_doctor_looks_for_the_app_of_children(
    make_site: Callable[..., Site], location: str | None, level: str
) -> None:
    """The doctor finds out, before the first item, whether child processes would find the app."""
    site = make_site(BACKGROUND_EXECUTORS={"cpu": {"kind": "process"}}, BACKGROUND_APP=location)
    with site.app.app_context():
        findings = {finding.subject: finding for finding in examine(state_of(site.app))}
    assert findings["child processes"].level == level
    assert "BACKGROUND_APP" in findings["child processes"].text or location is not None


def test_unknown_keys(make_site: Callable[..., Site]) -> None:
    """The doctor warns of keys that are no settings, and names the nearest one, if one is near."""
    site = make_site(BACKGROUND_KEEPS=1, BACKGROUND_COLOUR="red")
    with site.app.app_context():
        findings = {finding.subject: finding for finding in examine(state_of(site.app))}
    assert findings["BACKGROUND_KEEPS"].level == findings["BACKGROUND_COLOUR"].level == "warning"
    assert findings["BACKGROUND_KEEPS"].cure == "BACKGROUND_KEEP may be meant"
    assert findings["BACKGROUND_COLOUR"].cure == "leave it out"
