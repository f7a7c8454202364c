"""The registry of a home's trained models: numbered versions, one of them live, with rollback.

    home/models/NAME/3/          a version: the model's files, and card.json with the trainer's results
    home/models/NAME/live.json   the pointer: which version is live, and which were live before

A version is put in place by one rename and never changes afterwards; its card holds the SHA-256 of each file. So
readers need no lock, and a process that is killed leaves the previous state intact. Version 0 stands for model files
directly in the home, as homes had them before the registry. `None` stands for the built-in model.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.files import sha256_of, sync_folder, write_whole

CARD, POINTER = "card.json", "live.json"
JUDGE = "judge"  # the name of the trained LLM judge; see `finetune.llm.judge`
KEPT = 5  # versions kept of those that were live before, and as many of the newest
OLD_FILES: Mapping[str, str] = {"ranker": "ranker.json", "replies": "replies.json"}  # files of version 0, in the home
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_MOST = 10**9  # versions have at most nine digits
_PATIENCE = 60.0  # seconds to wait for another process's lock, which is held only while files are moved


@dataclass(frozen=True, slots=True)
class Record:
    """A version in a listing. `when`: time of adding, in Unix seconds; `trouble`: what is wrong with its files."""

    version: int
    card: Mapping[str, Any]
    live: bool
    when: float
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON, for the command line."""
        return {
            "version": self.version, "live": self.live, "when": self.when, "trouble": self.trouble,
            "card": dict(self.card),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pointer:
    """The live version; `before` are those that were live before, the latest first."""

    live: int | None = None
    before: tuple[int | None, ...] = ()


class Registry:
    """The trained models of one home. Cheap to create; reading never writes. Model names are lower case."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self.home = home
        self._clock = clock

    # ---- reading: never raises, whatever is on the disk

    def names(self) -> list[str]:
        """Models that have at least one version."""
        with contextlib.suppress(OSError):
            found = {path.name for path in self._root.iterdir() if _NAME.fullmatch(path.name)}
            return sorted(name for name in found | set(OLD_FILES) if self._numbers(name))
        return sorted(name for name in OLD_FILES if self._numbers(name))

    def live(self, name: str) -> Path | None:
        """The folder of the live version, with every file's SHA-256 verified; None: the built-in model is used.

        Also None when the pointer or the version is damaged; `trouble` tells the cases apart.
        """
        return self._live(name)[0]

    def trouble(self, name: str) -> str:
        """Why the live version cannot be used and what to do, in one line; empty when all is well."""
        return self._live(name)[1]

    def stamp(self, name: str) -> object:
        """A value that changes when another version goes live, also in another process. Costs one stat call."""
        try:
            found = (self._folder(name) / POINTER).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def versions(self, name: str) -> list[Record]:
        """All versions, newest first."""
        try:
            live = self._pointer(name).live
        except ValueError:
            live = None
        return [self._record(name, version, version == live) for version in reversed(self._numbers(name))]

    # ---- writing

    def add(self, name: str, files: Mapping[str, bytes], card: Mapping[str, Any], *, live: bool = False) -> int:
        """Add a version atomically, and make it live with `live`; returns its number. May raise HomeError."""
        if bad := [file for file in files if Path(file).name != file or file == CARD]:
            raise ValueError(f"{bad[0]!r} is no name for a file of a model")
        new = self._folder(name) / f".new-{uuid.uuid4().hex}"
        with self._locked(name):
            new.mkdir()
            try:
                for file, data in files.items():
                    write_whole(new / file, data)
                return self._take(name, new, card, live)
            finally:
                shutil.rmtree(new, ignore_errors=True)  # still there only after a failure

    def add_folder(self, name: str, folder: Path, card: Mapping[str, Any], *, live: bool = False) -> int:
        """Add a folder that a trainer has filled, by one rename; `card` replaces the card in it.

        After a kill before the rename the folder is still complete and can be added again. Raises DataError when there
        is no such folder.
        """
        with self._locked(name):
            if not folder.is_dir():
                raise DataError(f"there is no folder {str(folder)!r} to keep as a version of {name!r}; train it again")
            return self._take(name, folder, card, live)

    def promote(self, name: str, version: int | None) -> None:
        """Make a version live, or the built-in model (None). Raises DataError for a missing or damaged version."""
        with self._locked(name):
            if version is not None:
                known = self._numbers(name)
                if version not in known:
                    there = ", ".join(map(str, known)) or "none"
                    raise DataError(f"there is no version {version!r} of {name!r}; there are: {there}")
                if trouble := self._damage(name, version):
                    raise DataError(f"version {version!r} of {name!r} cannot be used: {trouble}; train it again")
            self._go_live(name, version)
            self._tidy(name)

    def rollback(self, name: str) -> int | None:
        """Return to the last version that was live and is intact; returns its number, None for the built-in model."""
        with self._locked(name):
            try:
                before = self._pointer(name).before
            except ValueError:
                before = ()
            known = self._numbers(name)
            for place, version in enumerate(before):
                if version is None or (version in known and not self._damage(name, version)):
                    self._point(name, _Pointer(version, before[place + 1 :]))
                    return version
            self._point(name, _Pointer())
            return None

    # ---- inside

    @property
    def _root(self) -> Path:
        return self.home / "models"

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a model: lower-case letters, digits and hyphens")
        return self._root / name

    def _place(self, name: str, version: int) -> Path:
        return self._folder(name) / str(version) if version else self.home

    def _numbers(self, name: str) -> list[int]:
        """Numbers of the versions on disk, in ascending order."""
        folder = self._folder(name)
        found: list[int] = []
        with contextlib.suppress(OSError):
            found = sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name))
        old = OLD_FILES.get(name)
        return [0, *found] if old and (self.home / old).is_file() else found

    def _pointer(self, name: str) -> _Pointer:
        """The live version; without a pointer file version 0 if it exists. Raises ValueError for a damaged file."""
        try:
            document = json.loads((self._folder(name) / POINTER).read_bytes())
            found = _Pointer(document["live"], tuple(document["before"]))
        except FileNotFoundError:
            return _Pointer(0 if self._numbers(name)[:1] == [0] else None)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            raise ValueError("the pointer cannot be read") from exc
        for version in (found.live, *found.before):
            if version is not None and (type(version) is not int or not 0 <= version < _MOST):
                raise ValueError("the pointer names no version")
        return found

    def _live(self, name: str) -> tuple[Path | None, str]:
        try:
            version = self._pointer(name).live
        except ValueError as exc:
            return None, f"{exc}: `whyfeed models use {name} VERSION` sets it again"
        if version is None:
            return None, ""
        if trouble := self._damage(name, version):
            return None, f"version {version} is damaged ({trouble}): `whyfeed models rollback {name}`, or train again"
        return self._place(name, version), ""

    def _card(self, name: str, version: int) -> dict[str, Any]:
        """The card of a version. Raises ValueError when it is damaged."""
        try:
            card = json.loads((self._place(name, version) / CARD).read_bytes())
            files, added = dict(card["files"]), float(card["added"])
            if not math.isfinite(added):
                raise ValueError
            return {**card, "files": files, "added": added}
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            raise ValueError("its card cannot be read") from exc

    def _damage(self, name: str, version: int) -> str:
        """What is wrong with a version's files; those of version 0 have no card and are checked by their readers."""
        if version == 0:
            return "" if self._numbers(name)[:1] == [0] else "its files are gone"
        try:
            files = self._card(name, version)["files"]
        except ValueError as exc:
            return str(exc)
        place = self._place(name, version)
        for file, digest in files.items():
            try:
                if sha256_of(place / file) != digest:
                    return f"{file} has changed"
            except (OSError, ValueError):
                return f"{file} cannot be read"
        return ""

    def _record(self, name: str, version: int, live: bool) -> Record:
        trouble, when = self._damage(name, version), 0.0
        card: dict[str, Any] = {}
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError, RecursionError):
            if version:
                card = self._card(name, version)
                when = card.pop("added")
                del card["files"]
            else:
                old = self.home / OLD_FILES[name]
                when = old.stat().st_mtime
                card = dict(json.loads(old.read_bytes())["card"])
        return Record(version, card, live, when, trouble)

    def _go_live(self, name: str, version: int | None) -> None:
        try:
            now = self._pointer(name)
        except ValueError:
            self._point(name, _Pointer(version))  # which versions were live before is no longer known
        else:
            if version != now.live:
                self._point(name, _Pointer(version, (now.live, *now.before)[:KEPT]))

    def _take(self, name: str, folder: Path, card: Mapping[str, Any], live: bool) -> int:
        """Write the card into a folder and rename the folder to the next version."""
        version = max([*self._numbers(name), *self._numbers_in_use(name), 0]) + 1
        place = self._folder(name) / str(version)
        try:
            (folder / CARD).unlink(missing_ok=True)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            sealed = {path.relative_to(folder).as_posix(): sha256_of(path, to_disk=True) for path in files}
            document = {**card, "files": sealed, "added": self._clock()}
            write_whole(folder / CARD, json.dumps(document, indent=1, ensure_ascii=False).encode())
            sync_folder(folder)
            _move(folder, place)
            sync_folder(place.parent)
        except OSError as exc:
            raise _cannot_write(place, exc) from exc
        if live:
            self._go_live(name, version)
        self._tidy(name)
        return version

    def _numbers_in_use(self, name: str) -> list[int]:
        """Numbers that the pointer names; they are never reused, even when their files are gone."""
        try:
            found = self._pointer(name)
        except ValueError:
            return []
        return [version for version in (found.live, *found.before) if version is not None]

    def _point(self, name: str, pointer: _Pointer) -> None:
        document = {"live": pointer.live, "before": pointer.before}
        write_whole(self._folder(name) / POINTER, json.dumps(document).encode())

    def _tidy(self, name: str) -> None:
        """Delete versions that are neither live nor new nor needed for rollback, and leftovers of killed processes."""
        known = self._numbers(name)
        try:
            found = self._pointer(name)
        except ValueError:
            return  # the pointer is damaged; a repair may still need any of them
        needed = {found.live, *found.before, *known[-KEPT:], 0}
        for version in known:
            if version not in needed:
                # Renamed first, so that no reader sees a partly deleted version.
                away = self._folder(name) / f".old-{uuid.uuid4().hex}"
                with contextlib.suppress(OSError):
                    self._place(name, version).rename(away)
        with contextlib.suppress(OSError):
            for path in self._folder(name).iterdir():
                if path.name.startswith((".new-", ".old-")):
                    shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        folder = self._folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock")
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise HomeError(f"another process has held {str(folder)!r} for a minute; end it and try again") from None
        except OSError as exc:
            raise _cannot_write(folder, exc) from exc
        try:
            yield
        except OSError as exc:
            raise _cannot_write(folder, exc) from exc
        finally:
            lock.release()


def _move(folder: Path, place: Path) -> None:
    try:
        folder.rename(place)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        beside = place.with_name(f".new-{uuid.uuid4().hex}")  # on another file system: copied first, then renamed
        shutil.copytree(folder, beside)
        os.sync()
        beside.rename(place)
        shutil.rmtree(folder, ignore_errors=True)


def _cannot_write(place: Path, exc: OSError) -> HomeError:
    return HomeError(f"cannot write {str(place)!r} ({exc.strerror or exc}); free some space and try again")
