"""A circuit breaker for a model server (Nygard, "Release It!", 2007): while the server is down, calls fail at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.llm.wrapper import T, WrappedEngine
from whyfeed.retrieval.errors import ModelError, UnreachableError


class CircuitBreaker(WrappedEngine[OpenAIEngine]):
    """Wraps the engine of a server. After `failures` unanswered calls in a row the breaker opens: calls raise at once.

    A background thread then checks every `pause` seconds whether the server answers, and closes the breaker. A request
    that the server rejects does not count as a failure. `down` is the cause while the breaker is open, else "".
    """

    def __init__(self, engine: OpenAIEngine, failures: int = 3, pause: float = 2.0) -> None:
        super().__init__(engine)
        self._failures, self._pause = failures, pause
        self._lock = threading.Lock()
        self._failed = 0  # in a row
        self._closing = threading.Event()
        self.down = ""

    def close(self) -> None:
        """See `Engine.close`."""
        self._closing.set()
        self.engine.close()

    def probe(self) -> list[str]:
        """The server's model names; empty when it does not answer, which opens the breaker at once."""
        try:
            return self.engine.models()
        except ModelError as exc:
            self._record(exc, self._failures)
            return []

    # ---- hooks ----

    def _around_call(self, call: Callable[[], T]) -> T:
        self._check()
        try:
            found = call()
        except ModelError as exc:
            self._record(exc)
            raise
        self._record(None)
        return found

    def _around_stream(self, start: Callable[[], Iterator[str]]) -> Iterator[str]:
        self._check()
        try:
            yield from start()
        except ModelError as exc:
            self._record(exc)
            raise
        self._record(None)

    # ---- inside ----

    def _check(self) -> None:
        if self.down and not self._closing.is_set():
            raise UnreachableError(f"{self.down}; it is asked again when it is back")

    def _record(self, exc: ModelError | None, weight: int = 1) -> None:
        with self._lock:
            if not isinstance(exc, UnreachableError):
                self._failed = self._failed if exc else 0
                return
            self._failed += weight
            if self._failed < self._failures or self.down:
                return
            self.down = str(exc)
        threading.Thread(target=self._wait_until_back, name="whyfeed-circuit-breaker", daemon=True).start()

    def _wait_until_back(self) -> None:
        while not self._closing.wait(self._pause):
            try:
                self.engine.models()
            except ModelError:
                continue
            with self._lock:
                self._failed, self.down = 0, ""
            return
