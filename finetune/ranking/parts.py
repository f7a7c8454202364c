"""The base rankers that the ranking core combines; each uses one kind of evidence in the histories.

`finetune.ranking.stack` selects which of them a community gets. Each is a `Ranker`: fitted on histories, then asked
for scores of the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import Ease, ItemKnn, Popularity, Ranker, Resources, TextSimilarity, UserKnn
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.ranking.next_item import MIN_LIKES, TransformerConfig, train_next_item
from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community.cooccurrence import (
    CANDIDATE_SMOOTHING,
    HISTORY_SMOOTHING,
    text_neighbours,
    transitions,
)
from whyfeed.retrieval.errors import DataError

_BLOCK = 256  # posts whose cosines are computed at once
_NEIGHBOURS = 50  # of a post, by words


@dataclass
class SmoothedCooccurrence:
    """Co-occurrence smoothed over similar posts: (w + .5 w N) M (I + .75 N') for a history w, counts M, neighbours N.

    `counts`: "sequence", how often one post follows another, damped by the popularity of the history post; or "set",
    how often two are liked by the same user, damped on both sides. `neighbours`: by "vectors" of the embedder, by
    "words" (TF-IDF), or "none", for catalogues whose texts say little, as names of artists.
    """

    resources: Resources
    counts: str
    neighbours: str

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError for "sequence" when the histories have no order."""
        from scipy import sparse

        if self.counts == "sequence" and not histories.ordered:
            raise DataError("the histories have no order")
        self._history = histories.recent(0.8 if self.counts == "sequence" else 1.0)
        places = histories.first_likes
        size = len(histories.posts)
        forward, together, popularity = transitions(histories.user[places], histories.post[places], size)
        if self.counts == "sequence":
            damping = sparse.diags(((popularity + 5.0) ** -0.8).astype(np.float32))
            counts = damping @ (forward + 0.3 * forward.T + 0.3 * together)
        else:
            before, after = ((popularity + 1.0) ** power for power in (-0.8, -0.25))
            counts = sparse.diags(before.astype(np.float32)) @ together @ sparse.diags(after.astype(np.float32))
        self._counts = counts.tocsr().astype(np.float32)
        self._near = self.resources.cached(f"neighbours {self.neighbours}", self._neighbours)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        history = self._history[users]
        reached = ((history + HISTORY_SMOOTHING * (history @ self._near)) @ self._counts).toarray()
        return np.asarray(reached + CANDIDATE_SMOOTHING * (self._near @ reached.T).T, dtype=np.float32)

    def _neighbours(self) -> Any:
        from scipy import sparse

        size = len(self.resources.texts)
        if self.neighbours == "vectors":
            return text_neighbours(self.resources.vectors)
        if self.neighbours == "words":
            return word_neighbours(self.resources.texts)
        return sparse.csr_matrix((size, size), dtype=np.float32)


def word_neighbours(texts: tuple[str, ...]) -> Any:
    """Sparse (n, n): weights of each post's 50 nearest others, squared TF-IDF cosines that sum to 1 in a row."""
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
            near = np.argpartition(-cosines, min(_NEIGHBOURS, size - 1))[:_NEIGHBOURS]
            near = near[cosines[near] > 0]
            squares = cosines[near] ** 2
            lines.append(np.full(len(near), row))
            columns.append(near)
            weights.append(squares / max(squares.sum(), 1e-12))
    places = (np.concatenate(lines), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(weights), places), shape=(size, size))


@dataclass
class RecentText:
    """Cosine of a post's text vector with those of the history; each older post weighs half of the next newer one."""

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when the histories have no order: then it equals `TextSimilarity`."""
        if not histories.ordered:
            raise DataError("the histories have no order")
        self._history, self._vectors = histories.recent(0.5), self.resources.vectors

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray((self._history[users] @ self._vectors) @ self._vectors.T, dtype=np.float32)


@dataclass
class LikesOfFollowed:
    """How many of the users that a user follows, or is followed by, liked a post."""

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when nobody follows anybody."""
        if not histories.friends.nnz:
            raise DataError("nobody follows anybody")
        self._friends, self._liked = histories.friends, histories.liked

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray((self._friends[users] @ self._liked).toarray(), dtype=np.float32)


@dataclass
class LinkedPosts:
    """Number of links from the history to a post; paths over one other post count half."""

    resources: Resources

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
class NextItemPart:
    """The next-item transformer over text vectors, and with `llm` also over the language model's vectors."""

    resources: Resources
    llm: bool = False
    min_likes: int = MIN_LIKES
    recipe: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(size=128)
    )  # twice the size that a home uses, see LOG.md

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError for too few likes, or without a language model when `llm` is set."""
        if not enough_likes(histories, self.min_likes):
            raise DataError("there are too few likes for a transformer")
        text: Vectors = (
            np.concatenate([self.resources.vectors, self.resources.llm_vectors], 1)
            if self.llm
            else self.resources.vectors
        )
        self._histories = liked_sequences(histories)
        place = None
        if histories.fresh is None:
            learnt, known = self._histories, text
        else:  # posts that arrive later are not in the training; only their text vectors are used
            place = np.where(histories.fresh, -1, np.cumsum(~histories.fresh) - 1)
            learnt, known = [place[history] for history in self._histories], text[~histories.fresh]
        self.model = train_next_item(learnt, known, histories.ordered, self.recipe, self.resources.progress)
        self._items = self.model.items(text, place)
        self._bias = self.model.arrays["bias"] if place is None else self.model.biases(place)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        states = self.model.states([self._histories[user] for user in users], self._items)
        return np.asarray(states @ self._items.T + self._bias, dtype=np.float32)


def enough_likes(histories: Histories, least: int = MIN_LIKES) -> bool:
    """Whether there are at least `least` likes, enough to train a transformer."""
    return int(histories.lengths.sum()) >= least


def liked_sequences(histories: Histories) -> list[Rows]:
    """Rows of the posts that each user liked, oldest first."""
    places = histories.first_likes
    starts = np.searchsorted(histories.user[places], np.arange(1, len(histories.users)))
    return np.split(histories.post[places], starts)


# Scores of these are counts and are put on a logarithmic scale; the others are cosines and logits.
LOG_SCALED = ("popularity", "smoothed", "item-knn", "user-knn", "friends", "linked")
# Slow ones first, because two are fitted at a time.
PARTS: Mapping[str, Callable[[Resources], Ranker]] = {
    "next": NextItemPart,
    "ease": Ease,
    "smoothed sequence by vectors": lambda resources: SmoothedCooccurrence(resources, "sequence", "vectors"),
    "smoothed sequence by words": lambda resources: SmoothedCooccurrence(resources, "sequence", "words"),
    "smoothed set by vectors": lambda resources: SmoothedCooccurrence(resources, "set", "vectors"),
    "smoothed set by words": lambda resources: SmoothedCooccurrence(resources, "set", "words"),
    "smoothed set by none": lambda resources: SmoothedCooccurrence(resources, "set", "none"),
    "popularity": Popularity,
    "item-knn": ItemKnn,
    "user-knn": UserKnn,
    "text": TextSimilarity,
    "text recent": RecentText,
    "friends": LikesOfFollowed,
    "linked": LinkedPosts,
}
LLM_PARTS: Mapping[str, Callable[[Resources], Ranker]] = {
    "next llm": lambda resources: NextItemPart(resources, llm=True)
}
