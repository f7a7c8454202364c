"""Vectors of posts, made once: when a post arrives, when its text has changed, when another model comes.

Each batch is kept as it is made, in float16 beside its post, and goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from whyfeed.retrieval.arrays import Rows, Vectors
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder
from whyfeed.retrieval.post import Post, reading_text
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store, embedding_text

_EMBEDDED = 256  # posts between two commits
_ENCODED = 64


def embedded(
    store: Store, embedder: Embedder, progress: Progress | None = None
) -> tuple[list[int], list[str], Vectors]:
    """(nums, digests, sentence vectors (n, dimension)) of all posts by num, those that are missing made now."""
    return _made(store, embedder, store.texts("digest"), embedding_text, _EMBEDDED, "reading posts", progress)


def encoded(store: Store, encoder: PostEncoder, progress: Progress | None = None) -> tuple[list[int], Vectors]:
    """(nums, vectors (n, dimension)) of all posts by num as a causal model reads them, those missing made now.

    ModelError when the model cannot read; what it has read by then is kept.
    """
    nums, _, vectors = _made(
        store,
        encoder,
        store.texts("reading"),
        reading_text,
        _ENCODED,
        "reading posts with the language model",
        progress,
    )
    return nums, vectors


def readings(
    store: Store, name: str, nums: Rows, width: int, encoder: PostEncoder | None, progress: Progress | None = None
) -> Vectors:
    """(len(nums), width): what the encoder of that name read in these posts, not a number where it has not.

    With the encoder at hand what is missing is read now; it is not opened where nothing is.
    """
    digests = {num: digest for num, _, digest in store.texts("reading")}

    def there() -> dict[int, Vectors]:
        rows = zip(*store.vectors(name, width), strict=True)
        return {num: vector for num, digest, vector in rows if digests.get(num) == digest}

    known = there()
    if encoder is not None and any(num not in known for num in nums.tolist()):
        encoded(store, encoder, progress)
        known = there()
    nothing = np.full(width, np.nan, dtype=np.float32)
    return np.array([known.get(num, nothing) for num in nums.tolist()], dtype=np.float32).reshape(len(nums), width)


def _made(
    store: Store, model: Embedder | PostEncoder, posts: Sequence[tuple[int, str, str]], text: Callable[[Post], str],
    batch: int, what: str, progress: Progress | None,
) -> tuple[list[int], list[str], Vectors]:  # fmt: skip
    nums, digests, vectors = store.vectors(model.name, model.dimension)
    have = dict(zip(nums, digests, strict=True))
    missing = [row for row in posts if have.get(row[0]) != row[2]]
    for start in range(0, len(missing), batch):
        part = missing[start : start + batch]
        found = store.posts([id for _, id, _ in part])
        texts = [text(found[id]) if id in found else "" for _, id, _ in part]
        store.put_vectors(model.name, [(num, digest) for num, _, digest in part], model.encode(texts))
        if progress:
            progress(what, start + len(part), len(missing))
    if missing:
        nums, digests, vectors = store.vectors(model.name, model.dimension)
    return nums, digests, vectors
