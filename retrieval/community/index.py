"""The FAISS index over post vectors, a cache of the vectors in the store.

FAISS accepts a second vector under the same id, raises a bare AssertionError for a wrong dimension, and pads the
result with -1 when k is too large. This module handles all three cases.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.files import write_whole

_GPU_MAX_K = 2048  # FAISS's own limit on a GPU
_WORTH_THREADS = 1_000_000  # cosines in one search from which threads help; tens of milliseconds on one core


class PostIndex:
    """Inner product search over unit vectors, whose ids are the posts' numbers.

    `factory` is any FAISS factory string whose index takes ids. Some kinds (HNSW) cannot remove vectors, see
    `can_remove`; rebuild such an index instead. Where faiss-gpu is installed, the search runs on the GPU. HomeError
    when FAISS rejects `factory`. Safe for use from several threads.
    """

    def __init__(self, dimension: int, model: str, factory: str = "IDMap2,Flat") -> None:
        self.dimension = dimension
        self.model = model
        self.factory = factory
        self._lock = threading.RLock()
        self._digests: dict[int, str] = {}
        self._index = self._make()
        self._gpu: Any = None

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, num: int) -> bool:
        return num in self._digests

    @property
    def digest(self) -> str:
        """A SHA-256 over the content of the index: model, dimension, factory, and the digests of all posts."""
        content = ",".join(f"{num}:{digest}" for num, digest in sorted(self._digests.items()))
        return hashlib.sha256(f"{self.model}|{self.dimension}|{self.factory}|{content}".encode()).hexdigest()

    def digests(self) -> dict[int, str]:
        """Number -> digest of the text that was embedded."""
        return dict(self._digests)

    def add(self, nums: Sequence[int], digests: Sequence[str], vectors: Vectors) -> None:
        """Add vectors (n, dimension), or replace those with the same numbers.

        ValueError when shapes differ or a number occurs twice, HomeError when there are too few to train the index.
        """
        if vectors.shape != (len(nums), self.dimension) or len(digests) != len(nums):
            raise ValueError(
                f"{len(nums)} numbers, {len(digests)} digests, vectors {vectors.shape}: need (n, {self.dimension})"
            )
        if len(set(nums)) != len(nums):
            raise ValueError("a number occurs twice")
        if not len(nums):
            return
        with self._lock:
            self.remove([num for num in nums if num in self._digests])
            array = np.ascontiguousarray(vectors, dtype=np.float32)
            if not self._index.is_trained:
                try:
                    self._index.train(array)
                except RuntimeError as exc:
                    raise HomeError(
                        f"{len(nums)} posts are too few to train an index {self.factory!r}; use 'IDMap2,Flat' for now"
                    ) from exc
            self._index.add_with_ids(array, np.asarray(nums, dtype=np.int64))
            self._digests.update(zip(nums, digests, strict=True))
            self._gpu = None

    def remove(self, nums: Sequence[int]) -> None:
        """Remove vectors; unknown numbers are ignored. ValueError when this kind of index cannot remove."""
        there = [num for num in nums if num in self._digests]
        if not there:
            return
        if not self.can_remove:
            raise ValueError(f"an index of the kind {self.factory!r} cannot remove vectors; build it anew")
        with self._lock:
            self._index.remove_ids(np.asarray(there, dtype=np.int64))
            for num in there:
                del self._digests[num]
            self._gpu = None

    @property
    def can_remove(self) -> bool:
        """Whether this kind of index can remove, and therefore replace, vectors."""
        import faiss

        return not isinstance(self._inner(), faiss.IndexHNSW)

    def search(self, vectors: Vectors, k: int, exclude: Rows | None = None) -> list[list[tuple[int, float]]]:
        """For each row of `vectors` (n, dimension), at most k (number, cosine), best first, without `exclude`.

        ValueError for another dimension.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(f"query vectors {vectors.shape}: need (n, {self.dimension})")
        if not len(self) or k < 1:
            return [[] for _ in vectors]
        excluded = np.unique(np.asarray([] if exclude is None else exclude, dtype=np.int64))
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        with self._lock:
            found = self._search(array, k, excluded)
        return [
            [(num, score) for num, score in zip(nums.tolist(), scores.tolist(), strict=True) if num >= 0][:k]
            for nums, scores in found
        ]

    def save(self, path: Path) -> None:
        """Write the index to `path` and its manifest to the same name with .json, each atomically."""
        import faiss

        with self._lock:
            data = faiss.serialize_index(self._index).tobytes()
            manifest = {
                "model": self.model,
                "dimension": self.dimension,
                "factory": self.factory,
                "count": len(self),
                "digest": self.digest,
                "sha256": hashlib.sha256(data).hexdigest(),
                "posts": {str(num): digest for num, digest in self._digests.items()},
            }
        write_whole(path, data)
        write_whole(path.with_suffix(".json"), json.dumps(manifest).encode())

    @classmethod
    def load(cls, path: Path, dimension: int, model: str, factory: str = "IDMap2,Flat") -> PostIndex | None:
        """The saved index; None when it is missing, damaged, or of another model, dimension or factory."""
        import faiss

        try:
            manifest = json.loads(path.with_suffix(".json").read_bytes())
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                return None
            if (manifest["model"], manifest["dimension"], manifest["factory"]) != (model, dimension, factory):
                return None
            index = cls(dimension, model, factory)
            index._index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
            index._digests = {int(num): digest for num, digest in manifest["posts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            return None
        same = index._index.ntotal == len(index._digests) and index.digest == manifest["digest"]
        return index if same else None

    def _make(self) -> Any:
        import faiss

        try:
            index = faiss.index_factory(self.dimension, self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as exc:
            raise HomeError(
                f"FAISS does not know the index factory {self.factory!r}; use for example 'IDMap2,Flat'"
            ) from exc
        return index

    def _search(self, vectors: Vectors, k: int, excluded: Rows) -> Sequence[tuple[Rows, Floats]]:
        """(numbers, cosines) for each vector, best first; the number -1 means none, and there may be more than k."""
        import faiss

        wide = min(k + len(excluded), self._index.ntotal)
        if faiss.get_num_gpus() and wide <= _GPU_MAX_K:
            # FAISS has no id selectors on a GPU: search for more, and drop the excluded ones.
            if self._gpu is None:
                self._gpu = faiss.index_cpu_to_all_gpus(self._index)
            scores, nums = self._gpu.search(vectors, wide)
            return list(zip(np.where(np.isin(nums, excluded), -1, nums), scores, strict=True))
        inner = self._inner()
        if isinstance(inner, faiss.IndexFlat):
            # FAISS reads every vector once per query; reading them once for all queries takes less than half the time.
            there = faiss.rev_swig_ptr(inner.get_xb(), inner.ntotal * inner.d).reshape(-1, 1, inner.d)
            ids = faiss.vector_to_array(faiss.downcast_index(self._index).id_map)
            found = []
            for cosines in np.ascontiguousarray(np.vecdot(there, vectors).T):
                places = largest(cosines, wide)
                nums = ids[places]
                found.append((np.where(np.isin(nums, excluded), -1, nums), cosines[places]))
            return found
        parameters = self._parameters(excluded) if len(excluded) else None
        with _threads(len(vectors) * self._index.ntotal):
            scores, nums = self._index.search(vectors, min(k, self._index.ntotal), params=parameters)
        return list(zip(nums, scores, strict=True))

    def _parameters(self, excluded: Rows) -> Any:
        import faiss

        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded))
        inner = self._inner()
        if isinstance(inner, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=inner.nprobe)
        if isinstance(inner, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(sel=selector, efSearch=max(inner.hnsw.efSearch, 64))
        return faiss.SearchParameters(sel=selector)

    def _inner(self) -> Any:
        """The FAISS index inside the id map."""
        import faiss

        outer = faiss.downcast_index(self._index)
        return faiss.downcast_index(outer.index) if hasattr(outer, "index") else outer


def largest(values: Floats, k: int) -> Rows:
    """Indices of the k largest values, in descending order of value; ties in ascending order of index."""
    if (chunk := len(values) // (4 * k)) >= 2:
        # The k-th largest of the chunks' maxima is a lower bound of the k-th largest value, found in one pass.
        maxima = values[: len(values) // chunk * chunk].reshape(-1, chunk).max(axis=1)
        places = np.flatnonzero(values >= np.partition(maxima, -k)[-k])
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")[:k]]


@contextlib.contextmanager
def _threads(cosines: int) -> Iterator[None]:
    """Limits a small search to one thread: on busy cores, waiting for a second thread costs 40 ms."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if cosines > _WORTH_THREADS else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
