"""The servers under load, under attack and at their end, asked over real sockets."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tests.conftest import EMBEDDER, ROOT
from tests.page_client import Tab, usage
from tests.page_world import World
from tests.test_service import BODIES, MASTER, bearer, events, serving
from whyfeed import Agent
from whyfeed.agent.settings import Settings
from whyfeed.ui.http import connections, server
from whyfeed.ui.http.access import Access
from whyfeed.ui.http.service import build

LITTLE = 100  # MB that a server may grow by under an attack


@contextmanager
def process(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the command line in a process of its own, and its address."""
    running = subprocess.Popen(
        [sys.executable, "-m", "whyfeed", *arguments, "--no-llm"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER,
            "WHYFEED_API_KEY": MASTER,
        },
    )  # fmt: skip
    try:
        url = str(running.stdout and running.stdout.readline()).split()[-1].rstrip("/")
        if arguments[0] == "serve":
            wait_ready(url)
        yield running, url
    finally:
        running.terminate()
        running.wait(60)
        assert running.stdout
        running.stdout.close()


def wait_ready(url: str) -> None:
    until = time.monotonic() + 60
    while httpx.get(f"{url}/ready").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


@contextmanager
def served(agent: Agent) -> Iterator[tuple[str, server.Server]]:
    """The service in this process, with our server."""
    running = server.Server(build(agent, Access(agent.store, MASTER), page=False))
    with server.listen("127.0.0.1", 0) as listening:
        url = server.address("127.0.0.1", listening)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.01)
            wait_ready(url)
            yield url, running
        finally:
            running.should_exit = True
            thread.join()


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 80), timeout=30) as found:
        yield found


def answer_of(connection: socket.socket) -> bytes:
    """What comes until the server closes; b"" when it only closes."""
    pieces = []
    try:
        while piece := connection.recv(65_536):
            pieces.append(piece)
    except ConnectionError:
        pass
    return b"".join(pieces)


def takes(connection: socket.socket, pieces: int) -> bool:
    """Whether the server takes so many pieces of 64 KB, without an answer in between."""
    try:
        for _ in range(pieces):
            if select.select([connection], [], [], 0)[0]:
                return False
            connection.sendall(b"a" * 65_536)
    except ConnectionError:
        return False
    return True


# ---- many clients, one after the other


def test_threads_that_ended_leave_no_file_open(agent: Agent) -> None:
    def ask() -> None:
        agent.recommend("u0")

    def burst() -> None:
        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    burst()
    before = usage(os.getpid())[0]
    for _ in range(5):
        burst()
    assert usage(os.getpid())[0] <= before


@pytest.mark.slow
def test_the_service_keeps_no_file_open_from_burst_to_burst(home: Path) -> None:
    opened = []
    with (
        process(home, "serve", "--port", "0", "--no-page") as (running, url),
        httpx.Client(base_url=url, headers=bearer(MASTER), timeout=60) as client,
    ):

        def ask(_: int) -> int:
            return client.post("/v1/profile", json={"user": "u0"}).status_code

        for _ in range(3):
            with ThreadPoolExecutor(40) as pool:
                assert set(pool.map(ask, range(80))) == {200}
            opened.append(usage(running.pid)[0])
            time.sleep(11)  # the server's idle threads end after 10 s; new ones come with the next burst
    assert opened[-1] <= opened[0]


# ---- before any key


