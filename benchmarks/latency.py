"""Latency of lists and reasons for a user, on the demo and on a synthetic community of 100,000 posts.

    python -m benchmarks.latency [--posts 100000] [--readers 30] [--keep DIR]

Measured through `Agent.chat`, as the page does: to the list without the LLM ranker, to the list with it (20 candidates,
prefix computed), and from the list to the first and the last reason, with no clause stored and with all of them stored.
The synthetic community has vectors of the real length (512) made of hashed words, because embedding 100,000 texts takes
minutes and does not happen during requests. Peak memory is that of the whole process. Timings on shared machines are
noisy: compare only lines of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic import write_community
from whyfeed import Agent
from whyfeed.agent.answer import ItemsReady, ReasonReady
from whyfeed.agent.demo import FOLDER

REAL, HASHED = "use-multilingual-v3", "hash-512"


def main() -> None:
    """Measure; print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--posts", type=int, default=100_000)
    parser.add_argument("--readers", type=int, default=30)
    parser.add_argument("--written", type=int, default=6, help="number of users whose missing clauses are written")
    parser.add_argument("--keep", type=Path, help="folder in which the homes are kept and reused")
    parser.add_argument("--no-llm", action="store_true")
    args = parser.parse_args()
    base = args.keep or Path(tempfile.mkdtemp(prefix="whyfeed-latency-"))
    try:
        rows = [measure("demo", _demo(base), REAL, args)]
        if args.posts:
            rows.append(measure(f"synthetic {args.posts}", _synthetic(base, args.posts), HASHED, args))
    finally:
        if args.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    print(f"{'':44}" + "".join(f"{row['home']:>22}" for row in rows))
    for key in rows[0]:
        if key != "home":
            print(f"{key:44}" + "".join(f"{row[key]:>22}" for row in rows))
    print(json.dumps(rows))


def measure(name: str, home: Path, embedder: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one home."""
    _wait_until_idle()
    start = time.perf_counter()
    agent = Agent.open(home, embedder=embedder, no_llm=args.no_llm)
    agent.build()
    opened = time.perf_counter() - start
    members = [member.id for member in agent.members(limit=10 * args.readers)]
    readers = [members[place] for place in np.linspace(0, len(members) - 1, args.readers).astype(int)]
    _ask(agent, readers[0], wait=True)  # loads the models
    row: dict[str, Any] = {"home": name, "open (s)": f"{opened:.1f}"}
    row["list, no LLM ranker: p50 / p95 (s)"] = _spread([_ask(agent, reader)["list"] for reader in readers])
    if not args.no_llm:
        judged = []
        for reader in readers[: max(args.written, 3)]:
            agent.warm(reader, llm_rank=True)
            judged.append(_ask(agent, reader, llm_rank=True)["list"])
        row["list, LLM ranker, prefix warm: p50 / p95 (s)"] = _spread(judged)
        first_likes, lasts = [], []
        for reader in readers[1 : args.written + 1]:
            asked = _ask(agent, reader, wait=True)
            first_likes.append(asked["first"])
            lasts.append(asked["last"])
        row["list to first reason, none kept: p50 / p95 (s)"] = _spread(first_likes)
        row["list to last reason, none kept: p50 / p95 (s)"] = _spread(lasts)
    kept = [_ask(agent, reader, wait=True)["last"] for reader in readers[1 : args.written + 1]]
    row["list to last reason, all kept: p50 / p95 (s)"] = _spread(kept)
    row["peak memory so far (GB)"] = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}"
    agent.close()
    print(f"{name}: done", file=sys.stderr)
    return row


def _ask(agent: Agent, reader: str, *, llm_rank: bool = False, wait: bool = False) -> dict[str, float]:
    """Seconds to the list, and from it to the first and the last reason (with `wait` until all are written)."""
    cancel = threading.Event()
    start = listed = time.perf_counter()
    first = None
    for event in agent.chat(reader, "What should I read?", cancel=cancel, llm_rank=llm_rank):
        now = time.perf_counter()
        if isinstance(event, ItemsReady):
            listed = now
            if not event.waiting:
                first = now  # all reasons came with the list
            if not wait:
                cancel.set()
        elif isinstance(event, ReasonReady) and first is None:
            first = now
    end = time.perf_counter()
    return {"list": listed - start, "first": (first or end) - listed, "last": end - listed}


def _wait_until_idle(seconds: float = 150.0) -> None:
    """Wait, since building a home keeps the machine busy, and engines use fewer threads on a busy machine."""
    end = time.monotonic() + seconds
    while os.getloadavg()[0] >= 0.4 and time.monotonic() < end:
        time.sleep(5)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{np.quantile(values, 0.5):.2f} / {np.quantile(values, 0.95):.2f}"


def _demo(base: Path) -> Path:
    return _filled(base / "demo", FOLDER, REAL)


def _synthetic(base: Path, posts: int) -> Path:
    folder = base / f"exchange-{posts}"
    if not folder.exists():
        write_community(folder, posts, posts // 5, posts * 5)
    return _filled(base / f"synthetic-{posts}", folder, HASHED)


def _filled(home: Path, folder: Path, embedder: str) -> Path:
    with Agent.open(home, embedder=embedder, no_llm=True) as agent:
        if not agent.status()["posts"]:
            agent.import_folder(folder)
        agent.build(lambda what, done, total: print(f"{what}: {done} of {total}", end="\r", file=sys.stderr))
    return home


if __name__ == "__main__":
    main()
