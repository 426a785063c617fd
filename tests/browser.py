"""A headless Chromium for the tests of web pages. What a page asks of another machine, or complains of, fails its test.

def test_a_page(open_page):
    page = open_page("http://127.0.0.1:8000/", width=390, dark=True)
    page.get_by_role("button", name="Send").click()
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from tools.browser import NAMES, find_chromium, headless_chromium

_PATIENCE = 20_000  # milliseconds, for what Playwright waits for; the machines that test may be busy
expect.set_options(timeout=_PATIENCE)


class Visitor:
    """Opens pages, and keeps what they asked of other hosts and what they complained of."""

    def __init__(self, browser: Browser):
        self._browser = browser
        self.outside: list[str] = []
        self.complaints: list[str] = []

    def __call__(self, url: str, width: int = 1280, height: int = 860, dark: bool = False) -> Page:
        """A page in a fresh profile (no cookies, nothing stored), `width` by `height` pixels."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(_PATIENCE)
        context.on("request", self._note_request)
        context.on("console", self._note_console)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        page = context.new_page()
        page.goto(url)
        return page

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            self.outside.append(request.url)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)


# Of a module and not of the session: while Playwright runs, its event loop counts as running in this thread, and a test
# of another module that calls `asyncio.run` would be refused.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip(f"needs a browser on PATH: {', '.join(NAMES)}")
    with headless_chromium(program) as browser:
        yield browser


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Visitor]:
    visitor = Visitor(chromium)
    yield visitor
    for context in chromium.contexts:
        context.close()
    assert not visitor.outside, "the page asked another machine"
    assert not visitor.complaints, "the page complained"
