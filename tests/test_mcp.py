"""The tools over the Model Context Protocol, asked by a real client: over standard streams and over HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from tests import desk_world
from tests.checks import check_shape
from tests.conftest import EMBEDDER, ROOT, RunCli
from tests.world import World
from whyfeed import Agent
from whyfeed.agent.operations import TOOLS
from whyfeed.retrieval.store.keys import Keys
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.http.access import Access
from whyfeed.ui.mcp_server import build, local_key

pytestmark = pytest.mark.slow

T = TypeVar("T")
ALL = [operation.name for operation in TOOLS]
MODES = ["auto", "legacy"]  # without and with the handshake of older clients


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory, exchange_folder: Path) -> Path:
    """A home with the community and the desk; tests copy it."""
    home = desk_world.home_of(tmp_path_factory, tmp_path_factory.mktemp("mcp") / "home")
    with Agent.open(home, embedder=EMBEDDER, no_llm=True) as opened:
        opened.import_folder(exchange_folder)
        opened.build()
        opened.desk.build()
    return home


@pytest.fixture
def home(full_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(full_home, tmp_path / "home"))


@pytest.fixture
def user(world: World) -> str:
    return next(iter(world.tastes))


@pytest.fixture
def other(world: World) -> str:
    return list(world.tastes)[1]


def environment(home: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ, "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER, "WHYFEED_NO_LLM": "1",
        "PYTHONPATH": str(ROOT), **more,
    }  # fmt: skip


def over_stdio(home: Path, talk: Callable[[Client], Awaitable[T]], *arguments: str, mode: str = "auto") -> T:
    """Start the server as a client does, talk to it, and close its input."""

    async def run() -> T:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "whyfeed", "mcp", *arguments], env=environment(home), cwd=ROOT
        )
        async with Client(server, mode=mode, read_timeout_seconds=60) as client:
            return await talk(client)

    return anyio.run(run)


def over_http(url: str, key: str, talk: Callable[[Client], Awaitable[T]], mode: str = "auto") -> T:
    async def run() -> T:
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=mode) as client:
                return await talk(client)

    return anyio.run(run)


@dataclass
class Served:
    """A server over HTTP in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    keys: Mapping[str, str] = field(default_factory=dict)

    def stop(self) -> str:
        """Ask it to end; what it said on standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=30)[1]


@contextmanager
def serving(home: Path, **more: str) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "whyfeed", "mcp", "--http", "--port", str(port)],
        cwd=ROOT, env=environment(home, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line == f"whyfeed speaks MCP: http://127.0.0.1:{port}/mcp\n"
            yield Served(line.split()[-1], process)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def served(full_home: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the tests that leave nothing behind that others see."""
    home = Path(shutil.copytree(full_home, tmp_path_factory.mktemp("served") / "home"))
    store = Store(home)
    keys = Keys(store)
    first = next(iter(world.tastes))
    made = {
        "admin": keys.add("admin", ["admin"]),
        "read": keys.add("read", ["read"]),
        "bound": keys.add("bound", ["read", "feedback"], [first]),
        "slow": keys.add("slow", ["read"], per_minute=1),
    }
    store.close()
    with serving(home) as running:
        running.keys = made
        yield running


def document(result: CallToolResult) -> dict[str, Any]:
    """The structured content, which the text repeats."""
    assert not result.is_error, result.content
    (text,) = result.content
    assert text.type == "text"
    assert json.loads(text.text) == result.structured_content
    found: dict[str, Any] = result.structured_content
    return found


def refusal(result: CallToolResult) -> str:
    assert result.is_error
    assert result.structured_content is None
    (text,) = result.content
    assert text.type == "text"
    assert "\n" not in text.text
    return text.text


async def use_every_tool(client: Client, user: str) -> None:
    listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(listed) == ALL
    for operation in TOOLS:
        tool = listed[operation.name]
        assert tool.description == operation.description
        assert tool.input_schema == operation.arguments.model_json_schema()
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is not operation.writes
    assert listed["forget"].annotations is not None
    assert listed["forget"].annotations.destructive_hint

    called = set()

    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        called.add(name)
        return document(await client.call_tool(name, arguments))

    answer = await call("recommend", user=user, k=3)
    check_shape(answer, "recommend")
    best = answer["items"][0]["post"]["id"]
    assert len(answer["items"]) == 3
    found = await call("search", query="tomato compost", k=4)
    assert len(found["posts"]) == 4
    assert (await call("explain", user=user, post=best))["shown"]
    rule = await call("steer", user=user, topic="tomato", direction="less")
    assert rule["posts"] > 0
    hidden = next(post["id"] for post in found["posts"])
    assert not (await call("why_not", user=user, post=hidden))["shown"]
    assert await call("forget", user=user, event=rule["id"]) == {"user": user, "forgotten": rule["id"]}
    reply = await call("suggest_reply", turns=desk_world.until("hotel", "inform"))
    check_shape(reply, "reply")
    assert reply["suggestions"]
    assert called == set(ALL)


