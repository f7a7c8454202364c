"""Files that are there whole or not at all, and arrays that are made once and then read."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import HomeError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there, so that a reader never sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as exc:
        raise HomeError(f"cannot write {str(path)!r}: {exc.strerror or exc}; free some space and try again") from exc
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def kept_arrays(path: Path, digest: str) -> dict[str, npt.NDArray[Any]] | None:
    """Arrays of a file, or None when it is missing, damaged, or was made from something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays) if str(arrays["digest"]) == digest else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def keep_arrays(path: Path, digest: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays with the digest of what they were made from."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, digest=np.array(digest), **arrays)
    write_whole(path, buffer.getvalue())
