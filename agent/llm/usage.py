"""Usage of language models by role: calls, tokens and seconds, counted by an engine decorator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from whyfeed.agent.llm.engine import Completion, Engine
from whyfeed.agent.llm.wrapper import T, WrappedEngine


@dataclass(slots=True)
class Count:
    """Totals of one role. Only `complete` reports prompt tokens; for a stream, `tokens` counts its pieces."""

    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Usage:
    """The counts of one process by role. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Count] = {}

    def add(self, role: str, seconds: float, prompt_tokens: int = 0, tokens: int = 0) -> None:
        """Count one call of a role that took `seconds`, with its numbers of tokens."""
        with self._lock:
            count = self._counts.setdefault(role, Count())
            count.calls += 1
            count.prompt_tokens += prompt_tokens
            count.tokens += tokens
            count.seconds += seconds

    def of(self, role: str) -> Count:
        """The counts of a role so far."""
        with self._lock:
            return Count(**asdict(self._counts.get(role, Count())))

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The counts by role."""
        with self._lock:
            return {role: asdict(count) for role, count in self._counts.items()}


class MeteredEngine(WrappedEngine[Engine]):
    """Counts the calls of an engine under a role; `warm` and failed calls are not counted, failed streams are."""

    def __init__(self, engine: Engine, role: str, usage: Usage) -> None:
        super().__init__(engine)
        self._role = role
        self._usage = usage

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`."""
        self.engine.warm(prefix)

    def _around_call(self, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        found = call()
        spent = (found.prompt_tokens, found.tokens) if isinstance(found, Completion) else (0, 0)
        self._usage.add(self._role, time.perf_counter() - start, *spent)
        return found

    def _around_stream(self, start: Callable[[], Iterator[str]]) -> Iterator[str]:
        begun, pieces = time.perf_counter(), 0
        try:
            for piece in start():
                pieces += 1
                yield piece
        finally:
            self._usage.add(self._role, time.perf_counter() - begun, 0, pieces)
