"""A summary that cannot be untrue: the sentences of a post that stand nearest to its centre."""

from __future__ import annotations

import re

import numpy as np

from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.post import Post

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_READ = 60  # sentences of a post that are looked at
_LONGEST = 240


def central_sentences(post: Post, embedder: Embedder, most: int = 3) -> list[str]:
    """At most `most` sentences in their own order, by cosine with the mean of all and with the title.

    The centroid method of extractive summarisation (Radev et al. 2004), on sentence vectors.
    """
    sentences = [" ".join(part.split()) for part in _SENTENCE.split(post.text[:20_000])]
    sentences = [
        sentence for sentence in sentences if 20 <= len(sentence) <= _LONGEST or (sentence and not sentence.isascii())
    ]
    sentences = sentences[:_READ]
    if len(sentences) <= most:
        return [sentence[:_LONGEST] for sentence in sentences]
    vectors = embedder.encode([post.label, *sentences])
    scores = vectors[1:] @ vectors[1:].mean(axis=0) + 0.5 * (vectors[1:] @ vectors[0])
    return [sentences[place][:_LONGEST] for place in sorted(np.argsort(-scores, kind="stable")[:most].tolist())]
