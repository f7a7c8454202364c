"""Where a language model that encodes posts improves the ranking: a table of paired differences, and a plot.

    python -m benchmarks.where [--data DIR] [--on amazon-games] [--other citeulike-a] [--plot docs/where.png]

The next-item transformer is trained twice, with sentence vectors alone and with sentence vectors and the language
model's vectors, on the histories of `--on` without each user's last like and without a tenth of all posts. It is then
tested on:

- known posts, with all likes of a history and with only its last 1, 2 or 4: the last like among 50 random others;
- unseen posts: a like of a post of the removed tenth among 50 others of it; their ids and likes are unknown;
- another community: the last like of the users of `--other` among 50 others, by their texts alone.

Requests in words are tested on the demo: one sentence is cut out of a post and used as the request, and the post must
be found among all (inverse cloze task, Lee et al. 2019, arXiv 1906.00300) by words (BM25), sentence vectors, the
language model's vectors, and the judge's P(yes) on the ten best. Differences are paired over users; intervals are 95 %
bootstraps.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.demo import FOLDER
from whyfeed.agent.encoder.post_encoder import MEASURED_TOKENS, open_encoder
from whyfeed.agent.llm import weights
from whyfeed.agent.llm.engine import JudgeRequest
from whyfeed.agent.llm.open import open_engine
from whyfeed.agent.recommend.judge import around
from whyfeed.agent.settings import Settings
from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.metrics import Resampling, Values, bounds
from whyfeed.finetune.evaluation.protocol import leave_one_out, user_keys
from whyfeed.finetune.ranking.next_item import train_next_item
from whyfeed.finetune.ranking.parts import liked_sequences
from whyfeed.retrieval.arrays import Condenser, Floats, Rows, Vectors
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder, open_embedder
from whyfeed.retrieval.community.next_item import NextItem

OTHERS, LEAST = 50, 2
SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass
class Read:
    """Posts of a folder: histories, sentence vectors, and the language model's vectors."""

    histories: Histories
    vectors: Vectors
    states: Vectors

    @classmethod
    def of(cls, folder: Path, embedder: Embedder, encoder: PostEncoder) -> Read:
        """Load the folder and encode its posts."""
        histories = read_histories(folder)
        tools = Resources(embedder, histories.texts)
        states = [encoder.encode(histories.texts[at : at + 256]) for at in range(0, len(histories.texts), 256)]
        return cls(histories, tools.vectors, np.concatenate(states))


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WHYFEED_DATA", "../shared/data")))
    parser.add_argument("--on", default="amazon-games")
    parser.add_argument("--other", default="citeulike-a")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--judged", type=int, default=60, help="requests whose ten best posts the judge scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    embedder, encoder = open_embedder(Settings().embedder), open_encoder(max_tokens=MEASURED_TOKENS)
    print(f"{'':44}{'':18}{'nDCG@10 [95 %]':>24}   {'over the row above':>28}")
    rows = requests(embedder, args.requests, args.judged, args.seed) if args.requests else {}
    rows |= next_items(args, embedder, encoder)
    if args.plot:
        _plot(args.plot, rows)


# ---- next items


