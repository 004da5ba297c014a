"""A real browser: on a phone or a desktop, in the dark, without JavaScript."""

from __future__ import annotations

import os
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from .helpers import until

PHONE = (390, 844)
DESKTOP = (1200, 900)

# What a visitor with a screen reader, or with a keyboard, would miss.
UNNAMED = """
const named = (e) => e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim();
return [...document.querySelectorAll("input:not([type=hidden]), button, a, progress")]
  .filter((e) => !named(e)).map((e) => e.outerHTML);
"""
# Text whose colour is too close to what is behind it (WCAG 2, level AA).
FAINT = """
const parse = (color) => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const light = (color) => color.slice(0, 3).map((v) => v / 255)
  .map((v) => (v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const faint = [];
for (const e of document.querySelectorAll("body *")) {
  const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!text || !e.checkVisibility() || e.disabled) continue;
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) faint.push(`${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 80)}`);
}
return faint;
"""
ELSEWHERE = """
return performance.getEntriesByType("resource").map((e) => e.name)
  .filter((name) => !name.startsWith(location.origin) && !name.startsWith("data:"));
"""
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth;"


class Browser:
    """A page in a window."""

    def __init__(self, chrome: Chrome, shots: Path) -> None:
        self.chrome = chrome
        self.shots = Path(os.environ.get("DEMO_SHOTS", shots))
        self.shots.mkdir(parents=True, exist_ok=True)

    def look(self, size: tuple[int, int], dark: bool = False, javascript: bool = True) -> None:
        """Be a phone or a desktop, light or dark, with or without JavaScript."""
        width, height = size
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if size == PHONE else 1,
            mobile=size == PHONE,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self._command("Emulation.setScriptExecutionDisabled", value=not javascript)

    def _command(self, command: str, **options: object) -> Any:
        return self.chrome.execute_cdp_cmd(command, options)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.chrome.get(url)

    def all(self, selector: str) -> list[WebElement]:
        """All elements that are there now."""
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first element, once it is there."""
        return until(lambda: self.all(selector))[0]

    def sees(self, text: str) -> None:
        """Wait until the page says something."""
        until(lambda: text in self.text())

    def text(self) -> str:
        """The text of the page."""
        return str(self.script("return document.body.innerText"))

    def script(self, script: str) -> Any:
        """Run a script in the page."""
        return self.chrome.execute_script(script)

    def shot(self, name: str) -> None:
        """Take a picture of the whole page."""
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True)
        (self.shots / f"{name}.png").write_bytes(b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """The browser's log since the last call."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]  # type: ignore[no-untyped-call]

    def problems(self) -> list[str]:
        """The faults of the page: errors, foreign resources, unnamed controls, faint text, overflow."""
        wider = self.script(WIDER)
        return [
            *self.complaints(),
            *self.script(ELSEWHERE),
            *self.script(UNNAMED),
            *self.script(FAINT),
            *([f"{wider} pixels too wide"] if wider else []),
        ]


@contextmanager
def start_browser(profile: Path, shots: Path) -> Iterator[Browser]:
    """A headless Chromium with a profile of its own, in these two folders."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver, "these tests need the package chromium-driver"
    assert chromium, "these tests need the package chromium"
    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_argument(f"--user-data-dir={profile}")
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ):
        options.add_argument(flag)
    # A path of its own keeps selenium from looking for a driver elsewhere.
    chrome = Chrome(options, Service(driver))
    try:
        yield Browser(chrome, shots)
    finally:
        chrome.quit()
