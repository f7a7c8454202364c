"""Byte-level byte pair encoding (Sennrich et al. 2016; Radford et al. 2019), as a GGUF file of SmolLM describes it.

llama.cpp splits text only behind a loaded model, and the library of Hugging Face comes with the extra `train`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache
from itertools import pairwise

from agent.gguf_file import GgufFile
from retrieval.errors import ModelError

_KEPT = 50_000  # words whose tokens are remembered


class Tokenizer:
    """Text to token ids. What looks like a special token in a text is split like any other text."""

    def __init__(self, file: GgufFile) -> None:
        kind = file.fields.get("tokenizer.ggml.model"), file.fields.get("tokenizer.ggml.pre")
        if kind != ("gpt2", "smollm"):
            raise ModelError(f"{str(file.path)!r} splits text by {kind}; the encoder reads gpt2, smollm: use SmolLM2")
        self._ids = {token: id for id, token in enumerate(file.fields["tokenizer.ggml.tokens"])}
        merges = (pair.split(" ", 1) for pair in file.fields["tokenizer.ggml.merges"])
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._word = lru_cache(_KEPT)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without anything before or after it."""
        ids: list[int] = []
        # Digits stand alone before all else, so that what is left holds no number.
        for part in _numbers().split(text.encode("utf-8", "replace").decode()):
            for word in _WORDS.findall(part) if not part.isnumeric() or len(part) > 1 else (part,):
                ids += self._word(word)
        return ids

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


@lru_cache(1)
def _numbers() -> re.Pattern[str]:
    """One character of the Unicode categories Nd, Nl, No; `re` has no \\p{N}."""
    found = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)).startswith("N")]
    return re.compile(f"([{re.escape(''.join(found))}])")


def _byte_letters() -> list[str]:
    """A printable character for each byte, as GPT-2 writes its vocabulary."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


_BYTES = _byte_letters()
