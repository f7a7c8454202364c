"""Drives the real page in headless Chromium: for tests of the page and for pictures of it."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Browser, Error, Page, sync_playwright

if TYPE_CHECKING:
    from whyfeed import Agent

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NO_BROWSER = "no Chromium: run `playwright install chromium`, or install Debian's package chromium"


class NoBrowser(RuntimeError):
    """There is no Chromium to drive; the message says what to install."""


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """A headless Chromium: Playwright's own, else one on PATH. NoBrowser when there is neither."""
    with sync_playwright() as play:
        own = play.chromium.executable_path
        path = own if os.path.exists(own) else shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None:
            raise NoBrowser(NO_BROWSER)
        try:
            browser = play.chromium.launch(executable_path=path, args=[*_FLAGS, *flags])
        except Error as exc:
            raise NoBrowser(f"{path} does not start ({str(exc).splitlines()[0]}); {NO_BROWSER}") from exc
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(agent: Agent, port: int = 0, **access: Any) -> Iterator[str]:
    """The page of an agent on a port of this machine, else on a free one; gives its address."""
    from whyfeed.ui.page.page import application

    with listening(application(agent, **access), port) as url:
        yield url


@contextmanager
def listening(app: Any, port: int = 0, **options: Any) -> Iterator[str]:
    """An ASGI application on a port of this machine, with the settings of `ui.http.server`; gives its address."""
    import uvicorn

    config = uvicorn.Config(app, log_config=None, ws="none", lifespan="auto", timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", port)) as opened:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http{'s' if config.is_ssl else ''}://127.0.0.1:{opened.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def choose(page: Page, member: int = 0) -> None:
    """Choose the member in that place of the list, the most active first."""
    page.locator(".members [role=option]").nth(member).click()
    page.locator(".hello h1").wait_for()


def ask(page: Page, text: str, seconds: float = 120) -> None:
    """Send a message and wait for its answer with all its reasons."""
    before = page.locator(".answer").count()
    page.locator("#wf-ask").fill(text)
    page.locator("#wf-ask").press("Enter")
    page.locator(".answer").nth(before).wait_for()
    page.locator(".answer[aria-busy=false]").nth(before).wait_for(timeout=seconds * 1000)
