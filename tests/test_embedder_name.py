"""An embedder that does not exist is told at once, whether the hub answers, refuses, or says nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from tests.conftest import RunCli


class Hub(BaseHTTPRequestHandler):
    """A hub without models."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def without_the_model() -> tuple[str, Callable[[], None]]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", server.shutdown


def gone() -> tuple[str, Callable[[], None]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}", lambda: None


def silent() -> tuple[str, Callable[[], None]]:
    listening = socket.create_server(("127.0.0.1", 0))
    return f"http://127.0.0.1:{listening.getsockname()[1]}", listening.close


@pytest.mark.parametrize("hub", [without_the_model, gone, silent])
def test_an_unknown_embedder_is_told_at_once(
    run_cli: RunCli, hub: Callable[[], tuple[str, Callable[[], None]]]
) -> None:
    url, close = hub()
    try:
        done = run_cli(
            "recommend",
            "u1",
            WHYFEED_EMBEDDER="nope",
            HF_ENDPOINT=url,
            HF_HUB_OFFLINE="0",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
    finally:
        close()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("whyfeed: ")
    assert "'nope'" in line
    assert "use-multilingual-v3" in line
    if hub is without_the_model:
        assert 0 < len(Hub.asked) <= 4


def test_a_name_that_no_model_can_have_is_told_at_once(run_cli: RunCli) -> None:
    done = run_cli("recommend", "u1", WHYFEED_EMBEDDER="no such/model/at all", HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert "there is no embedder" in done.stderr
    assert len(done.stderr.splitlines()) == 1
