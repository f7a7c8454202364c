"""Hidden states of the first layers of a causal language model of the Llama family (Touvron et al. 2023), in numpy.

Qwen2 (Yang et al. 2024, arXiv 2407.10671) has the same architecture plus a bias on queries, keys and values. There is
no generation and no head over the vocabulary. Unlike llama.cpp, one pass returns the states after several layers, and
results are reproducible to the bit. All computation is in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.agent.encoder.tokenizer import Tokenizer
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.errors import ModelError

_Keys = list[tuple[Floats, Floats]]  # of each layer: keys and values (heads, tokens, size of a head)


@dataclass(frozen=True, slots=True)
class _Layer:
    # Sizes: d is the width, q and kv are the widths of all query heads and of all key heads, wide that of the MLP.
    qkv: Floats  # (d, q + 2 kv): query, key and value projections, multiplied by the weights of the norm before them
    qkv_bias: Floats  # (q + 2 kv,): their bias; zero in a Llama
    output: Floats  # (q, d): output projection of attention
    gate_up: Floats  # (d, 2 wide): gate and up projections, multiplied by the weights of the norm before them
    down: Floats  # (wide, d): down projection


class CausalModel:
    """Layers 1 to `depth` of the model in a GGUF file, which may be quantised.

    ModelError when the file is not readable, of another architecture, or has fewer layers.
    """

    def __init__(self, path: Path, depth: int) -> None:
        file = GgufFile(path)
        self.tokenizer = Tokenizer(file)
        arch = file.fields.get("general.architecture")
        if arch not in ("llama", "qwen2"):
            raise ModelError(
                f"{str(path)!r} is a model of the architecture {arch!r}; the encoder reads llama and qwen2"
            )
        about = {key.removeprefix(f"{arch}."): value for key, value in file.fields.items()}
        if not 1 <= depth <= about["block_count"]:
            raise ModelError(f"{str(path)!r} has {about['block_count']} layers, not {depth}; name fewer")
        self.depth, self.width = depth, int(about["embedding_length"])
        self._heads, self._shared = int(about["attention.head_count"]), int(about["attention.head_count_kv"])
        self._size = self.width // self._heads
        self._epsilon = np.float32(about["attention.layer_norm_rms_epsilon"])
        self._base = float(about.get("rope.freq_base", 10_000.0))
        self._file = file
        self._layers = [self._layer(number, arch == "llama") for number in range(depth)]

    def hidden(self, texts: Sequence[Sequence[int]], after: Sequence[int], before: _Keys | None = None) -> list[Floats]:
        """Hidden states (tokens of all texts in order, width) after each layer of `after`.

        `texts` are token ids; none may be empty. `before` has the keys and values of a prefix that precedes every
        text, from `remember`.
        """
        found = {layer: states.copy() for layer, states, _ in self._pass(texts, max(after), before) if layer in after}
        return [found[layer] for layer in after]

    def remember(self, ids: Sequence[int]) -> _Keys:
        """Keys and values of the tokens of a common prefix, for `hidden`."""
        return [(keys[0], values[0]) for _, _, (keys, values) in self._pass([ids], self.depth, None)]

    # ---- inside ----

    def _pass(
        self, texts: Sequence[Sequence[int]], depth: int, before: _Keys | None
    ) -> Iterator[tuple[int, Floats, tuple[Floats, Floats]]]:
        """Yields for each layer its number, the states after it, and the keys and values of the last run of texts.

        A run is a sequence of consecutive texts of the same length, which are computed together.
        """
        past = before[0][0].shape[1] if before else 0
        runs = [(len(list(run)), length) for length, run in groupby(map(len, texts))]
        places = past + np.concatenate([np.arange(len(text)) for text in texts])
        angles = places[:, None] * self._base ** (-np.arange(0, self._size, 2) / self._size)
        cos, sin = (np.asarray(wave, dtype=np.float32)[:, None, :] for wave in (np.cos(angles), np.sin(angles)))
        states = self._embedded(np.concatenate(texts))
        for number, layer in enumerate(self._layers[:depth]):
            mixed = (self._normed(states) @ layer.qkv + layer.qkv_bias).reshape(len(states), -1, self._size)
            queries, keys, values = np.split(mixed, [self._heads, self._heads + self._shared], axis=1)
            queries, keys = _rotated(queries, cos, sin), _rotated(keys, cos, sin)
            seen, begin = np.empty((len(states), self._heads, self._size), dtype=np.float32), 0
            for count, length in runs:  # only attention needs to know which tokens belong to which text
                part = slice(begin, begin := begin + count * length)
                kept = self._apart(keys[part], count), self._apart(values[part], count)
                seen[part] = self._attended(queries[part], *kept, before[number] if before else None)
            states += seen.reshape(len(states), -1) @ layer.output
            gate, up = np.split(self._normed(states) @ layer.gate_up, 2, axis=1)
            states += (gate / (1 + np.exp(-gate)) * up) @ layer.down
            yield number + 1, states, kept

    def _apart(self, heads: Floats, count: int) -> Floats:
        """Reshape (tokens of all texts, heads, size) of `count` texts of one length to (texts, heads, tokens, size)."""
        return np.ascontiguousarray(heads.reshape(count, -1, *heads.shape[1:]).transpose(0, 2, 1, 3))

    def _attended(self, queries: Floats, keys: Floats, values: Floats, before: tuple[Floats, Floats] | None) -> Floats:
        """Causal attention (tokens, heads, size) of each text of one run to itself and to the common prefix."""
        count, _, length, _ = keys.shape
        if before:
            keys, values = (
                np.concatenate([np.broadcast_to(old, (count, *old.shape)), new], axis=2)
                for old, new in zip(before, (keys, values), strict=True)
            )
        # Grouped-query attention: query heads that share a key head are one axis with the tokens, so that the shape is
        # (texts, key heads, query heads of each x tokens, size).
        grouped = self._apart(queries, count).reshape(count, self._shared, -1, self._size)
        scores = grouped @ keys.transpose(0, 1, 3, 2)
        shape = scores.shape
        scores = scores.reshape(count, self._shared, -1, length, shape[-1])
        scores[..., -length:] += np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        seen = (scores.reshape(shape) @ values).reshape(count, self._heads, length, self._size).transpose(0, 2, 1, 3)
        return np.asarray(seen, dtype=np.float32).reshape(count * length, self._heads, self._size)

    def _normed(self, states: Floats) -> Floats:
        squares = np.einsum("ij,ij->i", states, states)[:, None] / np.float32(self.width)
        return np.asarray(states / np.sqrt(squares + self._epsilon), dtype=np.float32)

    def _embedded(self, ids: Any) -> Floats:
        """Token embeddings (tokens, d); each distinct token is dequantised once."""
        known, places = np.unique(ids, return_inverse=True)
        return np.asarray(self._file.rows("token_embd.weight", known), dtype=np.float32)[places]

    def _layer(self, number: int, interleaved: bool) -> _Layer:
        def weight(name: str) -> Any:
            return self._file.tensor(f"blk.{number}.{name}.weight").astype(np.float32)

        def bias(name: str, like: Floats) -> Any:
            name = f"blk.{number}.{name}.bias"
            return self._file.tensor(name) if name in self._file else np.zeros(len(like), dtype=np.float32)

        names = ("attn_q", "attn_k", "attn_v")
        queries, keys, values = (weight(name) for name in names)
        biases = [bias(name, of) for name, of in zip(names, (queries, keys, values), strict=True)]
        if interleaved:
            # GGUF files of Llama interleave the two halves that rotary embedding rotates; make them contiguous.
            places = np.arange(self._size).reshape(-1, 2).T.ravel()
            queries, keys = (
                each.reshape(-1, self._size, self.width)[:, places].reshape(-1, self.width) for each in (queries, keys)
            )
        scale = np.float32(1 / np.sqrt(self._size))
        qkv = np.concatenate([queries * scale, keys, values]) * weight("attn_norm")
        gate_up = np.concatenate([weight("ffn_gate"), weight("ffn_up")]) * weight("ffn_norm")
        output, down = weight("attn_output"), weight("ffn_down")
        qkv_bias = np.concatenate([biases[0] * scale, *biases[1:]])
        return _Layer(qkv.T, qkv_bias, output.T, gate_up.T, down.T)  # views: BLAS reads either way


def _rotated(heads: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotary position embedding (Su et al. 2021) applied to (tokens, heads, size)."""
    half = heads.shape[-1] // 2
    one, other = heads[..., :half], heads[..., half:]
    return np.concatenate([one * cos - other * sin, one * sin + other * cos], axis=-1)
