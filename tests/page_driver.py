"""Drives the real page in headless Chromium: for tests of the page and for pictures of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
def chromium() -> Iterator[Browser]:
    """A headless Chromium: Playwright's own, else one on PATH. NoBrowser when there is neither."""
    with sync_playwright() as play:
        own = play.chromium.executable_path
        path = own if os.path.exists(own) else shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None:
            raise NoBrowser(NO_BROWSER)
        try:
            browser = play.chromium.launch(executable_path=path, args=list(_FLAGS))
        except Error as exc:
            raise NoBrowser(f"{path} does not start ({str(exc).splitlines()[0]}); {NO_BROWSER}") from exc
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(agent: Agent, port: int | None = None) -> Iterator[str]:
    """The page of an agent on a port of this machine, else on a free one; gives its address."""
    from fastapi import FastAPI

    from whyfeed.ui.http.server import Server, address, listen
    from whyfeed.ui.page.page import build, mount
    from whyfeed.ui.page.running import Running

    running, ready, app = Running(), threading.Event(), FastAPI()
    drain = mount(app, build(agent, running=running), "/", running)
    with listen("127.0.0.1", port or 0) as listening:
        url = f"{address('127.0.0.1', listening)}/"
        server = Server(app, ready.set, drain)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        ready.wait(60)
        try:
            yield url
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
