"""A headless Chromium of the system, for the tests of web pages and for the pictures of the whole loop."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Debian's package `chromium`; the other names are those of Ubuntu and of Google's own package.
NAMES = ("chromium", "chromium-browser", "google-chrome")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def find_chromium() -> Path | None:
    """The program on PATH, where there is one."""
    return next((Path(found) for found in map(shutil.which, NAMES) if found), None)


@contextlib.contextmanager
def headless_chromium(program: Path) -> "Iterator[Browser]":
    """That program without a window, as long as the block lasts; it ends with this process."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not run as root, which containers often are.
    sandbox = os.geteuid() != 0
    # No name but loopback's is looked up: a page that needs another machine fails here as it would without a network.
    loopback_only = "--host-resolver-rules=MAP * ~NOTFOUND" + "".join(f", EXCLUDE {name}" for name in _LOOPBACK)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, chromium_sandbox=sandbox, args=[loopback_only, "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()
