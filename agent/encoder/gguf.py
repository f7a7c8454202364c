"""Reader of GGUF files by memory mapping: metadata, and tensors without loading the whole file.

The package `gguf` parses the metadata value by value and takes seconds for a vocabulary, too slow within a request.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.errors import ModelError

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_TYPES: dict[int, npt.DTypeLike] = {0: "<f4", 1: "<f2"}  # of tensors; all other types are quantised in blocks of a row


class GgufFile:
    """A GGUF file: metadata in `fields` by key, weights by `tensor` and `rows`.

    ModelError when the file cannot be read or is not a GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise ModelError(f"cannot read the model {str(path)!r} ({why}); check the path") from exc
        self.fields: dict[str, Any] = {}
        self._tensors: dict[str, tuple[tuple[int, ...], int, int]] = {}  # shape (rows first), type, offset
        try:
            self._read()
        except (struct.error, UnicodeDecodeError, KeyError, IndexError) as exc:
            raise ModelError(f"{str(path)!r} is not a whole GGUF file; run `whyfeed models verify`") from exc

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A whole tensor, with the dimensions in numpy's order: a weight is (outputs, inputs).

        A read-only view of the file, or a float32 copy when the tensor is quantised. ModelError when it is missing, of
        an unknown type, or truncated.
        """
        return self.rows(name)

    def rows(self, name: str, rows: Any = slice(None)) -> npt.NDArray[Any]:
        """The same for some rows alone, given by any numpy index; the others are not read."""
        try:
            shape, kind, offset = self._tensors[name]
        except KeyError as exc:
            raise ModelError(f"{str(self.path)!r} has no tensor {name!r}; use a model of the Llama family") from exc
        count = int(np.prod(shape))
        try:
            if kind in _TYPES:
                found = np.frombuffer(self._data, _TYPES[kind], count, self._start + offset)
                return np.asarray(found.reshape(shape)[rows])
            import gguf

            block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
            raw = np.frombuffer(self._data, np.uint8, count // block * size, self._start + offset)
            packed = raw.reshape(*shape[:-1], shape[-1] // block * size)[rows]
            return np.asarray(gguf.dequantize(packed, gguf.GGMLQuantizationType(kind)))
        except NotImplementedError as exc:
            raise ModelError(f"{str(self.path)!r} packs {name!r} as nothing here unpacks; use another file") from exc
        except ValueError as exc:
            raise ModelError(f"{str(self.path)!r} ends within {name!r}; run `whyfeed models verify`") from exc

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    # ---- inside ----

    def _read(self) -> None:
        self._place = 0
        magic, version, tensors, fields = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise KeyError(magic)
        for _ in range(fields):
            key = self._string()
            self.fields[key] = self._value(self._take("<I")[0])
        for _ in range(tensors):
            name, (sides,) = self._string(), self._take("<I")
            shape = tuple(reversed(self._take(f"<{sides}Q")))
            kind, offset = self._take("<IQ")
            self._tensors[name] = (shape, kind, offset)
        align = int(self.fields.get("general.alignment", 32))
        self._start = -(-self._place // align) * align

    def _take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self._data, self._place)
        self._place += struct.calcsize(form)
        return found

    def _string(self) -> str:
        (length,) = struct.unpack_from("<Q", self._data, self._place)
        begin = self._place + 8
        self._place = begin + length
        return self._data[begin : self._place].decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take("<" + _SCALARS[kind])[0]
        inner, count = self._take("<IQ")
        if inner in _SCALARS:
            return self._take(f"<{count}{_SCALARS[inner]}")
        return tuple(self._value(inner) for _ in range(count))
