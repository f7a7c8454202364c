"""What the ranking core combines: rankers that each see one thing in the histories.

`finetune.ranking.stack` decides which of them a community gets. Each is a `Ranker`: fitted on histories, then asked for
scores of the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import Ease, ItemKnn, Popularity, Ranker, Text, Tools, UserKnn
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.ranking.next_item import ENOUGH, Recipe, train_sequence
from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community.cooccurrence import (
    CANDIDATE_SMOOTHING,
    HISTORY_SMOOTHING,
    text_neighbours,
    transitions,
)
from whyfeed.retrieval.errors import DataError

_BLOCK = 256


@dataclass
class Smoothed:
    """Text-smoothed co-occurrence: (w + .5 w N) M (I + .75 N') for a history w, counts M and neighbours N.

    `counts` are "sequence", what follows what, by the damped popularity of the history post; or "set", both sides
    damped. `neighbours` are by "vectors" of the embedder, by "words" (TF-IDF), or "none": names of artists say nothing.
    """

    tools: Tools
    counts: str
    neighbours: str

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when nothing follows anything and what follows is to be counted."""
        from scipy import sparse

        if self.counts == "sequence" and not histories.ordered:
            raise DataError("the histories have no order")
        self._history = histories.recent(0.8 if self.counts == "sequence" else 1.0)
        places = histories.firsts
        size = len(histories.posts)
        forward, together, popularity = transitions(histories.user[places], histories.post[places], size)
        if self.counts == "sequence":
            damping = sparse.diags(((popularity + 5.0) ** -0.8).astype(np.float32))
            counts = damping @ (forward + 0.3 * forward.T + 0.3 * together)
        else:
            before, after = ((popularity + 1.0) ** power for power in (-0.8, -0.25))
            counts = sparse.diags(before.astype(np.float32)) @ together @ sparse.diags(after.astype(np.float32))
        self._counts = counts.tocsr().astype(np.float32)
        self._near = self.tools.made(f"neighbours {self.neighbours}", self._neighbours)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        history = self._history[users]
        reached = ((history + HISTORY_SMOOTHING * (history @ self._near)) @ self._counts).toarray()
        return np.asarray(reached + CANDIDATE_SMOOTHING * (self._near @ reached.T).T, dtype=np.float32)

    def _neighbours(self) -> Any:
        from scipy import sparse

        size = len(self.tools.texts)
        if self.neighbours == "vectors":
            return text_neighbours(self.tools.vectors)
        if self.neighbours == "words":
            return word_neighbours(self.tools.texts)
        return sparse.csr_matrix((size, size), dtype=np.float32)


def word_neighbours(texts: tuple[str, ...], count: int = 50) -> Any:
    """Sparse (n, n): each post's nearest others by TF-IDF cosine, squared, rows summing to 1."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    from whyfeed.retrieval.words import content_words

    size = len(texts)
    try:
        vectors = TfidfVectorizer(analyzer=content_words, sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    except ValueError:  # no words at all
        return sparse.csr_matrix((size, size), dtype=np.float32)
    transposed = vectors.T.tocsr()
    lines: list[Rows] = []
    columns: list[Rows] = []
    weights: list[Floats] = []
    for begin in range(0, size, _BLOCK):
        for row, cosines in enumerate((vectors[begin : begin + _BLOCK] @ transposed).toarray(), begin):
            cosines[row] = 0
            near = np.argpartition(-cosines, min(count, size - 1))[:count]
            near = near[cosines[near] > 0]
            squares = cosines[near] ** 2
            lines.append(np.full(len(near), row))
            columns.append(near)
            weights.append(squares / max(squares.sum(), 1e-12))
    places = (np.concatenate(lines), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(weights), places), shape=(size, size))


@dataclass
class Recent:
    """Cosine of a post's text vector with those of the history, each older one half as heavy."""

    tools: Tools

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when nothing is older than anything: then it is `Text`."""
        if not histories.ordered:
            raise DataError("the histories have no order")
        self._history, self._vectors = histories.recent(0.5), self.tools.vectors

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray((self._history[users] @ self._vectors) @ self._vectors.T, dtype=np.float32)


@dataclass
class Friends:
    """How many of those whom a user follows, or who follow them, liked a post."""

    tools: Tools

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when nobody follows anybody."""
        if not histories.friends.nnz:
            raise DataError("nobody follows anybody")
        self._friends, self._liked = histories.friends, histories.liked

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray((self._friends[users] @ self._liked).toarray(), dtype=np.float32)


@dataclass
class Linked:
    """How many links lead from the history to a post, over one post in between at half the weight."""

    tools: Tools

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when no post is linked to another."""
        from scipy import sparse

        if not histories.linked.nnz:
            raise DataError("no post is linked to another")
        degree = np.maximum(np.asarray(histories.linked.sum(axis=1)).ravel(), 1)
        self._step = (sparse.diags((1 / np.sqrt(degree)).astype(np.float32)) @ histories.linked).tocsr()
        self._liked = histories.liked

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        once = self._liked[users] @ self._step
        return np.asarray((once + 0.5 * (once @ self._step)).toarray(), dtype=np.float32)


@dataclass
class Next:
    """The next-item transformer over text vectors, and with `llm` over what a language model read in each post."""

    tools: Tools
    llm: bool = False
    enough: int = ENOUGH
    recipe: Recipe = field(default_factory=lambda: Recipe(size=128))  # twice a home's; LOG.md has what it gave

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError where there is too little to learn from."""
        if not enough(histories, self.enough):
            raise DataError("there are too few likes for a transformer")
        text: Vectors = np.concatenate([self.tools.vectors, self.tools.hidden], 1) if self.llm else self.tools.vectors
        self._histories = sequences(histories)
        place = None
        if histories.fresh is None:
            learnt, known = self._histories, text
        else:  # what arrives later has no place in training, and stands by its text
            place = np.where(histories.fresh, -1, np.cumsum(~histories.fresh) - 1)
            learnt, known = [place[history] for history in self._histories], text[~histories.fresh]
        self.model = train_sequence(learnt, known, histories.ordered, self.recipe, self.tools.progress)
        self._items = self.model.items(text, place)
        self._bias = self.model.arrays["bias"] if place is None else self.model.biases(place)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        states = self.model.states([self._histories[user] for user in users], self._items)
        return np.asarray(states @ self._items.T + self._bias, dtype=np.float32)


def enough(histories: Histories, least: int = ENOUGH) -> bool:
    """Whether there are so many likes that a transformer learns from them."""
    return int(histories.lengths.sum()) >= least


def sequences(histories: Histories) -> list[Rows]:
    """The liked posts of each user, oldest first."""
    places = histories.firsts
    starts = np.searchsorted(histories.user[places], np.arange(1, len(histories.users)))
    return np.split(histories.post[places], starts)


# What is counted is seen on a logarithmic scale; the others are cosines and logits.
COUNTED = ("popularity", "smoothed", "item-knn", "user-knn", "friends", "linked")
# The slow ones come first: two are fitted at a time.
WITHOUT_LLM: Mapping[str, Callable[[Tools], Ranker]] = {
    "next": Next,
    "ease": Ease,
    "smoothed sequence by vectors": lambda tools: Smoothed(tools, "sequence", "vectors"),
    "smoothed sequence by words": lambda tools: Smoothed(tools, "sequence", "words"),
    "smoothed set by vectors": lambda tools: Smoothed(tools, "set", "vectors"),
    "smoothed set by words": lambda tools: Smoothed(tools, "set", "words"),
    "smoothed set by none": lambda tools: Smoothed(tools, "set", "none"),
    "popularity": Popularity,
    "item-knn": ItemKnn,
    "user-knn": UserKnn,
    "text": Text,
    "text recent": Recent,
    "friends": Friends,
    "linked": Linked,
}
READING: Mapping[str, Callable[[Tools], Ranker]] = {"next llm": lambda tools: Next(tools, llm=True)}
