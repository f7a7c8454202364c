"""The files of a batch: OUT.part and OUT.part.json while it runs, OUT at the end.

A row counts once its line is whole, so a kill at any moment loses at most the row that was being written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyfeed.agent.batch.erasure import ERASED, JOBS, guard
from whyfeed.agent.batch.workers import Wanted
from whyfeed.retrieval.errors import DataError, HomeError, UnknownUser

if TYPE_CHECKING:
    from whyfeed.agent.runtime import Runtime

_SYNC_SECONDS = 5.0  # between two times that rows are forced to the disk


@dataclass(slots=True)
class BatchReport:
    """How a batch went. `resumed` rows were there before; `short` users have fewer posts than asked for.

    `skipped` is cause -> user ids; `reasons` counts by source; tokens are those of this run, and so are the seconds
    by stage: `rank` and `write` overlap, `write` adds up over threads, `wait` is for clauses, `all` is by the clock.
    """

    out: str
    users: int
    done: int = 0
    resumed: int = 0
    short: int = 0
    posts: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    complete: bool = False

    def to_json(self) -> dict[str, Any]:
        """The document of `batch --json`."""
        return asdict(self)


class Output:
    """The rows so far, and what a run needs to continue them.

    `order` are all users, `rest` those without a row, `now` is the moment of the first run (Unix seconds).
    Opening it reads the rows of an earlier run. Raises DataError when an earlier run in the same
    place had other options and `restart` is not given, HomeError when the file cannot be written.
    """

    def __init__(self, runtime: Runtime, out: Path, wanted: Wanted, restart: bool) -> None:
        self.wanted = wanted
        self._runtime = runtime
        self._out = out
        self._part = out.with_name(out.name + ".part")
        self._about = out.with_name(out.name + ".part.json")
        inside = (runtime.store.home / JOBS).resolve() in out.resolve().parents
        # Where a user may be taken out of the file at any time, see `agent.batch.erasure`.
        self._guard: AbstractContextManager[object] = guard(runtime.store.home) if inside else nullcontext()
        self._nameless = inside
        with _writing(out), self._guard:
            begun = self._begin(restart)
            self.order: list[str] = begun["users"]
            self.now = float(begun["now"])
            left_out = sum(map(len, begun["skipped"].values()))
            self.report = BatchReport(str(out), len(self.order) + left_out, skipped=begun["skipped"])
            self._handled = 0
            if not self._part.exists():  # killed between the renaming and the end
                self._out.replace(self._part)
            self._read()
        self.rest = self.order[self._handled :]
        self._synced = time.monotonic()

    @property
    def is_complete(self) -> bool:
        """Has every user a row, or a reason to have none?"""
        return self._handled == len(self.order)

    def add(self, user: str, items: Sequence[Any] | None) -> None:
        """Write the row of the next user; `items` None: the user was erased meanwhile."""
        self._handled += 1
        row = {"user": user, "items": [item.to_json() for item in items or ()]}
        with _writing(self._out), self._guard:
            if items is None or not self._is_known(user):
                self._pass_over(user)
                return
            with self._part.open("ab") as file:  # anew for each row: an erasure replaces the file
                file.write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
                file.flush()
                if time.monotonic() - self._synced > _SYNC_SECONDS:
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        self._count(row)

    def finish(self) -> None:
        """Move the finished file into place and remove the files of the run."""
        with _writing(self._out), self._guard:
            with self._part.open("ab") as file:
                os.fsync(file.fileno())
            self._leave_out_erased()
            if self._out.suffix == ".parquet":
                _to_parquet(self._part, self._out)
                self._about.unlink()
                self._part.unlink()
            else:
                self._part.replace(self._out)
                self._about.unlink()
            for path in (self._about, self._out):
                _beside(path).unlink(missing_ok=True)
        self.report.complete = True

    def _begin(self, restart: bool) -> dict[str, Any]:
        """The run that is continued, or a new one."""
        # OUT.part.json is written after OUT.part and removed before it; alone, it is left from a finished run.
        if restart:
            self._about.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
        begun = self._begun()
        if begun is None:
            users, skipped = _users(self._runtime, self.wanted)
            begun = {"wanted": self.wanted.to_json(), "now": self._runtime.clock(), "users": users, "skipped": skipped}
            self._part.write_bytes(b"")
            beside = _beside(self._about)
            beside.write_text(json.dumps(begun))
            beside.replace(self._about)
        return begun

    def _begun(self) -> dict[str, Any] | None:
        """The earlier run in this place, if it can be continued."""
        try:
            begun = json.loads(self._about.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not self._part.exists() and (self._out.suffix == ".parquet" or not self._out.exists()):
            return None
        if begun["wanted"] != json.loads(json.dumps(self.wanted.to_json())):
            raise DataError(
                f"{str(self._part)!r} is a run of other options ({_told(begun['wanted'])}); finish it with those, "
                "or throw it away with --restart"
            )
        return dict(begun)

    def _read(self) -> None:
        """Count the whole rows; cut off an incomplete one, and remove users who were erased since."""
        places = {user: place for place, user in enumerate(self.order)}
        known = {user.id for user in self._runtime.store.all_users()}
        whole, kept = 0, 0
        beside = _beside(self._part)
        with self._part.open("rb") as file, beside.open("wb") as rows:
            for line in file:
                try:
                    row = json.loads(line)
                    place = places[row["user"]]
                    if not line.endswith(b"\n") or place < self._handled:
                        break
                    if row["user"] in known:
                        self._count(row)
                except (ValueError, LookupError, TypeError):  # an incomplete row, or not a row of this run
                    break
                whole += len(line)
                for passed in self.order[self._handled : place]:
                    self._pass_over(passed)
                if row["user"] in known:
                    rows.write(line)
                    kept += len(line)
                else:
                    self._pass_over(row["user"])
                self._handled = place + 1
        if kept < whole:
            beside.replace(self._part)
        else:
            beside.unlink()
            os.truncate(self._part, whole)
        self.report.resumed = self.report.done

    def _is_known(self, user: str) -> bool:
        try:
            self._runtime.store.user(user)
        except UnknownUser:
            return False
        return True

    def _leave_out_erased(self) -> None:
        """Of those who were left out because of few events, some may have been erased meanwhile."""
        for cause in [cause for cause in self.report.skipped if cause.startswith("fewer")]:
            gone = [user for user in self.report.skipped[cause] if not self._is_known(user)]
            self.report.skipped[cause] = [user for user in self.report.skipped[cause] if user not in gone]
            for user in gone:
                self._pass_over(user)

    def _pass_over(self, user: str) -> None:
        # The report of a job is kept in the home.
        self.report.skipped.setdefault("erased meanwhile", []).append(ERASED if self._nameless else user)

    def _count(self, row: Mapping[str, Any]) -> None:
        report, sources = self.report, [item["reason"]["source"] for item in row["items"]]
        report.done += 1
        report.posts += len(sources)
        report.short += len(sources) < self.wanted.k
        for source in sources:
            report.reasons[source] = report.reasons.get(source, 0) + 1


def _users(runtime: Runtime, wanted: Wanted) -> tuple[list[str], dict[str, list[str]]]:
    """The users to serve, in order and distinct, and those to leave out by cause."""
    known = {user.id for user in runtime.store.all_users()}
    skipped: dict[str, list[str]] = {}
    if wanted.users is not None:
        chosen = list(dict.fromkeys(wanted.users))
        if unknown := [user for user in chosen if user not in known]:
            skipped["unknown user"] = unknown
        return [user for user in chosen if user in known], skipped
    active = dict(runtime.recommender.snapshot().community.active_users())
    few = sorted(user for user in known if active.get(user, 0) < wanted.min_events)
    if few:
        skipped[f"fewer than {wanted.min_events} events"] = few
    return sorted(known.difference(few)), skipped


def _told(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'all' if value is None else value}" for name, value in options.items())


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock the file; DataError while another batch writes it."""
    from filelock import FileLock, Timeout

    if not out.parent.is_dir():
        raise DataError(f"there is no folder {str(out.parent)!r}; make it first")
    if out.is_dir():
        raise DataError(f"{str(out)!r} is a folder; name a file")
    path = out.with_name(out.name + ".part.lock")
    lock = FileLock(path, timeout=0)
    with _writing(out):
        try:
            lock.acquire()
        except Timeout:
            raise DataError(f"another batch is writing {str(out)!r}; wait for it, or name another file") from None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise HomeError(
            f"cannot write {str(out)!r}: {exc.strerror or exc}; free some space or name another place, "
            "then run it again: it goes on where it was"
        ) from exc


