"""Explained recommendations for many users: one file, whole or not at all, that can be stopped and gone on with.

Readers are ranked ahead while the writer writes, and each post's clause is written once for everybody, so the
language model's cost grows with the posts that are shown and not with the readers. Who does the work (threads of
this process, a Ray cluster) is behind `Hands`; the order of the rows, and so the file, is always the same.

While it runs, rows are in OUT.part and what was asked for is in OUT.part.json. A row counts once its line is whole,
so a kill at any moment loses at most the row that was being written. At the end OUT is put in place at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from whyfeed.agent.reasons.clauses import Clause
from whyfeed.agent.reasons.explainer import Prepared
from whyfeed.agent.recommend.pipeline import Task
from whyfeed.agent.recommend.snapshot import Progress
from whyfeed.agent.request import Language, Request
from whyfeed.retrieval.errors import DataError, HomeError, UnknownUser
from whyfeed.retrieval.language import Language
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.progress import Progress

if TYPE_CHECKING:
    from whyfeed.agent.runtime import Runtime

AHEAD = 512  # readers that are ranked and wait for clauses
_RANKED_AHEAD = 4  # readers that are being ranked or wait to be taken
_LOOK_SECONDS = 0.2  # between two looks at whether rows are still wanted
_SYNC_SECONDS = 5.0  # between two times that rows are forced to the disk


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch makes. `users` None: everybody with at least `min_events` events."""

    users: tuple[str, ...] | None = None
    k: int = 5
    language: Language = "en"
    write: bool = True
    min_events: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 50:
            raise ValueError(f"k={self.k!r} is not between 1 and 50")

    def to_json(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        document = asdict(self)
        if self.users is not None:
            document["users"] = hashlib.sha256("\0".join(self.users).encode(errors="replace")).hexdigest()
        return document


@dataclass(slots=True)
class BatchReport:
    """How a batch went. `resumed` rows were there before; `short` readers have fewer posts than asked for.

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


class Hands(Protocol):
    """Who ranks and writes."""

    def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
        """Every user in order with what was chosen (None when there is no such user any more) and seconds."""
        ...

    def clause(self, post: Post) -> Future[tuple[Clause, float]]:
        """The post's half of a reason, kept for the next time, and the seconds that it took."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...


def prepare(runtime: Runtime, user: str, wanted: Wanted, now: float) -> list[Prepared] | None:
    """What is chosen for one reader, each post with the reader's half of its reason; None for an unknown one."""
    request = Request(k=wanted.k, language=wanted.language)
    view = runtime.recommender.view()
    try:
        ranking = runtime.recommender.rank(view, user, Task(request, wanted.k, now=now), llm_rank=False)
    except UnknownUser:
        return None
    return runtime.explainer.prepare(view, ranking, request)


class LocalHands:
    """Threads of this process: one ranks, as many write as the writer serves at once."""

    def __init__(self, runtime: Runtime, wanted: Wanted, now: float) -> None:
        self._runtime = runtime
        self._wanted = wanted
        self._now = now
        self._stop = threading.Event()
        writer = runtime.models.writer() if wanted.write else None
        # One: of two threads that rank, each would wait for the other (`agent.runtime`).
        self._ranker = ThreadPoolExecutor(1, "whyfeed-rank")
        self._writers = ThreadPoolExecutor(1 if writer is None else writer.in_flight, "whyfeed-write")

    def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
        """See `Hands.ranked`."""
        rest = iter(users)
        running = deque((user, self._rank(user)) for user in islice(rest, _RANKED_AHEAD))
        while running:
            user, future = running.popleft()
            prepared, seconds = future.result()
            for following in islice(rest, 1):
                running.append((following, self._rank(following)))
            yield user, prepared, seconds

    def clause(self, post: Post) -> Future[tuple[Clause, float]]:
        """See `Hands.clause`."""
        return self._writers.submit(self._write, post)

    def close(self) -> None:
        """See `Hands.close`."""
        self._stop.set()
        for pool in (self._ranker, self._writers):
            pool.shutdown(cancel_futures=True)

    def _rank(self, user: str) -> Future[tuple[list[Prepared] | None, float]]:
        def work() -> tuple[list[Prepared] | None, float]:
            start = time.perf_counter()
            return prepare(self._runtime, user, self._wanted, self._now), time.perf_counter() - start

        return self._ranker.submit(work)

    def _write(self, post: Post) -> tuple[Clause, float]:
        start = time.perf_counter()
        explainer, language = self._runtime.explainer, self._wanted.language
        clause = (
            explainer.book.write(post, language, self._stop) if self._wanted.write else explainer.clause(post, language)
        )
        return clause, time.perf_counter() - start


def run(
    runtime: Runtime,
    out: Path,
    wanted: Wanted,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    restart: bool = False,
    hands: Callable[[Runtime, Wanted, float], Hands] = LocalHands,
) -> BatchReport:
    """Make the file `out` (JSON Lines, or Parquet by its name), or go on where an earlier run was stopped.

    Setting `cancel` stops it between two rows; the report then is not `complete`. Raises DataError when another
    run of other options was begun in the same place (`restart` throws it away) or is running now, HomeError when a
    Parquet file is wanted and pyarrow is not installed.
    """
    start = time.perf_counter()
    cancel = cancel or threading.Event()
    if out.suffix == ".parquet":
        _need_parquet()  # now, and not after the work
    with _alone(out), _Run(runtime, out, wanted, restart) as state:
        report = state.report
        if state.rest:
            before = runtime.models.usage.of("writer")
            worker = hands(runtime, wanted, state.now)
            try:
                _work(worker, state, cancel, progress)
            finally:
                worker.close()
                used = runtime.models.usage.of("writer")
                report.tokens["prompt"] = used.prompt_tokens - before.prompt_tokens
                report.tokens["written"] = used.tokens - before.tokens
        if state.is_complete:
            state.finish()
    report.seconds["all"] = time.perf_counter() - start
    report.seconds = {name: round(seconds, 3) for name, seconds in report.seconds.items()}
    return report


def _work(hands: Hands, state: _Run, cancel: threading.Event, progress: Progress | None) -> None:
    """Rank ahead, have clauses written, and write rows in order."""
    language = state.wanted.language
    seconds = {"rank": 0.0, "write": 0.0, "wait": 0.0}
    written: dict[str, Clause] = {}  # of this run
    asked: dict[str, Future[tuple[Clause, float]]] = {}
    window: deque[tuple[str, list[Prepared] | None]] = deque()

    def is_ready(chosen: list[Prepared] | None) -> bool:
        return all(each.post.id in written or asked[each.post.id].done() for each in chosen or ())

    def clause_of(post: Post) -> Clause:
        if post.id not in written:
            start, future = time.perf_counter(), asked[post.id]
            while not cancel.is_set() and not wait([future], _LOOK_SECONDS).done:
                pass
            if cancel.is_set():
                raise _Cancelled
            written[post.id], took = asked.pop(post.id).result()
            seconds["wait"] += time.perf_counter() - start
            seconds["write"] += took
        return written[post.id]

    def write_first() -> None:
        if cancel.is_set():
            raise _Cancelled
        user, chosen = window.popleft()
        items = None if chosen is None else [each.item(clause_of(each.post), language) for each in chosen]
        state.add(user, items)
        if progress is not None:
            progress("readers", state.report.done, len(state.order))

    with suppress(_Cancelled):
        for user, chosen, took in hands.ranked(state.rest):
            seconds["rank"] += took
            for each in chosen or ():
                if each.post.id not in written and each.post.id not in asked:
                    asked[each.post.id] = hands.clause(each.post)
            window.append((user, chosen))
            while window and (len(window) >= AHEAD or is_ready(window[0][1])):
                write_first()
            if cancel.is_set():
                break
        while window:
            write_first()
    state.report.seconds = seconds


class _Cancelled(Exception):
    """The caller wants no more rows."""


class _Run:
    """The file in the making: what was asked for, which rows are there, and the next ones."""

    def __init__(self, runtime: Runtime, out: Path, wanted: Wanted, restart: bool) -> None:
        self.wanted = wanted
        self._runtime = runtime
        self._out = out
        self._part = out.with_name(out.name + ".part")
        self._about = out.with_name(out.name + ".part.json")
        with _writing(out):
            begun = self._begin(restart)
            self.order: list[str] = begun["users"]
            self.now = float(begun["now"])
            left_out = sum(map(len, begun["skipped"].values()))
            self.report = BatchReport(str(out), len(self.order) + left_out, skipped=begun["skipped"])
            self._handled = 0
            if not self._part.exists():  # killed between the renaming and the end
                self._out.replace(self._part)
            self._read()
            self._file: BinaryIO = self._part.open("ab")
        self.rest = self.order[self._handled :]
        self._synced = time.monotonic()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def is_complete(self) -> bool:
        """Has every user been handled?"""
        return self._handled == len(self.order)

    def add(self, user: str, items: Sequence[Any] | None) -> None:
        """Write the row of the next user; None: no such user any more."""
        self._handled += 1
        if items is None:
            self._pass_over(user)
            return
        row = {"user": user, "items": [item.to_json() for item in items]}
        with _writing(self._out):
            self._file.write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        self._count(row)

    def finish(self) -> None:
        """Put the file in its place, whole, and remove what was needed to go on."""
        with _writing(self._out):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
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
        """The run that goes on, or a new one."""
        # A description without rows is a run that had ended: it comes after the rows, and goes before them.
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
        """The run that was begun in this place, if there is one that can go on."""
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
        """Count the whole rows that are there; cut off what is not whole, and take out who was erased since."""
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
                except (ValueError, LookupError, TypeError):  # half a row, or none of ours
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

    def _pass_over(self, user: str) -> None:
        self.report.skipped.setdefault("erased meanwhile", []).append(user)

    def _count(self, row: Mapping[str, Any]) -> None:
        report, sources = self.report, [item["reason"]["source"] for item in row["items"]]
        report.done += 1
        report.posts += len(sources)
        report.short += len(sources) < self.wanted.k
        for source in sources:
            report.reasons[source] = report.reasons.get(source, 0) + 1


def _users(runtime: Runtime, wanted: Wanted) -> tuple[list[str], dict[str, list[str]]]:
    """Users to serve, in order and once each, and those to leave out, with the cause."""
    known = {user.id for user in runtime.store.all_users()}
    skipped: dict[str, list[str]] = {}
    if wanted.users is not None:
        chosen = list(dict.fromkeys(wanted.users))
        if unknown := [user for user in chosen if user not in known]:
            skipped["unknown user"] = unknown
        return [user for user in chosen if user in known], skipped
    active = dict(runtime.recommender.view().community.active_users())
    few = sorted(user for user in known if active.get(user, 0) < wanted.min_events)
    if few:
        skipped[f"fewer than {wanted.min_events} events"] = few
    return sorted(known.difference(few)), skipped


def _told(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'all' if value is None else value}" for name, value in options.items())


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No second batch writes the same file at the same time."""
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
    # One name for every process: what a killed one has left is written over by the next, which is alone here.
    return path.with_name(f".{path.name}.new")


def _need_parquet() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as exc:
        raise HomeError("Parquet needs pyarrow: run `pip install 'whyfeed[parquet]'`, or name a .jsonl file") from exc


def _to_parquet(rows: Path, out: Path) -> None:
    """Turn JSON Lines into Parquet, a thousand rows at a time, beside its place and then into it."""
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
