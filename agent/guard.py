"""A circuit breaker before a model's server (Nygard, "Release It!", 2007): while it is down nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from agent.completion import Completion, Message
from agent.remote import OpenAIEngine
from retrieval.errors import ModelError, UnreachableError

T = TypeVar("T")


class GuardedEngine:
    """A server's engine. After `failures` calls in a row that it did not answer, calls fail at once.

    From then on a thread of its own asks every `pause` seconds whether the server is back: no reader has to try. A
    request that the server refuses is not a failure of the server. `down` says since what it is not asked, else "".
    """

    def __init__(self, engine: OpenAIEngine, failures: int = 3, pause: float = 2.0) -> None:
        self.engine = engine
        self._failures, self._pause = failures, pause
        self._lock = threading.Lock()
        self._failed = 0  # in a row
        self._closing = threading.Event()
        self.down = ""

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return self.engine.name

    @property
    def in_flight(self) -> int:
        """See `Engine.in_flight`."""
        return self.engine.in_flight

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completion:
        """See `Engine.complete`."""
        return self._guarded(
            lambda: self.engine.complete(
                messages, max_tokens=max_tokens, temperature=temperature, stop=stop, schema=schema, cancel=cancel
            )
        )

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        cancel: threading.Event | None = None,
    ) -> Iterator[str]:
        """See `Engine.stream`."""
        self._check()
        try:
            yield from self.engine.stream(
                messages, max_tokens=max_tokens, temperature=temperature, stop=stop, cancel=cancel
            )
        except ModelError as exc:
            self._note(exc)
            raise
        self._note(None)

    def judge(
        self,
        prefix: str,
        candidates: Sequence[str],
        *,
        yes: str = "Yes",
        no: str = "No",
        cancel: threading.Event | None = None,
    ) -> list[float]:
        """See `Engine.judge`."""
        return self._guarded(lambda: self.engine.judge(prefix, candidates, yes=yes, no=no, cancel=cancel))

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`."""
        self._guarded(lambda: self.engine.warm(prefix))

    def close(self) -> None:
        """See `Engine.close`."""
        self._closing.set()
        self.engine.close()

    def find(self) -> list[str]:
        """What the server serves; an empty list where it does not answer, which counts as down at once."""
        try:
            self.engine.find_model()
            return self.engine.models()
        except ModelError as exc:
            self._note(exc, self._failures)
            return []

    # ---- inside ----

    def _guarded(self, call: Callable[[], T]) -> T:
        self._check()
        try:
            found = call()
        except ModelError as exc:
            self._note(exc)
            raise
        self._note(None)
        return found

    def _check(self) -> None:
        if self.down and not self._closing.is_set():
            raise UnreachableError(f"{self.down}; it is asked again when it is back")

    def _note(self, exc: ModelError | None, weight: int = 1) -> None:
        with self._lock:
            if not isinstance(exc, UnreachableError):
                self._failed = self._failed if exc else 0
                return
            self._failed += weight
            if self._failed < self._failures or self.down:
                return
            self.down = str(exc)
        threading.Thread(target=self._look, name="whyfeed-guard", daemon=True).start()

    def _look(self) -> None:
        while not self._closing.wait(self._pause):
            try:
                self.engine.models()
            except ModelError:
                continue
            with self._lock:
                self._failed, self.down = 0, ""
            return
