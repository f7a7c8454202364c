"""Train the reply network on past situations, in numpy alone, so that torch is not needed.

Cross-entropy over the saved replies; AdaGrad (Duchi et al. 2011), because rare words need larger steps; dropout of
whole features, so that a word of a single conversation does not decide; drafts shown half of the time, so that the
network works before and after an operator has begun to type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whyfeed.agent.desk.network import BUCKETS, Ids, ReplyNetwork
from whyfeed.retrieval.arrays import Vectors
from whyfeed.retrieval.progress import Progress

HIDDEN = 160
BATCH = 64
_SEEN = 30_000  # training examples; a smaller set is repeated for several epochs
_SMOOTHING = 0.05  # of the target: operators disagree about the right reply in one of five situations
_DROPPED = 0.2  # share of features
_HIDDEN_DROPPED = 0.3


@dataclass(frozen=True, slots=True)
class Example:
    """A situation and the saved reply (by its index) that was taken in it; `draft` are features of the typed text."""

    ids: Ids
    draft: Ids
    vector: Vectors
    reply: int


def train(
    examples: Sequence[Example],
    replies: Sequence[str],
    *,
    epochs: int | None = None,
    rate: float = 0.02,
    seed: int = 0,
    progress: Progress | None = None,
) -> ReplyNetwork:
    """A network over `replies` (in the order of `Example.reply`). The same input gives the same network."""
    from threadpoolctl import threadpool_limits

    # The matrices are small: more threads spend more time waiting for each other than computing.
    with threadpool_limits(1):
        return _trained(examples, replies, epochs, rate, seed, progress)


def _trained(
    examples: Sequence[Example], replies: Sequence[str], epochs: int | None, rate: float, seed: int,
    progress: Progress | None,
) -> ReplyNetwork:  # fmt: skip
    epochs = epochs or int(np.clip(_SEEN // len(examples), 6, 30))
    rng = np.random.default_rng(seed)
    width = len(examples[0].vector)
    net = ReplyNetwork(
        replies=tuple(replies),
        words=rng.normal(0, 0.03, (BUCKETS, HIDDEN)).astype(np.float32),
        dense=rng.normal(0, width**-0.5, (width, HIDDEN)).astype(np.float32),
        hidden=np.zeros(HIDDEN, dtype=np.float32),
        out=rng.normal(0, 0.03, (HIDDEN, len(replies))).astype(np.float32),
        bias=np.zeros(len(replies), dtype=np.float32),
    )
    squares = {name: np.full_like(getattr(net, name), 1e-6) for name in ("words", "dense", "hidden", "out", "bias")}

    def step(name: str, gradient: np.ndarray, rows: np.ndarray | None = None) -> None:
        value, square = getattr(net, name), squares[name]
        if rows is None:
            square += gradient * gradient
            value -= speed * gradient / np.sqrt(square)
        else:
            square[rows] += gradient * gradient
            value[rows] -= speed * gradient / np.sqrt(square[rows])

    vectors = np.stack([example.vector for example in examples])
    targets = np.array([example.reply for example in examples])
    steps, done = epochs * -(-len(examples) // BATCH), 0
    for _ in range(epochs):
        order = rng.permutation(len(examples))
        for start in range(0, len(order), BATCH):
            speed = rate * (1 - done / steps)
            chosen = order[start : start + BATCH]
            with_draft = rng.random(len(chosen)) < 0.5
            bags = [
                np.concatenate((examples[place].ids, examples[place].draft)) if drafted else examples[place].ids
                for place, drafted in zip(chosen, with_draft, strict=True)
            ]
            flat = np.concatenate(bags)
            owner = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
            kept = rng.random(len(flat)) >= _DROPPED
            flat, owner = flat[kept], owner[kept]
            rows, place = np.unique(flat, return_inverse=True)
            counts = np.zeros((len(bags), len(rows)), dtype=np.float32)
            counts[owner, place] = 1.0
            dense = vectors[chosen]
            state = counts @ net.words[rows] + dense @ net.dense + net.hidden
            mask = (rng.random(state.shape, dtype=np.float32) >= _HIDDEN_DROPPED) / np.float32(1 - _HIDDEN_DROPPED)
            active = np.maximum(state, 0) * mask
            logits = active @ net.out + net.bias
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            shares -= _SMOOTHING / len(replies)
            shares[np.arange(len(chosen)), targets[chosen]] -= 1 - _SMOOTHING
            shares /= len(chosen)
            back = (shares @ net.out.T) * mask * (state > 0)
            step("out", active.T @ shares)
            step("bias", shares.sum(axis=0))
            step("dense", dense.T @ back)
            step("hidden", back.sum(axis=0))
            step("words", counts.T @ back, rows)
            done += 1
            if progress and done % 20 == 0:
                progress("learning replies", done, steps)
    if progress:
        progress("learning replies", steps, steps)
    return net
