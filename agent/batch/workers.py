"""Who ranks and writes for a batch: threads of this process, or actors of Ray (`agent.batch.ray_workers`)."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from whyfeed.agent.reasons.clauses import Clause
from whyfeed.agent.reasons.explainer import Prepared
from whyfeed.agent.recommend.pipeline import Task
from whyfeed.agent.request import Request
from whyfeed.retrieval.errors import UnknownUser
from whyfeed.retrieval.language import Language
from whyfeed.retrieval.post import Post

if TYPE_CHECKING:
    from whyfeed.agent.runtime import Runtime

_RANKED_AHEAD = 4  # users that are being ranked or wait to be taken


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch is to make. `users` None: everybody with at least `min_events` events."""

    users: tuple[str, ...] | None = None
    k: int = 5
    language: Language = "en"
    write: bool = True
    min_events: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 50:
            raise ValueError(f"k={self.k!r} is not between 1 and 50")

    def to_json(self) -> dict[str, Any]:
        """The options, which must be the same for a run to be continued."""
        document = asdict(self)
        if self.users is not None:
            document["users"] = hashlib.sha256("\0".join(self.users).encode(errors="replace")).hexdigest()
        return document


class Workers(Protocol):
    """What a batch needs done elsewhere: ranking and writing."""

    def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
        """Each user in order, with the posts chosen (None for a user who was erased) and the seconds it took."""
        ...

    def clause(self, post: Post) -> Future[tuple[Clause, float]]:
        """The clause of a post, which the store keeps, and the seconds it took."""
        ...

    def close(self) -> None:
        """Stop what still runs."""
        ...


def prepare(runtime: Runtime, user: str, wanted: Wanted, now: float) -> list[Prepared] | None:
    """The posts chosen for one user, each with the reader's half of its reason; None for an unknown user."""
    request = Request(k=wanted.k, language=wanted.language)
    view = runtime.recommender.snapshot()
    try:
        ranking = runtime.recommender.rank(view, user, Task(request, wanted.k, now=now), llm_rank=False)
    except UnknownUser:
        return None
    return runtime.explainer.prepare(view, ranking, request)


class LocalWorkers:
    """Threads of this process: one ranks, as many write as the writer serves at once."""

    def __init__(self, runtime: Runtime, wanted: Wanted, now: float) -> None:
        self._runtime = runtime
        self._wanted = wanted
        self._now = now
        self._stop = threading.Event()
        writer = runtime.models.writer() if wanted.write else None
        # One thread: two that rank would wait for each other (`agent.runtime`).
        self._ranker = ThreadPoolExecutor(1, "whyfeed-rank")
        self._writers = ThreadPoolExecutor(1 if writer is None else writer.in_flight, "whyfeed-write")

    def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
        """See `Workers.ranked`."""
        rest = iter(users)
        running = deque((user, self._rank(user)) for user in islice(rest, _RANKED_AHEAD))
        while running:
            user, future = running.popleft()
            prepared, seconds = future.result()
            for following in islice(rest, 1):
                running.append((following, self._rank(following)))
            yield user, prepared, seconds

    def clause(self, post: Post) -> Future[tuple[Clause, float]]:
        """See `Workers.clause`."""
        return self._writers.submit(self._write, post)

    def close(self) -> None:
        """See `Workers.close`."""
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
