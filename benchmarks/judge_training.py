"""AUC of the judge after minutes of training, with the untuned base, item means, the core and BERT as baselines.

    python -m benchmarks.judge_training --data DIR [--minutes M] [--cut N] [--plot FILE] [any option of the judge]

The BERT classifier (`whyfeed finetune click`) gets the same minutes; with `--method none` only the classifier is
trained.

DIR holds likes and dislikes in the exchange format; the test set is its valid file (or its last labels). All rows are
measured on the same held-out posts: those of whole users, sampled by id, up to `--tested` posts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.settings import Settings
from whyfeed.finetune.config import DEFAULT_BASE
from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import read_histories
from whyfeed.finetune.evaluation.protocol import prepare
from whyfeed.finetune.llm import classifier as click
from whyfeed.finetune.llm.judge import JudgeConfig, auc_metrics, sample_users, train
from whyfeed.finetune.llm.judge_examples import LabelledPosts, from_folder
from whyfeed.finetune.ranking.click_model import GaussianProcessClicks
from whyfeed.retrieval.community.embedder import open_embedder


def main() -> None:
    """Print a table, and plot the curve with `--plot`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", default=DEFAULT_BASE)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cut", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=40)
    parser.add_argument("--tested", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()

    learn, held = from_folder(args.data, args.seed)
    tested = sample_users(held, args.tested)
    core = _core(args.data, tested, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            name: getattr(args, name)
            for name in ("base", "method", "rank", "minutes", "cut", "layers", "batch", "lr", "epochs", "eval_every")
        }
        out = Path(folder) / "judge"
        common: dict[str, Any] = {"most_tested": args.tested, "seed": args.seed, "data": args.data.name}
        config = click.ClickConfig(minutes=args.minutes, epochs=args.epochs, **common)
        bert = click.train(learn, held, Path(folder) / "click", config).card
        print(f"{args.data.name}: {bert['split']['tested']} held out")
        print(f"{'':22}{'minutes':>9}{'cpu':>7}{'auc':>8}{'uauc':>8}{'log loss':>10}{'ece':>7}")
        _row("item mean", bert["metrics"]["item mean"])
        _row("core", core)
        _row(f"BERT, step {bert['steps']}", {**bert["metrics"]["click"], **_spent(bert)})
        if args.method == "none":
            print(bert["gate"]["why"])
            return
        card = train(learn, held, out, JudgeConfig(**options, **common, serve=False)).card
    _row("untuned", card["metrics"]["untuned"])
    for point in card["curve"]:  # on fewer posts: see `finetune.llm.judge`
        _row(f"judge, step {point['step']}*", point)
    _row("judge", {**card["metrics"]["judge"], **_spent(card)})
    _row("judge, calibrated", {"ece": card["metrics"]["judge"]["ece calibrated"]})
    print(f"judge: {card['steps']} steps of {args.batch} groups. {bert['gate']['why']}")
    print(f"* of about 400 of them. {card['gate']['why']}")
    if args.plot:
        _plot(args.plot, card, core)


def _spent(card: dict[str, Any]) -> dict[str, float]:
    return {"minutes": card["minutes"], "cpu_minutes": card["cpu_minutes"]}


def _row(name: str, values: dict[str, float]) -> None:
    widths = {"minutes": 9, "cpu_minutes": 7, "auc": 8, "uauc": 8, "logloss": 10, "ece": 7}
    cells = [
        f"{values[key]:>{width}.{1 if 'minutes' in key else 3}f}" if key in values else " " * width
        for key, width in widths.items()
    ]
    print(f"{name:22}{''.join(cells)}")


def _core(folder: Path, tested: list[LabelledPosts], seed: int) -> dict[str, float]:
    """The ranking core on the same posts, matched by user and line."""
    histories, test = prepare(read_histories(folder), folder, seed=seed)
    core = GaussianProcessClicks(Resources(open_embedder(Settings().embedder), histories.texts))
    core.fit(histories)
    users = {name: row for row, name in enumerate(histories.users)}
    asked: dict[int, list[int]] = {}
    for user, post in zip(test.user.tolist(), test.post.tolist(), strict=True):  # type: ignore[union-attr]
        asked.setdefault(user, []).append(post)
    scores = [
        core.score(np.array([users[name]]))[0][asked[users[name]]] for name in dict.fromkeys(s.user for s in tested)
    ]
    labels = np.array([label for shown in tested for label in shown.labels])
    names = {name: place for place, name in enumerate(dict.fromkeys(shown.user for shown in tested))}
    owners = np.array([names[shown.user] for shown in tested for _ in shown.labels])
    return auc_metrics(labels, np.concatenate(scores), owners)


def _plot(path: Path, card: dict[str, Any], core: dict[str, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    ends = [(0.0, card["metrics"]["untuned"]["auc"]), (card["cpu_minutes"], card["metrics"]["judge"]["auc"])]
    axes.plot(*zip(*ends, strict=True), "o", color="C0", label="judge, on all that was held out")
    points = [(point["cpu_minutes"], point["auc"]) for point in card["curve"]]
    axes.plot(*zip(*points, strict=True), ".--", color="C1", label="on about 400 of them, of a few users")
    for name, value, style in (("core", core["auc"], "-"), ("item mean", card["metrics"]["item mean"]["auc"], "--")):
        axes.axhline(value, linestyle=style, color="grey")
        axes.annotate(name, (ends[-1][0], value), ha="right", va="bottom")
    axes.set(xlabel="CPU minutes of training", ylabel="AUC on what was held out", title=card["data"]["name"])
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
