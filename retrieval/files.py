"""Files that are there whole or not at all, and arrays that are made once and then read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyfeed.retrieval.errors import HomeError

if TYPE_CHECKING:
    import numpy.typing as npt


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there, so that a reader never sees half of it."""
    new = beside(path, f"{os.getpid()}.{threading.get_ident()}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as exc:
        raise HomeError(f"cannot write {str(path)!r}: {exc.strerror or exc}; free some space and try again") from exc
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def sha256_of(path: Path, *, to_disk: bool = False) -> str:
    """The SHA-256 of a file as hexadecimal digits. `to_disk` also syncs the file. May raise OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if to_disk:
            os.fsync(file.fileno())
    return digest


def beside(path: Path, what: str) -> Path:
    """A hidden place beside a file or folder, for what belongs to the making of it."""
    return path.with_name(f".{path.name}.{what}")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that then takes the place of `path`; when filling fails, `path` stays as it is."""
    new, old = beside(path, "new"), beside(path, "old")
    try:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
        yield new
        if path.exists():
            path.replace(old)  # a folder with files in it cannot be replaced in one go
        new.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as exc:
        raise HomeError(f"cannot write {str(path)!r} ({exc.strerror or exc}); free some space and try again") from exc
    finally:
        shutil.rmtree(new, ignore_errors=True)


def kept_arrays(path: Path, digest: str) -> dict[str, npt.NDArray[Any]] | None:
    """Arrays of a file, or None when it is missing, damaged, or was made from something else."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays) if str(arrays["digest"]) == digest else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def keep_arrays(path: Path, digest: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays with the digest of what they were made from."""
    write_whole(path, packed_arrays(digest, arrays))


def packed_arrays(digest: str, arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """What `keep_arrays` writes."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, digest=np.array(digest), **arrays)
    return buffer.getvalue()
