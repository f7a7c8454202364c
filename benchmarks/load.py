"""Load test: many clients at once on one service.

    python -m benchmarks.load [--clients 50] [--seconds 60] [--home DIR]

`whyfeed serve --no-llm --no-page` runs in its own process on a copy of the demo home (or of --home). Each client
simulates a user: it asks for five posts, waits for about a second (--think, exponential; 0: no wait), and in one case
of three sends feedback on one of them. Afterwards every confirmed feedback must be in the ledger. With --processes the
clients run in several processes, so that they do not wait for each other's interpreter lock. Clients and service share
the machine, so the clients' CPU time is lost to the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from whyfeed import Agent
from whyfeed.agent.demo import import_demo

ACTS = ("open", "open", "open", "like", "save", "hide")
PER_PROCESS = 25  # clients per process, with --processes
PATIENCE = 60.0  # timeout of a request in seconds


@dataclass
class Seen:
    """The clients' results: seconds by operation, failures, and confirmed feedback by user."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"recommend": [], "feedback": []})
    errors: list[str] = field(default_factory=list)
    confirmed: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: Seen) -> None:
        """Add the results of others."""
        for operation, taken in other.seconds.items():
            self.seconds[operation] += taken
        self.errors += other.errors
        for user, ids in other.confirmed.items():
            self.confirmed.setdefault(user, []).extend(ids)


def main() -> None:
    """Measure; print a table and one JSON line. Exit code 1 when feedback was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between requests; 0: none")
    parser.add_argument("--home", type=Path, help="home to copy; default: a new demo home")
    parser.add_argument("--processes", action="store_true", help=f"use one process per {PER_PROCESS} clients")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="whyfeed-load-") as folder:
        home = Path(folder) / "home"
        if args.home is not None:
            shutil.copytree(args.home.expanduser(), home)
        with Agent.open(home, no_llm=True) as agent:
            if args.home is None:
                import_demo(agent)
            agent.build()
            agent.desk.build()
            users = [member.id for member in agent.members(limit=args.clients)]
        people = [users[number % len(users)] for number in range(args.clients)]
        key = secrets.token_urlsafe(16)
        with service(home, key) as url:
            begun = time.perf_counter()
            seen = run(url, key, people, args)
            elapsed = time.perf_counter() - begun
            missing = lost(url, key, seen)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    row = told(args, seen, elapsed, missing, memory)
    width = max(map(len, row)) + 2
    for name, value in row.items():
        print(f"{name:{width}}{value:>14}")
    for error in sorted(set(seen.errors))[:10]:
        print(f"error: {error}")
    print(json.dumps(row))
    sys.exit(bool(missing or seen.errors))


@contextmanager
def service(home: Path, key: str) -> Iterator[str]:
    """Run the service on a home in its own process; yields its address once it is ready."""
    command = [
        sys.executable,
        "-m",
        "whyfeed",
        "serve",
        "--home",
        str(home),
        "--no-llm",
        "--no-page",
        "--port",
        "0",
    ]
    environment = {**os.environ, "WHYFEED_API_KEY": key}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = str(process.stdout and process.stdout.readline()).split()[-1]
            while httpx.get(f"{url}/ready").status_code != 200:
                time.sleep(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)


def run(url: str, key: str, people: Sequence[str], args: argparse.Namespace) -> Seen:
    """Run all clients until the time is over."""
    if not args.processes:
        return group(url, key, people, args.seconds, args.think, 0)
    seen = Seen()
    groups = [people[first : first + PER_PROCESS] for first in range(0, len(people), PER_PROCESS)]
    with ProcessPoolExecutor(len(groups), multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(group, url, key, each, args.seconds, args.think, seed) for seed, each in enumerate(groups)
        ]
        for future in futures:
            seen.add(future.result())
    return seen


def group(url: str, key: str, people: Sequence[str], seconds: float, think: float, seed: int) -> Seen:
    """Run some clients in one event loop."""

    async def all_of_them() -> Seen:
        seen, limits = Seen(), httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=PATIENCE) as client:
            end = time.perf_counter() + seconds
            await asyncio.gather(
                *(
                    person(client, user, end, think, random.Random(f"{seed}-{number}"), seen)
                    for number, user in enumerate(people)
                )
            )
        return seen

    return asyncio.run(all_of_them())


async def person(
    client: httpx.AsyncClient, user: str, end: float, think: float, rng: random.Random, seen: Seen
) -> None:
    """One simulated user: asks for a list, waits, and sometimes sends feedback."""

    async def ask(operation: str, body: dict[str, Any]) -> dict[str, Any] | None:
        start = time.perf_counter()
        try:
            answer = await client.post(f"/v1/{operation}", json=body)
            answer.raise_for_status()
        except httpx.HTTPError as exc:
            seen.errors.append(f"{operation}: {type(exc).__name__} {exc}")
            return None
        seen.seconds[operation].append(time.perf_counter() - start)
        return dict(answer.json())

    async def read() -> None:
        if think:
            await asyncio.sleep(rng.expovariate(1 / think))

    await read()  # staggered, so that the clients do not all start in the same instant
    while time.perf_counter() < end:
        answer = await ask("recommend", {"user": user, "k": 5, "llm": False})
        await read()
        if answer is not None and answer["items"] and rng.random() < 1 / 3:
            post = rng.choice(answer["items"])["post"]["id"]
            event = await ask("feedback", {"user": user, "post": post, "kind": rng.choice(ACTS)})
            if event is not None:
                seen.confirmed.setdefault(user, []).append(event["id"])


def lost(url: str, key: str, seen: Seen) -> int:
    """The number of confirmed events that are not in the ledger."""
    missing = 0
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE) as client:
        for user, ids in seen.confirmed.items():
            answer = client.post("/v1/export", json={"user": user}).raise_for_status().json()
            there = {row.get("id") for row in answer["files"].get("interactions.jsonl", ())}
            missing += len(set(ids) - there)
    return missing


def told(args: argparse.Namespace, seen: Seen, elapsed: float, missing: int, memory: float) -> dict[str, str]:
    """The figures for the printed table."""
    requests = sum(map(len, seen.seconds.values()))
    row = {
        "clients": str(args.clients),
        "requests": str(requests),
        "errors": str(len(seen.errors)),
        "requests/s": f"{requests / elapsed:.1f}",
    }
    for operation, taken in seen.seconds.items():
        for percent in (50, 95, 99):
            row[f"{operation}, p{percent} (s)"] = f"{np.percentile(taken, percent):.3f}" if taken else "none"
    confirmed = sum(map(len, seen.confirmed.values()))
    return row | {
        "feedback confirmed": str(confirmed),
        "of it not in the ledger": str(missing),
        "peak memory of the service (GB)": f"{memory:.2f}",
    }


if __name__ == "__main__":
    main()
