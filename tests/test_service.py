"""The HTTP service, asked as a client asks it: who may what, what goes wrong and how it is told, chat, page."""

from __future__ import annotations

import gc
import json
import re
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.checks import check_shape
from tests.conftest import EMBEDDER
from whyfeed import Agent
from whyfeed.agent.answer import ChatEvent, StageStarted
from whyfeed.agent.operations import OPERATIONS
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import HomeError, ModelError
from whyfeed.retrieval.store.keys import Keys
from whyfeed.ui.http.access import Access
from whyfeed.ui.http.service import BODY, build, serve

MASTER = "the operator's own"
WHO = {"user": "u0"}
BODIES: dict[str, dict[str, Any]] = {
    "recommend": WHO, "search": {"query": "tomato"}, "explain": {**WHO, "post": "clocks-1"},
    "why_not": {**WHO, "post": "clocks-1"}, "profile": WHO, "events": WHO, "export": WHO,
    "feedback": {**WHO, "post": "clocks-1", "kind": "like"}, "steer": {**WHO, "topic": "tomato", "direction": "less"},
    "forget": {**WHO, "event": "none"}, "suggest_reply": {"turns": [{"role": "customer", "text": "Where is it?"}]},
    "erase": WHO, "status": {}, "chat": {**WHO, "text": "What should I read?"},
}  # fmt: skip
SCOPES = {**{name: operation.scope for name, operation in OPERATIONS.items()}, "chat": "feedback"}
OTHER = {"read": "desk", "feedback": "read", "desk": "feedback", "admin": "read"}


def path(operation: str) -> str:
    return "/v1/" + {"explain": "why"}.get(operation, operation).replace("_", "-")


class Asking(TestClient):
    """A client who is asked for by the name of an operation."""

    def ask(self, operation: str, secret: str | None = MASTER, **changed: Any) -> Any:
        body = {**BODIES[operation], **changed}
        return self.post(path(operation), json=body, headers=bearer(secret))


