"""Backup of a home into one file, and restoring it: checksummed, atomic, while others read and write.

A backup is a ZIP archive with the home's files and a manifest, `manifest.json`: its version, and the size and SHA-256
of every file. The databases are copied by SQLite's online backup from snapshots that were all taken at one moment, at
which nobody was writing; trained models never change once they are in place. What can be computed or downloaded again
is left out and named in the manifest.

Personal values of open conversations (the vault) and the digests of API keys are part of the database, and so of a
backup, because a restored home has to answer as the old one did. A backup is therefore readable by its owner alone.
Secrets that come from the environment (WHYFEED_LLM_KEY, WHYFEED_LOGIN, WHYFEED_API_KEY) are never written to a home.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from whyfeed.retrieval.errors import DataError, HomeError, one_line
from whyfeed.retrieval.files import sync_folder
from whyfeed.retrieval.store.faults import disk_is_full

VERSION = 1  # of the format; a reader refuses newer ones
DATABASE = "whyfeed.db"
_FORMAT, _MANIFEST = "whyfeed-backup", "manifest.json"
_LARGEST_MANIFEST = 100_000_000  # bytes
_SQLITE = b"SQLite format 3\x00"
_POINTER = "live.json"  # says which version of a model is live, and changes
_CHUNK = 1 << 20
_TRIES = 3  # a file that is deleted while it is copied starts the backup again
_PATIENCE = 30  # seconds to wait for a transaction of another process
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # zipfile raises all of these
# Computed again from the database when they are missing.
_CACHES = frozenset(
    {"index.faiss", "index.json", "neighbours.npz", "tags.npz", "intents.npz", "cases.faiss", "cases.json", "vllm.log"}
)


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was written or restored. `size` is in bytes; `left_out` are files of the home, `weights` names."""

    file: Path
    size: int
    files: int
    left_out: tuple[str, ...]
    weights: tuple[str, ...]
    before: Path | None = None  # where the home is that was replaced

    def to_json(self) -> dict[str, Any]:
        """The document of `backup --json` and `restore --json`."""
        return {
            "file": str(self.file), "size": self.size, "files": self.files, "left_out": list(self.left_out),
            "weights": list(self.weights), "before": None if self.before is None else str(self.before),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A home at one moment: connections that read a snapshot of each database, and the other files with their sizes."""

    databases: Mapping[str, sqlite3.Connection]
    files: Mapping[str, int]
    pointers: Mapping[str, bytes]
    left_out: tuple[str, ...]


class _GoneError(Exception):
    """A file was deleted while it was copied."""


def back_up(home: Path, file: Path, made: float, weights: Mapping[str, str], cache: Path | None = None) -> Backup:
    """Write a backup of a home to `file`, which replaces an earlier backup of that name.

    `made` is the time in Unix seconds, `weights` maps names of downloaded weights to their SHA-256, `cache` is their
    folder, which is left out where it is inside the home. DataError when there is no home, or `file` is something else
    or lies in the home; HomeError when the disk fails, or the home is damaged.
    """
    file = file.absolute()
    if not (home / DATABASE).is_file():
        raise DataError(f"{str(home)!r} is no home: it has no {DATABASE}; name one with --home")
    if file.resolve().is_relative_to(home.resolve()):
        raise DataError(f"{str(file)!r} is in the home itself; name a file outside, best on another disk")
    if file.exists() and not _is_backup(file):
        raise DataError(f"{str(file)!r} exists and is no backup; name another file")
    with _translated(file), _scratch(file) as scratch:
        for last in (*[False] * (_TRIES - 1), True):
            try:
                with _frozen(home, cache) as frozen:
                    return _write(home, frozen, scratch, file, {"made": made, "weights": dict(weights)})
            except _GoneError as exc:
                if last:
                    raise HomeError(f"{str(home)!r} kept changing ({exc} was deleted); try again later") from exc
    raise HomeError("no backup was made")  # not reached: the last try returns or raises


def restore(file: Path, home: Path, *, replace: bool = False) -> Backup:
    """Restore a backup into a home folder that is new or empty; with `replace` the one that is there is moved aside.

    Every file is checked before anything is put in place, by one rename. DataError when `file` is no backup, is
    damaged, or the home has data; HomeError when the backup is of a newer version, the home that is to be replaced is
    in use, or the disk fails.
    """
    home = home.absolute()
    if home.exists() and not home.is_dir():
        raise DataError(f"{str(home)!r} is no folder; name another with --home")
    has_data = home.is_dir() and any(home.iterdir())
    if has_data and not (home / DATABASE).exists():
        raise DataError(f"{str(home)!r} is no home, and holds other files; name a new folder with --home")
    if has_data and not replace:
        raise DataError(f"{str(home)!r} has data; name a new folder with --home, or add --replace to move it aside")
    with _translated(home), _archive(file) as archive:
        manifest = _manifest(file, archive)
        need = sum(entry["size"] for entry in manifest["files"].values())
        home.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(home.parent).free < need:
            raise HomeError(f"{str(home)!r} needs {need // 1_000_000 + 1} MB; free some space and try again")
        with _scratch(home) as scratch:
            new = scratch / "home"
            new.mkdir(mode=0o700)
            for name, entry in manifest["files"].items():
                _extract(file, archive, name, entry, new / name)
            _check_databases(file, new, manifest["files"])
            for folder, _, _ in os.walk(new):
                sync_folder(Path(folder))
            before = _put(new, home) if has_data else None
            if not has_data:
                new.rename(home)  # replaces an empty folder
            sync_folder(home.parent)
    size = file.stat().st_size
    return Backup(file, size, len(manifest["files"]), tuple(manifest["left_out"]), tuple(manifest["weights"]), before)


# ---- writing


@contextmanager
def _frozen(home: Path, cache: Path | None) -> Iterator[_Frozen]:
    """The home at one moment. Write locks are held only until the snapshots are taken; readers never wait."""
    found, left_out = _files(home, cache)
    databases = sorted(name for name, is_database in found.items() if is_database)
    with ExitStack() as reading:
        snapshots = {}
        with ExitStack() as writing:
            for name in databases:
                lock = writing.enter_context(closing(_connect(home / name)))
                lock.execute("BEGIN IMMEDIATE")
            for name in databases:
                snapshot = reading.enter_context(closing(_connect(home / name)))
                snapshot.execute("BEGIN")
                snapshot.execute("SELECT count(*) FROM sqlite_master").fetchone()  # this takes the snapshot
                snapshots[name] = snapshot
            files, pointers = {}, {}
            for name in sorted(set(found) - set(databases)):
                with _still_there(name):
                    files[name] = (home / name).stat().st_size
                    if PurePosixPath(name).name == _POINTER:
                        pointers[name] = (home / name).read_bytes()
                        _check_listed(name, pointers[name], found)
        yield _Frozen(snapshots, files, pointers, left_out)


def _check_listed(pointer: str, data: bytes, files: Mapping[str, bool]) -> None:
    """_GoneError where the version that a pointer names went live after the files were listed."""
    try:
        live = json.loads(data)["live"]
    except (ValueError, KeyError, TypeError):
        return  # damaged, which is how it is kept
    folder = PurePosixPath(pointer).parent / str(live)
    if live is not None and live != 0 and f"{folder}/card.json" not in files:  # version 0 has no folder
        raise _GoneError(str(folder))


def _files(home: Path, cache: Path | None) -> tuple[dict[str, bool], tuple[str, ...]]:
    """The files of a home that belong into a backup, each with whether it is a database; and those left out."""
    found, left_out = dict[str, bool](), list[str]()
    seen = set[str]()
    for folder, folders, names in os.walk(home, followlinks=True):
        here = Path(folder)
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if cache is not None and here != home and real == os.path.realpath(cache):
            folders.clear()
            left_out.append(f"{here.relative_to(home).as_posix()}/")
            continue
        # Hidden names are locks and unfinished files.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = here / name
            place = path.relative_to(home).as_posix()
            if name.startswith(".") or name.endswith(("-wal", "-shm", "-journal")) or not path.is_file():
                continue
            if here == home and name in _CACHES:
                left_out.append(place)
                continue
            with _still_there(place), path.open("rb") as file:
                found[place] = file.read(len(_SQLITE)) == _SQLITE
    found[DATABASE] = True  # also when its first bytes are damaged: then SQLite says so
    return found, tuple(left_out)


def _write(home: Path, frozen: _Frozen, scratch: Path, file: Path, about: Mapping[str, Any]) -> Backup:
    made, entries = scratch / "backup", dict[str, dict[str, Any]]()
    for left in scratch.iterdir():  # of the try before
        left.unlink()
    with _create(made) as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, snapshot in frozen.databases.items():
                with closing(sqlite3.connect(scratch / "database")) as copy:
                    snapshot.backup(copy)
                    if (said := copy.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                        raise HomeError(
                            f"{str(home / name)!r} is damaged ({one_line(Exception(said))}); see whyfeed doctor; no"
                            " backup was written"
                        )
                    copy.execute("PRAGMA journal_mode = DELETE")
                with (scratch / "database").open("rb") as copied:
                    entries[name] = _add(archive, name, copied, (scratch / "database").stat().st_size)
                (scratch / "database").unlink()
            for name, size in frozen.files.items():
                with _still_there(name):
                    source: IO[bytes]
                    if name in frozen.pointers:
                        source = (scratch / "pointer").open("w+b")
                        source.write(frozen.pointers[name])
                        source.seek(0)
                    else:
                        source = (home / name).open("rb")
                    with source:
                        entries[name] = _add(archive, name, source, size)
            manifest = {"format": _FORMAT, "version": VERSION, **about, "files": entries, "left_out": frozen.left_out}
            archive.writestr(_info(_MANIFEST), json.dumps(manifest, indent=1))
        raw.flush()
        os.fsync(raw.fileno())
    made.replace(file)
    sync_folder(file.parent)
    weights = tuple(about["weights"])
    return Backup(file, file.stat().st_size, len(entries), frozen.left_out, weights)


def _add(archive: zipfile.ZipFile, name: str, source: IO[bytes], size: int) -> dict[str, Any]:
    """Copy at most `size` bytes, as many as the file had when the backup began; returns its entry of the manifest."""
    digest, copied = hashlib.sha256(), 0
    with archive.open(_info(name), "w", force_zip64=True) as target:
        while copied < size and (part := source.read(min(_CHUNK, size - copied))):
            target.write(part)
            digest.update(part)
            copied += len(part)
    return {"size": copied, "sha256": digest.hexdigest()}


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


# ---- reading


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """The archive of a backup, open for reading. DataError when it cannot be read or is none."""
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(file.open("rb"))))
        except OSError as exc:
            raise DataError(f"cannot read {str(file)!r}: {exc.strerror or exc}") from exc
        except (ValueError, *_DAMAGE) as exc:
            raise DataError(f"{str(file)!r} is no backup, or ends in the middle; copy it again") from exc
        yield archive


def _is_backup(file: Path) -> bool:
    try:
        with _archive(file) as archive:
            return _MANIFEST in archive.namelist()
    except DataError:
        return False


def _manifest(file: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    damaged = DataError(f"{str(file)!r} is damaged, or no backup of whyfeed; copy it again")
    try:
        if archive.getinfo(_MANIFEST).file_size > _LARGEST_MANIFEST:
            raise damaged
        manifest = json.loads(archive.read(_MANIFEST))
        if manifest["format"] != _FORMAT:
            raise damaged
        if int(manifest["version"]) > VERSION:
            raise HomeError(f"{str(file)!r} was made by a newer whyfeed; update whyfeed, and restore it again")
        names = archive.namelist()
        files = {str(name): {"size": int(each["size"]), "sha256": str(each["sha256"])} for name, each in
                 manifest["files"].items()}  # fmt: skip
        fits = len(names) == len(files) + 1 and {*names} == {*files, _MANIFEST}
        if not fits or DATABASE not in files or not all(map(_is_place, files)):
            raise damaged
        texts = {name: [str(each) for each in manifest[name]] for name in ("left_out", "weights")}
        return {**manifest, **texts, "files": files}
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, *_DAMAGE) as exc:
        raise damaged from exc


def _check_databases(file: Path, home: Path, names: Iterable[str]) -> None:
    """DataError where a database in the backup is none, whatever its checksum says."""
    for name in names:
        if name.endswith(".db"):
            with (home / name).open("rb") as database:
                if database.read(16) != b"SQLite format 3\0":
                    raise DataError(f"{str(file)!r} is damaged: {name!r} is no database; use another backup")


def _is_place(name: str) -> bool:
    """Whether a name is a place inside a home; the logs beside a database are none: a backup has no use for them."""
    if name.endswith(("-wal", "-shm", "-journal")):
        return False
    return bool(name) and not any(char in name for char in "\\\0:") and name == str(PurePosixPath(name)) and not any(
        part.startswith(".") or part == "/" for part in PurePosixPath(name).parts
    )  # fmt: skip


def _extract(file: Path, archive: zipfile.ZipFile, name: str, entry: Mapping[str, Any], place: Path) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), entry["size"]
    try:
        with archive.open(name) as source, _create(place) as target:
            while part := source.read(min(_CHUNK, left + 1)):
                left -= len(part)
                if left < 0:
                    break
                digest.update(part)
                target.write(part)
            target.flush()
            os.fsync(target.fileno())
    except _DAMAGE as exc:
        raise DataError(f"{str(file)!r} is damaged at {name!r} ({one_line(exc)}); copy it again") from exc
    if left or digest.hexdigest() != entry["sha256"]:
        raise DataError(f"{str(file)!r} is damaged: {name!r} is not what was backed up; copy it again")


def _put(new: Path, home: Path) -> Path:
    """Exchange the new home and the old one; returns where the old one is now."""
    for path in sorted(home.glob("*.db")):
        _refuse_if_open(path)
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    names = (f"{home.name}.before-{moment}{again}" for again in ("", *(f"-{number}" for number in range(2, 1000))))
    before = next(path for name in names if not (path := home.with_name(name)).exists())
    # Renamed first: a kill between the two steps leaves the old home in its place and the new one beside it.
    new.rename(before)
    if not _exchanged(before, home):
        between = before.with_name(f"{before.name}-old")
        home.rename(between)
        before.rename(home)
        between.rename(before)
    return before


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step where the system can (Linux, renameat2 with RENAME_EXCHANGE)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _refuse_if_open(path: Path) -> None:
    """HomeError when another process has the database open: what it writes later would be lost."""
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as db:
            if db.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":  # needs the file for itself
                raise sqlite3.OperationalError("locked")
    except sqlite3.OperationalError as exc:
        if "locked" in str(exc) or "busy" in str(exc):
            raise HomeError(f"{str(path)!r} is in use; stop whyfeed on this home, then restore again") from exc
    except sqlite3.DatabaseError:
        pass  # a damaged home is what backups are for


# ---- both


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)


def _create(path: Path) -> IO[bytes]:
    """Create a file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextmanager
def _still_there(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise _GoneError(name) from exc


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, removed at the end; those that killed processes left are removed first."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with _locked(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; BlockingIOError when another process holds it."""
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


@contextmanager
def _translated(target: Path) -> Iterator[None]:
    """Errors of the disk and of SQLite as a HomeError of one line."""
    try:
        yield
    except sqlite3.Error as exc:
        if disk_is_full(exc, target):
            raise HomeError(f"cannot write {str(target)!r}: the disk is full; free some space and try again") from exc
        if "locked" in str(exc):
            raise HomeError("another process has been writing for 30 s; try again when it is done") from exc
        raise HomeError(f"the home's database cannot be copied ({one_line(exc)}); see whyfeed doctor") from exc
    except OSError as exc:
        what = exc.strerror or str(exc)
        raise HomeError(f"cannot write {str(target)!r}: {what}; check that folder and its free space") from exc
