"""Names for the arrays that travel through retrieval and ranking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]  # (n, d) sentence vectors, or (d,) one of them, of length 1
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]  # places of posts in a community's arrays


def unit(vectors: npt.ArrayLike) -> Vectors:
    """Rows scaled to length 1; zero rows stay zero, NaN becomes zero."""
    array = np.nan_to_num(np.asarray(vectors, dtype=np.float32))
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    return np.asarray(array / np.maximum(norms, 1e-12), dtype=np.float32)
