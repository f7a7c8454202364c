"""The page: its words and templates, how it is served, and the whole of it in headless Chromium."""

from __future__ import annotations

import gc
import json
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints

import pytest

from tests.page_driver import ask, choose, served
from tests.page_world import HOSTILE, World
from whyfeed.agent.phrases import texts
from whyfeed.retrieval.errors import HomeError
from whyfeed.ui.page import messages

if TYPE_CHECKING:
    from whyfeed import Agent

UI = Path(__file__).parent.parent / "ui" / "page" / "static"
DEMO = Path(__file__).parent.parent / "retrieval" / "demo"


_BROKEN_OFF = ("AbortError", "aborted", "errored out")


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# ---- words and templates


def test_the_template_holds_nothing_that_gradio_would_evaluate() -> None:
    html = (UI / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"\{\{|\$\{|[`\\]|@children", html)


def test_every_word_and_button_of_the_template_is_known() -> None:
    html = (UI / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-t(?:-\w+)?="([^"]+)"', html)) <= texts("en").keys()
    scripts = "".join(path.read_text(encoding="utf-8") for path in UI.glob("*.js"))
    handlers = set(re.findall(r'^  "?([\w-]+)"?(?::|\()', scripts, re.MULTILINE))
    assert set(re.findall(r'data-do="([^"]+)"', html)) <= handlers


def test_the_scripts_send_every_message_and_no_other() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in UI.glob("*.js"))
    for pattern, known in (
        (r'\bact\("([^"]+)"', messages.PageMessage),
        (r'\bdeskAct\("([^"]+)"|tell\("desk", \{ do: "([^"]+)"', messages.DeskMessage),
    ):
        sent = {name for found in re.finditer(pattern, scripts) for name in found.groups() if name}
        assert sent == {get_args(get_type_hints(each)["do"])[0] for each in get_args(known)}


# ---- serving


def test_a_port_in_use_is_one_clear_line() -> None:
    from whyfeed.ui.page.page import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HomeError, match=f"port {taken.getsockname()[1]} .*in use"):
            serve(cast("Agent", World()), "127.0.0.1", taken.getsockname()[1])


def test_a_page_that_others_can_reach_needs_a_login() -> None:
    from whyfeed.ui.page.page import serve

    with pytest.raises(HomeError, match="login"):
        serve(cast("Agent", World()), host="0.0.0.0")


