"""Vectors of posts in the store, computed where they are missing, outdated or of another model.

Each batch is stored (float16) as soon as it is computed, so an interrupted run loses little. Vectors are deleted with
their posts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from whyfeed.retrieval.arrays import Rows, Vectors
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder
from whyfeed.retrieval.post import Post, reading_text
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store, embedding_text

_EMBEDDED = 256  # posts in a batch of the embedder
_ENCODED = 64  # posts in a batch of a post encoder


def embedded(
    store: Store, embedder: Embedder, progress: Progress | None = None
) -> tuple[list[int], list[str], Vectors]:
    """(nums, digests, sentence vectors (n, dimension)) of all posts, by num; computes those that are missing."""
    return _made(store, embedder, store.texts("digest"), embedding_text, _EMBEDDED, "reading posts", progress)


def encoded(store: Store, encoder: PostEncoder, progress: Progress | None = None) -> tuple[list[int], Vectors]:
    """(nums, encoder's vectors (n, dimension)) of all posts, by num; computes those that are missing.

    ModelError when the encoder fails; the batches before are stored.
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
    """Stored vectors (len(nums), width) of these posts by the encoder called `name`; rows of NaN where there is none.

    With `encoder`, missing vectors are computed first, which may raise ModelError; when none are missing, it is not
    called.
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
