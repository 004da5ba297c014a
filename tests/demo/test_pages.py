"""The pages in a real browser: on a phone and a desktop, light and dark, without JavaScript."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ..browser import DESKTOP, PHONE, Browser
from .conftest import Start
from .driver import Demo, item_ids, picture, png_that_claims, until

LOOKS = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
COLORS = ["#2a9d8f", "#e76f51", "#457b9d", "#b56576", "#6a994e", "#f4a261"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures to choose from, and one file that is none."""
    sizes = [(1500, 1000), (900, 1200), (1600, 1000)]
    paths = []
    for number, color in enumerate(COLORS):
        path = tmp_path / f"hill-{number + 1}.jpg"
        path.write_bytes(picture(size=sizes[number % 3], color=color))
        paths.append(path)
    for name, content in {
        "a program that says it is a picture.jpg": b"MZ",
        "bomb.png": png_that_claims(50_000, 50_000),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        paths.append(path)
    return paths


def choose(browser: Browser, *paths: Path) -> None:
    """Choose files for the upload."""
    browser.one("input[type=file]").send_keys("\n".join(map(str, paths)))


def in_light_and_dark(browser: Browser, name: str, size: tuple[int, int]) -> None:
    """Look at a page in both colour schemes, and keep pictures of it."""
    for dark in (True, False):
        browser.look(size, dark)
        browser.shot(name + "-dark" * dark)
        assert browser.problems() == []


def begin(browser: Browser, seconds: int, kind: str = "both") -> None:
    """Start long items."""
    browser.one(f"[value={kind}]").click()
    browser.one("#seconds").clear()
    browser.one("#seconds").send_keys(str(seconds))
    browser.one("main form button").click()


@LOOKS
def test_gallery(start_demo: Start, browser: Browser, files: list[Path], size: tuple[int, int]) -> None:
    """Chosen pictures are counted, uploaded and shown without a reload; what is none says so."""
    demo = start_demo()
    browser.look(size)
    browser.open(demo.url + "/gallery")
    in_light_and_dark(browser, f"gallery-{size[0]}-empty", size)
    choose(browser, *files)
    browser.sees("8 pictures, ")
    browser.one(".upload button").click()
    browser.sees("not a JPEG, PNG, WebP or GIF")
    until(lambda: len(browser.all("#pictures img")) == 6)
    until(lambda: not browser.all("[data-live]"))
    until(lambda: browser.script("return [...document.images].every((i) => i.complete)"))
    in_light_and_dark(browser, f"gallery-{size[0]}", size)


def test_gallery_shows_progress(start_demo: Start, browser: Browser, tmp_path: Path) -> None:
    """While large pictures are made smaller, their cards say how far they are."""
    demo = start_demo()
    paths = []
    for number in range(12):
        path = tmp_path / f"large-{number}.png"
        path.write_bytes(picture("PNG", (3600, 2400), COLORS[number % len(COLORS)], compress_level=1))
        paths.append(path)
    browser.look(DESKTOP)
    browser.open(demo.url + "/gallery")
    choose(browser, *paths)
    browser.one(".upload button").click()
    browser.sees("Uploads")
    # The page asks now and then, and which step it meets is a matter of chance.
    until(lambda: any(step in browser.text() for step in ("Reading", "Making the copy of")))
    browser.shot("gallery-progress")
    until(lambda: len(browser.all("#pictures img")) == 12, 60)
    until(lambda: not browser.all("#works .item"))
    assert browser.problems() == []


def test_too_much_is_said_before_it_is_sent(demo: Demo, browser: Browser, tmp_path: Path) -> None:
    """Too large a choice gets a message at once, and a better one takes it away."""
    large, small = tmp_path / "large.jpg", tmp_path / "small.jpg"
    with large.open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    small.write_bytes(picture())
    browser.look(PHONE)
    browser.open(demo.url + "/gallery")
    choose(browser, large)
    browser.sees("That is too much at once")
    assert not browser.one(".upload button").is_enabled()
    browser.shot("gallery-390-too-much")
    assert browser.problems() == []
    browser.one("input[type=file]").clear()
    choose(browser, small)
    assert browser.one(".upload button").is_enabled()
    assert not browser.one("#error").is_displayed()


@LOOKS
def test_signup(start_demo: Start, browser: Browser, size: tuple[int, int]) -> None:
    """A visitor who signs up sees the letter arrive in the outbox, with its picture."""
    demo = start_demo()
    browser.look(size)
    browser.open(demo.url + "/signup")
    browser.one("#name").send_keys("Ada Lovelace")
    browser.one("#address").send_keys("ada@example.com")
    browser.one("main form button").click()
    browser.sees("Done")
    browser.one(".letter img")  # the page looks for it when the item has ended
    until(lambda: browser.script("return document.querySelector('.letter img')?.complete"))
    assert browser.script("return document.querySelector('.letter img').naturalWidth") == 960
    in_light_and_dark(browser, f"signup-{size[0]}", size)


def test_signup_with_errors(demo: Demo, browser: Browser) -> None:
    """The server's refusal stands beside its field, and the typed text stays."""
    browser.look(PHONE)
    browser.open(demo.url + "/signup")
    browser.script("document.querySelector('main form').noValidate = true")
    browser.one("#name").send_keys("Ada")
    browser.one("#address").send_keys("ada@")
    browser.one("main form button").click()
    browser.sees("Please give an e-mail address")
    assert browser.one("#address").get_attribute("value") == "ada@"
    assert browser.one("#address").get_attribute("aria-describedby") == "address-error"
    browser.shot("signup-390-error")
    # The browser itself notes that the page came with status 400.
    assert all("400 (BAD REQUEST)" in problem for problem in browser.problems())


@LOOKS
def test_long_item(demo: Demo, browser: Browser, size: tuple[int, int]) -> None:
    """Long items show their progress and their token as they change, and are cancelled by a button."""
    browser.look(size)
    browser.open(demo.url + "/grace")
    begin(browser, 20)
    until(lambda: browser.text().count("2 of 20 seconds") == 2)
    in_light_and_dark(browser, f"grace-{size[0]}", size)
    ids = [card.get_attribute("id") for card in browser.all("[data-live]")]
    assert len(ids) == 2
    for item in ids:
        browser.one(f"#{item} form button").click()
        browser.one(f"#{item}[data-status=cancelled]")
    for item in ids:
        assert "It was cancelled." in browser.one(f"#{item}").text
        assert "requested" in browser.one(f"#{item}").text
    assert browser.problems() == []


def test_grace_period_is_seen(start_demo: Start, browser: Browser) -> None:
    """After a reload of the server the open page shows the old worker's item and its time left."""
    demo = start_demo()
    browser.look(DESKTOP)
    browser.open(demo.url + "/grace")
    begin(browser, 15, "memory")
    until(lambda: re.search(r"\b[1-9]\d? of 15 seconds", browser.text()))
    demo.signal(signal.SIGHUP)
    browser.sees("that is the grace period")
    browser.sees("shutdown")
    browser.shot("grace-1200-reload")
    browser.sees("Done")
    assert browser.script("return document.querySelector('.item').dataset.status") == "succeeded"
    assert browser.problems() == []


@LOOKS
def test_kill_is_seen(start_demo: Start, browser: Browser, size: tuple[int, int]) -> None:
    """The open page shows how a killed worker's durable item goes on in the other, and that one is lost."""
    demo = start_demo()
    browser.look(size)
    browser.open(demo.url + "/grace")
    begin(browser, 8)
    command = browser.one("#kill[data-victim]").text.split()
    assert command[:2] == ["kill", "-9"]
    os.kill(int(command[2]), signal.SIGKILL)
    browser.sees("it was in memory only")
    browser.sees(f"Begun in {command[2]}, again in ")
    assert [cell.text for cell in browser.all("[data-status=running] .attempt")] == ["2"]
    again = browser.one("[data-status=running] .pid").text
    assert int(again) in demo.workers()
    until(lambda: browser.one("#kill").text == f"kill -9 {again}")
    browser.script("return scrollTo(0, 0)")
    browser.shot(f"grace-{size[0]}-killed")
    browser.sees("Done")
    # A request to the worker that was killed just then may have found nobody; the page asks again.
    assert all("net::ERR_" in problem for problem in browser.problems())


def test_server_that_is_gone(start_demo: Start, browser: Browser) -> None:
    """When the server is gone, a page that is open says so."""
    demo = start_demo()
    browser.look(PHONE)
    browser.open(demo.url + "/grace")
    begin(browser, 30)
    until(lambda: re.search(r"\b[1-9]\d? of 30 seconds", browser.text()))
    demo.kill()
    browser.sees("The server does not answer.")
    browser.shot("grace-390-lost")
    assert all("net::ERR_" in problem for problem in browser.problems())


def test_without_javascript(start_demo: Start, browser: Browser, files: list[Path]) -> None:
    """Without JavaScript all forms work, and a reload shows how far the items are."""
    demo = start_demo()
    browser.look(PHONE, javascript=False)
    browser.open(demo.url + "/gallery")
    choose(browser, *files[:2])
    browser.one(".upload button").click()
    until(lambda: len(demo.pictures()) == 2)
    browser.open(demo.url + "/gallery")
    assert len(browser.all("#pictures img")) == 2

    browser.open(demo.url + "/signup")
    browser.one("#name").send_keys("Ada")
    browser.one("#address").send_keys("ada@example.com")
    browser.one("main form button").click()
    until(demo.letters)
    browser.open(demo.url + "/signup")
    assert "Welcome, Ada!" in browser.one("#outbox").text

    browser.open(demo.url + "/grace")
    browser.one("main form button").click()
    hint = browser.one("#running noscript a")
    assert "Reload the page" in hint.text
    browser.shot("grace-390-noscript")
    hint.click()
    for item_id in item_ids(demo.get("/grace")):
        browser.one(f"#cancel-{item_id}").click()
        demo.ended(item_id)
    browser.open(demo.url + "/grace")
    assert len(browser.all("[data-status=cancelled]")) == 2
    assert browser.problems() == []


def test_too_large_upload_without_javascript(demo: Demo, browser: Browser, tmp_path: Path) -> None:
    """A browser that sends 50 MB shows the page about that, not a broken connection."""
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    for size in (PHONE, DESKTOP):
        browser.look(size, javascript=False)
        browser.open(demo.url + "/gallery")
        choose(browser, large)
        browser.one(".upload button").click()
        browser.sees("That is too much at once")
        browser.shot(f"error-413-{size[0]}")
    assert all("413 (REQUEST ENTITY TOO LARGE)" in problem for problem in browser.problems())


@pytest.mark.parametrize("path", ["/", "/gallery", "/signup", "/grace", "/cpu", "/patterns", "/journal"])
def test_keyboard_reaches_everything(demo: Demo, browser: Browser, path: str) -> None:
    """The keyboard leads to the content first, and shows where the focus is."""
    browser.look(DESKTOP)
    browser.open(demo.url + path)
    assert browser.script("return document.querySelector('.skip').offsetWidth") == 1
    browser.script("document.querySelector('.skip').focus()")
    assert browser.script("return document.querySelector('.skip').offsetWidth") > 50
    assert len(browser.all("h1")) == 1
    assert len(browser.all("[aria-current=page]")) == 1
