"""The cost of a batch: engine throughput, users per minute, and tokens by the number of users.

    python -m benchmarks.batch [--parts engine,speed,tokens] [--url http://127.0.0.1:8000/v1] [--plot FILE]

engine: a batch on the demo writes the clauses for some users' posts. The same prompts are then sent again, with as many
threads as were in flight, to a newly loaded engine with the same weights. Tokens are those of prompt and answer
together. The embedded engine runs one call at a time, and further calls wait; `--url` measures a server.

speed: users per minute over 100,000 posts, with every clause already stored and without a language model.

tokens: simulated users with histories like those of the demo, over its 1,275 posts. It counts the different posts that
1,000, 10,000 and 100,000 of them are shown; each needs one clause, with the tokens that `engine` has measured (or
--clause).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.synthetic import write_community
from whyfeed import Agent
from whyfeed.agent.batch.output import BatchReport
from whyfeed.agent.demo import FOLDER
from whyfeed.agent.llm.engine import ChatRequest, Completion, Engine, Message
from whyfeed.agent.llm.open import open_engine
from whyfeed.agent.llm.scripted import ScriptedEngine
from whyfeed.agent.settings import Settings

HELLO = ChatRequest([{"role": "user", "content": "Say hello."}], max_tokens=4)
IN_FLIGHT = (1, 4, 16)
SIZES = (1_000, 10_000, 100_000)


class Recorder:
    """An engine that records its requests and forwards them to another engine."""

    def __init__(self, engine: Engine, in_flight: int) -> None:
        self._engine = engine
        self.name = engine.name
        self.in_flight = in_flight
        self.calls: list[ChatRequest] = []

    def complete(self, request: ChatRequest) -> Completion:
        """See `agent.llm.engine.Engine.complete`."""
        self.calls.append(replace(request, cancel=None))
        return self._engine.complete(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def main() -> None:
    """Measure the selected parts; print one table for each, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="engine,speed,tokens")
    parser.add_argument("--url", help="URL of an OpenAI-compatible server instead of the embedded engine")
    parser.add_argument("--readers", type=int, default=8, help="users of part engine, five posts each")
    parser.add_argument("--posts", type=int, default=100_000, help="posts of part speed")
    parser.add_argument("--served", type=int, default=2_000, help="users of part speed")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="numbers of users of part tokens")
    parser.add_argument("--clause", type=float, help="tokens of a clause, if part engine is not run")
    parser.add_argument("--plot", type=Path, help="write the plot of part tokens to this file (PNG)")
    parser.add_argument("--keep", type=Path, help="folder in which the homes are kept and reused")
    args = parser.parse_args()
    base = args.keep or Path(tempfile.mkdtemp(prefix="whyfeed-batch-"))
    found: dict[str, Any] = {}
    try:
        if "engine" in args.parts:
            found["engine"] = [_engine(base, n, args) for n in IN_FLIGHT]
            args.clause = args.clause or found["engine"][0]["tokens"] / found["engine"][0]["clauses"]
        if "speed" in args.parts:
            found["speed"] = _speed(base, args)
        if "tokens" in args.parts:
            found["tokens"] = _tokens(base, args)
    finally:
        if args.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(found))


# ---- engine throughput ----


def _engine(base: Path, in_flight: int, args: argparse.Namespace) -> dict[str, Any]:
    home = base / f"engine-{in_flight}"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(_demo(base), home)
    with Agent.open(home) as agent:
        readers = [member.id for member in agent.members(limit=args.readers)]
        recorder = Recorder(_open(args.url), in_flight)
        recorder.complete(HELLO)  # loads the weights
        recorder.calls.clear()
        agent.models.put("writer", recorder)
        before = agent.models.usage.of("writer")
        start = time.perf_counter()
        agent.batch(readers, base / "engine.jsonl")
        batch = time.perf_counter() - start
        used = agent.models.usage.of("writer")
    tokens = used.prompt_tokens + used.tokens - before.prompt_tokens - before.tokens
    engine = _open(args.url)
    engine.complete(HELLO)
    start = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        done = list(pool.map(engine.complete, recorder.calls))
    alone = time.perf_counter() - start
    engine.close()
    pushed = sum(each.prompt_tokens + each.tokens for each in done)
    clauses = len(_posts(base / "engine.jsonl", len(readers)))
    row = {
        "in flight": in_flight, "calls": len(recorder.calls), "clauses": clauses,
        "tokens": tokens,
        "batch tokens/s": tokens / batch, "engine tokens/s": pushed / alone,
        "share": (tokens / batch) / (pushed / alone),
    }  # fmt: skip
    print(
        f"{in_flight:3} in flight: {len(recorder.calls)} calls, {tokens} tokens; batch {row['batch tokens/s']:.1f} "
        f"tokens/s, the same prompts alone {row['engine tokens/s']:.1f}: {row['share']:.1%}",
        flush=True,
    )
    return row


