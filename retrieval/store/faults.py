"""Errors of SQLite in words, and the mark that keeps a damaged database from being written to."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.files import beside

_CORRUPT, _NOT_A_DATABASE = 11, 26
_FULL, _IO_ERROR, _READ_ONLY, _CANNOT_OPEN = 13, 10, 8, 14
_LITTLE = 1 << 20  # bytes of free disk with which SQLite cannot work
MEND = "`whyfeed restore FILE --replace` brings a backup back, or move the file away and import again"


def told(exc: sqlite3.Error, path: Path) -> Exception:
    """The error as a HomeError of one line that says what to do; the error itself where it is not about the file.

    Damage is noted, see `refuse_if_damaged`. Errors about locks are returned as they are.
    """
    code, text = getattr(exc, "sqlite_errorcode", 0) & 0xFF, str(exc)
    if code in (_CORRUPT, _NOT_A_DATABASE):
        note_damage(path, text)
        advice = f"the file is damaged, and nothing more is written to it; {MEND}, and `whyfeed doctor` looks again"
    elif disk_is_full(exc, path):
        advice = "the disk is full; nothing of this step was kept: free some space and try again"
    elif code == _IO_ERROR:
        advice = "the disk failed, or a limit on the size of files was reached; check both, then run `whyfeed doctor`"
    elif code in (_READ_ONLY, _CANNOT_OPEN):
        advice = "it cannot be written; check the folder, its permissions and its free space"
    else:
        return exc
    return HomeError(f"{path}: {text}: {advice}")


def note_damage(path: Path, found: str) -> None:
    """Mark a database as damaged, for all processes. A full disk cannot hold the mark: then only this call tells."""
    with suppress(OSError):
        _mark(path).write_text(f"{path.stat().st_ino} {' '.join(found.split())[:300]}\n", encoding="utf-8")


def clear_damage(path: Path) -> None:
    """Remove the mark: the database was mended."""
    with suppress(OSError):
        _mark(path).unlink(missing_ok=True)


def refuse_if_damaged(path: Path) -> None:
    """HomeError when damage was noted in this very file; a file that took its place is another one."""
    try:
        number, _, found = _mark(path).read_text(encoding="utf-8").strip().partition(" ")
    except (OSError, ValueError):
        return
    if number == str(path.stat().st_ino):
        raise HomeError(f"{path} was found damaged ({found}) and is not written to; {MEND}, then run `whyfeed doctor`")


def _mark(path: Path) -> Path:
    return beside(path, "damaged")


def disk_is_full(exc: sqlite3.Error, path: Path) -> bool:
    """Whether an error of SQLite comes from a full disk; it calls some of these I/O errors."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    try:
        return code == _FULL or (code == _IO_ERROR and shutil.disk_usage(path.parent).free < _LITTLE)
    except OSError:
        return False
