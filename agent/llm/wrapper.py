"""An engine around another one: what is asked passes through, and two hooks see it pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from whyfeed.agent.llm.engine import Completion, Engine, Message

T = TypeVar("T")
E = TypeVar("E", bound=Engine)


class WrappedEngine(Generic[E]):
    """The engine itself, as long as `_call` and `_pieces` only pass on what they are given."""

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
        return self._call(
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
        return self._pieces(
            lambda: self.engine.stream(
                messages, max_tokens=max_tokens, temperature=temperature, stop=stop, cancel=cancel
            )
        )

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
        return self._call(lambda: self.engine.judge(prefix, candidates, yes=yes, no=no, cancel=cancel))

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`."""
        self._call(lambda: self.engine.warm(prefix))

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()

    # ---- hooks

    def _call(self, call: Callable[[], T]) -> T:
        return call()

    def _pieces(self, start: Callable[[], Iterator[str]]) -> Iterator[str]:
        yield from start()
