"""Explained recommendations for many users: one file, written whole or not at all, that a later run can continue.

Users are ranked ahead while the writer writes, and the clause of a post is written once for everybody, so the
language model's cost grows with the number of posts shown, not of users. `agent.batch.workers` says who does the
work and `agent.batch.output` how the file is kept; the order of the rows, and so the file, is always the same.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from whyfeed.agent.batch.output import BatchReport, Output, alone, need_parquet
from whyfeed.agent.batch.workers import LocalWorkers, Wanted, Workers
from whyfeed.agent.reasons.clauses import Clause
from whyfeed.agent.reasons.explainer import Prepared
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.progress import Progress

if TYPE_CHECKING:
    from whyfeed.agent.runtime import Runtime

AHEAD = 512  # users that are ranked and wait for clauses
_LOOK_SECONDS = 0.2  # between two looks at whether rows are still wanted


def run(
    runtime: Runtime,
    out: Path,
    wanted: Wanted,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    restart: bool = False,
    workers: Callable[[Runtime, Wanted, float], Workers] = LocalWorkers,
) -> BatchReport:
    """Make the file `out` (JSON Lines, or Parquet by its name), or continue an earlier run that was stopped.

    Setting `cancel` stops it between two rows; the report then is not `complete`. Raises DataError when another
    run of other options was begun in the same place (`restart` throws it away) or is running now, HomeError when a
    Parquet file is wanted and pyarrow is not installed.
    """
    start = time.perf_counter()
    cancel = cancel or threading.Event()
    if out.suffix == ".parquet":
        need_parquet()  # now, and not after the work
    with alone(out):
        output = Output(runtime, out, wanted, restart)
        report = output.report
        if output.rest:
            before = runtime.models.usage.of("writer")
            team = workers(runtime, wanted, output.now)
            try:
                _Loop(team, output, cancel, progress).run()
            finally:
                team.close()
                used = runtime.models.usage.of("writer")
                report.tokens["prompt"] = used.prompt_tokens - before.prompt_tokens
                report.tokens["written"] = used.tokens - before.tokens
        if output.is_complete:
            output.finish()
    report.seconds["all"] = time.perf_counter() - start
    report.seconds = {name: round(seconds, 3) for name, seconds in report.seconds.items()}
    return report


class _Loop:
    """Ranks ahead, has clauses written, and writes rows in order."""

    def __init__(
        self, workers: Workers, output: Output, cancel: threading.Event, progress: Progress | None
    ) -> None:  # fmt: skip
        self._workers = workers
        self._output = output
        self._cancel = cancel
        self._progress = progress
        self._seconds = {"rank": 0.0, "write": 0.0, "wait": 0.0}
        self._written: dict[str, Clause] = {}  # of this run
        self._asked: dict[str, Future[tuple[Clause, float]]] = {}
        self._window: deque[tuple[str, list[Prepared] | None]] = deque()

    def run(self) -> None:
        """Make every row that is missing, or as many as there are when `cancel` is set."""
        with suppress(_Cancelled):
            for user, chosen, took in self._workers.ranked(self._output.rest):
                self._seconds["rank"] += took
                for each in chosen or ():
                    if each.post.id not in self._written and each.post.id not in self._asked:
                        self._asked[each.post.id] = self._workers.clause(each.post)
                self._window.append((user, chosen))
                while self._window and (len(self._window) >= AHEAD or self._is_ready(self._window[0][1])):
                    self._write_first()
                if self._cancel.is_set():
                    break
            while self._window:
                self._write_first()
        self._output.report.seconds = self._seconds

    def _is_ready(self, chosen: list[Prepared] | None) -> bool:
        return all(each.post.id in self._written or self._asked[each.post.id].done() for each in chosen or ())

    def _write_first(self) -> None:
        if self._cancel.is_set():
            raise _Cancelled
        user, chosen = self._window.popleft()
        language = self._output.wanted.language
        items = None if chosen is None else [each.item(self._clause(each.post), language) for each in chosen]
        self._output.add(user, items)
        if self._progress is not None:
            self._progress("readers", self._output.report.done, len(self._output.order))

    def _clause(self, post: Post) -> Clause:
        """The clause of a post, once it is written."""
        if post.id not in self._written:
            start, future = time.perf_counter(), self._asked[post.id]
            while not self._cancel.is_set() and not wait([future], _LOOK_SECONDS).done:
                pass
            if self._cancel.is_set():
                raise _Cancelled
            self._written[post.id], took = self._asked.pop(post.id).result()
            self._seconds["wait"] += time.perf_counter() - start
            self._seconds["write"] += took
        return self._written[post.id]


class _Cancelled(Exception):
    """The caller wants no more rows."""
