"""A small server of the OpenAI protocol for tests, with the ways of vLLM."""

from __future__ import annotations

import http.server
import json
import math
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

COUNT = "one two three four five six seven eight nine ten eleven twelve"


@dataclass
class FakeServer:
    """Answers deterministically; its switches make it behave as servers do on bad days."""

    url: str = ""
    vllm: bool = True  # has /tokenize and /generative_scoring
    answer: str = COUNT
    status: int = 200  # of the next failures
    failures: int = 0
    break_off_after: int = 0  # chunks
    seconds_per_chunk: float = 0.0
    seconds_before: float = 0.0
    key: str = ""
    labels_listed: bool = True
    garbage: bool = False
    lost_scores: int = 0
    max_tokens: int = 2048
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hung_up: int = 0
    adapters: dict[str, str] = field(default_factory=dict)

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.requests if asked == path]


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def ids_of(text: str) -> list[int]:
    return [1 + sum(map(ord, word)) for word in words(text)]


def handler(server: FakeServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, {}))
            if server.failures > 0:
                server.failures -= 1
                self.error(server.status, "EngineCore encountered an issue")
                return
            names = ["small", *server.adapters]
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in names]
            self.send(200, {"object": "list", "data": data})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, body))
            time.sleep(server.seconds_before)
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                self.error(401, "Invalid API key")
            elif server.failures > 0:
                server.failures -= 1
                self.error(server.status, "EngineCore encountered an issue")
            elif self.path == "/v1/load_lora_adapter":
                server.adapters[body["lora_name"]] = body["lora_path"]
                self.send(200, {})
            elif self.path == "/v1/unload_lora_adapter":
                del server.adapters[body["lora_name"]]
                self.send(200, {})
            elif body["model"] not in ("small", *server.adapters):
                self.error(404, f"The model `{body['model']}` does not exist.")
            elif self.path == "/v1/chat/completions":
                self.chat(body)
            elif self.path == "/v1/completions":
                self.complete(body)
            elif self.path == "/tokenize" and server.vllm:
                self.send(200, {"tokens": ids_of(body["prompt"]), "max_model_len": server.max_tokens})
            elif self.path == "/generative_scoring" and server.vllm:
                self.score(body)
            else:
                self.send(404, {"detail": "Not Found"})

        def chat(self, body: dict[str, Any]) -> None:
            prompt = sum(len(ids_of(message["content"])) for message in body["messages"])
            # LangChain sends the newer name.
            limit = body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"]
            if prompt + limit > server.max_tokens:
                self.error(400, f"This model's maximum context length is {server.max_tokens} tokens")
                return
            if "response_format" in body:
                schema = body["response_format"]["json_schema"]["schema"]
                if schema.get("type") == "banana":
                    self.error(400, "Grammar error: Invalid type: banana")
                    return
                text = json.dumps({name: each.get("enum", ["x"])[0] for name, each in schema["properties"].items()})
            else:
                text = server.answer
            for stop in body.get("stop", ()):
                text = text.split(stop)[0]
            pieces = words(text)
            finish = "length" if len(pieces) > limit else "stop"
            pieces = pieces[:limit]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for place, piece in enumerate(pieces):
                    if server.break_off_after and place == server.break_off_after:
                        return
                    self.event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
                    time.sleep(server.seconds_per_chunk)
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
                usage = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": 0}
                self.event({"choices": [], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")
            except ConnectionError:
                server.hung_up += 1

        def event(self, chunk: dict[str, Any]) -> None:
            document = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "small", **chunk}
            self.wfile.write(b"data: " + (b"{garbage" if server.garbage else json.dumps(document).encode()) + b"\n\n")
            self.wfile.flush()

        def complete(self, body: dict[str, Any]) -> None:
            prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
            if any(len(ids_of(prompt)) >= server.max_tokens for prompt in prompts if isinstance(prompt, str)):
                self.error(400, f"This model's maximum context length is {server.max_tokens} tokens")
                return
            choices = []
            for place, prompt in enumerate(prompts):
                logit = math.sin(len(prompt))
                tops = {" the": -0.1, **({"Yes": -5 + logit, "No": -5.0} if server.labels_listed else {})}
                logprobs = {"top_logprobs": [tops], "tokens": [" the"], "token_logprobs": [-0.1], "text_offset": [0]}
                choices.append({"index": place, "text": " the", "finish_reason": "length", "logprobs": logprobs})
            choices.reverse()  # the order is not promised
            choices = choices[server.lost_scores :]
            self.send(200, {"id": "1", "object": "text_completion", "created": 0, "model": "small", "choices": choices})

        def score(self, body: dict[str, Any]) -> None:
            assert len(body["label_token_ids"]) == 2
            assert body["apply_softmax"] is True
            assert body["item_first"] is False
            rows = [
                {"index": place, "object": "score", "score": 0.5 + math.sin(sum(body["query"]) + sum(item)) / 2}
                for place, item in enumerate(body["items"])
            ]
            self.send(200, {"object": "list", "data": rows[server.lost_scores :][::-1]})

        def error(self, status: int, message: str) -> None:
            self.send(status, {"error": {"message": message, "type": "x", "code": status}})

        def send(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def running(fake: FakeServer) -> Iterator[FakeServer]:
    """The server, listening at a free port."""
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{listener.server_port}"
    try:
        yield fake
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
