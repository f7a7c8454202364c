"""The next-item transformer: scores posts as the next one of a history. Inference in numpy.

`finetune.ranking.next_item` trains it. It is self-attention over the posts of a history (SASRec: Kang and McAuley
2018), where the input vector of a post is a learnt vector plus a projection of its text vectors. Posts newer than the
model use only their text vectors. New events count without retraining, because the model reads the history itself.
Positions are counted from the end of a history, so the newest post always has the same one.
"""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whyfeed.retrieval.arrays import Condenser, Floats, Rows, Vectors

Arrays = Mapping[str, Floats]
_BLOCK = 512  # histories in one batch
_EPSILON = 1e-5  # of the layer norms


@dataclass(frozen=True, eq=False)
class NextItem:
    """The trained model; `arrays` are its weights by name, as `finetune.ranking.next_item` writes them."""

    arrays: Arrays
    heads: int
    longest: int  # newest events of a history that are read
    posts: tuple[str, ...] = ()  # ids of the training posts, by index in `arrays["ids"]`; empty if not stored
    encoder: str = ""  # name of the post encoder whose vectors are used beside the sentence vectors; "" for none

    @property
    def ordered(self) -> bool:
        """Whether the model uses the order of a history."""
        return "positions" in self.arrays

    def text(self, vectors: Vectors, states: Vectors) -> Vectors:
        """Text vectors (n, t) of posts: their sentence vectors beside the condensed `states` (n, d) of the `encoder`.

        Rows of NaN are posts that were not encoded yet; they get zeros in place of the condensed states.
        """
        centre = self.arrays["centre"]
        known = np.where(np.isnan(states), centre, states)
        return np.concatenate([vectors, Condenser(centre, self.arrays["directions"])(known)], axis=1)

    def items(self, text: Vectors, known: Rows | None = None) -> Vectors:
        """Input vectors (n, d) of posts with these text vectors (n, t).

        `known` (n,) are the posts' indices among the training posts, -1 for posts newer than the model; None when the
        posts are exactly the training posts, in order.
        """
        ids = self.arrays["ids"]
        projected = text @ self.arrays["text"]
        if known is None:
            return np.asarray(projected + ids, dtype=np.float32)
        there = known >= 0
        projected[there] += ids[known[there]]
        return np.asarray(projected, dtype=np.float32)

    def biases(self, known: Rows) -> Floats:
        """Popularity biases (n,) of posts with these training indices; posts newer than the model (-1) get the mean."""
        bias = self.arrays["bias"]
        return np.where(known >= 0, bias[known], bias.mean()).astype(np.float32)

    def read(self, history: Rows) -> Rows:
        """The rows of a history that the model reads, in the order in which it reads them.

        A model that was trained without order reads them in a fixed pseudo-random order of the posts.
        """
        rows = np.asarray(history, dtype=np.int64)
        if not self.ordered:
            rows = rows[np.lexsort((rows, (rows * 2_654_435_761) % 2**32))]
        return rows[-self.longest :]

    def states(self, histories: Sequence[Rows], items: Vectors) -> Vectors:
        """The state (len(histories), d) after each history, whose rows are oldest first; zero for an empty one.

        `items` are the input vectors (n, d) of all posts. The logit of a post is the product of its input vector and
        the state, plus its bias.
        """
        found = np.zeros((len(histories), items.shape[1]), dtype=np.float32)
        cut = [self.read(history) for history in histories]
        lengths = np.array([len(history) for history in cut], dtype=np.int64)
        for length in np.unique(lengths[lengths > 0]):
            places = np.flatnonzero(lengths == length)
            for begin in range(0, len(places), _BLOCK):
                part = places[begin : begin + _BLOCK]
                found[part] = self._last(items[np.stack([cut[place] for place in part])])
        return found

    def _last(self, read: Floats) -> Floats:
        """The state (n, d) at the last position of n histories of the same length, (n, length, d)."""
        arrays, (count, length, size) = self.arrays, read.shape
        x = read
        if self.ordered:
            x = x + arrays["positions"][-length:]
        blocks = sum(name.endswith(".attend_in") for name in arrays)
        for block in range(blocks):
            own = {name.split(".", 1)[1]: value for name, value in arrays.items() if name.startswith(f"{block}.")}
            normed = _normed(x, own["norm1"], own["shift1"])
            # The last block is only needed at the last position.
            asking = normed[:, -1:] if block == blocks - 1 else normed
            width = size // self.heads
            query = asking @ own["attend_in"][:, :size] + own["attend_shift"][:size]
            rest = normed @ own["attend_in"][:, size:] + own["attend_shift"][size:]
            places = asking.shape[1]
            query = query.reshape(count, places, self.heads, width).swapaxes(1, 2)
            key, value = rest.reshape(count, length, 2, self.heads, width).transpose(2, 0, 3, 1, 4)
            weights = query @ key.swapaxes(2, 3) / np.float32(np.sqrt(width))
            if places > 1:
                weights += np.triu(np.full((places, length), -np.inf, dtype=np.float32), 1)
            weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            mixed = (weights @ value).swapaxes(1, 2).reshape(count, places, size)
            x = x[:, -places:] + mixed @ own["attend_out"] + own["attend_out_shift"]
            inner = _gelu(_normed(x, own["norm2"], own["shift2"]) @ own["widen"] + own["widen_shift"])
            x = x + inner @ own["narrow"] + own["narrow_shift"]
        return np.asarray(_normed(x[:, -1], arrays["norm"], arrays["shift"]), dtype=np.float32)

    def to_bytes(self) -> bytes:
        """The model as the bytes of an .npz file; `from_bytes` reads it."""
        buffer = io.BytesIO()
        shape = np.array([self.heads, self.longest])
        names = {"posts": np.array(self.posts, dtype=np.str_), "encoder": np.array(self.encoder)}
        np.savez(buffer, allow_pickle=False, shape=shape, **names, **self.arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> NextItem:
        """The model that `to_bytes` wrote; ValueError when the file is damaged or of another kind."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = dict(file)
            heads, longest = arrays.pop("shape").tolist()
            encoder = str(arrays.pop("encoder", ""))  # older files have none
            return cls(arrays, heads, longest, tuple(arrays.pop("posts").tolist()), encoder)
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as exc:
            raise ValueError(f"not the weights of a next-item transformer ({exc})") from exc


_STATES = 64  # cached states: one request scores a history and its variants with one post left out


class NextPosts:
    """A next-item transformer applied to the n posts of one community, given by ids and text vectors (n, t)."""

    def __init__(self, model: NextItem, ids: Sequence[str], text: Vectors) -> None:
        place_of = {id: place for place, id in enumerate(model.posts)}
        known = np.array([place_of.get(id, -1) for id in ids], dtype=np.int64)
        self._model = model
        self._items = model.items(text, known)
        # The bias is appended as one more dimension, in which every state is 1.
        self._wide = np.concatenate([self._items, model.biases(known)[:, None]], axis=1)
        self._mean = self._wide.mean(axis=0)
        centred = (self._wide - self._mean).astype(np.float64)
        self._covariance = centred.T @ centred / max(len(centred), 1)
        self._states: OrderedDict[bytes, tuple[Floats, float, float]] = OrderedDict()

    def score(self, history: Rows, rows: Rows | None = None) -> Floats:
        """Logits of `rows` (all posts when None) after a history, standardised over the posts of the community.

        A post's score depends on the history and the community, not on the other rows; it is 0 without a history.
        """
        wanted = self._wide if rows is None else self._wide[rows]
        if not len(history):
            return np.zeros(len(wanted), dtype=np.float32)
        state, mean, deviation = self._state(history)
        # Not a matrix product: the rounding of BLAS depends on the number of rows.
        return np.asarray((np.vecdot(wanted, state) - mean) / deviation, dtype=np.float32)

    def _state(self, history: Rows) -> tuple[Floats, float, float]:
        recent = np.ascontiguousarray(history[-self._model.longest :], dtype=np.int64)
        key = recent.tobytes()
        if key not in self._states:
            state = np.append(self._model.states([recent], self._items)[0], np.float32(1))
            deviation = float(np.sqrt(max(state @ self._covariance @ state, 1e-12)))
            self._states[key] = (state, float(self._mean @ state), deviation)
            while len(self._states) > _STATES:
                self._states.popitem(last=False)
        return self._states[key]


def _normed(x: Floats, scale: Floats, shift: Floats) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
    return np.asarray(centred / spread * scale + shift)


def _gelu(x: Floats) -> Floats:
    # The tanh approximation (Hendrycks and Gimpel 2016): numpy has no error function.
    return np.asarray(0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3))))
