"""A BERT small enough for tests, with random weights, as a folder of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def tiny_bert(folder: Path, words: Sequence[str], seed: int = 0) -> Path:
    """Write it; its tokens are the words, and letters for everything else."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder
