"""Ranking quality on public data sets, next to published results and this project's aims.

    python -m benchmarks.quality [--data DIR] [--only NAME] [--unseen]

DIR holds the folders amazon-games, citeulike-a and movielens-like in the exchange format (default: $WHYFEED_DATA, else
../shared/data). Test rows are split off as in `whyfeed evaluate`: the last liked post of each user (a random one if
there is no order), or the file of later likes, for up to 6,000 users. Everything is determined by the seed. With
`--unseen` the test posts are removed from training. The intervals of the buckets hold simultaneously.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whyfeed.agent.encoder.post_encoder import opener
from whyfeed.agent.llm.weights import pull
from whyfeed.agent.settings import Settings
from whyfeed.finetune.evaluation.measure import OURS, measure
from whyfeed.retrieval.community.embedder import open_embedder
from whyfeed.retrieval.errors import WhyfeedError

# data, negatives (None: the whole catalogue), {metric: (published, aim)}
AIMS: tuple[tuple[str, int | None, dict[str, tuple[str, float] | None]], ...] = (
    ("amazon-games", 19, {"ndcg@10": ("GPT-4 .629, SASRec .759", 0.835)}),
    ("amazon-games", None, {"recall@20": ("ItemKNN .169", 0.21), "recall@200": ("ItemKNN .377", 0.52)}),
    ("citeulike-a", 100, {"hr@10": ("RP3beta .894", 0.945), "ndcg@10": ("RP3beta .735", 0.79)}),
    ("movielens-like", None, {"auc": ("BinLLM-7B .7425", 0.76), "uauc": ("BinLLM-7B .6956", 0.715)}),
)
UNSEEN: tuple[tuple[str, int | None, dict[str, tuple[str, float] | None]], ...] = tuple(
    (name, None, {"ndcg@10": None, "recall@20": None})
    for name in ("amazon-games", "citeulike-a", "lastfm-social", "movielens-kg")
)
BASELINES = ("popularity", "text", "item-knn", "user-mean")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("WHYFEED_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, metavar="DIR")
    parser.add_argument("--only", default="", help="name of the only folder to measure")
    parser.add_argument("--unseen", action="store_true", help="test on unseen posts")
    parser.add_argument("--rankers", default=",".join((*BASELINES, *OURS)), help="rankers, separated by commas")
    parser.add_argument("--no-llm", action="store_true", help="leave out the language model that encodes posts")
    parser.add_argument("--encoder", default="", help="language model that encodes posts, as in `whyfeed evaluate`")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rankers = [name for name in args.rankers.split(",") if not (args.no_llm and name == "whyfeed")]
    encoder = None if args.no_llm else opener(args.encoder, pull)
    embedder = open_embedder(Settings().embedder)
    for name, negatives, aims in UNSEEN if args.unseen else AIMS:
        if args.only not in ("", name):
            continue
        found = measure(
            args.data / name, embedder, None, rankers, negatives, None, args.seed, encoder, unseen=args.unseen
        )
        print(f"\n## {name}, {f'{negatives} negatives' if negatives else found.protocol.split(':')[0]}\n")
        print(table(found.rows, aims))
        for left, why in found.left_out.items():
            print(f"\n{left} was left out: {why}")
        if found.gate:
            print("\nWhat the language model adds, " + found.gate["metric"] + ":")
            for part in ({"history": "any", **found.gate}, *found.gate["buckets"]):
                low, high = part["ci95"]
                print(f"- histories of {part['history']}: {part['difference']:+.4f} [{low:+.4f}, {high:+.4f}]")
        sys.stdout.flush()


def table(rows: list[dict[str, Any]], aims: Mapping[str, tuple[str, float] | None]) -> str:
    """Each ranker's metrics with their intervals, then published results and aims, where there are any."""
    lines = ["| ranker | " + " | ".join(aims) + " |", "|---|" + "---|" * len(aims)]
    for row in rows:
        cells = [
            f"{row['metrics'][metric]:.4f} [{row['ci95'][metric][0]:.3f}, {row['ci95'][metric][1]:.3f}]"
            for metric in aims
        ]
        lines.append(f"| {row['ranker']} | " + " | ".join(cells) + " |")
    known = {metric: aim for metric, aim in aims.items() if aim}
    if known:
        lines.append("| published | " + " | ".join(published for published, _ in known.values()) + " |")
        reached = rows[-1]["metrics"]
        goals = [f"{aim} ({'reached' if reached[metric] >= aim else 'missed'})" for metric, (_, aim) in known.items()]
        lines.append("| aim | " + " | ".join(goals) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except WhyfeedError as exc:
        raise SystemExit(str(exc)) from None
