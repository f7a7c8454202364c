"""A Llama small enough for tests, with random weights, as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, SHARED, WIDE, DEPTH = 16, 4, 2, 24, 3
PAIRS = ["t h", "th e", "\u0120 the", "t i", "ti d", "tid e"]


def byte_letters() -> list[str]:
    """GPT-2's letters, written down anew: printable Latin-1 for itself, all other bytes from U+0100 on."""
    found, others = [], 256
    for byte in range(256):
        if chr(byte).isprintable() and chr(byte) != " " and not 0x7F <= byte <= 0xA0:
            found.append(chr(byte))
        else:
            found.append(chr(others))
            others += 1
    return found


def tiny_llama(path: Path, *, dtype: Any = np.float32, architecture: str = "llama", pre: str = "smollm") -> Path:
    """Write it; every byte is a token, and a few merges make words of them. A qwen2 has shifts."""
    import gguf

    rng = np.random.default_rng(5)
    size = WIDTH // HEADS
    tokens = [*byte_letters(), *(pair.replace(" ", "") for pair in PAIRS)]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(DEPTH)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(PAIRS)

    def put(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(dtype))

    put("token_embd", len(tokens), WIDTH)
    writer.add_tensor("output_norm.weight", rng.uniform(0.5, 2, WIDTH).astype(np.float32))
    for layer in range(DEPTH):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", rng.uniform(0.5, 2, WIDTH).astype(np.float32))
        put(f"blk.{layer}.attn_q", WIDTH, WIDTH)
        put(f"blk.{layer}.attn_k", SHARED * size, WIDTH)
        put(f"blk.{layer}.attn_v", SHARED * size, WIDTH)
        put(f"blk.{layer}.attn_output", WIDTH, WIDTH)
        for name, count in (("q", HEADS), ("k", SHARED), ("v", SHARED)) if architecture == "qwen2" else ():
            shift = np.random.default_rng(count).standard_normal(count * size).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.attn_{name}.bias", shift)
        put(f"blk.{layer}.ffn_gate", WIDE, WIDTH)
        put(f"blk.{layer}.ffn_up", WIDE, WIDTH)
        put(f"blk.{layer}.ffn_down", WIDTH, WIDE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
