"""Search for similar past situations at the desk, by vector and by words, with what the operator answered.

A case is one past answer of an operator and the situation before it. Its vector is that of the customer's messages
plus, with less weight, that of the operator's message before them, because "yes please" means nothing without the
question. The index in memory is a cache of the desk's tables: new cases are appended, any other change (an import that
replaces, an erasure) rebuilds it.
"""

from __future__ import annotations

import math
import re
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.arrays import Floats, Vectors, unit
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.community.index import PostIndex
from whyfeed.retrieval.desk.situation import Situation
from whyfeed.retrieval.desk.store import Case, DeskStore
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.words import words

BEFORE = 0.3  # weight of the operator's last message in a situation's vector; chosen on validation conversations
DENSE, LEXICAL, EDITS = 80, 40, 10  # cases returned by vector search, by word search, and by search among edits
SHARPNESS = 6.0  # inverse temperature of the softmax that turns scores into weights of cases
WORDS_WEIGHT = 1.0  # weight of the word similarity; the vectors' cosine has 1
INDEX_FILE = "cases.faiss"
_LARGE = 60_000  # from this many cases on, an inverted file is searched instead of every vector
_BATCH = 2_000
_READ = 50_000  # word frequencies are counted on the first cases only, up to this many
_CACHED = 50_000  # vectors of texts kept in memory
_MARK = "case"
_HAN_RUN = re.compile(r"[\u3400-\u9fff]+")
_COLUMNS = 1 << 18  # columns of the hashed bag of words; more than there are words, so that few collide


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar case: the cosine of its vector, and its weight; the weights of all neighbours sum to 1."""

    case: Case
    similarity: float
    weight: float


class CaseBook:
    """The cases of a desk in memory. Safe for use from several threads; call `refresh` before a request."""

    def __init__(self, desk: DeskStore, embedder: Embedder) -> None:
        self._desk = desk
        self._embedder = embedder
        self._lock = threading.RLock()
        self._index: PostIndex | None = None
        self._generation = -1
        self._last = 0
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self.habits: Counter[str] = Counter()  # saved reply -> how often it was taken
        self._frequency: Counter[str] = Counter()  # word -> cases whose answer has it
        self._read = 0
        self._edits: list[int] = []  # cases in which an operator rewrote a suggestion
        self._edit_vectors: list[Vectors] = []
        self._bags: dict[str, tuple[npt.NDArray[np.int32], Floats]] = {}
        self._bagged = 0  # answers counted for the frequencies behind `_bags`

    def __len__(self) -> int:
        return 0 if self._index is None else len(self._index)

    def refresh(self, progress: Progress | None = None) -> None:
        """Append cases that are new in the store; load everything again where cases were removed or replaced."""
        with self._lock:
            generation = self._desk.generation()
            if self._index is None or generation != self._generation:
                self._generation = generation
                self._load(progress)
            new = list(self._desk.cases(after=self._last))
            if new:
                self._add(new, progress)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, (n, d), with a cache of the recently used ones."""
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
            for start in range(0, len(missing), 256):
                part = missing[start : start + 256]
                self._cache.update(zip(part, self._embedder.encode(part), strict=True))
            found = np.stack([self._cache[text] for text in texts]) if texts else np.zeros((0, self.dimension))
            for text in texts:
                self._cache.move_to_end(text)
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return np.asarray(found, dtype=np.float32)

    @property
    def dimension(self) -> int:
        """Dimension d of the vectors."""
        return self._embedder.dimension

    def vector(self, asked: Sequence[str], before: Sequence[str]) -> Vectors:
        """Unit vectors (n, d) of n situations, given by their two texts each; see `Situation`."""
        return unit(self.encode(asked) + BEFORE * self.encode(before))

    def nearest(self, found: Situation, limit: int) -> list[tuple[Case, float]]:
        """At most `limit` (case, cosine) by the vectors of the situations alone, best first."""
        if self._index is None or not len(self._index):
            return []
        near = self._index.search(self.vector([found.asked], [found.before]), limit)[0]
        cases = self._desk.cases_by_num([num for num, _ in near])
        return [(cases[num], cosine) for num, cosine in near if num in cases]

    def like(self, found: Situation, besides: str = "") -> list[Neighbour]:
        """Cases in similar situations, best first; none of the conversation `besides`.

        Candidates come from vector search and from BM25; their score is the cosine of the vectors plus the cosine of
        the TF-IDF bags of words, and the weights are a softmax of the scores.
        """
        if self._index is None or not len(self._index):
            return []
        vector = self.vector([found.asked], [found.before])[0]
        near = dict(self._index.search(vector[None], DENSE)[0])
        if self._edits:  # searched apart, so that they are found among thousands of equal situations
            likeness = np.stack(self._edit_vectors) @ vector
            near |= {self._edits[place]: float(likeness[place]) for place in np.argsort(-likeness)[:EDITS]}
        spoken = [num for num, _ in self._desk.search(f"{found.asked} {found.draft}", LEXICAL)]
        cases = self._desk.cases_by_num([*near, *(num for num in spoken if num not in near)])
        cases = {num: case for num, case in cases.items() if case.conversation != besides}
        if not cases:
            return []
        nums = list(cases)
        apart = [num for num in nums if num not in near]
        if apart:
            vectors = self.vector([cases[num].asked for num in apart], [cases[num].before for num in apart])
            near.update(zip(apart, (vectors @ vector).tolist(), strict=True))
        worded = (self.bags([cases[num].asked for num in nums]) @ self.bags([found.asked]).T).toarray()[:, 0]
        scores = np.array([near[num] for num in nums]) + WORDS_WEIGHT * worded
        weights = np.exp(SHARPNESS * (scores - scores.max()))
        weights /= weights.sum()
        order = np.argsort(-scores, kind="stable")
        return [Neighbour(cases[nums[place]], near[nums[place]], float(weights[place])) for place in order]

    def rarity(self, word: str) -> float:
        """Inverse document frequency log((n + 1) / (n with the word + 1)) over the n counted answers; 1 without any."""
        return math.log((self._read + 1) / (self._frequency[word] + 1)) if self._read else 1.0

    def bags(self, texts: Sequence[str]) -> Any:
        """Hashed bags of the grams of texts, weighted by `rarity`: sparse (n, columns), rows of length 1."""
        from scipy.sparse import csr_array

        rows = [self._bag(text) for text in texts]
        places = np.concatenate([row[0] for row in rows]) if rows else np.zeros(0, dtype=np.int32)
        values = np.concatenate([row[1] for row in rows]) if rows else np.zeros(0, dtype=np.float32)
        starts = np.cumsum([0, *(len(row[0]) for row in rows)])
        return csr_array((values, places, starts), shape=(len(texts), _COLUMNS))

    def frequency(self, word: str) -> int:
        """The number of counted answers that contain the word."""
        return self._frequency[word]

    # ---- inside ----

    def _bag(self, text: str) -> tuple[npt.NDArray[np.int32], Floats]:
        if self._read > 1.05 * self._bagged or len(self._bags) > _CACHED:  # frequencies changed, or it is full
            self._bags, self._bagged = {}, self._read
        if text in self._bags:
            return self._bags[text]
        columns = _columns(text)
        values = np.array([self.rarity(gram) for gram in columns.values()], dtype=np.float32)
        length = float(np.sqrt((values * values).sum())) or 1.0
        bag = np.fromiter(columns, dtype=np.int32, count=len(columns)), values / np.float32(length)
        self._bags[text] = bag
        return bag

    def _load(self, progress: Progress | None) -> None:
        self.habits.clear()
        self._frequency.clear()
        self._edits.clear()
        self._edit_vectors.clear()
        self._read = self._last = 0
        nums, vectors = self._desk.vectors(self._embedder.name, self.dimension)
        total = self._desk.counts()["cases"]
        factory = "IDMap2,Flat" if total < _LARGE else f"IDMap2,IVF{int(2 * math.sqrt(total))},SQ8"
        path = self._desk.home / INDEX_FILE
        loaded = PostIndex.load(path, self.dimension, self._embedder.name, factory)
        index = loaded or PostIndex(self.dimension, self._embedder.name, factory)
        known = set(nums)
        self._index = index
        missing: list[Case] = []
        done = 0
        for case in self._desk.cases():
            self._count(case)
            self._last = case.num
            if case.num not in known:
                missing.append(case)
            if len(missing) == _BATCH:
                self._embed(missing, progress, done, total - len(known))
                done += len(missing)
                missing = []
        if missing:
            self._embed(missing, progress, done, total - len(known))
        if len(nums) != total:
            nums, vectors = self._desk.vectors(self._embedder.name, self.dimension)
        there = index.digests()
        gone = list(set(there).difference(nums))
        index.remove(gone)
        new = [place for place, num in enumerate(nums) if num not in there]
        if new:
            index.add([nums[place] for place in new], [_MARK] * len(new), vectors[new])
        if total >= _LARGE and (new or gone or loaded is None):
            index.save(path)

    def _add(self, cases: Sequence[Case], progress: Progress | None) -> None:
        for case in cases:
            self._count(case)
        vectors = self._embed(cases, progress, 0, len(cases))
        if self._index is not None:
            self._index.add([case.num for case in cases], [_MARK] * len(cases), vectors)
        self._last = cases[-1].num

    def _embed(self, cases: Sequence[Case], progress: Progress | None, done: int, total: int) -> Vectors:
        """Compute the vectors of cases (n, d), store and return them."""
        vectors = self.vector([case.asked for case in cases], [case.before for case in cases])
        self._desk.put_vectors(self._embedder.name, [case.num for case in cases], vectors)
        if progress:
            progress("reading past conversations", done + len(cases), max(total, done + len(cases)))
        return vectors

    def _count(self, case: Case) -> None:
        if case.edited:
            self._edits.append(case.num)
            self._edit_vectors.append(self.vector([case.asked], [case.before])[0])
        if case.reply:
            self.habits[case.reply] += 1
        if self._read < _READ:
            self._read += 1
            self._frequency.update(grams(case.text))


@lru_cache(maxsize=50_000)
def grams(text: str) -> frozenset[str]:
    """The features of a text for word similarity: words, pairs of words, 2- and 3-grams of Chinese characters."""
    spelled = words(text)
    # Character n-grams for Chinese, because its word segmentation depends on the context.
    runs = [
        run[at : at + size] for run in _HAN_RUN.findall(text) for size in (2, 3) for at in range(len(run) - size + 1)
    ]
    return frozenset([*spelled, *(f"{first} {second}" for first, second in pairwise(spelled)), *runs])


@lru_cache(maxsize=50_000)
def _columns(text: str) -> dict[int, str]:
    """Column in the bag of words -> gram, for the grams of a text."""
    return {zlib.crc32(gram.encode()) % _COLUMNS: gram for gram in sorted(grams(text))}
