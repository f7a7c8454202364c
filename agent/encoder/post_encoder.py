"""Vectors of posts by a causal language model: its hidden states, mean-pooled over the tokens of a text.

A short fixed prefix precedes every text. The first tokens of a prompt are attention sinks, whose states are a hundred
times as long as all others (Xiao et al. 2024, arXiv 2309.17453); with the prefix, none of them belongs to the text.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whyfeed.agent.llm import weights
from whyfeed.agent.llm.llamacpp import free_cores
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.community.embedder import Opener, PostEncoder
from whyfeed.retrieval.errors import ModelError, WeightsError

if TYPE_CHECKING:
    from whyfeed.agent.encoder.tokenizer import Tokenizer
    from whyfeed.agent.encoder.transformer import CausalModel

__all__ = [
    "CausalEncoder",
    "PostEncoder",
    "RemoteEncoder",
    "encoder_of",
    "file_of",
    "open_encoder",
    "opener",
    "tokens_of",
]

MODEL = "encoder"  # its name in a home's registry
DEFAULT = "smollm2-135m-instruct-f16"
LAYERS = (4, 12)  # layer 12 helped on posts without events, but not significantly (benchmarks/LOG.md)
MAX_TOKENS = 256
MEASURED_TOKENS = 16  # of each post when rankers are measured on a whole catalogue: minutes instead of an hour
LARGE = "qwen2.5-coder-1.5b-instruct-q4_k_m"  # the writer's weights; more knowledge, but ten times as slow
LARGE_LAYERS = (8, 16)  # the best of a few that were tried, on films without events (benchmarks/LOG.md)
LARGE_POSTS = 2000  # the large model reads this many titles in five minutes
BEFORE = "Post:"  # prefix of every text
_TOKENS_AT_ONCE = 512  # tokens in one batch; more do not fit into a core's cache

Get = Callable[[weights.Weights], Path]


class CausalEncoder:
    """The first layers of a GGUF model of the Llama family, in this process, in numpy and float32.

    For each of `layers` (from 1), the hidden states of the text's first `max_tokens` tokens are scaled to a root mean
    square of 1 and averaged; the vector is the concatenation of these means. Safe to call from several threads. The
    same list of texts always gives the same bits; in another list a vector may differ by rounding, less than 1e-6 of
    its length. `threads` batches are read in parallel, by default `free_cores()`. Weights are loaded at the first
    call; ModelError when they are of another model family.
    """

    def __init__(
        self, path: str | Path, layers: Sequence[int] = LAYERS, *, max_tokens: int = MAX_TOKENS,
        name: str | None = None, threads: int | None = None,
    ) -> None:  # fmt: skip
        if not layers or min(layers) < 1 or max_tokens < 1 or (threads is not None and threads < 1):
            raise ValueError(f"layers, max_tokens and threads must be at least 1: {layers}, {max_tokens}, {threads}")
        self._path, self.layers, self._max_tokens = Path(path), tuple(layers), max_tokens
        self.name = f"{name or self._path.stem}/{'+'.join(map(str, self.layers))}/{max_tokens}/rms"
        self._threads = threads or free_cores()
        self._lock = threading.Lock()
        self._model: CausalModel | None = None

    @property
    def dimension(self) -> int:
        """Width of the model times the number of `layers`; opens the file."""
        return self._opened().width * len(self.layers)

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `PostEncoder.encode`."""
        from threadpoolctl import threadpool_limits

        model = self._opened()
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        ids = [tokens_of(model.tokenizer, text, self._max_tokens) for text in texts]

        def read(places: list[int]) -> None:
            found = map(_normed, model.hidden([ids[place] for place in places], self.layers, self._before))
            lengths = np.array([len(ids[place]) for place in places])
            starts = np.append(0, np.cumsum(lengths)[:-1])
            rows[places] = np.concatenate([np.add.reduceat(each, starts) for each in found], axis=1)
            rows[places] /= lengths[:, None]

        # BLAS gets one thread for each thread of the pool: for small products more do not help.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(self._threads, "whyfeed-encoder") as pool:
            list(pool.map(read, _batches(ids)))
        return rows

    def _opened(self) -> CausalModel:
        with self._lock:
            if self._model is None:
                from whyfeed.agent.encoder.transformer import CausalModel

                model = CausalModel(self._path, max(self.layers))
                self._before = model.remember(model.tokenizer.encode(BEFORE))
                self._model = model
            return self._model