@pytest.mark.parametrize("mode", MODES)
def test_every_tool_answers_over_standard_streams(home: Path, user: str, mode: str) -> None:
    over_stdio(home, lambda client: use_every_tool(client, user), mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_tool_answers_over_http(served: Served, user: str, mode: str) -> None:
    over_http(served.url, served.keys["admin"], lambda client: use_every_tool(client, user), mode)


async def ask_wrongly(client: Client) -> None:
    assert "'nobody'" in refusal(await client.call_tool("recommend", {"user": "nobody"}))
    assert "k:" in refusal(await client.call_tool("recommend", {"user": "u", "k": 99}))
    assert "user:" in refusal(await client.call_tool("recommend"))
    assert "nonsense" in refusal(await client.call_tool("search", {"query": "tomato", "nonsense": 1}))
    assert "either" in refusal(await client.call_tool("suggest_reply", {}))
    with pytest.raises(MCPError, match=r"unknown tool 'erase'; .*recommend"):
        await client.call_tool("erase", {"user": "u"})
    assert document(await client.call_tool("search", {"query": "tomato"}))["posts"]


def test_what_is_wrong_is_said_in_a_line_and_the_server_goes_on(home: Path, served: Served) -> None:
    over_stdio(home, ask_wrongly)
    over_http(served.url, served.keys["admin"], ask_wrongly)


class Broken(Agent):
    """An agent with a mistake in it, that also prints."""

    def search(self, *_: Any, **__: Any) -> Any:
        print("stray words")
        raise RuntimeError("secret detail")


def test_a_mistake_of_whyfeed_is_logged_and_not_shown(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    from whyfeed.agent.settings import Settings

    async def run(agent: Agent) -> CallToolResult:
        async with Client(build(agent, Access(agent.store), local_key())) as client:
            return await client.call_tool("search", {"query": "tomato"})

    with Broken(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent:
        assert refusal(anyio.run(run, agent)) == "internal error"
    assert "secret detail" in caplog.text


def test_a_server_for_some_users_serves_nobody_else(home: Path, user: str, other: str) -> None:
    async def talk(client: Client) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            name for name in ALL if name != "suggest_reply"
        ]
        assert document(await client.call_tool("recommend", {"user": user}))["user"] == user
        for name, arguments in (
            ("recommend", {}), ("explain", {"post": "p"}), ("why_not", {"post": "p"}), ("forget", {"event": "e"}),
            ("steer", {"topic": "tomato", "direction": "less"}),
        ):  # fmt: skip
            assert other in refusal(await client.call_tool(name, {"user": other, **arguments}))
        # A conversation of the desk is another person's.
        assert "desk" in refusal(await client.call_tool("suggest_reply", {"conversation": "w-private"}))

    over_stdio(home, talk, "--user", user)


def test_a_key_does_what_it_was_made_for(served: Served, user: str, other: str) -> None:
    async def reads(client: Client) -> None:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == [operation.name for operation in TOOLS if operation.scope == "read"]
        assert document(await client.call_tool("recommend", {"user": other}))["items"]
        refused = refusal(await client.call_tool("steer", {"user": user, "topic": "tomato", "direction": "less"}))
        assert "'feedback'" in refused

    async def bound(client: Client) -> None:
        assert document(await client.call_tool("recommend", {"user": user}))["items"]
        assert other in refusal(await client.call_tool("recommend", {"user": other}))

    over_http(served.url, served.keys["read"], reads)
    over_http(served.url, served.keys["bound"], bound)


HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wf_unknown", "Basic d2Y6d2Y=", "wf_unknown"])
def test_without_a_known_key_nothing_is_answered(served: Served, header: str | None) -> None:
    given = {} if header is None else {"Authorization": header}
    for method in ("POST", "GET", "DELETE"):
        answer = httpx.request(method, served.url, json=HELLO, headers={**ACCEPT, **given})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "key" in answer.json()["error"]


def test_a_key_that_asks_too_often_waits(served: Served) -> None:
    headers = {**ACCEPT, "Authorization": f"Bearer {served.keys['slow']}"}
    first, second = (httpx.post(served.url, json=HELLO, headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert second.status_code == 429
    assert int(second.headers["Retry-After"]) > 0
    assert "wait" in second.json()["error"]


def test_a_page_of_another_name_cannot_reach_the_server(served: Served) -> None:
    key = {**ACCEPT, "Authorization": f"Bearer {served.keys['admin']}"}
    assert httpx.post(served.url, json=HELLO, headers={**key, "Host": "evil.example"}).status_code == 421
    assert httpx.post(served.url, json=HELLO, headers={**key, "Origin": "http://evil.example"}).status_code == 403
    assert httpx.post(served.url, json=HELLO, headers={**key, "Origin": "http://localhost:3000"}).status_code == 200


def test_a_first_key_is_made_and_shown_once(home: Path, user: str) -> None:
    with serving(home) as running:
        said = running.stop()
    assert running.process.returncode == 0
    (secret,) = re.findall(r"wf_\S+", said)
    with serving(home) as running:
        names = over_http(running.url, secret, lambda client: client.list_tools())
        assert "wf_" not in running.stop()
    assert [tool.name for tool in names.tools] == ALL


def test_the_master_key_of_the_environment_needs_no_other(home: Path) -> None:
    with serving(home, WHYFEED_API_KEY="from-the-vault") as running:
        names = over_http(running.url, "from-the-vault", lambda client: client.list_tools())
        assert "key" not in running.stop()
    assert [tool.name for tool in names.tools] == ALL


def test_a_port_in_use_is_one_clear_line(run_cli: RunCli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_cli("mcp", "--http", "--port", port)
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("whyfeed: ")
    assert port in last
    assert "--port" in last
    assert "wf_" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--user", "nobody"], 1, "nobody"),
        (["--http", "--user", "u"], 2, "keys add"),
        (["--http", "--host", "no.such.name.invalid"], 1, "no.such.name.invalid"),
        (["--port", "0"], 2, "--port"),
    ],
)
def test_a_server_that_cannot_start_says_why(run_cli: RunCli, arguments: list[str], code: int, text: str) -> None:
    done = run_cli("mcp", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_closing_the_input_ends_the_server_and_only_the_protocol_was_printed(run_cli: RunCli, user: str) -> None:
    assert run_cli("mcp", input="").returncode == 0
    asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/call",
             "params": {"name": "recommend", "arguments": {"user": user}}}  # fmt: skip
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    rows = "".join(json.dumps(row) + "\n" for row in (HELLO, ready, asked))
    done = run_cli("mcp", input="not json\n" + rows)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"


def test_what_anything_prints_does_not_reach_the_client(home: Path, tmp_path: Path) -> None:
    """A library that prints, at the start and while it works, in Python and below it."""
    (tmp_path / "noisy.py").write_text(
        "import os\nfrom whyfeed.agent.agent import Agent\nimport whyfeed.ui.cli.main\n"
        "old_open, old_search = Agent.__init__, Agent.search\n"
        "def opening(self, *a, **k):\n    print('opening')\n    old_open(self, *a, **k)\n"
        "def search(self, *a, **k):\n    print('searching', flush=True)\n    os.write(1, b'below\\n')\n"
        "    return old_search(self, *a, **k)\n"
        "Agent.__init__, Agent.search = opening, search\nwhyfeed.ui.cli.main.main()\n"
    )

    async def run() -> tuple[CallToolResult, str]:
        server = StdioServerParameters(
            command=sys.executable, args=[str(tmp_path / "noisy.py"), "mcp"], env=environment(home), cwd=ROOT
        )
        with (tmp_path / "said").open("w+") as said:
            async with Client(stdio_client(server, errlog=said), read_timeout_seconds=60) as client:
                result = await client.call_tool("search", {"query": "tomato"})
            said.seek(0)
            return result, said.read()

    result, said = anyio.run(run)
    assert document(result)["posts"]
    assert said.split() == ["opening", "searching", "below"]


def test_every_tool_stands_in_the_documentation_with_its_scope() -> None:
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    for operation in TOOLS:
        assert f"| `{operation.name}` | {operation.scope} |" in page
