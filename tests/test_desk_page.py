"""The service desk in headless Chromium, on a small home whose right suggestions are known."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from gc import collect
from pathlib import Path
from typing import Any

import pytest

from tests.page_driver import served
from tests.test_desk_session import EMAIL, HOSTILE, REFUND, REPLIES, events, make_desk
from whyfeed.agent.agent import Agent

pytestmark = pytest.mark.slow

Open = Callable[..., Any]
EDITED = "Which room are you in, and for how many people?"


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        collect()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with make_desk(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def opened(browser: Any, agent: Agent) -> Iterator[Open]:
    """The desk in a new browser profile; every error of the page fails the test."""
    contexts: list[Any] = []
    errors: list[str] = []
    with served(agent) as url:

        def open_(width: int = 1280) -> Any:
            context = browser.new_context(viewport={"width": width, "height": 860}, locale="en-GB")
            contexts.append(context)
            page = context.new_page()
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(url)
            page.locator("[role=combobox]").wait_for()
            if width < 860:
                page.locator("[data-do=menu]").click()
            page.locator(".places [data-place=desk]").click()
            page.locator(".desk-line").first.wait_for()
            return page

        yield open_
        for context in contexts:
            context.close()
    assert errors == []


def pick(page: Any, place: int) -> None:
    page.locator(".desk-waiting .desk-line").nth(place).click()
    page.locator(".desk-cards[aria-busy=false] .suggestion[class*=suggestion]:not(.waits)").first.wait_for(
        state="attached"
    )


def test_an_edited_suggestion_is_the_first_of_a_like_conversation(opened: Open, agent: Agent) -> None:
    page = opened()
    pick(page, 0)
    assert page.locator(".desk-cards .desk-card-text").nth(1).inner_text() == REPLIES["towels"]
    page.locator(".desk-cards .desk-use").nth(1).click()
    assert page.locator("#wf-reply").input_value() == REPLIES["towels"]
    page.locator("#wf-reply").fill(EDITED)
    page.locator(".desk-write [type=submit]").click()
    page.locator(".desk-turn[data-role=agent]").wait_for()
    assert page.locator(".desk-turn[data-role=agent] p").inner_text() == EDITED
    assert REPLIES["towels"] in page.locator(".desk-note").inner_text()
    assert page.locator("#wf-reply").input_value() == ""
    assert events(agent, "pool", "edit")
    pick(page, 0)
    assert page.locator(".desk-cards .desk-card-text").first.inner_text() == EDITED


def test_what_a_customer_writes_shows_as_text(opened: Open) -> None:
    page = opened()
    page.locator(".desk-waiting .desk-line").nth(3).click()
    page.locator(".desk-turn p").first.wait_for()
    assert page.locator(".desk-turn p").inner_text() == HOSTILE
    page.locator("#wf-simulate").fill("And " + HOSTILE)
    page.locator("#wf-simulate").press("Enter")
    page.locator(".desk-turn").nth(1).wait_for()
    assert page.locator(".desk-turn p").nth(1).inner_text() == "And " + HOSTILE
    assert page.evaluate("window.pwned") is None
    assert page.locator(".desk-turn script, .desk-turn img, .desk-list script, .desk-list img").count() == 0


def test_a_personal_value_is_on_the_page_only_while_it_is_asked_for(opened: Open) -> None:
    page = opened()
    page.locator(".desk-waiting .desk-line").nth(2).click()
    chip = page.locator(".desk-turn .pill").filter(has_text="Email")
    chip.wait_for()
    assert EMAIL not in page.content()
    chip.focus()
    page.locator(".desk-tip").filter(has_text=EMAIL).wait_for()
    page.locator(".desk-head h1").focus()
    page.locator(".desk-tip").wait_for(state="detached")
    assert EMAIL not in page.content()
    chip.hover()
    page.locator(".desk-tip").filter(has_text=EMAIL).wait_for()


def test_a_narrow_page_has_three_steps(opened: Open) -> None:
    page = opened(390)
    assert page.locator(".desk-line").first.is_visible()
    assert not page.locator(".desk-talk").is_visible()
    pick(page, 0)
    assert page.locator(".desk-thread").is_visible()
    assert not page.locator(".desk-list").is_visible()
    page.locator(".desk-steps [data-step=help]").click()
    assert not page.locator(".desk-thread").is_visible()
    page.locator(".desk-cards .desk-use").first.click()
    assert page.locator("#wf-reply").is_visible()
    assert page.locator("#wf-reply").input_value() == REPLIES["where"]
    page.locator(".desk-steps [data-step=list]").click()
    assert page.locator(".desk-line").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_desk_works_from_the_keyboard(opened: Open, agent: Agent) -> None:
    page = opened()
    page.locator(".desk-line").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(".desk-cards .suggestion:not(.waits)").nth(1).wait_for()
    page.wait_for_function("document.activeElement.matches('.desk-head h1')")
    page.keyboard.press("1")
    assert page.locator("#wf-reply").input_value() == REPLIES["where"]
    page.keyboard.press("Alt+2")
    assert page.locator("#wf-reply").input_value() == REPLIES["towels"]
    page.keyboard.press("End")
    page.keyboard.type(" See you {day}.")
    page.keyboard.press("Control+Enter")
    page.locator(".desk-note.warn").wait_for()
    assert page.locator(".desk-turn[data-role=agent]").count() == 0
    page.keyboard.press("Control+Enter")
    page.locator(".desk-turn[data-role=agent]").wait_for()
    assert [each["text"] for each in events(agent, "pool-again", "send")] == [REPLIES["towels"] + " See you {day}."]


def test_an_approved_action_is_noted(opened: Open, agent: Agent) -> None:
    agent.desk.actions.start("refund", REFUND)
    page = opened()
    page.locator(".desk-waiting .desk-line").nth(4).click()
    page.locator(".desk-act [data-decision=approve]:enabled").click()
    page.locator(".desk-act.decided").wait_for()
    assert "noted" in page.locator(".desk-act-state").inner_text()
    (noted,) = events(agent, "refund", "act")
    assert json.dumps(noted).count("refund") == 1
