"""What the tests of batches share: a writer that is right, the same behind HTTP, and a batch that is stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.conftest import EMBEDDER
from tests.world import NOW
from whyfeed.agent.agent import Agent
from whyfeed.agent.llm.engine import ChatRequest, Completion, Message
from whyfeed.agent.llm.scripted import ScriptedEngine
from whyfeed.agent.settings import Settings

READERS = 24  # of the world who have done something
FEW = ("u3", "u1", "u20", "u2", "u9", "u15")


def describe(messages: Sequence[Message]) -> str:
    """What a good writer says about an English post of the world: its last sentence, which is a question."""
    text = messages[-1]["content"].rsplit("</post>", 1)[0].strip().rsplit("\n", 1)[-1]
    return f"this post asks about {text.rstrip('?.').split('. ')[-1]}"


def asked(messages: Sequence[Message]) -> str:
    """Title and text of the post that a writer is asked about."""
    return messages[-1]["content"].rsplit("<post>", 1)[1].split("</post>")[0].strip()


class Writer(ScriptedEngine):
    """Says what is right; notes how many calls run at once, and calls `meanwhile` in each."""

    def __init__(self, in_flight: int = 4, meanwhile: Callable[[threading.Event | None], object] | None = None) -> None:
        super().__init__(describe, in_flight=in_flight)
        self.running = self.most = 0
        self.meanwhile = meanwhile or (lambda cancel: None)
        self.changed = threading.Condition()

    def complete(self, request: ChatRequest) -> Completion:
        with self.changed:
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
        try:
            self.meanwhile(request.cancel)
            return super().complete(request)
        finally:
            with self.changed:
                self.running -= 1

    def asked(self) -> list[str]:
        """The posts it was asked about, call by call."""
        return [asked(call.messages) for call in self.history]


class WriterServer:
    """The same writer behind HTTP, for processes of their own: just what a batch needs of the protocol."""

    def __init__(self) -> None:
        self.seconds = 0.0  # that each answer takes
        self.asked: list[str] = []  # about which posts, call by call
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send("application/json", json.dumps({"object": "list", "data": [{"id": "small"}]}))

            def do_POST(self) -> None:
                messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
                outer.asked.append(asked(messages))
                time.sleep(outer.seconds)
                about = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "small"}
                said = {"index": 0, "delta": {"content": describe(messages)}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                chunks = ({**about, "choices": [said]}, {**about, "choices": [], "usage": usage})
                lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
                self._send("text/event-stream", f"{lines}data: [DONE]\n\n")

            def _send(self, kind: str, text: str) -> None:
                with suppress(ConnectionError):  # whoever asked may have been killed
                    self.send_response(200)
                    self.send_header("Content-Type", kind)
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self._thread = threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._listener.server_port}"

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


@contextmanager
def served() -> Iterator[WriterServer]:
    server = WriterServer()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def written_by(home: Path, engine: ScriptedEngine) -> Iterator[Agent]:
    """An agent over the home with that writer."""
    with Agent(Settings(home=home, embedder=EMBEDDER), clock=lambda: NOW) as opened:
        opened.models.put("writer", engine)
        yield opened


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def there(file: Path) -> set[str]:
    """Everything in the folder but homes and what tests put there."""
    return {path.name for path in file.parent.iterdir() if path.name.lstrip(".").startswith("out")}


def stopped(agent: Agent, out: Path, after: int, users: Sequence[str] | None = None, **options: Any) -> bytes:
    """Stop a batch after so many rows; the rows that are there."""
    cancel = threading.Event()

    def progress(_: str, done: int, __: int) -> None:
        if done >= after:
            cancel.set()

    report = agent.batch(users, out, progress=progress, cancel=cancel, **options)
    assert not report.complete
    assert report.done == after
    return part(out).read_bytes()


def part(out: Path) -> Path:
    return out.with_name(out.name + ".part")


def about(out: Path) -> Path:
    return out.with_name(out.name + ".part.json")


def written_rows(out: Path) -> int:
    with suppress(FileNotFoundError):
        return part(out).read_bytes().count(b"\n")
    return 0
