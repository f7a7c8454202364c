"""What language models cost: calls, tokens and seconds by role, counted where every call passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.completion import Completion, Engine, Message


@dataclass(slots=True)
class Count:
    """`prompt_tokens` of `complete` alone: streams and judgements do not tell. `seconds` add up over calls."""

    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Usage:
    """Counts of a process by role. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Count] = {}

    def add(self, role: str, seconds: float, prompt_tokens: int = 0, tokens: int = 0) -> None:
        """Count one call."""
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


class MeteredEngine:
    """An engine whose calls are counted; otherwise the engine itself."""

    def __init__(self, engine: Engine, role: str, usage: Usage) -> None:
        self.engine = engine
        self._role = role
        self._usage = usage

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
        start = time.perf_counter()
        done = self.engine.complete(
            messages, max_tokens=max_tokens, temperature=temperature, stop=stop, schema=schema, cancel=cancel
        )
        self._usage.add(self._role, time.perf_counter() - start, done.prompt_tokens, done.tokens)
        return done

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
        start, pieces = time.perf_counter(), 0
        try:
            for piece in self.engine.stream(
                messages, max_tokens=max_tokens, temperature=temperature, stop=stop, cancel=cancel
            ):
                pieces += 1
                yield piece
        finally:
            self._usage.add(self._role, time.perf_counter() - start, 0, pieces)

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
        start = time.perf_counter()
        found = self.engine.judge(prefix, candidates, yes=yes, no=no, cancel=cancel)
        self._usage.add(self._role, time.perf_counter() - start)
        return found

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`."""
        self.engine.warm(prefix)

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()
