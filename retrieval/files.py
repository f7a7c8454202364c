"""Atomic writes of files and folders, file hashes, and a cache of arrays on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyfeed.retrieval.errors import HomeError

if TYPE_CHECKING:
    import numpy.typing as npt

_OTHERS = 0o077  # rights of the group and of everybody


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file in the same folder, which then replaces `path`.

    Others get no more rights on it than on its folder. HomeError when it cannot be written.
    """
    new = beside(path, f"{os.getpid()}.{threading.get_ident()}")
    try:
        with new.open("wb") as file:
            _narrow(new)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as exc:
        raise HomeError(f"cannot write {str(path)!r}: {exc.strerror or exc}; free some space and try again") from exc
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def make_private_file(path: Path) -> None:
    """Create an empty file that only its owner may read, where there is none yet. May raise OSError.

    For files that a library opens: SQLite gives its journals the rights of the database. An existing file is not
    opened, because closing it would release the locks that SQLite holds on it.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def keep_private(folder: Path) -> None:
    """Take all rights of others on a folder and what is in it; links, and what belongs to others, are left alone."""
    folder = folder.resolve()
    _take(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _take(Path(place, name))


def _take(path: Path, rights: int = _OTHERS) -> None:
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & rights:
            path.chmod(stat.S_IMODE(mode) & ~rights)


def _narrow(path: Path) -> None:
    """Take from others the rights that they do not have on the folder of this file."""
    _take(path, _OTHERS & ~path.parent.stat().st_mode)


def sha256_of(path: Path, *, to_disk: bool = False) -> str:
    """The SHA-256 of a file as hexadecimal digits. `to_disk` also syncs the file. May raise OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if to_disk:
            os.fsync(file.fileno())
    return digest


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable (fsync). May raise OSError."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def beside(path: Path, what: str) -> Path:
    """The path of a hidden sibling of a file or folder, for temporary files and locks; `what` is its suffix."""
    return path.with_name(f".{path.name}.{what}")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that replaces `path` at the end; after an exception `path` is unchanged.

    Others get no more rights on it than on the folder around it. HomeError when the disk fails.
    """
    new, old = beside(path, "new"), beside(path, "old")
    try:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
        _narrow(new)
        yield new
        if not stat.S_IMODE(new.stat().st_mode) & _OTHERS:
            keep_private(new)
        if path.exists():
            path.replace(old)  # the system cannot replace a folder that has files in it
        new.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as exc:
        raise HomeError(f"cannot write {str(path)!r} ({exc.strerror or exc}); free some space and try again") from exc
    finally:
        shutil.rmtree(new, ignore_errors=True)


def kept_arrays(path: Path, digest: str) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a cache file; None when it is missing, damaged, or has another digest."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays) if str(arrays["digest"]) == digest else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def keep_arrays(path: Path, digest: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a cache file, with the digest of the data they were computed from."""
    write_whole(path, packed_arrays(digest, arrays))


def packed_arrays(digest: str, arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """The bytes of the .npz file that `keep_arrays` writes."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, digest=np.array(digest), **arrays)
    return buffer.getvalue()
