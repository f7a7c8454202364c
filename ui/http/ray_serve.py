"""The HTTP service on Ray Serve: replicas that each hold index and models, and one writer for the ledger.

Every replica is the whole service (`ui.http.service`) over the same home. What requests write (events, turns, traces,
clauses) goes to one actor, the only process that writes the ledger; replicas see it at their next request. Requests
with the same `x-session-id: USER` go to the same replica (consistent hashing), whose language model has that user's
prefix in its cache. The page is not served here, because its sessions live in one process. Rate limits count per
replica.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyfeed.agent.batch.ray_workers import import_ray, start_ray
from whyfeed.retrieval.errors import HomeError, WhyfeedError, one_line

if TYPE_CHECKING:
    from fastapi import FastAPI

_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
_PATIENCE = 60  # seconds that a write may wait for the writer
_IN_PROGRESS = 100  # requests that a replica works on; more wait


def serve_on_ray(
    home: Path | None,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    *,
    no_llm: bool,
    replicas: int,
    on_first_key: Callable[[str], None],
) -> None:
    """Serve until interrupted, on the cluster of RAY_ADDRESS or on one that is started here.

    HomeError when Ray is missing, the cluster cannot be reached, or the replicas do not start.
    """
    from whyfeed.agent.agent import Agent
    from whyfeed.ui.http.server import in_url, open_access

    with Agent.open(home, **({"no_llm": True} if no_llm else {})) as agent:
        agent.build()  # once, before every replica would find it missing
        settings = agent.settings.model_dump(mode="json")
        open_access(agent.store, on_first_key)
    master = os.environ.get("WHYFEED_API_KEY", "")  # the replicas' machines need not have it
    ray = import_ray()
    started = start_ray(2 * replicas + 2)
    # Ray's own handler aborts; a service that is told to end, ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from ray import serve
    from ray.serve.config import HTTPOptions, RequestRouterConfig

    ledger = ray.remote(_Ledger).options(num_cpus=0, max_restarts=-1, max_concurrency=1).remote(settings)

    def service() -> FastAPI:  # without arguments, as Ray Serve wants it
        return _replica(settings, master, ledger)

    try:
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config={"log_level": "ERROR"})
        deployment = serve.deployment(serve.ingress(service)(), name="whyfeed").options(
            num_replicas=replicas,
            max_ongoing_requests=_IN_PROGRESS,
            ray_actor_options={"num_cpus": 1},
            request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        )
        serve.run(deployment.bind(), name="whyfeed", route_prefix="/")
        on_ready(f"http://{in_url(host)}:{port}")
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except RuntimeError as exc:
        raise HomeError(f"Ray Serve did not start ({one_line(exc)}); see its logs") from exc
    finally:
        serve.shutdown()
        if started:
            ray.shutdown()


def _replica(settings: dict[str, Any], master: str, ledger: Any) -> FastAPI:
    """The service in one replica, ready for requests; what it writes goes to the ledger's actor."""
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.settings import Settings
    from whyfeed.ui.http.access import Access
    from whyfeed.ui.http.service import build

    def send(part: str, method: str, arguments: tuple[Any, ...]) -> Any:
        return _written(ledger, part, method, arguments)

    agent = Agent(Settings(**settings), time.time, send)
    agent.build()
    agent.desk.build()
    return build(agent, Access(agent.store, master), page=False)


class _Ledger:
    """The actor that writes. Writes are not retried; an unconfirmed write raises in the caller."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from whyfeed.agent.settings import Settings
        from whyfeed.agent.single_writer import Writer
        from whyfeed.retrieval.store.store import Store

        self._writer = Writer(Store(Settings(**settings).home.expanduser()))

    def write(self, part: str, method: str, arguments: tuple[Any, ...]) -> tuple[Any, WhyfeedError | ValueError | None]:
        """What the method returns, or the error that it raises on purpose."""
        try:
            return self._writer.write(part, method, arguments), None
        except (WhyfeedError, ValueError) as exc:
            return None, exc


def _written(ledger: Any, part: str, method: str, arguments: tuple[Any, ...]) -> Any:
    import ray

    try:
        value, error = ray.get(ledger.write.remote(part, method, arguments), timeout=_PATIENCE)
    except ray.exceptions.RayError as exc:
        raise HomeError("the writer of the ledger does not answer; ask again in a moment") from exc
    if error is not None:
        raise error
    return value
