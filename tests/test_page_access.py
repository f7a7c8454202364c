"""Who may use the page: names, origins, login, routes and limits, by HTTP against the served page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from tests.conftest import RunCli
from tests.page_driver import served
from tests.page_world import World
from whyfeed.agent.phrases import say, texts
from whyfeed.retrieval.errors import HomeError
from whyfeed.ui.http.access import Refused
from whyfeed.ui.page import sessions as limits
from whyfeed.ui.page.login import Login
from whyfeed.ui.page.page import serve
from whyfeed.ui.page.sessions import Sessions

if TYPE_CHECKING:
    from whyfeed import Agent

LOGIN = ("ada", "lovelace: the analytical engine")
SITE = "https://desk.example.com"
BEHIND = {"Host": "desk.example.com", "X-Forwarded-Proto": "https"}
JOIN, DATA, UPLOAD = "gradio_api/queue/join", "gradio_api/queue/data", "gradio_api/upload"


def page_of(world: World, **access: Any) -> Any:
    return served(cast("Agent", world), **access)


@pytest.fixture(scope="module")
def stand_in() -> World:
    return World(pause=0)


@pytest.fixture(scope="module")
def url(stand_in: World) -> Iterator[str]:
    """The page without a login."""
    with page_of(stand_in) as found:
        yield found


@pytest.fixture(scope="module")
def desk(stand_in: World) -> Iterator[str]:
    """The page without a login behind a proxy that asks who comes, below a path of its public name."""
    with page_of(stand_in, sites=[f"{SITE}/whyfeed"]) as found:
        yield found


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as opened:
        yield opened


class Tab:
    """A tab as Gradio's script makes one: it joins the queue and reads what comes."""

    def __init__(self, client: httpx.Client, url: str, id: str, **headers: str) -> None:
        self.client, self.url, self.id, self.headers = client, url, id, headers
        document = client.get(url, headers=headers).text
        found = re.search(r"window\.gradio_config = (\{.*?\});</script>", document)
        assert found, document[:500]
        self.config = json.loads(found[1])

    def body(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        dependency = next(each for each in self.config["dependencies"] if each["targets"][0][1] == event)
        return {
            "data": [], "event_data": data, "fn_index": dependency["id"], "trigger_id": dependency["targets"][0][0],
            "session_hash": self.id,
        }  # fmt: skip

    def join(self, event: str, data: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post(self.url + JOIN, json=self.body(event, data), headers={**self.headers, **headers})

    def act(self, do: str, **data: Any) -> dict[str, Any]:
        """What has changed after one message of the user, by part."""
        joined = self.join("act", {"do": do, **data})
        assert joined.status_code == 200, joined.text
        with self.client.stream(
            "GET", self.url + DATA, params={"session_hash": self.id}, headers=self.headers
        ) as lines:
            for line in lines.iter_lines():
                said = json.loads(line.removeprefix("data:")) if line else {}
                if said.get("msg") == "process_completed" and said["event_id"] == joined.json()["event_id"]:
                    assert said["success"], said
                    parts: dict[str, Any] = json.loads(said["output"]["data"][0])["parts"]
                    return parts
        raise AssertionError("the stream ended without an answer")


def error_of(answer: httpx.Response) -> str:
    said = answer.json()["error"]
    assert len(said.splitlines()) == 1
    return str(said)


# ---- origins

EVERYWHERE = [
    ("GET", ""), ("POST", JOIN), ("GET", f"{DATA}?session_hash=x"), ("POST", UPLOAD), ("POST", "login"),
    ("POST", "logout"), ("GET", "logout"), ("GET", "theme.css"), ("OPTIONS", JOIN), ("POST", "gradio_api/cancel"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
@pytest.mark.parametrize("origin", ["https://evil.test", "null", "https://desk.example.com.evil.test"])
@pytest.mark.parametrize("name", [BEHIND, {}], ids=["behind a proxy", "on this machine"])
def test_no_other_origin_may_use_the_page(
    client: httpx.Client, desk: str, name: dict[str, str], origin: str, method: str, path: str
) -> None:
    asks = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
    answer = client.request(method, desk + path, headers={**name, **asks, "Origin": origin})
    assert answer.status_code == 403
    assert not [header for header in answer.headers if header.startswith("access-control")]
    assert "--site" in error_of(answer)


def test_what_another_page_embeds_is_refused_and_a_link_is_not(client: httpx.Client, url: str) -> None:
    def came(mode: str, to: str, path: str = "", method: str = "GET") -> int:
        sent = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": to}
        return client.request(method, url + path, headers=sent).status_code

    assert came("navigate", "document") == 200
    assert came("navigate", "iframe") == came("no-cors", "image") == came("cors", "empty") == 403
    assert came("navigate", "document", f"{DATA}?session_hash=x") == 403
    assert came("navigate", "document", JOIN, "POST") == 403


def test_the_page_is_in_no_frame(client: httpx.Client, url: str) -> None:
    for path in ("", "theme.css", "nothing"):
        headers = client.get(url + path).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_itself_is_served_to_its_own_origin(client: httpx.Client, url: str, desk: str) -> None:
    own = url.rstrip("/")
    assert Tab(client, url, "own", Origin=own).act("start")["topics"]
    behind = Tab(client, desk, "behind", **BEHIND, Origin=SITE)
    assert behind.config["root"] == f"{SITE}/whyfeed"
    assert behind.act("start")["topics"]
    port = {"Host": "desk.example.com:443", "Origin": SITE}
    assert Tab(client, desk, "port", **port).act("start")["topics"]


# ---- names


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"Host": "evil.test:7860", "Origin": "http://evil.test:7860"},
        {"Host": "127.0.0.1.evil.test"},
        {"Host": "192.168.1.7:7860"},
        {"X-Forwarded-Host": "evil.test"},
        {"X-Forwarded-Host": "localhost, evil.test"},
        {"Forwarded": 'for=192.0.2.1;host="evil.test";proto=https'},
        {"X-Forwarded-For": "192.0.2.1"},
        {"X-Real-IP": "192.0.2.1"},
        {"Via": "1.1 proxy"},
    ],
)
def test_without_a_login_only_names_of_this_machine_are_answered(
    client: httpx.Client, url: str, headers: dict[str, str]
) -> None:
    for method, path in (("GET", ""), ("POST", JOIN), ("GET", "theme.css")):
        answer = client.request(method, url + path, headers=headers)
        assert answer.status_code == 421
        said = error_of(answer)
        assert "--login-file" in said
        assert "--site" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LocalHost", "[::1]:7860", "127.0.0.9:80"])
def test_names_of_this_machine_are_answered(client: httpx.Client, url: str, host: str) -> None:
    assert client.get(url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "a b", "evil.test/path", "http://127.0.0.1", "127.0.0.1:port", "x@127.0.0.1"])