def next_items(args: argparse.Namespace, embedder: Embedder, encoder: PostEncoder) -> dict[str, dict[str, Values]]:
    """nDCG@10 of each user, by situation and ranker."""
    one = Read.of(args.data / args.on, embedder, encoder)
    inner, test = leave_one_out(one.histories, args.seed, args.users)
    rng = np.random.default_rng(args.seed)
    cold = rng.random(len(inner.posts)) < 0.1
    warm = np.flatnonzero(~cold)
    place = np.full(len(inner.posts), -1, dtype=np.int64)
    place[warm] = np.arange(len(warm))
    every = liked_sequences(inner)
    kept = [history[~cold[history]] for history in every]
    condenser = Condenser.of(one.states[warm])
    texts = {"sentences": one.vectors, "+ readings": np.concatenate([one.vectors, condenser(one.states)], 1)}
    models = {
        name: train_next_item([place[history] for history in kept if len(history)], text[warm], inner.ordered)
        for name, text in texts.items()
    }
    found: dict[str, dict[str, Values]] = {}

    rows = [row for row in range(len(test.user)) if not cold[test.relevant[row][0]] and len(kept[test.user[row]]) >= 4]
    lists = _lists(one.histories, test.user[rows], np.array([test.relevant[row][0] for row in rows]), warm, args.seed)
    for most in (1, 2, 4, None):
        short = [kept[user][-most:] if most else kept[user] for user in test.user[rows]]
        scores = {"text": _cosines(one.vectors, short, lists)}
        for name, text in texts.items():
            scores[f"transformer, {name}"] = _asked(models[name], text, place, short, lists)
        found[f"known posts, {f'last {most} likes' if most else 'all likes'}"] = _say(
            f"{args.on}: {f'last {most}' if most else 'all'} likes", scores, args.seed
        )
    liked = inner.liked.tocsr()
    who, target = [], []
    for user in rng.permutation(len(inner.users)).tolist():
        own = liked.indices[slice(*liked.indptr[user : user + 2])]
        fresh = own[cold[own]]
        if len(fresh) and len(kept[user]) >= LEAST and len(who) < args.users:
            who.append(user)
            target.append(int(rng.choice(fresh)))
    lists = _lists(one.histories, np.array(who), np.array(target), np.flatnonzero(cold), args.seed)
    histories = [kept[user] for user in who]
    scores = {"text": _cosines(one.vectors, histories, lists)}
    for name, text in texts.items():
        scores[f"transformer, {name}"] = _asked(models[name], text, place, histories, lists)
    found["unseen posts"] = _say(f"{args.on}: unseen posts", scores, args.seed)

    other = Read.of(args.data / args.other, embedder, encoder)
    inner, test = leave_one_out(other.histories, args.seed, args.users)
    lists = _lists(
        other.histories,
        test.user,
        np.array([each[0] for each in test.relevant]),
        np.arange(len(inner.posts)),
        args.seed,
    )
    every = liked_sequences(inner)
    histories = [every[user] for user in test.user]
    texts = {"sentences": other.vectors, "+ readings": np.concatenate([other.vectors, condenser(other.states)], 1)}
    strange = np.full(len(inner.posts), -1, dtype=np.int64)
    scores = {"text": _cosines(other.vectors, histories, lists)}
    for name, text in texts.items():
        scores[f"transformer, {name}"] = _asked(models[name], text, strange, histories, lists)
    found["another community"] = _say(f"{args.on} to {args.other}", scores, args.seed)
    return found


def _lists(histories: Histories, users: Rows, target: Rows, pool: Rows, seed: int) -> Rows:
    """(n, 1 + OTHERS): the correct post first, then others of the pool that the user never acted on."""
    keys = user_keys(histories, "where", seed)
    found = np.empty((len(users), 1 + OTHERS), dtype=np.int64)
    for row, (user, right) in enumerate(zip(users.tolist(), target.tolist(), strict=True)):
        own = histories.seen.indices[slice(*histories.seen.indptr[user : user + 2])]
        free = np.setdiff1d(pool, np.append(own, right))
        found[row] = right, *np.random.default_rng(int(keys[user])).choice(free, OTHERS, replace=False)
    return found


def _cosines(vectors: Vectors, histories: list[Rows], lists: Rows) -> Floats:
    means = np.stack([vectors[history].mean(axis=0) for history in histories])
    return np.asarray(np.einsum("nd,nld->nl", means, vectors[lists]), dtype=np.float32)


def _asked(model: NextItem, text: Vectors, place: Rows, histories: list[Rows], lists: Rows) -> Floats:
    items = model.items(text, place)
    states = model.states(histories, items)
    return np.asarray(np.einsum("nd,nld->nl", states, items[lists]) + model.biases(place)[lists], dtype=np.float32)


# ---- requests in words


