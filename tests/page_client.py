"""A tab of the page without a browser: it speaks the HTTP protocol that Gradio's client speaks."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx


class Tab:
    """One open page. `url` is the page's address, without a slash at the end."""

    def __init__(self, url: str, timeout: float = 60, address: str | None = None) -> None:
        """`address`: of this machine (127.x.y.z), from which the tab comes; the page limits what one may ask for."""
        transport = httpx.HTTPTransport(local_address=address)
        self._client = httpx.Client(base_url=url, timeout=timeout, transport=transport)
        self._hash = secrets.token_hex(8)
        self._events: dict[str, tuple[int, int]] = {}

    def open(self) -> None:
        """Load the page and start its session."""
        document = self._client.get("/").raise_for_status().text
        found = re.search(r"window\.gradio_config = (\{.*?\});</script>", document)
        if found is None:
            raise RuntimeError("the page's document has no configuration")
        config = json.loads(found[1])
        self._events = {name: (each["id"], part) for each in config["dependencies"] for part, name in each["targets"]}
        self.send("act", {"do": "start", "here": {}})

    def choose(self, user: str) -> None:
        """Read as this user."""
        self.send("act", {"do": "choose", "user": user})

    def ask(self, text: str) -> dict[str, Any]:
        """Send a message; the agent's turn as the page shows it at the end."""
        news = self.send("ask", {"text": text})
        turns = [part for name, part in news["parts"].items() if name.startswith("turn ")]
        return dict(turns[-1]) if turns else {}

    def send(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        """Send an event of the page; the last news that came of it. RuntimeError when the server failed."""
        last: dict[str, Any] = {}
        for news in self.follow(name, data):
            last = news
        return last

    def follow(self, name: str, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send an event of the page; the first and the last news, and an empty one for each change between them."""
        event, part = self._events[name]
        body = {"data": [], "event_data": data, "fn_index": event, "trigger_id": part, "session_hash": self._hash}
        self._client.post("/gradio_api/queue/join", json=body).raise_for_status()
        with self._client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self._hash}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                if message["msg"] == "close_stream":
                    return
                if message["msg"] == "process_completed" and not message["success"]:
                    raise RuntimeError(str(message["output"]))
                if message["msg"] in ("process_generating", "process_completed"):
                    news = message["output"]["data"][0]
                    yield json.loads(news) if isinstance(news, str) else {}

    def close(self) -> None:
        """Leave."""
        self._client.close()


def usage(process: int) -> tuple[int, float]:
    """Open descriptors and memory (RSS, MB) of a process."""
    place = Path("/proc", str(process))
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return len(list((place / "fd").iterdir())), int(status["VmRSS"].split()[0]) / 1000
