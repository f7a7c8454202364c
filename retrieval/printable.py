"""Text of users made safe to print: one line, no control characters, no reordering of what stands around it."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# Characters that steer a terminal or break a line: C0 with DEL, C1 (U+009B starts an escape sequence as ESC [ does),
# and the line and paragraph separators.
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Bidirectional embeddings, overrides and isolates: unpaired ones reorder what is printed after them (CVE-2021-42574).
_REORDERS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def printable(text: str) -> str:
    """The text on one line, without characters that steer a terminal or reorder other text.

    Each run of control characters becomes a space, embeddings, overrides and isolates are removed, lone surrogates
    become U+FFFD. Right-to-left letters and marks stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return _SURROGATES.sub("\ufffd", _REORDERS.sub("", _STEERS.sub(" ", text)))


def isolated(text: str) -> str:
    """Printable text whose direction does not reach what stands beside it (Unicode UAX 9, FSI … PDI).

    Text without right-to-left characters is returned unchanged.
    """
    if text.isascii() or not any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text):
        return text
    return f"{_FIRST_STRONG_ISOLATE}{text}{_POP_ISOLATE}"


def json_line(document: Any) -> str:
    """The document as JSON on one line that is safe to print: C1 controls and reordering characters are escaped.

    A JSON reader gets the same values back.
    """
    text = json.dumps(document, ensure_ascii=False)
    return text if text.isascii() else _UNSAFE_IN_JSON.sub(lambda char: f"\\u{ord(char[0]):04x}", text)