def requests(embedder: Embedder, count: int, judged: int, seed: int) -> dict[str, dict[str, Values]]:
    """nDCG@10 of each request, by ranker."""
    import bm25s

    texts = list(read_histories(FOLDER).texts)
    rng = np.random.default_rng(seed)
    asked: list[str] = []
    right: list[int] = []
    for place in rng.permutation(len(texts)).tolist():
        sentences = [each for each in SENTENCE.split(texts[place]) if 6 <= len(each.split()) <= 30]
        if sentences[2:] and len(asked) < count:
            sentence = sentences[int(rng.integers(1, len(sentences)))]
            texts[place] = texts[place].replace(sentence, " ")
            asked.append(sentence)
            right.append(place)
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    words = np.stack([
        index.get_scores(bm25s.tokenize(sentence, stopwords="en", return_ids=False, show_progress=False)[0])
        for sentence in asked
    ])  # fmt: skip
    encoder = open_encoder()
    states = encoder.encode(texts)
    condenser = Condenser.of(states)
    scores = {
        "words": words,
        "sentence vectors": embedder.encode(asked) @ embedder.encode(texts).T,
        "readings": condenser(encoder.encode(asked)) @ condenser(states).T,
    }
    scores["words + sentences"] = _standard(scores["words"]) + _standard(scores["sentence vectors"])
    scores["... + readings"] = scores["words + sentences"] + _standard(scores["readings"])
    gains = {name: _gains(each, np.array(right)) for name, each in scores.items()}
    _table("demo: requests in words", gains, seed)

    engine = open_engine(weights.find("ranker").name)
    before: list[Values] = []
    after: list[Values] = []
    for row in range(min(judged, len(asked))):
        best = np.argsort(-scores["words + sentences"][row])[:10]
        prefix, rest = around([f"interest: {asked[row]}"])
        said = engine.judge(JudgeRequest(prefix, [f"{' '.join(texts[post].split())[:120]}{rest}" for post in best]))
        own = _standard(scores["words + sentences"][row][best][None])[0]
        both = own + _standard(np.log(np.array(said)[None]))[0]
        hit = best == right[row]
        for kept, values in ((before, own), (after, both)):
            kept.append(_gain_of(values, hit))
    engine.close()
    judge = {"words + sentences": np.array(before), "... + judge": np.array(after)}
    _table(f"demo: the ten best of {len(before)} requests", judge, seed)
    return {"requests in words": gains, "requests, ten best": judge}


def _standard(scores: Any) -> Any:
    return (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-9)


def _gains(scores: Any, right: Rows) -> Values:
    own = scores[np.arange(len(right)), right][:, None]
    ranks = (scores > own).sum(axis=1) + 0.5 * ((scores == own).sum(axis=1) - 1)
    return np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)


def _gain_of(values: Any, hit: Any) -> float:
    return float(1 / np.log2((values > values[hit]).sum() + 2)) if hit.any() else 0.0


# ---- output


def _say(what: str, scores: dict[str, Floats], seed: int) -> dict[str, Values]:
    gains = {name: _gains(each, np.zeros(len(each), dtype=np.int64)) for name, each in scores.items()}
    _table(what, gains, seed)
    return gains


def _table(what: str, gains: dict[str, Values], seed: int) -> None:
    above: Values | None = None
    for name, values in gains.items():
        resampling = Resampling(np.arange(len(values)), seed)
        low, high = bounds(resampling.means(values[:, None])[:, 0])
        said = ""
        if above is not None:
            least, most = bounds(resampling.means((values - above)[:, None])[:, 0])
            said = f"{(values - above).mean():+.4f} [{least:+.4f}, {most:+.4f}]"
        print(f"{what:44}{name:26}{values.mean():8.4f} [{low:.3f}, {high:.3f}]   {said:>28}", flush=True)
        what, above = "", values


def _plot(path: Path, rows: dict[str, dict[str, Values]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    labels = []
    for at, (what, gains) in enumerate(rows.items()):
        without, with_llm = list(gains.values())[-2:]
        resampling = Resampling(np.arange(len(without)))
        low, high = bounds(resampling.means((with_llm - without)[:, None])[:, 0])
        middle = float((with_llm - without).mean())
        axes.errorbar(middle, -at, xerr=[[middle - low], [high - middle]], fmt="o", color="tab:blue", capsize=3)
        labels.append(what)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks([-at for at in range(len(labels))], labels)
    axes.set_xlabel("nDCG@10 gained by the language model (paired, 95 %)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
