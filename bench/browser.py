"""A browser without a window, for the tests of the server's page and for its picture."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

__all__ = ["open_browser"]

_NAMES = ("chromium", "google-chrome")
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def open_browser() -> AsyncGenerator[Browser]:
    """The system's Chromium, with nothing kept from before and nothing kept after.

    Raises `FileNotFoundError`, which says what to install.
    """
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise FileNotFoundError(
            "there is no chromium on PATH, which the page of the server is tested with: "
            "apt-get install --no-install-recommends chromium"
        )
    # Root, which containers run as, has no sandbox for it; it is shown nothing but a server of this machine.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()
