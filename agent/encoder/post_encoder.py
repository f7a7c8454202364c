"""The causal LLM that reads each post once: hidden states of a text's tokens, pooled into the post's vector.

A text stands behind a few fixed tokens. The first tokens of a prompt are sinks of attention with states a hundred
times as long as all others (Xiao et al. 2024, arXiv 2309.17453); they must not be the text's own.
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
LAYERS = (4, 12)  # for what the 12th adds there is evidence on posts that nobody has seen, and no proof (LOG.md)
MAX_TOKENS = 256
MEASURED_TOKENS = 16  # of each post of a whole catalogue that is read to measure rankers: minutes, not an hour
LARGE = "qwen2.5-coder-1.5b-instruct-q4_k_m"  # the writer; it knows more of the world, and reads ten times as slowly
LARGE_LAYERS = (8, 16)  # the best on films that nobody has seen of the few that were tried (LOG.md)
LARGE_POSTS = 2000  # so many titles it reads in five minutes
BEFORE = "Post:"  # what stands before every text
_TOKENS_AT_ONCE = 512  # more do not fit into a core's cache

Get = Callable[[weights.Weights], Path]


class CausalEncoder:
    """A GGUF model of the Llama family in this process, without torch: the first layers, in numpy and float32.

    The vector is the mean over the text's first `max_tokens` tokens of the states after each of `layers`, each brought
    to a root mean square of 1, one layer after the other. Safe to call from several threads. The same list of texts
    gives the same bits; in another list a vector differs by rounding, less than 1e-6 of its length. `threads` are texts
    read side by side, by default `free_cores()`. Weights are loaded at the first call; ModelError when they are none of
    that family.
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
        """Width of the model times the number of layers; opens the file."""
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

        # One thread of BLAS for each of ours: small products gain nothing from more.
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
    """The same behind a server of the OpenAI protocol that pools hidden states by their mean, vLLM first of all.

    Such a server gives the states after the last layer of what it serves, through its last norm: serve the cut
    model that `whyfeed finetune llm --as encoder` writes. It pools all tokens; those before the text are the same
    everywhere and are taken out of the mean again. Texts go out as they are: the server cuts what is too long.
    """

    def __init__(self, engine: OpenAIEngine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._before: tuple[Floats, int] | None = None  # the vector of what stands before, and its tokens

    @property
    def name(self) -> str:
        """The model's name at the server."""
        return f"{self._engine.name}/served"

    @property
    def dimension(self) -> int:
        """Asks the server at the first time."""
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
    """The encoder of a GGUF file's path, a name of the manifest, or the http(s) address of a server.

    `layers` are by default those that were measured with the model. `get` gives the path of weights of the manifest;
    by default they must be here. WeightsError when they are missing or wrong, ModelError when the spec is none of
    these.
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
    """What opens an encoder for a whole catalogue of these texts, of which it reads the first tokens, in minutes.

    The one of `spec`, see `open_encoder`; without it the larger model where the posts are few and `get` has its
    weights, else the default. ModelError at once where the spec is none, WeightsError when it is called.
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
    """The encoder that was trained in this home and is live, else the default one, see `open_encoder`."""
    folder = Registry(home).live(MODEL)
    if folder is None:
        return open_encoder(default)
    card = json.loads((folder / "card.json").read_bytes())
    return CausalEncoder(file_of(folder), card["settings"]["layers"])


def file_of(folder: Path) -> Path:
    """The weights in a folder that the training of the encoder made; ModelError when there are none."""
    for file in folder.glob(f"{MODEL}-*.gguf"):
        return file
    raise ModelError(f"{str(folder)!r} has no trained encoder; train it again")


def tokens_of(tokenizer: Tokenizer, text: str, most: int) -> list[int]:
    """A text's own tokens, as they stand behind `BEFORE`."""
    return tokenizer.encode(_placed(text))[:most]


def _placed(text: str) -> str:
    """One line behind a space, so that no token spans the border to what stands before; empty for nothing."""
    line = " ".join(text.split())
    return line and f" {line}"


def _normed(states: Floats) -> Floats:
    """What the last norm of such a model does, without its scale: no token counts more than another by its length."""
    return np.asarray(states / np.sqrt((states**2).mean(axis=1, keepdims=True) + np.float32(1e-5)))


def _batches(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of texts, the short ones first, in batches of a good size; empty texts are in none."""
    found: list[list[int]] = []
    room = 0
    for place in sorted((place for place, each in enumerate(ids) if each), key=lambda place: len(ids[place])):
        if room < len(ids[place]):
            found.append([])
            room = _TOKENS_AT_ONCE
        found[-1].append(place)
        room -= len(ids[place])
    return found