def test_a_host_that_is_none_is_refused(client: httpx.Client, url: str, host: str) -> None:
    assert client.get(url, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers", [BEHIND, {"X-Forwarded-Host": "desk.example.com"}, {"Forwarded": "host=desk.example.com"}]
)
def test_a_site_that_is_named_is_answered(client: httpx.Client, desk: str, headers: dict[str, str]) -> None:
    assert client.get(desk, headers=headers).status_code == 200
    assert client.get(desk, headers={**headers, "X-Forwarded-For": "192.0.2.1"}).status_code == 200


def test_with_a_login_every_name_is_answered_and_only_its_own_origin(client: httpx.Client, stand_in: World) -> None:
    with page_of(stand_in, login=LOGIN) as found:
        assert client.get(found, headers={"Host": "anything.test"}).status_code == 200
        sent = {"Host": "anything.test", "Origin": "https://evil.test"}
        assert client.post(found + "login", headers=sent, data=form()).status_code == 403


@pytest.mark.parametrize(
    "site", ["", "https://", "ftp://desk.example.com", "https://a b", "*.example.com", "https://x?y"]
)
def test_a_site_that_is_no_address_is_one_line(site: str) -> None:
    with pytest.raises(ValueError, match="is no address of a site"):
        serve(cast("Agent", World()), port=7999, sites=[site])


def test_a_page_that_others_can_reach_says_how_to_give_it_a_login() -> None:
    with pytest.raises(HomeError, match="--login-file FILE or WHYFEED_LOGIN"):
        serve(cast("Agent", World()), host="0.0.0.0")


# ---- routes


def test_only_what_the_page_needs_of_gradio_is_served(client: httpx.Client, url: str, stand_in: World) -> None:
    from gradio.routes import App

    from whyfeed.ui.page.page import application

    mounted: Any = application(cast("Agent", stand_in)).routes[-1].app  # type: ignore[attr-defined]
    assert isinstance(mounted, App)
    routes = [each for route in mounted.routes for each in getattr(route, "original_router", mounted).routes]
    routes = [route for route in [*mounted.routes, *routes] if hasattr(route, "path")]
    open_, shut = set(), 0
    for route in routes:
        path = re.sub(r"\{[^}]*\}", "x", route.path)
        for method in getattr(route, "methods", None) or ("GET",):
            if client.request(method, url.rstrip("/") + path).status_code in (404, 405):
                shut += 1
            else:
                open_.add(path.rstrip("/") or "/")
    assert open_ <= {"/", "/theme.css", "/favicon.ico", "/gradio_api/app_id", f"/{JOIN}"}
    assert shut > 50


