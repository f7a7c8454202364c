"""How well the encoder's states predict events before any training: layers and poolings as cosine rankers.

    python -m benchmarks.encoder DIR... [--users 120] [--tokens 64]

For each exchange folder, the held-out last post of some users is ranked among 19 random ones
(`finetune.evaluation.protocol`). A post's score is its cosine with the decayed mean of the user's last five posts. Only
posts that these users need are encoded, so a folder of any size takes minutes. Intervals are 95 % bootstraps over
users; the last column is the paired difference to the sentence vectors of the default embedder. Vectors are centred on
the mean of the encoded posts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.encoder.post_encoder import BEFORE, tokens_of
from whyfeed.agent.encoder.transformer import CausalModel
from whyfeed.agent.llm import weights
from whyfeed.finetune.evaluation.histories import read_histories
from whyfeed.finetune.evaluation.metrics import Resampling, bounds
from whyfeed.finetune.evaluation.protocol import RankingTest, leave_one_out, with_negatives
from whyfeed.retrieval.community.embedder import open_embedder

LAYERS = (1, 4, 8, 12)
_LAST = 5  # posts of a history that are used
_DECAY = 0.8
_TOKENS_AT_ONCE = 512


def read(model: CausalModel, texts: list[str], most: int) -> dict[str, Any]:
    """Vectors of the texts by layer and pooling: mean, mean of states of equal length (normed), last token."""
    ids = [tokens_of(model.tokenizer, text, most) or [0] for text in texts]
    before = model.remember(model.tokenizer.encode(BEFORE))
    names = [f"{pooling} {layer}" for layer in LAYERS for pooling in ("mean", "normed", "last")]
    found = {name: np.zeros((len(texts), model.width), dtype=np.float32) for name in names}
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    while order:
        many = max(1, _TOKENS_AT_ONCE // len(ids[order[0]]))
        part, order = order[:many], order[many:]
        lengths = np.array([len(ids[place]) for place in part])
        starts = np.append(0, np.cumsum(lengths)[:-1])
        for layer, states in zip(LAYERS, model.hidden([ids[place] for place in part], LAYERS, before), strict=True):
            found[f"mean {layer}"][part] = np.add.reduceat(states, starts) / lengths[:, None]
            states /= np.sqrt((states**2).mean(axis=1, keepdims=True) + 1e-5)
            found[f"normed {layer}"][part] = np.add.reduceat(states, starts) / lengths[:, None]
            found[f"last {layer}"][part] = states[starts + lengths - 1]
    return found


def centred(vectors: Any) -> Any:
    """Vectors minus their mean, scaled to length 1."""
    vectors = vectors - vectors.mean(axis=0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def ndcg(test: RankingTest, last: list[Any], place: dict[int, int], vectors: Any) -> Any:
    """(users,): nDCG@10 of the held-out post among its candidates; a tie counts half."""
    found = []
    for row, history in enumerate(last):
        shares = _DECAY ** np.arange(len(history))[::-1]
        asking = shares @ vectors[[place[post] for post in history]]
        candidates = test.candidates[row] if test.candidates is not None else ()
        scores = {int(post): float(vectors[place[int(post)]] @ asking) for post in candidates}
        own = scores.pop(int(test.relevant[row][0]))
        others = np.array(list(scores.values()))
        rank = (others > own).sum() + (others == own).sum() / 2
        found.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    return np.array(found)


def main() -> None:
    """Print a table for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--users", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=64, help="number of tokens read of each post")
    options = parser.parse_args()
    model = CausalModel(weights.check(weights.find("ranker")), max(LAYERS))
    for folder in options.folders:
        histories = read_histories(folder)
        train, asked = leave_one_out(histories, most=options.users)
        test = with_negatives(histories, asked, 19, 0)
        places = train.first_likes
        last = []
        for user in test.user:
            begin, end = np.searchsorted(train.user[places], [user, user + 1])
            last.append(train.post[places][max(begin, end - _LAST) : end].tolist())
        needed = np.unique(
            np.concatenate([*(test.candidates or ()), *(np.array(each, dtype=np.int64) for each in last)])
        )
        place = {int(post): row for row, post in enumerate(needed)}
        texts = [histories.texts[post] for post in needed]
        found = {
            "sentence vectors": open_embedder("use-multilingual-v3").encode(texts),
            **read(model, texts, options.tokens),
        }
        values = {name: ndcg(test, last, place, centred(vectors)) for name, vectors in found.items()}
        two = np.concatenate([centred(found["mean 4"]), centred(found["mean 12"])], axis=1)
        values["mean 4 and 12"] = ndcg(test, last, place, two)
        values["with sentence vectors"] = ndcg(
            test, last, place, np.concatenate([two, centred(found["sentence vectors"])], axis=1)
        )
        print(
            f"\n{folder.name}: {len(test.user)} users, {len(needed)} posts read, up to {options.tokens} tokens; nDCG@10"
        )
        resampled = Resampling(np.asarray(test.user))
        base = values["sentence vectors"]
        for name, each in values.items():
            low, high = bounds(resampled.means(each[:, None])[:, 0])
            gain = each - base
            less, more = bounds(resampled.means(gain[:, None])[:, 0])
            whole, paired = (
                f"{each.mean():.3f} [{low:.3f}, {high:.3f}]",
                f"{gain.mean():+.3f} [{less:+.3f}, {more:+.3f}]",
            )
            print(f"{name:24} {whole}   {paired}", flush=True)


if __name__ == "__main__":
    main()
