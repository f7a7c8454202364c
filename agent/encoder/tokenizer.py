"""Byte-level byte pair encoding (Sennrich et al. 2016; Radford et al. 2019), as GGUF files of SmolLM and Qwen2
describe it.

llama.cpp splits text only behind a loaded model, and the library of Hugging Face comes with the extra `train`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.retrieval.errors import ModelError

_KEPT = 50_000  # words whose tokens are remembered


class Tokenizer:
    """Text to token ids. What looks like a special token in a text is split like any other text."""

    def __init__(self, file: GgufFile) -> None:
        kind = file.fields.get("tokenizer.ggml.model"), file.fields.get("tokenizer.ggml.pre")
        splits = {("gpt2", "smollm"): _split_smollm, ("gpt2", "qwen2"): _split_qwen}
        if kind not in splits:
            raise ModelError(
                f"{str(file.path)!r} splits text by {kind}; the encoder reads gpt2 with smollm or qwen2: use SmolLM2"
            )
        self._split = splits[kind]
        self._ids = {token: id for id, token in enumerate(file.fields["tokenizer.ggml.tokens"])}
        merges = (pair.split(" ", 1) for pair in file.fields["tokenizer.ggml.merges"])
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._word = lru_cache(_KEPT)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without anything before or after it."""
        words = self._split(text.encode("utf-8", "replace").decode())
        return [id for word in words for id in self._word(word)]

    def _merge(self, word: str) -> tuple[int, ...]:
        parts = [_BYTES[byte] for byte in word.encode()]
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, sys.maxsize) for pair in pairwise(parts)]
            best = min(ranks)
            if best == sys.maxsize:
                break
            place, merged = 0, []
            while place < len(parts):
                if place < len(ranks) and ranks[place] == best:
                    merged.append(parts[place] + parts[place + 1])
                    place += 2
                else:
                    merged.append(parts[place])
                    place += 1
            parts = merged
        return tuple(self._ids[part] for part in parts if part in self._ids)


# GPT-2's pattern; letters are all of \w but the underscore once numbers are out.
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W_]+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def _split_smollm(text: str) -> Iterator[str]:
    """Digits stand alone before all else, so that what is left holds no number."""
    for part in _number().split(text):
        yield from _WORDS.findall(part) if not part.isnumeric() or len(part) > 1 else (part,)


def _split_qwen(text: str) -> Iterator[str]:
    """Digits stand alone; a letter's word takes one sign before it with it, signs the line breaks after them.

    Letters and their marks are first composed, as Qwen's own tokenizer does and llama.cpp does not.
    """
    return iter(_qwen_words().findall(unicodedata.normalize("NFC", text)))


@lru_cache(1)
def _qwen_words() -> re.Pattern[str]:
    number = _numbers()
    letter, sign = f"[^\\W_{number}]", f"(?:[^\\s\\w{number}]|_)"
    return re.compile(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:(?![\r\n]|{letter}|[{number}])(?:.|\s))?{letter}+|[{number}]"
        rf"| ?{sign}+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@lru_cache(1)
def _number() -> re.Pattern[str]:
    return re.compile(f"([{_numbers()}])")


@lru_cache(1)
def _numbers() -> str:
    """Every character of the Unicode categories Nd, Nl, No, for a class of `re`, which has no \\p{N}."""
    found = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)).startswith("N")]
    return re.escape("".join(found))


def _byte_letters() -> list[str]:
    """A printable character for each byte, as GPT-2 writes its vocabulary."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


_BYTES = _byte_letters()
