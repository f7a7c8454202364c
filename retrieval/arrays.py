"""Array types of retrieval and ranking, unit vectors, and the reduction of hidden states to short vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]  # (n, d) sentence vectors, or (d,) one of them, of length 1
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]  # indices of posts in a community's arrays


def unit(vectors: npt.ArrayLike) -> Vectors:
    """Vectors (n, d), or one (d,), scaled to Euclidean length 1; zero vectors stay zero, NaN becomes zero."""
    array = np.nan_to_num(np.asarray(vectors, dtype=np.float32))
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    return np.asarray(array / np.maximum(norms, 1e-12), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Condenser:
    """Reduces hidden states (n, d) to unit vectors (n, k) by a damped principal component analysis.

    States are centred, projected on the k main components, and each component is divided by the square root of its
    singular value. Without the division the first components, a hundred times as strong as those that distinguish
    posts, would decide every cosine.
    """

    centre: Floats  # (d,)
    directions: Floats  # (d, k)

    @classmethod
    def of(cls, states: Vectors, size: int = 256) -> Condenser:
        """Fit to the states (n, d) of a sample; k is `size`, or d where that is less."""
        centre = states.mean(axis=0)
        centred = states - centre
        values, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        kept = np.argsort(-values)[: min(size, len(values))]
        strength = np.maximum(values[kept], 1e-12) ** 0.25  # eigenvalue = singular value squared; of that the root
        return cls(centre, (directions[:, kept] / strength).astype(np.float32))

    def __call__(self, states: Vectors) -> Vectors:
        """Unit vectors (n, k); zero for the centre itself, which stands for posts that were not encoded."""
        return unit((states - self.centre) @ self.directions)
