"""A real browser for reports opened from disk, which may say nothing and ask for nothing."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs a browser: playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs a browser: no Chromium in PATH", allow_module_level=True)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

_REFUSED = re.compile("status of (401|409)")  # browsers log what the page itself says in words
Open = Callable[..., Any]
Visit = Callable[..., Any]


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until ``holds``, as the page may be a moment behind a click."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def launched() -> Iterator[Any]:
    """A browser, closed at the end."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def visiting(browser: Any) -> Iterator[Open]:
    """What opens a page; at the end nothing may have been logged, thrown or asked for."""
    said: list[str] = []
    contexts = []

    def visit(html: Path, width: int = 1280, height: int = 900, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        address = html.as_uri()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: _outside(request.url, address) and said.append(request.url))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []


def visiting_service(browser: Any) -> Iterator[Visit]:
    """What opens the page of a service; at the end nothing may have been logged, thrown or asked of another host."""
    said: list[str] = []
    contexts = []

    def opened(service: Any, width: int = 1280, height: int = 900, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        own = (service.address, f"blob:{service.address}")
        page.on("console", lambda message: _REFUSED.search(message.text) or said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(own) or said.append(request.url))
        page.goto(service.address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said, said


def _outside(url: str, address: str) -> bool:
    return url != address and not url.startswith(("data:", "blob:file:", "blob:null"))


def names(page: Any) -> list[str]:
    """Files of the cards, in the order shown."""
    labels = page.locator(".card").evaluate_all("cards => cards.map((card) => card.getAttribute('aria-label'))")
    return [label.rsplit(": ", 1)[0] for label in labels]


def verdicts(page: Any) -> dict[str, int]:
    return {
        name: int(page.locator(f"#n-{name}").evaluate("cell => cell.firstChild.data"))
        for name in ("found", "missed", "alarm", "right")
    }


def mistakes_first(tests: list[dict[str, Any]], threshold: float) -> list[str]:
    def place(test: dict[str, Any]) -> tuple[int, float]:
        flagged = test["score"] >= threshold
        if test["label"] and not flagged:
            return 0, test["score"]
        return (1 if flagged and not test["label"] else 2), -test["score"]

    return [test["file"] for test in sorted(tests, key=place)]
