"""Do descriptors and memory of the servers stay where they are, however many come and go?

    python -m benchmarks.endurance [--sessions 3000] [--requests 20000] [--minutes 15]

`whyfeed ui` and `whyfeed serve` run one after the other on a small synthetic home, without a language model. A page
session opens the page, asks once and leaves, by the HTTP protocol that a browser speaks; requests come in bursts of 40.
After the first tenth and at the end it prints open descriptors and memory (RSS), their ratio, and the number of errors.
Exit status 1 unless there is no error, and both end at most 10 % above the first tenth. Where the time is over before,
it prints for how many sessions or requests there was time.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.synthetic import write_community
from tests.page_client import Tab, usage
from whyfeed import Agent

POSTS, USERS, EVENTS = 300, 100, 2_000
EMBEDDER = "hash-64"
TABS = 6  # sessions at once
BURST = 40  # requests at once
MOST = 1.1  # times the first tenth
QUIET = 12.0  # seconds before a look: the servers' idle threads end after 10


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=3_000, help="of the page")
    parser.add_argument("--requests", type=int, default=20_000, help="of the HTTP service")
    parser.add_argument("--minutes", type=float, default=15.0, help="at most, for both together")
    args = parser.parse_args()
    seconds = 30 * args.minutes  # for each
    rows = []
    with tempfile.TemporaryDirectory(prefix="whyfeed-endurance-") as folder:
        home = Path(folder) / "home"
        write_community(Path(folder) / "exchange", POSTS, USERS, EVENTS)
        with Agent.open(home, embedder=EMBEDDER, no_llm=True) as agent:
            agent.import_folder(Path(folder) / "exchange")
            agent.build()
            users = [member.id for member in agent.members(limit=USERS)]
        key = secrets.token_urlsafe(16)
        with server(home, key, "ui", "--port", str(free_port())) as (process, url):
            page = Work("page sessions", args.sessions, TABS, seconds)
            rows.append(page.measured(process, lambda number: session(url, users, number)))
        with server(home, key, "serve", "--no-page", "--port", "0") as (process, url):
            headers = {"Authorization": f"Bearer {key}"}
            limits = httpx.Limits(max_connections=BURST)
            with httpx.Client(base_url=url, headers=headers, timeout=60, limits=limits) as client:
                while client.get("/ready").status_code != 200:
                    time.sleep(0.1)
                requests = Work("HTTP requests", args.requests, BURST, seconds)
                rows.append(requests.measured(process, lambda number: ask(client, users, number)))
    print(json.dumps(rows))
    sys.exit(not all(row["ok"] for row in rows))


@dataclass(frozen=True)
class Work:
    """So many times something, a number of them at once, within so many seconds."""

    what: str
    count: int
    at_once: int
    seconds: float

    def measured(self, process: int, once: Callable[[int], str]) -> dict[str, object]:
        """Do it. `once` gets the number of the time, and returns what went wrong, or ""."""
        begun = time.perf_counter()
        errors: list[str] = []
        done, first = 0, None
        with ThreadPoolExecutor(self.at_once) as pool:  # lists wait for each other: as many threads as there will be
            errors += filter(None, pool.map(once, range(0, 10 * self.at_once, 10)))
        while done < self.count and time.perf_counter() - begun < self.seconds:
            with ThreadPoolExecutor(self.at_once) as pool:
                part = range(done, min(done + self.at_once, self.count))
                errors += filter(None, pool.map(once, part))
            done = part.stop
            if first is None and done >= self.count / 10:
                first = self.look(process, done, once)
        files_end, memory_end = self.look(process, done, once)
        files, memory = first or (files_end, memory_end)
        ratios = files_end / files, memory_end / memory
        seconds = time.perf_counter() - begun
        print(f"{self.what}: descriptors x {ratios[0]:.2f}, memory x {ratios[1]:.2f}, {seconds:.0f} s")
        for error in sorted(set(errors))[:5]:
            print(f"error: {error}")
        return {
            "what": self.what, "count": done, "descriptors": [files, files_end],
            "memory_mb": [round(memory), round(memory_end)], "errors": len(errors),
            "ok": first is not None and not errors and max(ratios) <= MOST,
        }  # fmt: skip

    def look(self, process: int, done: int, once: Callable[[int], str]) -> tuple[int, float]:
        """Open descriptors and memory (MB) of the process once it is quiet."""
        time.sleep(QUIET)
        once(done)  # the server ends its idle threads when the next request comes
        time.sleep(1)
        files, memory = usage(process)
        print(f"{self.what}: after {done} {files} descriptors, {memory:.0f} MB", flush=True)
        return files, memory


def session(url: str, users: list[str], number: int) -> str:
    """One short visit of the page, from an address of its own as far as there are: the page limits each."""
    tab = Tab(url, address=f"127.0.{1 + number // 250 % 250}.{1 + number % 250}")
    try:
        tab.open()
        tab.choose(users[number % len(users)])
        turn = tab.ask("what should I read?")
        return "" if turn.get("state") == "done" and turn["items"] else f"the turn ended {turn.get('state')!r}"
    except (httpx.HTTPError, RuntimeError) as exc:
        return f"{type(exc).__name__} {exc}"
    finally:
        tab.close()


def ask(client: httpx.Client, users: list[str], number: int) -> str:
    """One request: a profile, in one case of ten a list."""
    operation = "profile" if number % 10 else "recommend"
    try:
        answer = client.post(f"/v1/{operation}", json={"user": users[number % len(users)]})
    except httpx.HTTPError as exc:
        return f"{type(exc).__name__} {exc}"
    return "" if answer.status_code == 200 else f"{operation}: {answer.status_code} {answer.text[:200]}"


@contextmanager
def server(home: Path, key: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """A server of the command line: its process id, and its address once it answers."""
    command = [sys.executable, "-m", "whyfeed", *arguments, "--home", str(home), "--no-llm"]
    environment = {**os.environ, "WHYFEED_API_KEY": key, "WHYFEED_EMBEDDER": EMBEDDER}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.pid, str(process.stdout and process.stdout.readline()).split()[-1].rstrip("/")
        finally:
            process.send_signal(signal.SIGTERM)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