# ---- the real page

Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Open an address in a new tab of a new browser profile; any error but an `expected` one fails the test."""
    contexts: list[Any] = []
    errors: list[str] = []
    outside: list[str] = []

    def open_(url: str, *, expected: str = "\0", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 860}, locale="en-GB", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)

        def note(message: Any) -> None:
            if message.type == "error" and expected not in message.text:
                errors.append(message.text)

        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", note)
        page.on("request", lambda request: outside.append(request.url) if "://127.0.0.1" not in request.url else None)
        page.goto(url)
        page.locator(".wf .who:visible, .members [role=option]").first.wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []
    # Closing a tab breaks off what Gradio still had under way; the browser calls that an error of the page's.
    assert [error for error in errors if not any(word in error for word in _BROKEN_OFF)] == []


@pytest.fixture(scope="module")
def hostile() -> Iterator[str]:
    with served(cast("Agent", World(pause=0.02, hostile=True))) as url:
        yield url


@pytest.mark.slow
def test_a_member_asks_and_not_interested_is_obeyed(tmp_path: Path, opened: Open) -> None:
    """The whole way on the demo community: no stand-in."""
    from whyfeed import Agent

    with Agent.open(tmp_path / "home", no_llm=True) as agent:
        agent.import_folder(DEMO)
        agent.build()
        reader = agent.members(limit=1)[0]
        # Beside the best post stands one that says the same: it would move up when only the post itself went.
        best = agent.recommend(reader.id, k=1).items[0].post
        twin = {**best.to_row(), "id": "twin", "text": best.text + "\n\nThank you.", "author": "somebody-else"}
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "posts.jsonl").write_text(json.dumps(twin) + "\n", encoding="utf-8")
        agent.import_folder(tmp_path / "more")
        with served(agent) as url:
            page = opened(url)
            choose(page)
            assert page.locator(".who-name").inner_text() == agent.user(reader.id).label
            ask(page, "What should I read?")
            cards = page.locator(".answer").nth(0).locator(".card")
            assert cards.count() == 5
            assert all(len(text) > 20 for text in cards.locator(".card-reason").all_inner_texts())
            assert all(card.locator(".claim").count() for card in cards.all())
            shown = cards.evaluate_all("cards => cards.map(card => card.post)")
            pair = [id for id in shown if id in (best.id, "twin")]
            assert len(pair) == 1
            place = shown.index(pair[0])
            cards.nth(place).locator("[data-do=hide]").click()
            cards.nth(place).locator(".card-gone:visible").wait_for()
            ask(page, "What should I read?")
            after = (
                page.locator(".answer").nth(1).locator(".card").evaluate_all("cards => cards.map(card => card.post)")
            )
            assert len(after) == 5
            assert best.id not in after
            assert "twin" not in after


@pytest.mark.slow
def test_titles_that_are_programs_show_as_text(hostile: str, opened: Open) -> None:
    page = opened(hostile)
    choose(page)
    ask(page, "What should I read?")
    titles = page.locator(".card-title").all_inner_texts()
    assert titles[:3] == list(HOSTILE)
    page.locator(".claim").nth(1).click()
    page.locator(".why-button").first.click()
    page.locator(".card [data-do=hide]").nth(1).click()
    page.locator(".card-gone:visible").wait_for()
    page.locator(".places [data-place=behind]").click()
    page.locator(".ledger li").first.wait_for()
    assert page.evaluate("window.pwned") is None
    assert page.locator(".card a[href^='javascript' i]").count() == 0
    assert page.locator(".card script, .card img").count() == 0


@pytest.mark.slow
def test_what_i_write_shows_as_text(hostile: str, opened: Open) -> None:
    page = opened(hostile)
    choose(page)
    text = "<img src=x onerror=window.pwned=1> ${window.pwned=1}"
    ask(page, text)
    assert page.locator(".said p").inner_text() == text
    assert page.evaluate("window.pwned") is None


@pytest.mark.slow
def test_a_conversation_survives_a_reload(hostile: str, opened: Open) -> None:
    page = opened(hostile)
    choose(page, 1)
    ask(page, "What should I read?")
    before = page.locator(".card-title").all_inner_texts()
    name = page.locator(".who-name").inner_text()
    page.reload()
    page.locator(".card").nth(4).wait_for()
    assert page.locator(".card-title").all_inner_texts() == before
    assert page.locator(".said p").all_inner_texts() == ["What should I read?"]
    assert page.locator(".who-name").inner_text() == name


@pytest.mark.slow
def test_an_open_tab_goes_on_after_a_restart(opened: Open) -> None:
    world = World(pause=0.02)
    with served(cast("Agent", world)) as url:
        page = opened(url, expected="net::ERR_")  # while the server is away
        choose(page, 1)
        ask(page, "before")
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    with served(cast("Agent", world), port):
        # Gradio reloads the tab or joins again by itself; either way nothing is lost.
        page.wait_for_timeout(1000)
        page.goto(page.url)
        page.locator(".card").first.wait_for()
        ask(page, "after")
        assert page.locator(".said p").all_inner_texts() == ["before", "after"]


@pytest.mark.slow
def test_two_sessions_never_see_each_other(hostile: str, opened: Open) -> None:
    one, two = opened(hostile), opened(hostile)
    choose(one, 0)
    choose(two, 3)
    ask(one, "a question of one's own")
    assert two.locator(".said").count() == 0
    ask(two, "another question")
    assert one.locator(".said p").all_inner_texts() == ["a question of one's own"]
    assert two.locator(".said p").all_inner_texts() == ["another question"]
    assert one.locator(".who-name").inner_text() != two.locator(".who-name").inner_text()
    for page in (one, two):
        page.reload()
        page.locator(".card").first.wait_for()
    assert one.locator(".said p").all_inner_texts() == ["a question of one's own"]
    assert two.locator(".said p").all_inner_texts() == ["another question"]


@pytest.mark.slow
def test_two_tabs_of_one_browser_keep_their_own_reader(hostile: str, opened: Open) -> None:
    one = opened(hostile)
    choose(one, 0)
    ask(one, "first tab")
    two = one.context.new_page()
    two.goto(hostile)
    two.locator(".wf .who:visible").wait_for()
    two.locator(".who").click()
    two.locator(".sheet .members [role=option]").nth(2).click()
    two.locator(".hello h1").wait_for()
    one.reload()
    one.locator(".card").first.wait_for()
    assert one.locator(".said p").all_inner_texts() == ["first tab"]
    assert one.locator(".who-name").inner_text() != two.locator(".who-name").inner_text()


@pytest.mark.slow
def test_the_page_works_from_the_keyboard(hostile: str, opened: Open) -> None:
    page = opened(hostile)
    page.locator("[role=combobox]").focus()
    page.keyboard.type("vera")
    page.locator(".members [role=option]").filter(has_text="Vera").wait_for()
    page.wait_for_function("document.querySelectorAll('.members [role=option]').length === 1")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(".hello h1").wait_for()
    page.wait_for_function("document.activeElement.id === 'wf-ask'")
    page.keyboard.type("one line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.keyboard.press("Enter")
    page.locator(".answer[aria-busy=false] .card").first.wait_for()
    assert page.locator(".said p").inner_text() == "one line\nand another"
    page.locator(".claim").first.focus()
    page.keyboard.press("Enter")
    page.locator(".evidence:visible .proof").first.wait_for()
    page.keyboard.press("Escape")
    assert page.locator(".evidence:visible").count() == 0


@pytest.mark.slow
def test_somebody_new_starts_with_interests_in_chinese(hostile: str, opened: Open) -> None:
    page = opened(hostile)
    page.locator("[data-language=zh]").click()
    page.locator("[data-do=someone-new]").click()
    page.locator(".newcomer-pane [type=submit]").click()
    page.locator(".newcomer-pane .error:visible").wait_for()
    page.locator(".topics .chip").nth(1).click()
    page.locator(".own").fill("whisky，咖啡")
    page.locator(".newcomer-pane [type=submit]").click()
    page.locator(".hello h1").wait_for()
    assert len(page.locator(".interest-label").all_inner_texts()) == 3
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


@pytest.mark.slow
def test_a_narrow_page_has_a_drawer_and_no_sideways_scrolling(hostile: str, opened: Open) -> None:
    page = opened(hostile)
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page)
    ask(page, "What should I read?")
    assert page.evaluate("document.querySelector('.read .scroll').scrollWidth") <= 390
    assert not page.locator(".rail").is_visible()
    page.locator("[data-do=menu]").click()
    page.locator(".rail .interest").first.wait_for()
    page.keyboard.press("Escape")
    page.locator(".rail").wait_for(state="hidden")


@pytest.mark.slow
def test_a_banner_says_that_the_writer_is_still_coming(opened: Open) -> None:
    world = World(writer={"name": "writer", "state": "downloading", "done": 34, "total": 100})
    with served(cast("Agent", world)) as url:
        page = opened(url)
        page.locator(".banner:visible").wait_for()
        assert "34 %" in page.locator(".banner").inner_text()
        world.writer = {"name": "writer", "state": "ready", "done": 100, "total": 100}
        page.locator(".banner").wait_for(state="hidden")


@pytest.mark.slow
def test_a_running_answer_can_be_stopped(opened: Open) -> None:
    with served(cast("Agent", World(pause=0.5))) as url:
        page = opened(url)
        choose(page)
        page.locator("#wf-ask").fill("What should I read?")
        page.locator("#wf-ask").press("Enter")
        page.locator(".card").first.wait_for()
        page.locator(".ask-stop").click()
        page.locator(".answer[aria-busy=false]").wait_for()
        assert page.locator(".answer-end").inner_text() == texts("en")["turn.stopped"]
        assert page.locator(".card").count() == 5
