"""Extractive summaries: the sentences of a post that are nearest to its centroid."""

from __future__ import annotations

import numpy as np

from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.language import sentences
from whyfeed.retrieval.post import Post

_READ = 60  # sentences of a post that are considered
_LONGEST = 240


def central_sentences(post: Post, embedder: Embedder, most: int = 3) -> list[str]:
    """At most `most` sentences in their own order, by cosine with the mean of all sentences and with the title.

    The centroid method of extractive summarisation (Radev et al. 2004), on sentence vectors.
    """
    text = post.text[:20_000]
    found = [" ".join(text[start:end].split()) for start, end in sentences(text)]
    found = [sentence for sentence in found if 20 <= len(sentence) <= _LONGEST or (sentence and not sentence.isascii())]
    found = found[:_READ]
    if len(found) <= most:
        return [sentence[:_LONGEST] for sentence in found]
    vectors = embedder.encode([post.label, *found])
    scores = vectors[1:] @ vectors[1:].mean(axis=0) + 0.5 * (vectors[1:] @ vectors[0])
    return [found[place][:_LONGEST] for place in sorted(np.argsort(-scores, kind="stable")[:most].tolist())]
