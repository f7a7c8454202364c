"""A small network that predicts which saved reply operators send in a situation.

Input: a bag of hashed features and the sentence vectors of what was just said; one hidden layer; one output per
reply (as fastText's classifier, Joulin et al. 2017, arXiv 1607.01759, with a hidden non-linearity). Trained by
`finetune.desk.fit` on past conversations; reading it needs numpy alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.arrays import Floats, Vectors

BUCKETS = 1 << 16
Ids = npt.NDArray[np.int32]


def bucket(features: Sequence[str]) -> Ids:
    """Bucket numbers of the features, sorted and distinct."""
    return np.unique(np.array([zlib.crc32(name.encode()) % BUCKETS for name in features], dtype=np.int32))


@dataclass(slots=True)
class ReplyNetwork:
    """Parameters: `words` (BUCKETS, h), `dense` (2 d, h), `hidden` (h), `out` (h, replies), `bias` (replies)."""

    replies: tuple[str, ...]
    words: Floats
    dense: Floats
    hidden: Floats
    out: Floats
    bias: Floats

    def log_probabilities(self, ids: Ids, vector: Vectors) -> Floats:
        """log P(reply | situation) of every reply, (replies,). `vector` (2 d,): asked, then before."""
        state = self.words[ids].sum(axis=0, dtype=np.float32) + vector @ self.dense + self.hidden
        logits = np.maximum(state, 0.0) @ self.out + self.bias
        top = logits.max()
        return np.asarray(logits - top - np.log(np.exp(logits - top).sum()), dtype=np.float32)

    def arrays(self) -> dict[str, Any]:
        """The parameters for `retrieval.files.keep_arrays`, in half precision."""
        half = {name: getattr(self, name).astype(np.float16) for name in ("words", "dense", "hidden", "out", "bias")}
        return {**half, "replies": np.array(self.replies)}

    @classmethod
    def from_arrays(cls, kept: Any) -> ReplyNetwork:
        """The network that `arrays` was called on, in single precision."""
        parts = {name: np.asarray(kept[name], dtype=np.float32) for name in ("words", "dense", "hidden", "out", "bias")}
        return cls(replies=tuple(str(id) for id in kept["replies"]), **parts)