def _open(url: str | None) -> Engine:
    return open_engine(url or Settings().writer)


# ---- users per minute ----


def _speed(base: Path, args: argparse.Namespace) -> dict[str, Any]:
    folder = base / f"exchange-{args.posts}"
    if not folder.exists():
        write_community(folder, args.posts, args.posts // 5, args.posts * 5)
    home = _filled(base / f"synthetic-{args.posts}", folder, "hash-512")
    found: dict[str, Any] = {}
    with Agent.open(home, embedder="hash-512") as agent:
        agent.models.put("writer", ScriptedEngine(_clause, in_flight=4))
        readers = [member.id for member in agent.members(limit=100_000)]
        readers = random.Random(0).sample(readers, min(args.served, len(readers)))
        for what, write in (("clauses written by a script", True), ("every clause kept", True), ("no LLM", False)):
            report = agent.batch(readers, base / "speed.jsonl", write=write)
            found[what] = _rate(report)
            print(
                f"{args.posts} posts, {what}: {found[what]:.0f} readers a minute ({report.done} readers; seconds: "
                f"{report.seconds}; reasons: {report.reasons})",
                flush=True,
            )
    return found


def _clause(messages: Sequence[Message]) -> str:
    """A clause that passes the checks: it repeats what the synthetic title asks."""
    title = messages[-1]["content"].split("How does ")[-1].split("?")[0]
    return f"this post asks how {title.replace('compare', 'compares', 1)}"


def _rate(report: BatchReport) -> float:
    return 60 * (report.done - report.resumed) / report.seconds["all"]


# ---- tokens ----


def _tokens(base: Path, args: argparse.Namespace) -> dict[str, Any]:
    home = base / "tokens"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(_demo(base), home)
    crowd = _crowd(base / "crowd", max(args.sizes))
    shown: dict[int, int] = {}
    with Agent.open(home, no_llm=True) as agent:
        agent.import_folder(crowd)
        agent.build()

        def count(what: str, done: int, total: int) -> None:
            if done in args.sizes:
                shown[done] = len(_posts(base / "tokens.jsonl.part", done))
                print(f"{done} readers: {shown[done]} posts", file=sys.stderr, flush=True)

        readers = [f"crowd:{number}" for number in range(max(args.sizes))]
        report = agent.batch(readers, base / "tokens.jsonl", write=False, progress=count)
    clause = args.clause or 300.0
    found = {size: shown[size] * clause for size in args.sizes}
    print(f"one clause a post, {clause:.0f} tokens each; {_rate(report):.0f} readers a minute")
    for size in args.sizes:
        print(
            f"{size:7} readers: {shown[size]:5} clauses, {found[size]:9.0f} tokens, {found[size] / size:8.1f} a "
            f"reader; with a reason for each reader and post {5 * size * clause:12.0f}"
        )
    if args.plot:
        _plot(args.plot, args.sizes, found, clause)
    return {"clause": clause, "clauses": shown, "tokens": found}


def _posts(part: Path, rows: int) -> set[str]:
    with part.open(encoding="utf-8") as file:
        return {
            item["post"]["id"] for line, _ in zip(file, range(rows), strict=False) for item in json.loads(line)["items"]
        }


def _crowd(folder: Path, size: int, seed: int = 0) -> Path:
    """Users whose histories each combine parts of the histories of two users of the demo."""
    if folder.exists():
        return folder
    rng = random.Random(seed)
    histories: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(FOLDER / "interactions.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            histories.setdefault(row["user"], []).append(row)
    people = sorted(histories.values(), key=len)
    folder.mkdir(parents=True)
    with (folder / "users.jsonl").open("w") as users, (folder / "interactions.jsonl").open("w") as events:
        for number in range(size):
            users.write(json.dumps({"id": f"crowd:{number}"}) + "\n")
            mixed = [row for person in rng.sample(people, 2) for row in person]
            for row in rng.sample(mixed, min(len(mixed), rng.randint(2, 10))):
                events.write(json.dumps({**row, "user": f"crowd:{number}", "kind": "like"}) + "\n")
    return folder


def _plot(path: Path, sizes: Sequence[int], tokens: dict[int, float], clause: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.loglog(sizes, [tokens[size] for size in sizes], "o-", label="whyfeed: a clause a post")
    axes.loglog(sizes, [5 * size * clause for size in sizes], "--", color="0.6", label="a reason a reader and post")
    axes.set_xlabel("readers")
    axes.set_ylabel("tokens of the language model")
    axes.set_title("Five explained posts each, over the demo's 1,275 posts")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# ---- homes ----


def _demo(base: Path) -> Path:
    return _filled(base / "demo", FOLDER, Settings().embedder)


def _filled(home: Path, folder: Path, embedder: str) -> Path:
    with Agent.open(home, embedder=embedder, no_llm=True) as agent:
        if not agent.status()["posts"]:
            agent.import_folder(folder)
        agent.build()
    return home


if __name__ == "__main__":
    main()
