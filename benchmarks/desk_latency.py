"""Latency of reply suggestions for an operator.

    python -m benchmarks.desk_latency [--conversations 100000]

Two homes are measured: the demo desk with the real embedder, and a synthetic desk of any size with hashed vectors of
the same length (512), because embedding hundreds of thousands of texts takes long and does not happen during requests.
Measured through `Desk.suggest`: the time to the first three suggestions from past replies, and from there to the
writer's draft.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed import Agent
from whyfeed.agent.demo import DESK_FOLDER, FOLDER
from whyfeed.retrieval.store.exchange import read_rows

TOPICS = 150
SAVED = 300


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=200, help="number of timed requests")
    parser.add_argument("--written", type=int, default=8, help="number of requests whose draft is timed")
    parser.add_argument("--no-llm", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder in which the homes are kept and reused")
    options = parser.parse_args()
    base = options.keep or Path(tempfile.mkdtemp(prefix="whyfeed-desk-latency-"))
    try:
        demo = _filled(base / "demo", [FOLDER, DESK_FOLDER], "use-multilingual-v3")
        questions = [row for _, row, _ in read_rows(DESK_FOLDER / "conversations.jsonl.gz") if row is not None]
        _measure("demo desk", demo, "use-multilingual-v3", list(_cut(questions, options.asked)), options)
        if options.conversations:
            folder = base / f"exchange-{options.conversations}"
            if not folder.exists():
                write_desk(folder, options.conversations)
            home = _filled(base / f"made-{options.conversations}", [folder], "hash-512")
            asked = [{"turns": row["turns"][:-1]} for row in _conversations(options.asked, seed=1)]
            _measure(f"{options.conversations} conversations", home, "hash-512", asked, options)
    finally:
        if options.keep is None:
            shutil.rmtree(base, ignore_errors=True)


def write_desk(folder: Path, conversations: int) -> None:
    """Write a synthetic desk of meaningless words, in which the next reply depends on topic and step."""
    folder.mkdir(parents=True)
    with (folder / "replies.jsonl").open("w") as file:
        for number in range(SAVED):
            file.write(json.dumps({"id": f"r{number}", "text": _reply(number), "language": "en"}) + "\n")
    with (folder / "conversations.jsonl").open("w") as file:
        for row in _conversations(conversations, seed=0):
            file.write(json.dumps(row) + "\n")


def _conversations(count: int, seed: int) -> Iterator[Mapping[str, Any]]:
    rng = random.Random(seed)
    for number in range(count):
        topic = rng.randrange(TOPICS)
        turns: list[dict[str, Any]] = []
        for step in range(rng.randint(2, 4)):
            words = rng.choices(_words(topic), k=rng.randint(3, 9))
            turns.append({"role": "customer", "text": f"can you {' '.join(words)} for me, item {rng.randrange(1000)}"})
            reply = (topic * 2 + step % 2) % SAVED
            own = rng.random() < 0.2
            text = f"{_reply(reply)} {' '.join(rng.choices(_words(topic), k=4))}" if own else _reply(reply)
            turns.append({"role": "agent", "text": text} | ({} if own else {"reply": f"r{reply}"}))
        yield {"id": f"{seed}-{number}", "language": "en", "turns": turns}


def _words(topic: int) -> Sequence[str]:
    rng = random.Random(topic)
    syllables = [first + second for first in "bcdfglmnprstv" for second in ("a", "e", "i", "o", "u", "an", "er", "il")]
    return ["".join(rng.choices(syllables, k=3)) for _ in range(25)]


def _reply(number: int) -> str:
    return f"Which {' '.join(_words(number // 2)[number % 2 * 8 :][:6])} would you like?"


def _cut(rows: Sequence[Mapping[str, Any]], count: int) -> Iterator[Mapping[str, Any]]:
    """Past conversations cut before an operator's answer, as if they were waiting."""
    rng = random.Random(0)
    for row in rng.sample(list(rows), min(count, len(rows))):
        places = [n for n, turn in enumerate(row["turns"]) if n and turn["role"] == "agent" and turn.get("text")]
        if places:
            yield {**row, "status": "waiting", "turns": row["turns"][: rng.choice(places)]}


def _filled(home: Path, folders: Sequence[Path], embedder: str) -> Path:
    with Agent.open(home, embedder=embedder, no_llm=True) as agent:
        if not agent.desk.store.counts()["cases"]:
            for folder in folders:
                agent.import_folder(folder)
        agent.build()
        agent.desk.build()
    return home


def _measure(
    name: str, home: Path, embedder: str, asked: Sequence[Mapping[str, Any]], options: argparse.Namespace
) -> None:
    begun = time.perf_counter()
    with Agent.open(home, embedder=embedder, no_llm=options.no_llm) as agent:
        agent.build()
        agent.desk.build()
        opened = time.perf_counter() - begun
        first: list[float] = []
        drafts: list[float] = []
        for place, ask in enumerate(asked):
            begun = time.perf_counter()
            suggestions = agent.desk.suggest(ask, 3, write=place < options.written)
            found = next(suggestions)
            took = time.perf_counter() - begun
            first.append(took)
            if found.drafting:
                for _ in suggestions:
                    pass
                drafts.append(time.perf_counter() - begun - took)
        print(f"{name}: {agent.desk.store.counts()}, opened in {opened:.1f} s, {len(first)} requests")
        print(
            f"  first suggestions: p50 {np.quantile(first, 0.5):.3f} s, p95 {np.quantile(first, 0.95):.3f} s (aim 0.5)"
        )
        if drafts:
            print(f"  draft after that: p50 {np.quantile(drafts, 0.5):.1f} s, max {max(drafts):.1f} s of {len(drafts)}")
        print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