def _beside(path: Path) -> Path:
    # The same name in every process, so that the next one overwrites what a killed one has left.
    return path.with_name(f".{path.name}.new")


def need_parquet() -> None:
    """HomeError where the library that writes Parquet is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as exc:
        raise HomeError("Parquet needs pyarrow: run `pip install 'whyfeed[parquet]'`, or name a .jsonl file") from exc


def _to_parquet(rows: Path, out: Path) -> None:
    """Convert JSON Lines to Parquet, a thousand rows at a time, in a temporary file that then replaces `out`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    evidence = pa.struct(
        [("type", pa.string()), ("id", pa.string()), ("post", pa.string()), ("field", pa.string()),
         ("start", pa.int64()), ("end", pa.int64()), ("value", pa.float64())]
    )  # fmt: skip
    claim = pa.struct([("text", pa.string()), ("verified", pa.bool_()), ("evidence", pa.list_(evidence))])
    reason = pa.struct(
        [("text", pa.string()), ("language", pa.string()), ("source", pa.string()), ("claims", pa.list_(claim))]
    )
    post = pa.struct([(name, pa.string()) for name in ("id", "kind", "title", "url")])
    item = pa.struct(
        [("post", post), ("rank", pa.int64()), ("score", pa.float64()), ("probability", pa.float64()),
         ("signals", pa.map_(pa.string(), pa.float64())), ("sources", pa.list_(pa.string())), ("reason", reason)]
    )  # fmt: skip
    schema = pa.schema([("user", pa.string()), ("items", pa.list_(item))])
    beside = _beside(out)
    try:
        with rows.open("rb") as file, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            while lines := list(islice(file, 1000)):
                documents = [json.loads(line) for line in lines]
                for document in documents:
                    for each in document["items"]:
                        each["signals"] = list(each["signals"].items())
                writer.write_table(pa.Table.from_pylist(documents, schema=schema))
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)