class RemoteEncoder:
    """A post encoder behind a server of the OpenAI protocol that mean-pools hidden states, such as vLLM.

    Such a server pools the states after the last layer and the final norm, so it must serve the cut model that
    `whyfeed finetune llm --as encoder` writes. It pools all tokens, and the states of the prefix are the same for
    every text: they are subtracted from the mean. The server truncates texts that are too long.
    """

    def __init__(self, engine: OpenAIEngine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._before: tuple[Floats, int] | None = None  # the mean vector of the prefix, and its number of tokens

    @property
    def name(self) -> str:
        """The model's name at the server."""
        return f"{self._engine.name}/served"

    @property
    def dimension(self) -> int:
        """Length of a vector; the first use asks the server."""
        return len(self._opened()[0])

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `PostEncoder.encode`. ModelError when the server does not answer or does not pool by the mean."""
        before, skipped = self._opened()
        rows = np.zeros((len(texts), len(before)), dtype=np.float32)
        asked = [place for place, text in enumerate(texts) if text.strip()]
        for place, (vector, tokens) in zip(
            asked, self._engine.embed([BEFORE + _placed(texts[place]) for place in asked]), strict=True
        ):
            if len(vector) != len(before) or tokens <= skipped:
                raise ModelError(
                    f"{self.name!r} answered {len(vector)} numbers for {tokens} tokens, not {len(before)} for more "
                    f"than {skipped}; start the server for mean pooling, without normalisation"
                )
            whole = np.asarray(vector, dtype=np.float64)
            rows[place] = (whole * tokens - before.astype(np.float64) * skipped) / (tokens - skipped)
        return rows

    def _opened(self) -> tuple[Floats, int]:
        with self._lock:
            if self._before is None:
                ((vector, tokens),) = self._engine.embed([BEFORE])
                self._before = np.asarray(vector, dtype=np.float32), tokens
            return self._before


def open_encoder(
    spec: str = DEFAULT, layers: Sequence[int] = (), max_tokens: int = MAX_TOKENS, get: Get = weights.check
) -> PostEncoder:
    """The encoder given by the path of a GGUF file, a name of the manifest, or the http(s) address of a server.

    `layers` are by default `LAYERS`, or `LARGE_LAYERS` for the large model. `get` returns the path of weights of the
    manifest; the default requires that they are on this machine. WeightsError when they are missing or wrong,
    ModelError when `spec` is none of the three.
    """
    if spec.startswith(("http://", "https://")):
        return RemoteEncoder(OpenAIEngine(spec))
    layers = layers or (LARGE_LAYERS if spec == LARGE else LAYERS)
    if Path(spec).expanduser().suffix == ".gguf":
        return CausalEncoder(Path(spec).expanduser(), layers, max_tokens=max_tokens)
    try:
        return CausalEncoder(get(weights.find(spec)), layers, max_tokens=max_tokens)
    except ValueError as exc:
        raise ModelError(f"unknown encoder {spec!r}: not a GGUF file, not an http(s) address, and {exc}") from None


def opener(spec: str = "", get: Get = weights.check) -> Opener:
    """A function that opens an encoder for a whole catalogue of texts; it reads only `MEASURED_TOKENS` of each.

    The encoder is that of `spec`, see `open_encoder`. Without `spec` it is the large model when there are at most
    `LARGE_POSTS` texts and `get` finds its weights, else the default. ModelError at once for an invalid `spec`;
    WeightsError from the function.
    """
    if spec:
        open_encoder(spec, get=lambda named: named.path)

    def opened(texts: Sequence[str]) -> PostEncoder:
        if not spec and len(texts) <= LARGE_POSTS:
            with suppress(WeightsError):
                return open_encoder(LARGE, max_tokens=MEASURED_TOKENS, get=get)
        return open_encoder(spec or DEFAULT, max_tokens=MEASURED_TOKENS, get=get)

    return opened


def encoder_of(home: Path, default: str = DEFAULT) -> PostEncoder:
    """The live encoder that was trained in this home, else that of `default`; errors as of `open_encoder`."""
    folder = Registry(home).live(MODEL)
    if folder is None:
        return open_encoder(default)
    card = json.loads((folder / "card.json").read_bytes())
    return CausalEncoder(file_of(folder), card["settings"]["layers"])


def file_of(folder: Path) -> Path:
    """The GGUF file in a folder written by the training of the encoder; ModelError when there is none."""
    for file in folder.glob(f"{MODEL}-*.gguf"):
        return file
    raise ModelError(f"{str(folder)!r} has no trained encoder; train it again")


def tokens_of(tokenizer: Tokenizer, text: str, most: int) -> list[int]:
    """The first `most` token ids of a text when it follows the prefix `BEFORE`."""
    return tokenizer.encode(_placed(text))[:most]


def _placed(text: str) -> str:
    """The text on one line after a space, so that no token includes a part of the prefix; "" for an empty text."""
    line = " ".join(text.split())
    return line and f" {line}"


def _normed(states: Floats) -> Floats:
    """Hidden states scaled to a root mean square of 1 (RMSNorm without weights), so that all tokens weigh the same."""
    return np.asarray(states / np.sqrt((states**2).mean(axis=1, keepdims=True) + np.float32(1e-5)))


def _batches(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Batches of indices of texts, ordered by length, of about `_TOKENS_AT_ONCE` tokens; empty texts are left out."""
    found: list[list[int]] = []
    room = 0
    for place in sorted((place for place, each in enumerate(ids) if each), key=lambda place: len(ids[place])):
        if room < len(ids[place]):
            found.append([])
            room = _TOKENS_AT_ONCE
        found[-1].append(place)
        room -= len(ids[place])
    return found
