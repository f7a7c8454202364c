"""Byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019) from the GGUF files of SmolLM and Qwen2.

It runs `tokenizers` with the vocabulary and merges of the file. llama.cpp can tokenise only with a loaded model, and
`transformers` is installed only with the extra `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.retrieval.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

# The split pattern of Qwen's tokenizer.json: a word includes one sign before it, digits are single tokens, and
# punctuation includes the line breaks after it.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to token ids. Text that looks like a special token is split like any other text.

    ModelError when the file names a tokenizer other than those of SmolLM and Qwen2.
    """

    def __init__(self, file: GgufFile) -> None:
        kind = file.fields.get("tokenizer.ggml.model"), file.fields.get("tokenizer.ggml.pre")
        splits = {("gpt2", "smollm"): _split_smollm, ("gpt2", "qwen2"): _split_qwen}
        if kind not in splits:
            raise ModelError(
                f"{str(file.path)!r} splits text by {kind}; the encoder reads gpt2 with smollm or qwen2: use SmolLM2"
            )
        from tokenizers import Tokenizer as Splitter
        from tokenizers.models import BPE

        vocabulary = {token: id for id, token in enumerate(file.fields["tokenizer.ggml.tokens"])}
        merges = []
        for pair in file.fields["tokenizer.ggml.merges"]:
            left, right = pair.split(" ", 1)
            merges.append((left, right))
        self._splitter = Splitter(BPE(vocab=vocabulary, merges=merges))
        splits[kind](self._splitter)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens before or after it."""
        found = self._splitter.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False)
        return list(found.ids)


def _split_smollm(splitter: tokenizers.Tokenizer) -> None:
    """Each digit alone, then GPT-2's pattern."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    splitter.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def _split_qwen(splitter: tokenizers.Tokenizer) -> None:
    """NFC normalisation, as in Qwen's own tokenizer but not in llama.cpp, then Qwen's pattern."""
    from tokenizers import Regex
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    splitter.normalizer = NFC()
    splitter.pre_tokenizer = Sequence(
        [Split(Regex(_QWEN), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
