"""Topics given in words: the tags that mean them, and the posts that are about them.

"less homebrewing" must match posts tagged `brewing` and `home-brew` as well as posts that say "homebrewing", and
量子纠错 must match `error-correction`. A topic is therefore matched in three ways: by words in title and tags, by the
cosine with the vectors of the community's tags, and by the cosine with the vector of the post.
"""

from __future__ import annotations

import numpy as np

from whyfeed.retrieval.arrays import Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.language import stem, stems
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.words import words

# Least cosines between a topic and a tag of the same meaning, chosen by hand on the tags of the demo. Where a tag
# equals the topic, others must be near synonyms; otherwise the nearest tags count, within a margin of the best.
TAG_COSINE, TAG_COSINE_BESIDE_EXACT, TAG_MARGIN = 0.62, 0.75, 0.03
POST_COSINE = 0.55  # least cosine between a topic of a word or two and a post about it


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
        """(tag, cosine) of the community's tags that mean the topic, best first; 1 for the same words."""
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
        """Row -> confidence (0..1) of the posts that are about the topic; less for posts with unusually many tags."""
        found: dict[int, float] = {}
        focus = self._community.focus
        for tag, cosine in self.tags(topic):
            for row in self._rows_of_tag[tag]:
                found[row] = max(found.get(row, 0.0), cosine * float(focus(row)))
        spoken = _stems(topic)
        if spoken:
            for num, _ in self._store.search(topic, 500, self.as_of):
                place = self.row_of_num.get(num)
                if place is not None and spoken <= _stems(self._head(place)):
                    found[place] = max(found.get(place, 0.0), 0.9 * float(focus(place)))
        if len(self._community):
            for num, cosine in self._nearest(topic, 200):
                place = self.row_of_num.get(num)
                if place is not None and cosine >= POST_COSINE:
                    found[place] = max(found.get(place, 0.0), cosine * float(focus(place)))
        return found

    def search(self, query: str, limit: int) -> dict[int, float]:
        """Row -> relevance (0..1) for a query, best first: a weighted sum of cosine, BM25 and tags.

        Where no word matches, as with a Chinese query over English posts, the cosine gets the weight of BM25 too.
        """
        lexical = self._store.search(query, limit, self.as_of)
        meaning = 0.45 if lexical else 0.85
        scores: dict[int, float] = {}
        focus = self._community.focus
        for num, cosine in self._nearest(query, limit):
            row = self.row_of_num.get(num)
            if row is not None:
                scores[row] = meaning * max(cosine, 0.0) * float(focus(row))
        best = max((score for _, score in lexical), default=1.0)
        for num, score in lexical:
            row = self.row_of_num.get(num)
            if row is not None:
                scores[row] = scores.get(row, 0.0) + 0.4 * score / best
        for tag, cosine in self.tags(query):
            for row in self._rows_of_tag[tag]:
                scores[row] = scores.get(row, 0.0) + 0.15 * cosine * float(focus(row))
        return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit])

    def _nearest(self, text: str, limit: int) -> list[tuple[int, float]]:
        return self._community.index.search(self.vector(text)[None, :], limit, self._community.later)[0]

    def _head(self, row: int) -> str:
        post = self._store.posts([self._community.ids[row]]).get(self._community.ids[row])
        return "" if post is None else f"{post.title} {' '.join(post.tags)}"


def _stems(text: str) -> frozenset[str]:
    """Stems of the content words, so that "brewing beers" matches "beer" and "brew"; of all words if there are none."""
    return stems(text) or frozenset(map(stem, words(text)))