def test_uploads_are_off(client: httpx.Client, url: str) -> None:
    from gradio.utils import get_upload_folder

    folder = Path(get_upload_folder())
    before = set(folder.rglob("*")) if folder.exists() else set()
    answer = client.post(url + UPLOAD, files={"files": ("kept.txt", b"x" * 3_000_000)})
    assert answer.status_code == 404
    assert (set(folder.rglob("*")) if folder.exists() else set()) == before


@pytest.mark.parametrize(
    "path",
    ["assets/../../../../etc/passwd", "assets/%2e%2e/%2e%2e/index.html", "static/..%2f..%2findex.html", "assets/"],
)
def test_files_are_those_of_the_page(client: httpx.Client, url: str, path: str) -> None:
    assert client.get(url + path).status_code == 404


def test_a_message_carries_nothing_else_to_gradio(client: httpx.Client, url: str) -> None:
    """Files that a message names are neither fetched nor read, and its size is limited."""
    tab = Tab(client, url, "files")
    file = {"path": "/etc/passwd", "url": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}
    body = {**tab.body("act", {"do": "start"}), "data": [file], "oauth_token": "x", "event_id": "x"}
    assert client.post(url + JOIN, json=body).status_code == 200
    assert client.post(url + JOIN, content=b"x" * 1_000_001).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * 10_000

    assert client.post(url + JOIN, content=pieces()).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"session_hash": "x"}', b'{"session_hash": 3, "fn_index": 0}',
        b'{"session_hash": "../x", "fn_index": 0}', b'{"session_hash": "x", "fn_index": true}',
        b'{"session_hash": "x", "fn_index": 0, "trigger_id": "y"}', b"[" * 100_000,
        b'{"session_hash": "x", "fn_index": 99}', b'{"session_hash": "x", "fn_index": -1}',
    ],
)  # fmt: skip
def test_what_is_no_message_of_the_page_is_one_line(client: httpx.Client, url: str, body: bytes) -> None:
    answer = client.post(url + JOIN, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "open the page again" in error_of(answer)


# ---- limits


def test_tabs_of_an_address_are_limited(client: httpx.Client, stand_in: World) -> None:
    with page_of(stand_in) as found:
        first = Tab(client, found, "first")
        assert first.act("start")["topics"]
        answers = []
        for number in range(limits._NEW + 5):
            first.id = f"more-{number}"
            answers.append(first.join("act", {"do": "start"}))
        assert [answer.status_code for answer in answers[-6:]] == [429] * 6
        assert "Retry-After" in answers[-1].headers
        assert "address" in error_of(answers[-1])


def test_a_tab_is_limited(client: httpx.Client, url: str) -> None:
    tab = Tab(client, url, "busy")
    answers = [tab.join("stop", {}) for _ in range(limits._EVENTS + 5)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429


def test_sessions_are_bounded_and_end_when_they_are_idle() -> None:
    now, ended = 0.0, list[str]()
    sessions = Sessions(cast("Agent", World()), "en", ended.append, lambda: now)
    for number in range(limits.MOST + 10):
        sessions.admit(f"tab-{number}", f"address-{number}")
    assert len(sessions) == limits.MOST
    assert ended == [f"tab-{number}" for number in range(10)]
    now = 1000.0
    with sessions.working("tab-50"), sessions.working("tab-49"):
        pass
    now = 2000.0
    sessions.admit("another", "address")
    assert len(sessions) == 3


def test_a_tab_goes_on_after_its_session_ended_for_others(
    client: httpx.Client, stand_in: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST", 3)
    with page_of(stand_in) as found:
        first = Tab(client, found, "first")
        assert first.act("choose", user="m0")["user"]["id"] == "m0"
        for number in range(5):
            assert Tab(client, found, f"other-{number}").act("start")["user"] is None
        assert first.act("behind", here={"user": "m0"})["user"]["id"] == "m0"


def test_a_session_that_has_ended_goes_on_where_its_tab_is() -> None:
    now = 0.0
    world = World(pause=0)
    sessions = Sessions(cast("Agent", world), "en", lambda _: None, lambda: now)
    sessions.admit("tab", "address")
    with sessions.working("tab") as session:
        assert session is None
        sessions.begin("tab").act({"do": "choose", "user": "m0"})
    with sessions.working("tab") as session:
        assert session is not None
    now = 10_000.0
    sessions.admit("tab", "address")
    with sessions.working("tab") as session:
        assert session is None


def test_a_tab_that_works_is_not_ended_for_a_new_one() -> None:
    now = 0.0
    sessions = Sessions(cast("Agent", World()), "en", lambda _: None, lambda: now)
    sessions.admit("works", "address")
    with sessions.working("works"):
        sessions.begin("works")
        now = 10_000.0
        for number in range(limits.MOST + 10):
            sessions.admit(f"tab-{number}", f"address-{number}")
        with sessions.working("works") as session:
            assert session is not None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_newcomers_of_an_address_are_limited(client: httpx.Client, language: str) -> None:
    world = World(pause=0)
    with page_of(world) as found:
        there = len(world.members(limit=1000))
        # Each tab in turn, so that the limit is that of the address and not of the tab.
        for number in range(limits.NEWCOMERS_OF_ADDRESS + 3):
            tab = Tab(client, found, f"new-{number}")
            tab.act("start", here={"language": language})
            parts = tab.act("newcomer", interests=["whisky"], name="Somebody")
        assert parts["notice"]["text"] == texts(language)["who.new.many"]
        assert parts["user"] is None
        assert len(world.members(limit=1000)) == there + limits.NEWCOMERS_OF_ADDRESS
        assert tab.act("choose", user="m0")["user"]["id"] == "m0"


# ---- login


def form(password: str = LOGIN[1]) -> dict[str, str]:
    return {"username": LOGIN[0], "password": password}


@pytest.fixture
def guarded(stand_in: World) -> Iterator[str]:
    with page_of(stand_in, login=LOGIN) as found:
        yield found


def test_nothing_is_served_before_the_login(client: httpx.Client, guarded: str) -> None:
    asked = client.get(guarded, headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert asked.status_code == 200
    assert "gradio" not in asked.text.lower()
    assert say("login.password", "zh") in asked.text
    assert '<html lang="zh-CN"' in asked.text
    assert client.get(guarded + "gradio_api/app_id").status_code == 200  # how a tab sees that the server is back
    for method, path in (("GET", "config"), ("POST", JOIN), ("GET", DATA), ("GET", "theme.css"), ("POST", UPLOAD)):
        answer = client.request(method, guarded + path)
        assert (answer.status_code, "log in" in error_of(answer)) == (401, True)


def test_a_visitor_logs_in_and_out(client: httpx.Client, guarded: str) -> None:
    origin = {"Origin": guarded.rstrip("/")}
    wrong = client.post(guarded + "login", data=form("wrong"), headers=origin)
    assert (wrong.status_code, wrong.cookies) == (400, {})
    entered = client.post(guarded + "login", data=form(), headers=origin)
    assert entered.status_code == 200
    assert Tab(client, guarded, "in").act("start")["topics"]
    assert client.get(guarded + "logout").status_code == 200  # only asks
    assert client.get(guarded + "theme.css").status_code == 200
    kept = dict(client.cookies)
    assert client.post(guarded + "logout", headers=origin).status_code == 303
    assert client.get(guarded + "theme.css", cookies=kept).status_code == 401


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        ({}, False),
        ({"Host": "desk.example.com", "Origin": "https://desk.example.com"}, True),
        ({"X-Forwarded-Proto": "https"}, True),
    ],
)
def test_the_cookie_stays_with_the_page(
    client: httpx.Client, guarded: str, headers: dict[str, str], secure: bool
) -> None:
    said = client.post(guarded + "login", data=form(), headers=headers).headers.get_list("set-cookie")
    assert len(said) == 1
    attributes = {each.strip().lower() for each in said[0].split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/"} <= attributes
    assert ("secure" in attributes) is secure


def test_a_browser_gets_forms_and_a_link_keeps_what_it_opens(client: httpx.Client, guarded: str) -> None:
    browser = {"Accept": "text/html,*/*", "Accept-Language": "zh-CN"}
    asked = client.get(guarded + "?user=m0&x=%22%3E%3Cscript%3E", headers=browser)
    assert "<script>" not in asked.text
    assert 'action="login?user=m0&amp;x=' in asked.text
    wrong = client.post(guarded + "login?user=m0", data=form("wrong"), headers=browser)
    assert (wrong.status_code, say("login.wrong", "zh") in wrong.text) == (400, True)
    entered = client.post(guarded + "login?user=m0", data=form(), headers=browser)
    assert (entered.status_code, entered.headers["Location"]) == (303, "./?user=m0")


def test_wrong_passwords_are_slowed_down(client: httpx.Client, guarded: str) -> None:
    answers = [client.post(guarded + "login", data=form(str(number))) for number in range(300)]
    looked_at = [answer for answer in answers if answer.status_code == 400]
    assert 5 <= len(looked_at) <= 12
    last = answers[-1]
    assert last.status_code == 429
    assert int(last.headers["Retry-After"]) >= 1
    assert "wait" in error_of(last)
    # Even the right one must wait, so that it cannot be found by trying.
    assert client.post(guarded + "login", data=form()).status_code == 429
    # Another address (a proxy on this machine says which) need not.
    assert client.post(guarded + "login", data=form(), headers={"X-Forwarded-For": "192.0.2.9"}).status_code == 200


def tried(login: Login, password: str, address: str) -> int | None:
    """How long to wait; None when the password was right, 0 when it was wrong."""
    try:
        login.enter(LOGIN[0], password, address)
    except Refused as exc:
        return int(exc.headers.get("Retry-After", 0))
    return None


def test_pauses_grow_and_end() -> None:
    now = 1000.0
    login = Login(*LOGIN, lambda: now)
    waits = []
    for _ in range(16):
        while (wait := tried(login, "wrong", "a")) != 0:
            now += cast("int", wait)
            waits.append(wait)
    assert waits[:3] == [2, 3, 5]
    assert waits == sorted(waits)
    assert 500 < max(cast("list[int]", waits)) <= 901
    now += 1000
    assert tried(login, LOGIN[1], "a") is None
    assert tried(login, "wrong", "a") == 0


def test_many_addresses_are_slowed_down_together_but_not_one_that_is_known() -> None:
    now = 1000.0
    login = Login(*LOGIN, lambda: now)
    assert tried(login, LOGIN[1], "known") is None
    waits = [tried(login, "wrong", f"a{number}") for number in range(100)]
    assert waits[0] == 0
    assert waits[-1]
    assert tried(login, LOGIN[1], "new")
    assert tried(login, LOGIN[1], "known") is None
    now += 40
    assert tried(login, LOGIN[1], "new") is None


def test_a_login_ends_when_it_is_not_used() -> None:
    now = 0.0
    login = Login(*LOGIN, lambda: now)
    token = login.enter(*LOGIN, "a")
    now += 6 * 86_400
    assert login.knows(token)
    now += 6 * 86_400
    assert login.knows(token)
    now += 8 * 86_400
    assert not login.knows(token)


# ---- the command line


def test_a_password_on_the_command_line_is_refused(run_cli: RunCli) -> None:
    for command in ("ui", "serve"):
        done = run_cli(command, "--login", "ada:lovelace")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "--login-file FILE" in done.stderr
        assert "WHYFEED_LOGIN" in done.stderr
        assert "lovelace" not in done.stderr
        assert "--login " not in run_cli(command, "--help").stdout


@pytest.mark.parametrize("text", ["", "ada", "ada:", ":lovelace", "ada:lovelace\nbabbage:engine", "\xff\xfe"])
def test_a_file_without_name_and_password_is_one_line(run_cli: RunCli, tmp_path: Path, text: str) -> None:
    file = tmp_path / "login"
    file.write_bytes(text.encode("latin-1"))
    done = run_cli("ui", "--login-file", str(file))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--login-file" in done.stderr
    assert "lovelace" not in done.stderr


def test_a_login_file_that_is_not_there_is_one_line(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("serve", "--login-file", str(tmp_path / "none"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "none" in done.stderr


# ---- the document


@pytest.mark.parametrize(
    ("accepts", "tag"), [("zh-CN,zh;q=0.9", "zh-CN"), ("fr, en;q=0.5, zh;q=0.7", "zh-CN"), ("", "en")]
)
def test_the_document_has_our_title_and_the_visitors_language(
    client: httpx.Client, url: str, accepts: str, tag: str
) -> None:
    document = client.get(url, headers={"Accept-Language": accepts}).text
    assert re.findall("<title>(.*?)</title>", document) == ["whyfeed"]
    assert re.findall('property="og:title" content="(.*?)"', document) == ["whyfeed"]
    assert re.findall(r'<html\s+lang="(.*?)"', document) == [tag]
    assert "twitter:" not in document.split("window.gradio_config")[0]
    assert "raw.githubusercontent.com" not in document
