"""Accuracy of the reply ranker on public data sets, with baselines.

    python -m benchmarks.desk SUPPORT_DIR [--rows N]

SUPPORT_DIR holds star/, banking77/ and crosswoz/ as published, in the exchange format. One conversation in ten (by the
md5 of its id) is held out; of banking77 one question in five. Everything is fitted on the rest, as in `whyfeed
evaluate`, and the held-out rows are ranked. These are validation figures: design choices were made on them.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whyfeed.agent.settings import Settings
from whyfeed.finetune.desk.reply_measure import RANKERS, opened, read_trials
from whyfeed.retrieval.community.embedder import open_embedder

Row = dict[str, Any]
AIMS: Mapping[str, Mapping[str, float]] = {
    "STAR, all saved replies": {"hr@1": 0.80, "hr@5": 0.96},
    "STAR, any reply of the same words": {"hr@1": 0.80, "hr@5": 0.96},
    "STAR, the three that were offered": {"hr@1": 0.95},
    "STAR, three, with the draft": {"hr@1": 0.97},
    "banking77, 10 examples an intent": {"hr@1": 0.86},
    "banking77, all examples": {"hr@1": 0.93},
    "CrossWOZ, 10 candidates": {"hr@1": 0.75},
}


def _read(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _hash(text: str) -> int:
    return int(hashlib.md5(text.encode()).hexdigest(), 16)


def star(source: Path, out: Path, rows: int) -> dict[str, Path]:
    """Write the training folder and the test files."""
    conversations, replies = _read(source / "conversations.jsonl.gz"), _read(source / "replies.jsonl.gz")
    held = [each for each in conversations if _hash(each["id"]) % 10 == 0]
    _write(out / "conversations.jsonl", [each for each in conversations if _hash(each["id"]) % 10])
    _write(out / "replies.jsonl", replies)
    texts = {each["id"]: each["text"] for each in replies}
    alike = defaultdict(list)
    for id, text in texts.items():
        alike[text].append(id)
    turns = [(each, n) for each in held for n, turn in enumerate(each["turns"]) if n and turn.get("reply") in texts]
    tests: dict[str, list[Row]] = {name: [] for name in list(AIMS)[:4]}
    for each, n in random.Random(0).sample(turns, min(rows, len(turns))):
        turn = each["turns"][n]
        row = {"conversation": {"id": each["id"], "turns": each["turns"][:n]}, "relevant": [turn["reply"]]}
        tests["STAR, all saved replies"].append(row)
        tests["STAR, any reply of the same words"].append({**row, "relevant": alike[texts[turn["reply"]]]})
        offered = sorted(set(turn["offered"]) & set(texts))
        if len(offered) == 3 and turn["reply"] in offered:
            three = {**row, "candidates": [{"id": id, "text": texts[id]} for id in offered]}
            tests["STAR, the three that were offered"].append(three)
            tests["STAR, three, with the draft"].append({**three, "draft": turn.get("draft") or ""})
    return _tests(out, tests)


def banking(source: Path, out: Path, rows: int, examples: int | None) -> dict[str, Path]:
    """Write the training folder and the test file; `examples` per intent, None for all."""
    questions = _read(source / "train.jsonl.gz")
    test = [each for each in questions if _hash(each["text"]) % 5 == 0]
    train: list[Row] = []
    taken: dict[str, int] = defaultdict(int)
    for each in sorted(questions, key=lambda each: _hash(each["text"])):
        if _hash(each["text"]) % 5 and (examples is None or taken[each["intent"]] < examples):
            taken[each["intent"]] += 1
            train.append(each)
    _write(
        out / "replies.jsonl",
        [
            {"id": name, "intent": name, "text": name.replace("_", " ")}
            for name in sorted({q["intent"] for q in questions})
        ],
    )
    _write(
        out / "conversations.jsonl",
        [
            {
                "id": f"q{n}", "language": "en",
                "turns": [{"role": "customer", "text": each["text"]}, {"role": "agent", "reply": each["intent"]}],
            }
            for n, each in enumerate(train)
        ],
    )  # fmt: skip
    tests = [
        {"conversation": [{"role": "customer", "text": each["text"]}], "relevant": [each["intent"]]}
        for each in random.Random(0).sample(test, min(rows, len(test)))
    ]
    name = "banking77, all examples" if examples is None else f"banking77, {examples} examples an intent"
    return _tests(out, {name: tests})


def crosswoz(source: Path, out: Path, rows: int) -> dict[str, Path]:
    """Write the training folder and the test file: the given answer among nine others of held-out conversations."""
    conversations = _read(source / "conversations.jsonl.gz")
    held = [each for each in conversations if _hash(each["id"]) % 10 == 0]
    _write(out / "conversations.jsonl", [each for each in conversations if _hash(each["id"]) % 10])
    said = sorted({turn["text"] for each in held for turn in each["turns"] if turn["role"] == "agent"})
    rng = random.Random(0)
    tests = []
    for each in held:
        for n, turn in enumerate(each["turns"]):
            if turn["role"] == "agent" and n:
                texts = [turn["text"], *rng.sample([text for text in said if text != turn["text"]], 9)]
                rng.shuffle(texts)
                candidates = [{"id": f"c{place}", "text": text} for place, text in enumerate(texts)]
                right = f"c{texts.index(turn['text'])}"
                conversation = {"language": "zh", "turns": each["turns"][:n]}
                tests.append({"conversation": conversation, "relevant": [right], "candidates": candidates})
    return _tests(out, {"CrossWOZ, 10 candidates": rng.sample(tests, min(rows, len(tests)))})


def _tests(out: Path, tests: Mapping[str, list[Row]]) -> dict[str, Path]:
    paths = {}
    for place, (name, rows) in enumerate(tests.items()):
        paths[name] = out / f"test{place}.jsonl"
        _write(paths[name], rows)
    return paths


def main() -> None:
    """Prepare, fit, rank and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("support", type=Path)
    parser.add_argument("--rows", type=int, default=600, help="test rows of each kind")
    parser.add_argument("--only", default="", help="run only this data set: star, banking or crosswoz")
    options = parser.parse_args()
    embedder = open_embedder(Settings().embedder)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        made = {
            "star": lambda: star(options.support / "star", out / "star", options.rows),
            "banking-10": lambda: banking(options.support / "banking77", out / "banking-10", options.rows, 10),
            "banking-all": lambda: banking(options.support / "banking77", out / "banking-all", options.rows, None),
            "crosswoz": lambda: crosswoz(options.support / "crosswoz", out / "crosswoz", options.rows),
        }
        for name, make in made.items():
            if not name.startswith(options.only):
                continue
            tests = make()
            with opened(out / name, embedder) as bench:
                bench.book.refresh()
                bench.fit()
                print(f"\n{name}: {bench.outcome.why if bench.outcome else ''}", flush=True)
                for test, path in tests.items():
                    trials, _ = read_trials(path)
                    print(f"{test} ({len(trials)} rows), aims {dict(AIMS[test])}")
                    for row in bench.rows(trials, RANKERS[:-1]):
                        cells = []
                        for metric in ("hr@1", "hr@5", "mrr@10"):
                            low, high = row["ci95"][metric]
                            cells.append(f"{metric} {row['metrics'][metric]:.3f} [{low:.3f}, {high:.3f}]")
                        print(f"  {row['ranker']:16}{'   '.join(cells)}   {row['ms_per_user']:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
