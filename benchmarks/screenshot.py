"""Pictures of the real page: `python -m benchmarks.screenshot OUT_DIR [--home DIR]`.

Starts whyfeed on a home, drives headless Chromium through Playwright, asks, and saves the page at
1280 and 390 px, light and dark, English and Chinese. README's picture is `read-1280-light-en.png`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Browser, Error, Page, sync_playwright

if TYPE_CHECKING:
    from agent import Agent

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = {1280: 860, 390: 844}
QUESTION = {"en": "What should I read?", "zh": "我该读什么?"}
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
    from ui.page import build, launch

    page = build(agent)
    try:
        yield launch(page, "127.0.0.1", port)
    finally:
        page.close(verbose=False)


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


def take(browser: Browser, url: str, out: Path, *, wait: float = 120, member: int = 0) -> list[Path]:
    """All pictures, one set for each width, colour and language."""
    made: list[Path] = []

    def shoot(page: Page, name: str) -> None:
        page.wait_for_timeout(350)  # a drawer or a fold has come to rest
        made.append(out / f"{name}.png")
        page.screenshot(path=made[-1])

    for width, height in WIDTHS.items():
        for colour in ("light", "dark"):
            for language in ("en", "zh"):
                name = f"{width}-{colour}-{language}"
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=colour,  # type: ignore[arg-type]
                    locale="zh-CN" if language == "zh" else "en-GB",
                    device_scale_factor=2 if width == 390 else 1,
                )
                page = context.new_page()
                page.goto(url)
                page.locator(".members [role=option]").first.wait_for()
                shoot(page, f"welcome-{name}")
                choose(page, member)
                shoot(page, f"hello-{name}")
                ask(page, QUESTION[language], wait)
                page.locator(".claim").first.click()
                shoot(page, f"read-{name}")
                page.locator(".claim").first.click()
                page.locator(".why-button").first.click()
                page.locator(".bars li").first.wait_for()
                page.locator(".why").first.scroll_into_view_if_needed()
                shoot(page, f"why-{name}")
                if width == 390:
                    page.locator("[data-do=menu]").click()
                    shoot(page, f"rail-{name}")
                page.locator(".places [data-place=behind]").click()
                page.locator(".trace summary").first.click()
                shoot(page, f"behind-{name}")
                page.goto(url + "?desk=")
                page.locator(".desk .desk-answered, .rail .desk-answered").wait_for(state="attached")
                page.wait_for_timeout(1500)
                shoot(page, f"desk-list-{name}")
                if page.locator(".desk-waiting .desk-line").count():
                    page.locator(".desk-waiting .desk-line").first.click()
                    page.locator(".desk-cards[aria-busy=false]").wait_for(state="attached", timeout=wait * 1000)
                    page.wait_for_timeout(500)
                    shoot(page, f"desk-talk-{name}")
                    if width == 390:
                        page.locator(".desk-steps [data-step=help]").click()
                    if page.locator(".desk-cards .cited").count():
                        page.locator(".desk-cards .cited").first.click()
                    shoot(page, f"desk-help-{name}")
                context.close()
    return made


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--home", type=Path, help="home of whyfeed (default: WHYFEED_HOME, else the usual one)")
    parser.add_argument("--member", type=int, default=0, help="place of the reader in the list of members")
    parser.add_argument("--wait", type=float, default=120, help="seconds that one answer may take")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from agent import Agent

    try:
        with chromium() as browser, Agent.open(options.home) as agent, served(agent) as url:
            made = take(browser, url, options.out, wait=options.wait, member=options.member)
    except NoBrowser as exc:
        print(exc, file=sys.stderr)
        return 1
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