def bearer(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {"Authorization": f"Bearer {secret}"}


@contextmanager
def serving(agent: Agent, page: bool = False, **more: Any) -> Iterator[Asking]:
    app = build(agent, Access(agent.store, MASTER), page=page, **more)
    with Asking(app, "http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False) as client:
        for _ in range(600):
            if client.get("/ready").status_code == 200:
                break
            time.sleep(0.05)
        yield client


@pytest.fixture
def client(agent: Agent) -> Iterator[Asking]:
    with serving(agent) as found:
        yield found


@pytest.fixture
def keys(agent: Agent) -> Keys:
    return Keys(agent.store)


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Gradio leaves event loops and their sockets open when a page is closed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# ---- who may what


@pytest.mark.parametrize("operation", BODIES)
def test_an_operation_needs_a_key_of_its_scope(client: Asking, keys: Keys, operation: str) -> None:
    for secret in (None, "wf_made-up"):
        refused = client.post(path(operation), content=b"{not json", headers=bearer(secret))
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    wrong, right = OTHER[SCOPES[operation]], SCOPES[operation]
    refused = client.post(path(operation), content=b"{not json", headers=bearer(keys.add("wrong", [wrong])))
    assert refused.status_code == 403
    assert right in refused.json()["error"]
    answered = client.ask(operation, keys.add("right", [right]))
    assert answered.status_code == (404 if operation == "forget" else 200), answered.text


@pytest.mark.parametrize("operation", [name for name, body in BODIES.items() if "user" in body and name != "erase"])
def test_a_key_of_some_users_reaches_no_other(client: Asking, keys: Keys, operation: str) -> None:
    secret = keys.add("own", ["read", "feedback"], ["u1"])
    assert client.ask(operation, secret, user="u0").status_code == 403
    assert client.ask(operation, secret, user="nobody").status_code == 403
    assert client.ask(operation, secret, user="u1").status_code == (404 if operation == "forget" else 200)


def test_a_removed_key_is_refused_at_once(client: Asking, keys: Keys) -> None:
    secret = keys.add("brief", ["read"])
    assert client.ask("profile", secret).status_code == 200
    keys.remove("brief")
    assert client.ask("profile", secret).status_code == 401


def test_a_key_has_its_allowance(client: Asking, keys: Keys) -> None:
    secret = keys.add("slow", ["read"], per_minute=3)
    assert [client.ask("profile", secret).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert 1 <= int(client.ask("profile", secret).headers["Retry-After"]) <= 61
    assert client.ask("profile", keys.add("another", ["read"])).status_code == 200


@pytest.mark.parametrize("place", ["/metrics", "/v1/batch/" + "0" * 32])
def test_what_the_operator_sees_is_for_the_operator(client: Asking, keys: Keys, place: str) -> None:
    assert client.get(place).status_code == 401
    assert client.get(place, headers=bearer(keys.add("reader", ["read", "feedback", "desk"]))).status_code == 403


# ---- what is answered


def test_answers_are_those_of_the_registry(client: Asking) -> None:
    document = client.ask("recommend", k=3, llm=False).json()
    check_shape(document, "recommend")
    assert len(document["items"]) == 3
    shown = document["items"][0]["post"]["id"]
    assert client.ask("explain", post=shown).json()["shown"] is True
    event = client.ask("feedback", post=shown, kind="hide").json()["id"]
    assert shown not in [item["post"]["id"] for item in client.ask("recommend", llm=False).json()["items"]]
    assert event in [found["id"] for found in client.ask("events").json()["events"]]
    assert client.ask("forget", event=event).json() == {"user": "u0", "forgotten": event}
    assert client.ask("erase").json()["erased"] is True
    assert client.ask("profile").status_code == 404


def test_many_at_once_lose_nothing(client: Asking, agent: Agent) -> None:
    posts = [f"{topic}-{number}" for topic in ("gardening", "sailing") for number in range(10)]

    def give(thread: int) -> list[str]:
        return [client.ask("feedback", user=f"u{thread}", post=post, kind="open").json()["id"] for post in posts]

    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(give, range(16)))
    for thread, ids in enumerate(given):
        assert set(ids) <= {event.id for event in agent.events(f"u{thread}", 1000)}
    assert len({id for ids in given for id in ids}) == 320


# ---- what goes wrong


@pytest.mark.parametrize(
    ("operation", "changed", "status", "told"),
    [
        ("recommend", {"user": "nobody"}, 404, "nobody"),
        ("explain", {"post": "no-post"}, 404, "no-post"),
        ("forget", {"event": "no-event"}, 404, "no-event"),
        ("suggest_reply", {"turns": [], "conversation": "gone"}, 404, "gone"),
        ("suggest_reply", {"turns": []}, 422, "turns"),
        ("recommend", {"k": 0}, 422, "k: "),
        ("recommend", {"k": 10**400}, 422, "k: "),
        ("recommend", {"as_of": "yesterday"}, 422, "yesterday"),
        ("recommend", {"typo": 1}, 422, "typo: "),
        ("recommend", {"user": "\x00"}, 422, "control character"),
        ("recommend", {"user": "\ud800"}, 422, "user: "),
        ("chat", {"user": "nobody"}, 404, "nobody"),
        ("chat", {"conversation": "not-mine"}, 422, "not-mine"),
        ("suggest_reply", {"turns": [{"role": "customer", "text": "hi", "\ud800": "\udfff"}]}, None, ""),
        ("suggest_reply", {"turns": [{"role": "customer", "text": "hi", "deep": json.loads("[" * 500 + "]" * 500)}]},
         None, ""),
    ],
)  # fmt: skip
def test_failures_are_one_clear_line(
    client: Asking, operation: str, changed: dict[str, Any], status: int | None, told: str
) -> None:
    body = json.dumps({**BODIES[operation], **changed})
    failed = client.post(path(operation), content=body, headers={**bearer(MASTER), "Content-Type": "application/json"})
    assert failed.status_code == status if status else failed.status_code in (200, 422), failed.text
    if failed.status_code != 200:
        assert failed.json().keys() == {"error"}
        assert told in failed.json()["error"]
        assert "\n" not in failed.json()["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"user": "u0"}', "text/plain", 422),
        (b'{"user": "u0"}', "", 422),
        (b'{"user": "u0"', "application/json", 422),
        (b'{"user": "u0", "k": NaN}', "application/json", 422),
        (b'{"user": "\xff"}', "application/json", 422),
        (b'{"k": ' + b"1" * 5000 + b"}", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"[]", "application/json", 422),
        (b"", "application/json", 422),
        (b'{"user": "' + b"x" * BODY + b'"}', "application/json", 413),
    ],
)
def test_odd_bodies_are_refused(client: Asking, body: bytes, kind: str, status: int) -> None:
    for content in (body, iter([body])):  # with its length, and in chunks
        headers = {**bearer(MASTER), "Content-Type": kind}
        failed = client.post("/v1/recommend", content=content, headers=headers)
        assert (failed.status_code, failed.json().keys()) == (status, {"error"})


class Failing(Agent):
    """An agent one of whose methods fails."""

    failure: Exception = RuntimeError("a secret of the house")

    def profile(self, user: str) -> Any:
        raise self.failure

    def build(self, progress: Any = None) -> None:
        if isinstance(self.failure, HomeError):
            raise self.failure
        super().build(progress)


@pytest.mark.parametrize(
    ("failure", "status", "told"),
    [
        (RuntimeError("a secret of the house"), 500, "internal error"),
        (ModelError("the writer is gone"), 503, "the writer is gone"),
        (ValueError("no such thing"), 422, "no such thing"),
    ],
)
def test_whose_fault_it_is(home: Path, failure: Exception, status: int, told: str) -> None:
    with Failing(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent:
        agent.failure = failure
        with serving(agent) as client:
            failed = client.ask("profile")
    assert failed.status_code == status
    assert told in failed.json()["error"]
    assert "secret" not in failed.text


def test_a_home_that_cannot_be_built_is_not_ready(home: Path) -> None:
    with Failing(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent:
        agent.failure = HomeError("the disk is full; free some space")
        app = build(agent, Access(agent.store, MASTER), page=False)
        with Asking(app) as client:
            for place in ("/ready", "/v1/profile"):
                failed = client.post(place, headers=bearer(MASTER)) if place != "/ready" else client.get(place)
                assert failed.status_code == 503
            assert client.ask("profile", None).status_code == 401
            assert client.get("/health").json() == {"ok": True}


# ---- the chat


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_chat_tells_its_stages_then_the_list_then_the_answer(client: Asking) -> None:
    answered = client.ask("chat", text="less tomato")
    assert answered.headers["Content-Type"].startswith("text/event-stream")
    found = list(events(iter(answered.text.splitlines())))
    names = [name for name, _ in found]
    assert re.fullmatch(r"(stage )+items (reason )*answer ", "".join(f"{name} " for name in names))
    assert found[0] == ("stage", {"name": "understand"})
    listed = next(data for name, data in found if name == "items")
    answer = found[-1][1]
    check_shape({key: value for key, value in answer.items() if key != "conversation"}, "chat")
    assert [item["post"]["id"] for item in listed["items"]] == [item["post"]["id"] for item in answer["items"]]
    again = client.ask("chat", text="why the first one?", conversation=answer["conversation"])
    assert list(events(iter(again.text.splitlines())))[-1][1]["conversation"] == answer["conversation"]


class Talking(Agent):
    """An agent that never comes to an end, or breaks off."""

    breaks = False
    left: threading.Event

    async def achat(self, *_: Any, **__: Any) -> AsyncIterator[ChatEvent]:
        import anyio

        try:
            yield StageStarted("understand")
            if self.breaks:
                raise RuntimeError("a secret of the house")
            while True:
                yield StageStarted("rank")
                await anyio.sleep(0.02)
        finally:
            self.left.set()


def test_who_leaves_a_chat_stops_the_work(home: Path) -> None:
    with Talking(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent:
        agent.left = threading.Event()
        with running(agent) as url, httpx.Client(base_url=url, headers=bearer(MASTER)) as client:
            with client.stream("POST", "/v1/chat", json=BODIES["chat"]) as answer:
                name, _ = next(events(answer.iter_lines()))
            assert name == "stage"
            assert agent.left.wait(5)


def test_a_chat_that_breaks_says_so(home: Path) -> None:
    with Talking(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent:
        agent.breaks, agent.left = True, threading.Event()
        with serving(agent) as client:
            answered = client.ask("chat")
    *_, (name, data) = events(iter(answered.text.splitlines()))
    assert name == "error"
    assert "secret" not in data["error"]


# ---- what is said about it


def test_the_openapi_document_says_what_the_registry_says(client: Asking) -> None:
    document = client.get("/openapi.json").json()
    for name, operation in OPERATIONS.items():
        told = document["paths"][path(name)]["post"]
        assert (told["operationId"], told["description"]) == (name, operation.description)
        body = told["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        own = operation.arguments.model_json_schema()
        assert document["components"]["schemas"][body]["properties"].keys() == own.get("properties", {}).keys()
    for place, methods in document["paths"].items():
        for told in methods.values():
            is_open = place in ("/health", "/ready")
            assert told["security"] == ([] if is_open else [{"key": []}])
            if not is_open:
                assert {"401", "403", "404", "413", "422", "429", "503"} <= told["responses"].keys()
            for status, answer in told["responses"].items():
                if status >= "4" and status != "409":
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert document["paths"]["/v1/chat"]["post"]["responses"]["200"]["content"].keys() == {"text/event-stream"}


def test_metrics_count_requests_by_operation(home: Path) -> None:
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent, serving(agent) as client:
        agent.models.usage.add("writer", 2.0, prompt_tokens=30, tokens=4)
        client.ask("profile")
        client.ask("profile", user="nobody")
        client.ask("profile", None)
        client.get("/v1/made-up")
        counted = client.get("/metrics", headers=bearer(MASTER))
    assert counted.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = set(counted.text.splitlines())
    assert {
        'whyfeed_requests_total{operation="profile",status="200"} 1.0',
        'whyfeed_requests_total{operation="profile",status="404"} 1.0',
        'whyfeed_requests_total{operation="profile",status="401"} 1.0',
        'whyfeed_requests_total{operation="other",status="404"} 1.0',
        'whyfeed_request_seconds_count{operation="profile"} 3.0',
        'whyfeed_model_calls_total{role="writer"} 1.0',
        'whyfeed_model_prompt_tokens_total{role="writer"} 30.0',
        'whyfeed_model_tokens_total{role="writer"} 4.0',
        "whyfeed_requests_in_progress 1.0",
    } <= lines


@pytest.mark.slow
def test_any_documented_request_gets_a_documented_answer(agent: Agent) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    tried = set()
    with running(agent) as url:
        schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
        for found in schema.get_all_operations():
            operation = found.ok()

            cases = operation.as_strategy()
            if operation.method == "post":
                cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

            @given(case=cases)
            @settings(max_examples=16, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
            def one(case: Any) -> None:
                tried.add(case.operation.definition.raw["operationId"])
                case.call_and_validate(base_url=url, headers=bearer(MASTER), checks=checks)

            one()
    assert tried >= {*OPERATIONS, "chat", "batch", "batch_state", "batch_result", "batch_cancel", "metrics"}


# ---- the page


def test_the_page_is_beside_the_api_with_its_headers(agent: Agent) -> None:
    with serving(agent, page=True) as client:
        assert client.get("/").headers["Location"] == "/ui/"
        assert client.get(client.get("/favicon.ico").headers["Location"]).status_code == 200
        page = client.get("/ui/")
        assert page.status_code == 200
        assert "whyfeed" in page.text
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert client.ask("profile").status_code == 200
        assert client.get("/v1/profile").status_code == 405


def test_the_page_asks_for_its_login(agent: Agent) -> None:
    with serving(agent, page=True, login=("ada", "lovelace")) as client:
        assert client.get("/ui/config").status_code == 401
        assert client.post("/ui/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert client.post("/ui/login", data={"username": "ada", "password": "lovelace"}).status_code == 200


def test_without_the_page_there_is_none(client: Asking) -> None:
    assert client.get("/").status_code == client.get("/ui/").status_code == 404


def test_a_page_that_others_can_reach_needs_a_login(agent: Agent) -> None:
    with pytest.raises(HomeError, match="login"):
        serve(agent, "0.0.0.0", 0)


# ---- the process


@contextmanager
def running(agent: Agent) -> Iterator[str]:
    """The service on a port of this machine."""
    import uvicorn

    app = build(agent, Access(agent.store, MASTER), page=False)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_ready(url)
            yield url
        finally:
            server.should_exit = True
            thread.join()


def wait_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail("not ready within half a minute")


def test_a_port_in_use_is_one_clear_line(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HomeError, match=r"port \d+ .*in use"):
        serve(agent, "127.0.0.1", taken.getsockname()[1], page=False)
