"""Speed of encoding posts: the encoder's first layers in numpy, llama.cpp and torch, and their agreement.

    python -m benchmarks.encoder_speed [--titles DIR] [--tokens 3000]

Titles come from an exchange folder (default: the demo), whole texts from the demo, cut at 256 tokens. CPU seconds sum
over all threads, so other load on the machine changes them little; wall-clock seconds are printed as well. Needs the
weights (`whyfeed models pull`) and, for the rows of torch, `make develop`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.agent.encoder.post_encoder import BEFORE, LAYERS, MAX_TOKENS, CausalEncoder, tokens_of
from whyfeed.agent.encoder.tokenizer import Tokenizer
from whyfeed.agent.encoder.transformer import CausalModel
from whyfeed.agent.llm import weights
from whyfeed.retrieval.store.exchange import find_file, read_rows

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "retrieval" / "demo"


def texts_of(folder: Path, whole: bool) -> list[str]:
    """Titles, or titles with texts, in the order of the folder."""
    file = find_file(folder, "posts")
    if file is None:
        raise SystemExit(f"{folder} has no posts.jsonl")
    rows = [row for _, row, _ in read_rows(file) if row]
    return [f"{row.get('title', '')} {row.get('text', '') if whole else ''}".strip() for row in rows]


def some(tokenizer: Tokenizer, texts: Sequence[str], tokens: int) -> list[str]:
    """A random sample of texts with about this many tokens in total."""
    found, left = [], tokens
    for place in np.random.default_rng(0).permutation(len(texts)):
        if left <= 0:
            break
        found.append(texts[place])
        left -= len(tokens_of(tokenizer, texts[place], MAX_TOKENS))
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, CPU seconds and wall-clock seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, time.process_time() - cpu, time.perf_counter() - wall


class Torch:
    """The reference: the same layers in transformers, in batches of texts of one length."""

    def __init__(self, path: Path, bf16: bool) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        kind = torch.bfloat16 if bf16 else torch.float32
        self._model: Any = transformers.AutoModel.from_pretrained(str(path.parent), gguf_file=path.name, dtype=kind)
        self._model.layers = self._model.layers[: max(LAYERS)]
        self._model.config.num_hidden_layers = max(LAYERS)
        self._states: dict[int, Any] = {}
        for layer in LAYERS:
            self._model.layers[layer - 1].register_forward_hook(self._keep(layer))

    def _keep(self, layer: int) -> Any:
        def keep(module: Any, given: Any, found: Any) -> None:
            self._states[layer] = found[0] if isinstance(found, tuple) else found

        return keep

    def encode(self, before: list[int], ids: Sequence[list[int]]) -> Any:
        """(texts, layers x width): means over the texts' own tokens, each scaled to a root mean square of 1."""
        import torch

        rows = np.zeros((len(ids), len(LAYERS) * self._model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        while order:
            length = len(ids[order[0]])
            part = [place for place in order if len(ids[place]) == length][: max(1, 512 // length)]
            order = [place for place in order if place not in set(part)]
            with torch.no_grad():
                self._model(torch.tensor([before + ids[place] for place in part]), use_cache=False)
            own = [self._states[layer][:, len(before) :].float() for layer in LAYERS]
            pooled = [(each * (each.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).mean(dim=1) for each in own]
            rows[part] = torch.cat(pooled, dim=1).numpy()
        return rows


class LlamaCpp:
    """llama.cpp on a file cut after one layer, with a last norm without weights and mean pooling over all tokens."""

    def __init__(self, path: Path, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.embedding, params.embd_normalize, params.n_parallel = True, -1, 1
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_gpu_layers, params.verbosity = 0, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(params)

    def encode(self, ids: Sequence[list[int]]) -> Any:
        """(texts, width): means over all tokens."""
        found = []
        for begin in range(0, len(ids), 32):
            answer = self._server.handle_embeddings({"input": ids[begin : begin + 32], "embd_normalize": -1})
            if "data" not in answer:
                raise SystemExit(f"llama.cpp: {answer}")
            found += [row["embedding"] for row in answer["data"]]
        return np.array(found, dtype=np.float32).reshape(len(ids), -1)


def cut(path: Path, target: Path, depth: int, kind: str) -> Path:
    """Write the first layers to a file of their own, with matrices as F16, BF16 or Q8_0."""
    import gguf

    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(target, "llama")
    wanted = {"F16": None, "BF16": gguf.GGMLQuantizationType.BF16, "Q8_0": gguf.GGMLQuantizationType.Q8_0}[kind]
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            value = depth if field.name == "llama.block_count" else field.contents()
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk" and int(parts[1]) >= depth:
            continue
        data = np.ones_like(tensor.data) if tensor.name == "output_norm.weight" else tensor.data
        if wanted is None or data.ndim == 1:
            writer.add_tensor(tensor.name, data)
        else:
            writer.add_tensor(tensor.name, gguf.quantize(data.astype(np.float32), wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def cosine(one: Any, other: Any) -> tuple[float, float]:
    """The least cosine of two corresponding rows, and the largest difference relative to the mean length."""
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    cosines = np.vecdot(one.astype(np.float64), other) / np.maximum(lengths[0] * lengths[1], 1e-12)
    return float(cosines.min()), float(np.abs(one - other).max() / lengths[1].mean())


def row(name: str, tokens: int, cpu: float, wall: float, agreement: tuple[float, float] | None) -> None:
    """Print one line of the table."""
    said = "" if agreement is None else f"{agreement[0]:12.7f} {agreement[1]:10.1e}"
    print(f"{name:38} {tokens / cpu:9.0f} {tokens / wall:9.0f} {said}", flush=True)


def normed_mean(model: CausalModel, before: list[int], ids: Sequence[list[int]], layer: int) -> Any:
    """llama.cpp's pooling from numpy's states: the mean over all tokens of states normed without weights."""
    found = []
    for own in ids:
        (states,) = model.hidden([before + own], (layer,))
        found.append((states / np.sqrt((states**2).mean(axis=1, keepdims=True) + 1e-5)).mean(axis=0))
    return np.array(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=Path, default=DEMO)
    parser.add_argument("--tokens", type=int, default=3000, help="number of tokens for each kind of text")
    parser.add_argument("--without", default="", help="leave out rows whose name contains this word")
    options = parser.parse_args()
    path = weights.check(weights.find("ranker"))
    tokenizer = Tokenizer(GgufFile(path))
    model, opening, _ = timed(lambda: CausalModel(path, max(LAYERS)))
    print(f"{path.stem}, layers {LAYERS}; opening {opening:.2f} s of the processor; {os.cpu_count()} cores")
    left_out = options.without.split(",") if options.without else []
    before = tokenizer.encode(BEFORE)
    reference = None if "torch" in left_out else Torch(path, bf16=False)
    half = None if "torch" in left_out or "bf16" in left_out else Torch(path, bf16=True)
    for kind, texts in (("titles", texts_of(options.titles, False)), ("whole texts", texts_of(DEMO, True))):
        chosen = some(tokenizer, texts, options.tokens)
        ids = [tokens_of(tokenizer, text, MAX_TOKENS) for text in chosen]
        count = sum(map(len, ids))
        print(f"\n{len(chosen)} {kind}, {count / len(chosen):.1f} tokens each")
        print(f"{'':38} {'tok/cpu s':>9} {'tok/wall s':>9} {'least cosine':>12} {'largest diff':>10}")
        expected = None
        if reference is not None:
            expected, cpu, wall = timed(lambda ids=ids: reference.encode(before, ids))
            row("torch float32, 1 thread", count, cpu, wall, None)
        if half is not None:
            found, cpu, wall = timed(lambda ids=ids: half.encode(before, ids))
            row("torch bfloat16, 1 thread", count, cpu, wall, None if expected is None else cosine(found, expected))
        for threads in (1, 2):
            encoder = CausalEncoder(path, threads=threads)
            encoder.encode(chosen[:1])
            found, cpu, wall = timed(lambda encoder=encoder, chosen=chosen: encoder.encode(chosen))
            row(
                f"numpy float32, {threads} at once",
                count,
                cpu,
                wall,
                None if expected is None else cosine(found, expected),
            )
        if "llama" in left_out:
            continue
        whole = [before + own for own in ids]
        sample = ids[:20]
        wanted = normed_mean(model, before, sample, max(LAYERS))
        with tempfile.TemporaryDirectory() as folder:
            for kept in ("F16", "Q8_0", "BF16"):
                file = cut(path, Path(folder) / f"{kept}.gguf", max(LAYERS), kept)
                for threads in (1, 2) if kept == "F16" else (1,):
                    server = LlamaCpp(file, threads)
                    server.encode(whole[:1])
                    found, cpu, wall = timed(lambda server=server, whole=whole: server.encode(whole))
                    row(
                        f"llama.cpp {kept}, 1 layer out, {threads} threads",
                        count,
                        cpu,
                        wall,
                        cosine(found[:20], wanted),
                    )
                    del server


if __name__ == "__main__":
    main()
