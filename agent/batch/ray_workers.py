"""The workers of a batch on a Ray cluster: actors with the index rank, actors with the writer write.

Ray Data spreads the users over the ranking actors and returns them in order. Ray restarts actors that die and
repeats their work. This process alone writes to the home and the file. Every node needs whyfeed, the home's folder
(shared, or a copy), and the writer's weights or a server.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from whyfeed.agent.batch.workers import Wanted, prepare
from whyfeed.agent.reasons.clauses import KIND, Clause, ClauseBook
from whyfeed.agent.reasons.explainer import Prepared
from whyfeed.retrieval.errors import HomeError, one_line
from whyfeed.retrieval.post import Post

if TYPE_CHECKING:
    from whyfeed.agent.runtime import Runtime

_BLOCK = 32  # users that an actor takes at a time
_RESTARTS = {"max_restarts": -1, "max_task_retries": -1}


class RayWorkers:
    """See `agent.batch.workers.Workers`. RAY_ADDRESS names the cluster; without it one is started on this machine."""

    def __init__(self, runtime: Runtime, wanted: Wanted, now: float) -> None:
        ray = import_ray()
        workers = runtime.settings.ray_workers
        self._runtime = runtime
        self._wanted = wanted
        self._now = now
        self._workers = workers
        self._settings = runtime.settings.model_dump(mode="json")
        self._started = start_ray(2 * workers)  # rankers and writers
        self._writers: list[Any] = []
        self._waiting: list[int] = []
        writer = runtime.models.writer() if wanted.write else None
        if writer is not None:
            remote = ray.remote(_Writer).options(num_cpus=1, max_concurrency=writer.in_flight, **_RESTARTS)
            self._writers = [remote.remote(self._settings) for _ in range(workers)]
            self._waiting = [0] * workers

    def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
        """See `Workers.ranked`."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        rows = [{"user": user} for user in users]
        blocks = max(2 * self._workers, -(-len(rows) // _BLOCK))
        dataset = ray.data.from_items(rows, override_num_blocks=min(blocks, len(rows))).map_batches(
            _Ranker,
            fn_constructor_args=(self._settings, self._wanted, self._now),
            compute=ActorPoolStrategy(size=self._workers),
            batch_size=_BLOCK,
            num_cpus=1,
        )
        try:
            for row in dataset.iter_rows():
                prepared, seconds = ray.cloudpickle.loads(row["ranked"])
                yield str(row["user"]), prepared, seconds
        except ray.exceptions.RayError as exc:
            raise HomeError(f"the Ray cluster gave up ({one_line(exc)}); run the batch again: it goes on") from exc

    def clause(self, post: Post) -> Future[tuple[Clause, float]]:
        """See `Workers.clause`."""
        answered: Future[tuple[Clause, float]] = Future()
        book, language = self._runtime.explainer.book, self._wanted.language
        clause = book.current(post, language) if self._wanted.write else book.ready(post, language)
        if clause is not None or not self._writers:
            answered.set_result((clause or book.extract(post, language), 0.0))
            return answered
        chosen = min(range(len(self._writers)), key=self._waiting.__getitem__)
        self._waiting[chosen] += 1

        def keep(future: Future[Any]) -> None:
            self._waiting[chosen] -= 1
            try:
                written, documents, seconds = future.result()
                for key, document in documents:
                    self._runtime.store.keep(KIND, key, document)
                answered.set_result((written, seconds))
            except Exception as exc:  # raised again where the clause is waited for
                answered.set_exception(
                    HomeError(f"a writer on the Ray cluster gave up ({one_line(exc)}); run it again")
                )

        self._writers[chosen].write.remote(post, language).future().add_done_callback(keep)
        return answered

    def close(self) -> None:
        """See `Workers.close`."""
        import ray

        for writer in self._writers:
            try:
                for role, count in ray.get(writer.usage.remote(), timeout=5).items():
                    self._runtime.models.usage.add(role, count["seconds"], count["prompt_tokens"], count["tokens"])
            except ray.exceptions.RayError:
                pass  # busy or gone: its usage is not counted
            ray.kill(writer)
        if self._started:
            ray.shutdown()


class _Ranker:
    """Ranks users in an actor of Ray Data."""

    def __init__(self, settings: dict[str, Any], wanted: Wanted, now: float) -> None:
        from whyfeed.agent.runtime import Runtime
        from whyfeed.agent.settings import Settings

        self._runtime = Runtime(Settings(**settings), time.time)
        self._wanted = wanted
        self._now = now

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from ray.cloudpickle import dumps

        users, ranked = [str(user) for user in batch["user"]], []
        for user in users:
            start = time.perf_counter()
            prepared = prepare(self._runtime, user, self._wanted, self._now)
            ranked.append(dumps((prepared, time.perf_counter() - start)))
        return {"user": users, "ranked": ranked}


class _Writer:
    """Writes clauses in an actor, and returns what the process that owns the home is to store."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from whyfeed.agent.llm.roles import Models, embedder_of
        from whyfeed.agent.settings import Settings

        chosen = Settings(**settings)
        self._models = Models(chosen)
        self._embedder = embedder_of(chosen)

    def write(self, post: Post, language: str) -> tuple[Clause, list[tuple[str, dict[str, Any]]], float]:
        """The clause, the documents to keep by key, and the seconds that it took."""
        start = time.perf_counter()
        shelf = _Shelf()
        clause = ClauseBook(shelf, self._models.writer, self._embedder).write(post, language)
        return clause, shelf.documents, time.perf_counter() - start

    def usage(self) -> dict[str, dict[str, Any]]:
        """What the language model has cost here."""
        return self._models.usage.to_json()


class _Shelf:
    """A shelf that stores nothing; it lists what should be stored."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []

    def kept(self, kind: str, key: str) -> dict[str, Any] | None:
        """See `agent.reasons.clauses.Shelf`."""
        return None

    def keep(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """See `agent.reasons.clauses.Shelf`."""
        self.documents.append((key, document))


def import_ray() -> Any:
    """The module `ray`; HomeError when it is not installed."""
    # Must be set before the import: no usage reports, and no warning that an actor's arguments may be lost (this
    # process holds them as long as the actors live).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise HomeError("Ray is not installed; run `pip install 'whyfeed[ray]'`, or leave out --ray") from exc
    return ray


def start_ray(processors: int) -> bool:
    """Join the cluster of RAY_ADDRESS, or start one here; False when this process had joined one already.

    `processors` is how many CPUs a new cluster claims to have, one for each actor. HomeError when it fails.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    cluster = os.environ.get("RAY_ADDRESS")
    local = {} if cluster else {"num_cpus": processors, "include_dashboard": False}
    if cluster:
        _check_reachable(cluster)
    try:
        ray.init(log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as exc:
        raise HomeError(f"no Ray cluster can be reached or started ({one_line(exc)}); check RAY_ADDRESS") from exc
    return True


def _check_reachable(cluster: str) -> None:
    """HomeError when nobody listens at the cluster's address; Ray itself would try for minutes."""
    parts = urlsplit(cluster if "://" in cluster else f"ray://{cluster}")
    if parts.hostname is None or parts.port is None:
        return  # "auto", and other forms that Ray resolves
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=10).close()
    except OSError as exc:
        raise HomeError(f"no Ray cluster answers at {cluster!r} ({exc.strerror or exc}); check RAY_ADDRESS") from exc
