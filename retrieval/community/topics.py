"""Topics in words, and the posts that are about them.

"less homebrewing" must reach posts tagged `brewing` and `home-brew` as well as those that say
"homebrewing"; 量子纠错 must reach `error-correction`. So a topic is matched three ways: words in
title and tags, the community's own tags whose vectors are near the topic's, and the whole post's
vector.
"""

from __future__ import annotations

import numpy as np

from whyfeed.retrieval.arrays import Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.language import stem, stems
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.words import words

# Cosines between a topic and a tag that means the same, chosen by eye on the demo's tags: where one
# tag is the topic word for word, others must be near synonyms; else the nearest ones count.
TAG_COSINE, TAG_COSINE_BESIDE_EXACT, TAG_MARGIN = 0.62, 0.75, 0.03
POST_COSINE = 0.55  # between a topic and a post that is about it; the topic is a word or two


class Topics:
    """Finds the posts that a topic is about, in one community."""

    def __init__(self, store: Store, community: Community, embedder: Embedder) -> None:
        self._store = store
        self._community = community
        self._embedder = embedder
        self._tags = community.common_tags
        self._rows_of_tag: dict[str, list[int]] = {}
        for row, tags in enumerate(community.tags):
            for tag in tags:
                self._rows_of_tag.setdefault(tag, []).append(row)
        self.row_of_num = {num: row for row, num in enumerate(community.nums.tolist())}
        self.as_of = community.as_of
        self._vector_of: dict[str, Vectors] = {}

    def vector(self, topic: str) -> Vectors:
        """The topic's sentence vector (d,)."""
        if topic not in self._vector_of:
            if len(self._vector_of) > 1000:
                self._vector_of.clear()
            self._vector_of[topic] = self._embedder.encode([topic])[0]
        return self._vector_of[topic]

    def tags(self, topic: str) -> list[tuple[str, float]]:
        """The community's tags that mean the topic, with how near they are (0..1), nearest first."""
        if not self._tags:
            return []
        spoken = _stems(topic)
        near: dict[str, float] = {}
        for tag in self._tags:
            if spoken and _stems(tag) == spoken:
                near[tag] = 1.0
        cosines = self._community.tag_vectors @ self.vector(topic)
        bar = TAG_COSINE_BESIDE_EXACT if near else max(TAG_COSINE, float(cosines.max()) - TAG_MARGIN)
        for place in np.flatnonzero(cosines >= bar):
            near.setdefault(self._tags[place], float(cosines[place]))
        return sorted(near.items(), key=lambda item: -item[1])

    def match(self, topic: str) -> dict[int, float]:
        """Rows of the posts that are about the topic, with how surely (0..1)."""
        found: dict[int, float] = {}
        for tag, cosine in self.tags(topic):
            for row in self._rows_of_tag[tag]:
                found[row] = max(found.get(row, 0.0), cosine)
        spoken = _stems(topic)
        if spoken:
            for num, _ in self._store.search(topic, 500, self.as_of):
                place = self.row_of_num.get(num)
                if place is not None and spoken <= _stems(self._head(place)):
                    found[place] = max(found.get(place, 0.0), 0.9)
        if len(self._community):
            for num, cosine in self._nearest(topic, 200):
                place = self.row_of_num.get(num)
                if place is not None and cosine >= POST_COSINE:
                    found[place] = max(found.get(place, 0.0), cosine)
        return found

    def search(self, query: str, limit: int) -> dict[int, float]:
        """Rows for a query with their relevance (0..1): meaning (cosine), words (BM25), and tags.

        Where no word matches, as with a Chinese query over English posts, meaning alone decides.
        """
        lexical = self._store.search(query, limit, self.as_of)
        meaning = 0.45 if lexical else 0.85
        scores: dict[int, float] = {}
        for num, cosine in self._nearest(query, limit):
            row = self.row_of_num.get(num)
            if row is not None:
                scores[row] = meaning * max(cosine, 0.0)
        best = max((score for _, score in lexical), default=1.0)
        for num, score in lexical:
            row = self.row_of_num.get(num)
            if row is not None:
                scores[row] = scores.get(row, 0.0) + 0.4 * score / best
        for tag, cosine in self.tags(query):
            for row in self._rows_of_tag[tag]:
                scores[row] = scores.get(row, 0.0) + 0.15 * cosine
        return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit])

    def _nearest(self, text: str, limit: int) -> list[tuple[int, float]]:
        return self._community.index.search(self.vector(text)[None, :], limit, self._community.later)[0]

    def _head(self, row: int) -> str:
        post = self._store.posts([self._community.ids[row]]).get(self._community.ids[row])
        return "" if post is None else f"{post.title} {' '.join(post.tags)}"


def _stems(text: str) -> frozenset[str]:
    """So that "brewing beers" meets "beer" and "brew"; where no word carries meaning, of them all."""
    return stems(text) or frozenset(map(stem, words(text)))