def test_a_header_without_end_is_refused(agent: Agent) -> None:
    with served(agent) as (url, _), connected(url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nX-Long: ")
        assert not takes(client, 3000)
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(("size", "status"), [(30_000, b"200"), (40_000, b"431")])
def test_headers_have_a_largest_size(agent: Agent, size: int, status: bytes) -> None:
    with served(agent) as (url, _), connected(url) as client:
        client.sendall(
            b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX-Long: " + b"a" * size + b"\r\n\r\n"
        )
        answer = answer_of(client)
    assert answer.split()[1] == status
    if status != b"200":
        assert "headers" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_what_is_no_http_is_refused_in_one_line(agent: Agent) -> None:
    with served(agent) as (url, _), connected(url) as client:
        client.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
        answer = answer_of(client)
    assert answer.split()[1] == b"400"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_a_request_that_does_not_arrive_is_given_up(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    body = f"Authorization: Bearer {MASTER}\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{{".encode()
    started = b"POST /v1/profile HTTP/1.1\r\nHost: here\r\n"
    with served(agent) as (url, _):
        for sent, status in ((b"", b"408"), (started, b"408"), (started + body, None)):
            with connected(url) as client:
                client.sendall(sent)
                begun = time.monotonic()
                answer = answer_of(client)
            assert time.monotonic() - begun < 10
            assert answer == b"" if status is None else answer.split()[1] == status
        with httpx.Client(base_url=url, headers=bearer(MASTER)) as client:
            for _ in range(3):  # a slow client that sends whole requests is none of them
                assert client.post("/v1/profile", json={"user": "u0"}).status_code == 200
                time.sleep(0.8)


def test_half_open_requests_leave_room_for_others(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MOST", 40)
    with served(agent) as (url, running), ExitStack() as stack:
        clients = [stack.enter_context(connected(url)) for _ in range(120)]
        for client in clients:
            try:
                client.sendall(b"GET /health HTTP/1.1\r\nX-Never: ")
            except ConnectionError:
                continue
        for _ in range(5):
            assert httpx.get(f"{url}/health").status_code == 200
        assert len(running.server_state.connections) <= 40
        assert b"503" in answer_of(clients[0])


def test_who_does_not_read_the_answer_is_given_up(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.5)
    with served(agent) as (url, running), connected(url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 2000)
        time.sleep(0.5)
        until = time.monotonic() + 20
        while running.server_state.connections and time.monotonic() < until:
            time.sleep(0.1)
        assert not running.server_state.connections


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "ui"])
def test_strangers_cost_no_memory(home: Path, command: str) -> None:
    arguments = {"serve": ("--no-page", "--port", "0"), "ui": ("--port", str(free_port()))}[command]
    with process(home, command, *arguments) as (running, url):
        httpx.get(f"{url}/").read()
        before = usage(running.pid)[1]
        with connected(url) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
            assert not takes(client, 3000)
        with ExitStack() as stack:
            for _ in range(600):
                client = stack.enter_context(connected(url))
                client.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nX-Never: " + b"a" * 20_000)
            assert httpx.get(f"{url}/", timeout=30).status_code in (200, 404)
            assert usage(running.pid)[1] - before < LITTLE
        for place in ("/v1/profile", "/gradio_api/queue/join", "/gradio_api/upload"):
            with connected(url) as client:
                head = f"POST {place} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
                client.sendall(f"{head}Content-Length: 200000000\r\n\r\n".encode())
                takes(client, 1000)
        assert usage(running.pid)[1] - before < LITTLE


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# ---- the end


class Slow(Agent):
    """An agent that takes its time."""

    asked: threading.Event
    seconds = 0.0

    def profile(self, user: str) -> Any:
        self.asked.set()
        time.sleep(self.seconds)
        return super().profile(user)

    async def achat(self, user: str, text: str, *given: Any, **named: Any) -> Any:
        import anyio

        talk = super().achat(user, text, *given, **named)
        yield await anext(talk)
        self.asked.set()
        await anyio.sleep(self.seconds)
        async for event in talk:
            yield event


@pytest.fixture
def slow(home: Path) -> Iterator[Slow]:
    with Slow(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent:
        agent.asked = threading.Event()
        yield agent


def chat_while_it_stops(agent: Slow) -> list[tuple[str, dict[str, Any]]]:
    """The events of a chat during which the server is told to stop."""
    with (
        served(agent) as (url, running),
        httpx.stream("POST", f"{url}/v1/chat", json=BODIES["chat"], headers=bearer(MASTER), timeout=60) as answer,
    ):
        assert agent.asked.wait(30)
        running.should_exit = True
        return list(events(answer.iter_lines()))


def test_a_stop_lets_a_chat_finish(slow: Slow) -> None:
    slow.seconds = 0.5
    assert chat_while_it_stops(slow)[-1][0] == "answer"


def test_a_stop_ends_a_long_chat_with_an_error_event(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "END_SECONDS", 1)
    slow.seconds = 60
    begun = time.monotonic()
    name, data = chat_while_it_stops(slow)[-1]
    assert name == "error"
    assert "stopping" in data["error"]
    assert time.monotonic() - begun < 30


def test_a_stop_answers_what_takes_too_long(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "END_SECONDS", 1)
    slow.seconds = 3
    with served(slow) as (url, running), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}/v1/profile", json={"user": "u0"}, headers=bearer(MASTER), timeout=60)
        assert slow.asked.wait(30)
        running.should_exit = True
        answer = asked.result()
    assert answer.status_code == 503
    assert "stopping" in answer.json()["error"]


class Erasing(Agent):
    """An agent whose user is erased while it answers them."""

    async def achat(self, user: str, text: str, *given: Any, **named: Any) -> Any:
        talk = super().achat(user, text, *given, **named)
        yield await anext(talk)
        self.erase(user)
        async for event in talk:
            yield event


def test_who_is_erased_during_a_chat_is_told(home: Path) -> None:
    with Erasing(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent, serving(agent) as client:
        name, data = list(events(iter(client.ask("chat").text.splitlines())))[-1]
    assert name == "error"
    assert re.search("erased|unknown user", data["error"])


# ---- the end of the page


@contextmanager
def page_of(agent: Agent) -> Iterator[tuple[Tab, server.Server]]:
    """A tab of an agent's page, whose reader is chosen, and the server of the page."""
    from whyfeed.ui.page.page import application

    app = application(agent)
    running = server.Server(app, drain=app.state.drain)
    with server.listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        tab = Tab(server.address("127.0.0.1", listening))
        try:
            while not running.started:
                time.sleep(0.01)
            tab.open()
            tab.choose("m1")
            yield tab, running
        finally:
            tab.close()
            running.should_exit = True
            thread.join()


def turn_while_it_stops(tab: Tab, running: server.Server) -> dict[str, Any]:
    """The agent's turn, as the page shows it at the end, where the server is told to stop meanwhile."""
    last: dict[str, Any] = {}
    for news in tab.follow("ask", {"text": "what should I read?"}):
        running.should_exit = True
        last = news
    return dict([part for name, part in last["parts"].items() if name.startswith("turn ")][-1])


def test_a_stop_lets_the_page_finish_its_answer() -> None:
    with page_of(cast("Agent", World(pause=0.2))) as (tab, running):
        turn = turn_while_it_stops(tab, running)
    assert turn["state"] == "done"
    assert turn["items"]


def test_a_stop_ends_a_long_answer_of_the_page_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "END_SECONDS", 1)
    begun = time.monotonic()
    with page_of(cast("Agent", World(pause=15))) as (tab, running):
        turn = turn_while_it_stops(tab, running)
    assert turn["state"] == "failed"
    assert "stopping" in turn["error"]
    assert time.monotonic() - begun < 15


@pytest.mark.slow
def test_a_terminated_page_finishes_its_answer(home: Path) -> None:
    with process(home, "ui", "--port", str(free_port())) as (running, url):
        tab = Tab(url)
        tab.open()
        tab.choose("u0")
        last: dict[str, Any] = {}
        for news in tab.follow("ask", {"text": "what should I read?"}):
            running.terminate()
            last = news
        tab.close()
        running.wait(30)
    assert [part["state"] for name, part in last["parts"].items() if name == "turn 1"] == ["done"]


@pytest.mark.slow
def test_the_servers_endure() -> None:
    """The benchmark of many short visits, scaled down."""
    command = [sys.executable, "-m", "benchmarks.endurance", "--sessions", "60", "--requests", "800"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
