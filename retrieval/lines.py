"""Lines of text files, plain or gzipped, within limits: of a line's length, and of what a packed file unpacks to.

A packed file of a kilobyte can hold a gigabyte, so nothing here reads a whole file, or more of a line than its limit.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from whyfeed.retrieval.errors import DataError

LONGEST_LINE = 5_000_000  # bytes; a longer line is skipped
MOST_UNPACKED = 20_000_000_000  # bytes of one packed file
MOST_RATIO = 200  # unpacked to packed size; JSON Lines have 5 to 30, a file of one repeated character 1,000
_DEEPEST = 50  # nesting of JSON values; many other programs could not read a deeper one
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_UNSUSPICIOUS = 50_000_000  # unpacked bytes from which the ratio counts
_OTHER_FORMATS = {
    b"BZh": "packed with bzip2",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\xfd7zXZ": "packed with xz",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "packed with gzip, but not named .gz",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"SQLite format 3": "an SQLite database",
    b"PAR1": "Parquet",
}


class UnreadableFile(DataError):
    """A file in another format, or one that is damaged from `line` on; `cause` says which."""

    def __init__(self, path: Path, line: int, cause: str) -> None:
        super().__init__(f"cannot read {str(path)!r} from line {line} on: {cause}")
        self.line, self.cause = line, cause


def read_lines(path: Path) -> Iterator[bytes | None]:
    """The lines of a file, with their ends; None for a line longer than `LONGEST_LINE`.

    A name ending in .gz means gzip. UnreadableFile when it is in another format or cannot be unpacked to its end;
    DataError when it cannot be opened, or unpacks to too much.
    """
    packed = path.suffix == ".gz"
    number = 0
    try:
        with path.open("rb") as raw:
            _check_format(path, raw.peek(16)[:16], packed)
            if not packed:
                yield from lines_of(raw)
                return
            with gzip.open(raw, "rb") as stream:
                unpacked = _Unpacked(path, stream)
                for number, line in enumerate(lines_of(unpacked), 1):
                    if number == 1:
                        _check_format(path, (line or b"")[:16], packed=False)
                    yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        cause = f"the file ends in the middle or is damaged: {exc}"
        raise UnreadableFile(path, number + 1, cause) from exc
    except OSError as exc:
        raise DataError(f"cannot read {str(path)!r}: {exc.strerror or exc}") from exc


class Readable(Protocol):
    """What `lines_of` needs of a stream."""

    def readline(self, limit: int, /) -> bytes:
        """At most `limit` bytes up to the end of the line; empty at the end of the stream."""
        ...


def lines_of(stream: Readable) -> Iterator[bytes | None]:
    """The lines of an open stream, such as standard input; None for a line longer than `LONGEST_LINE`."""
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LONGEST_LINE)
        yield None


def parse_json(line: bytes | str) -> Any:
    """The JSON value of a line of UTF-8, without lone surrogates, which UTF-8 cannot encode.

    ValueError when it is not JSON: also for NaN, infinite numbers, keys that occur twice, integers of thousands of
    digits, and nesting of more than 50 levels.
    """
    try:
        text = line if isinstance(line, str) else line.decode("utf-8")
        return _writable(json.loads(text, parse_constant=_refuse, object_pairs_hook=_without_twins))
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


class _Unpacked:
    """A gzip stream that raises DataError once it has given more than its limits."""

    def __init__(self, path: Path, stream: gzip.GzipFile) -> None:
        self._path, self._stream = path, stream
        self._most = min(MOST_UNPACKED, max(_UNSUSPICIOUS, MOST_RATIO * path.stat().st_size))
        self._given = 0

    def readline(self, limit: int, /) -> bytes:
        line = self._stream.readline(limit)
        self._given += len(line)
        if self._given > self._most:
            raise DataError(
                f"{str(self._path)!r} unpacks to more than {self._most // 1_000_000} MB, which no file of its size"
                " should; unpack it yourself if it is meant, and give the unpacked file"
            )
        return line


def _check_format(path: Path, start: bytes, packed: bool) -> None:
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic) and not (packed and name.startswith("packed with gzip")):
            raise UnreadableFile(path, 1, f"it is {name}; give UTF-8 text, plain or packed with gzip and named .gz")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twin[:100]!r} occurs twice")
    return found


def _writable(value: Any, depth: int = 0) -> Any:
    """The JSON value with lone surrogates, which UTF-8 cannot encode, replaced by spaces.

    ValueError for infinite numbers and for values that are nested too deeply.
    """
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATES.sub(" ", value)
    if isinstance(value, float) and value - value != 0:
        raise ValueError("a number is too large")
    if depth > _DEEPEST and isinstance(value, dict | list):
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {_writable(key): _writable(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner, depth + 1) for inner in value]
    return value
