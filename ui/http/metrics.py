"""Prometheus metrics of the service: requests, batch jobs, and the usage of language models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Usage = Callable[[], Mapping[str, Mapping[str, Any]]]


class Metrics:
    """The counts of one application. `usage` gives a language model's counts by role (`agent.llm.usage`)."""

    def __init__(self, usage: Usage) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "whyfeed_requests", "Requests that were answered.", ["operation", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "whyfeed_request_seconds", "Time to the last byte of an answer.", ["operation"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.in_progress = Gauge("whyfeed_requests_in_progress", "Requests being answered.", registry=self.registry)
        self.batch_users = Counter(
            "whyfeed_batch_users", "Users for whom a batch job has made a list.", registry=self.registry
        )
        self.registry.register(_ModelUsage(usage))

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self.registry)


class Metered:
    """ASGI middleware that counts requests by operation; "page" is the whole page, "other" is no known route."""

    def __init__(self, app: ASGIApp, metrics: Metrics, page: str) -> None:
        self._app = app
        self._metrics = metrics
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it, also when it fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, path, start = 500, scope["path"], time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.in_progress.dec()
            operation = "page" if path == self._page or path.startswith(f"{self._page}/") else _operation(scope)
            self._metrics.requests.labels(operation, str(status)).inc()
            self._metrics.seconds.labels(operation).observe(time.perf_counter() - start)


class _ModelUsage(Collector):
    """Reads the counts that the models keep themselves, at the time of the request."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = self._usage()
        for key, told in (
            ("calls", "Calls of the language model."),
            ("prompt_tokens", "Tokens that it was given."),
            ("tokens", "Tokens that it wrote."),
            ("seconds", "Seconds that its calls took; they add up over calls at the same time."),
        ):
            family = CounterMetricFamily(f"whyfeed_model_{key}", told, labels=["role"])
            for role, count in counts.items():
                family.add_metric([role], float(count[key]))
            yield family


def _operation(scope: Scope) -> str:
    # Unknown paths share one label, because clients can invent any number of them.
    return getattr(scope.get("route"), "operation_id", None) or "other"
