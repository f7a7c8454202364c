"""Base class for engine decorators (metering, circuit breaking)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from whyfeed.agent.llm.engine import ChatRequest, Completion, Engine, JudgeRequest

T = TypeVar("T")
E = TypeVar("E", bound=Engine)


class WrappedEngine(Generic[E]):
    """Passes every call on to `engine`. Subclasses override `_around_call` and `_around_stream`."""

    def __init__(self, engine: E) -> None:
        self.engine = engine

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return self.engine.name

    @property
    def in_flight(self) -> int:
        """See `Engine.in_flight`."""
        return self.engine.in_flight

    def complete(self, request: ChatRequest) -> Completion:
        """See `Engine.complete`."""
        return self._around_call(lambda: self.engine.complete(request))

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """See `Engine.stream`."""
        return self._around_stream(lambda: self.engine.stream(request))

    def judge(self, request: JudgeRequest) -> list[float]:
        """See `Engine.judge`."""
        return self._around_call(lambda: self.engine.judge(request))

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`."""
        self._around_call(lambda: self.engine.warm(prefix))

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()

    # ---- hooks

    def _around_call(self, call: Callable[[], T]) -> T:
        """Runs around `complete`, `judge` and `warm`; `call` asks the wrapped engine."""
        return call()

    def _around_stream(self, start: Callable[[], Iterator[str]]) -> Iterator[str]:
        """Runs around `stream`; `start` asks the wrapped engine for its pieces."""
        yield from start()
