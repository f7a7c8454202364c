"""What other web pages can do to the page in headless Chromium, and that it works behind a proxy with TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.page_driver import NoBrowser, ask, choose, chromium, listening, served
from tests.page_world import World
from whyfeed.agent.phrases import texts

if TYPE_CHECKING:
    from whyfeed import Agent

pytestmark = pytest.mark.slow

LOGIN = ("ada", "lovelace")
JOIN = """async ([url, mode]) => {
  const said = { data: [], event_data: { do: "feedback", post: "alcohol:30", kind: "hide", here: { user: "m0" } },
                 fn_index: 0, trigger_id: 2, session_hash: "evil" };
  const sent = { method: "POST", mode: mode, credentials: "include", body: JSON.stringify(said) };
  if (mode === "cors") sent.headers = { "Content-Type": "application/json" };
  try { const got = await fetch(url + "gradio_api/queue/join", sent); return [got.status, await got.text()]; }
  catch (error) { return [0, String(error)]; }
}"""
UPLOAD = """async (url) => {
  const form = new FormData();
  form.append("files", new Blob(["x".repeat(100000)]), "evil.txt");
  try { await fetch(url + "gradio_api/upload", { method: "POST", mode: "no-cors", body: form }); } catch { }
}"""


@pytest.fixture(scope="module")
def names() -> Iterator[Any]:
    """A Chromium for which evil.test and desk.example.com are this machine."""
    try:
        with chromium("--host-resolver-rules=MAP evil.test 127.0.0.1, MAP desk.example.com 127.0.0.1") as found:
            yield found
    except NoBrowser as exc:
        pytest.fail(str(exc), pytrace=False)


@pytest.fixture
def page(names: Any) -> Iterator[Any]:
    context = names.new_context(ignore_https_errors=True, locale="en-GB")
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    yield opened
    context.close()


@pytest.fixture(scope="module")
def evil() -> Iterator[str]:
    """A web site of somebody else."""

    async def page(_: Request) -> Response:
        return HTMLResponse("<!doctype html><title>evil</title>")

    with listening(Starlette(routes=[Route("/", page)])) as url:
        yield url.replace("127.0.0.1", "evil.test")


def proxy(to: str, path: str) -> Starlette:
    """A reverse proxy that serves `to` below a path, and passes the Host."""

    async def forward(request: Request) -> Response:
        client = httpx.AsyncClient(timeout=None)
        there = to.rstrip("/") + request.url.path.removeprefix(path)
        headers = [pair for pair in request.headers.raw if pair[0] not in (b"connection", b"content-length")]
        headers += [(b"x-forwarded-proto", b"https"), (b"x-forwarded-for", b"192.0.2.1")]
        asked = client.build_request(
            request.method, there, params=request.url.query.encode(), headers=headers, content=await request.body()
        )
        answer = await client.send(asked, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()
                await client.aclose()

        passed = StreamingResponse(pieces(), answer.status_code)
        passed.raw_headers = [pair for pair in answer.headers.raw if pair[0].lower() != b"transfer-encoding"]
        return passed

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "HEAD", "POST", "OPTIONS"])])


@pytest.fixture
def world() -> World:
    return World(pause=0.02)


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[str]:
    """The page with a login, behind a proxy with TLS, below a path of its public name."""
    issued = trustme.CA().issue_cert("desk.example.com")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pem"))
    site = "https://desk.example.com/whyfeed"
    with (
        served(cast("Agent", world), login=LOGIN, sites=[site]) as url,
        listening(proxy(url, "/whyfeed"), ssl_certfile=str(tmp_path / "pem"), loop="asyncio") as secure,
    ):
        yield f"https://desk.example.com:{urlsplit(secure).port}/whyfeed/"


def log_in(page: Any, url: str) -> None:
    page.goto(url)
    page.locator("[name=username]").fill(LOGIN[0])
    page.locator("[name=password]").fill(LOGIN[1])
    page.locator("button").click()
    page.locator(".members [role=option]").first.wait_for()


def hidden(world: World) -> list[str]:
    return [event.post for user in ("m0", "m1") for event in world.events(user, 999) if event.kind == "hide"]


def test_the_page_works_behind_a_proxy_with_tls_below_a_path(desk: str, page: Any) -> None:
    errors: list[str] = []
    log_in(page, desk)  # the form of the login is no page of Gradio's
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    choose(page)
    ask(page, "What should I read?")
    assert page.locator(".card").count() == 5
    page.reload()
    page.locator(".card").nth(4).wait_for()
    (cookie,) = page.context.cookies()
    assert (cookie["sameSite"], cookie["secure"], cookie["httpOnly"]) == ("Lax", True, True)
    assert errors == []


def test_another_site_cannot_act_with_the_visitors_login(desk: str, page: Any, evil: str, world: World) -> None:
    log_in(page, desk)
    choose(page)
    other = page.context.new_page()
    other.goto(evil)
    for mode in ("cors", "no-cors"):
        status, said = other.evaluate(JOIN, [desk, mode])
        assert (status, "event_id" in said) == (0, False)
    other.evaluate("url => { document.body.innerHTML = `<iframe src='${url}'></iframe>` }", desk)
    other.wait_for_timeout(2000)
    assert other.frame_locator("iframe").locator(".wf, form").count() == 0
    assert hidden(world) == []
    # The same from the page's own origin is an ordinary message: it is the origin that was refused.
    status, said = page.evaluate(JOIN, [desk, "cors"])
    assert (status, "event_id" in said) == (200, True)


def test_a_foreign_name_that_leads_to_this_machine_shows_nothing(page: Any, world: World) -> None:
    with served(cast("Agent", world)) as url:
        page.goto(url.replace("127.0.0.1", "evil.test"))
        assert "--login-file" in page.inner_text("body")
        status, said = page.evaluate(JOIN, ["/", "cors"])
        assert (status, "event_id" in said) == (421, False)
        assert hidden(world) == []
        page.goto(url)
        page.locator(".members [role=option]").first.wait_for()


def test_another_site_leaves_no_files_here(page: Any, evil: str, world: World) -> None:
    from gradio.utils import get_upload_folder

    folder = Path(get_upload_folder())
    with served(cast("Agent", world)) as url:
        page.goto(evil)
        page.evaluate(UPLOAD, url)
        page.goto(url)
        page.evaluate(UPLOAD, url)
        assert [path for path in folder.rglob("evil.txt") if path.is_file()] == []


def test_a_chinese_browser_gets_chinese(names: Any, world: World) -> None:
    context = names.new_context(locale="zh-CN")
    with served(cast("Agent", world)) as url:
        page = context.new_page()
        page.goto(url)
        page.locator(".members [role=option]").first.wait_for()
        assert page.locator("h1").first.inner_text() == texts("zh")["who.title"]
        assert page.title() == "whyfeed"
    context.close()
