"""Screenshots of the page in all widths, colour schemes and languages.

    python -m benchmarks.screenshot OUT_DIR [--home DIR]

Starts whyfeed on a home, controls headless Chromium through Playwright, asks for posts, and saves the page at 1280 and
390 px, light and dark, English and Chinese. README's picture is `read-1280-light-en.png`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.page_driver import NoBrowser, ask, choose, chromium, served

WIDTHS = {1280: 860, 390: 844}
QUESTION = {"en": "What should I read?", "zh": "我该读什么?"}


def take(browser: Browser, url: str, out: Path, *, wait: float = 120, member: int = 0) -> list[Path]:
    """Take all screenshots: one set for each width, colour scheme and language."""
    made: list[Path] = []

    def shoot(page: Page, name: str) -> None:
        page.wait_for_timeout(350)  # until animations have ended
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
    parser.add_argument("--home", type=Path, help="whyfeed home (default: WHYFEED_HOME, else the default home)")
    parser.add_argument("--member", type=int, default=0, help="index of the user in the list of members")
    parser.add_argument("--wait", type=float, default=120, help="timeout of one answer in seconds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from whyfeed import Agent

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
