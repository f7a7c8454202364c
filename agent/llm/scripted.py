"""A deterministic engine for tests and benchmarks: replies are given in advance."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whyfeed.agent.llm.engine import Completion, Message, check_wanted, checked_limit, checked_messages, checked_text
from whyfeed.retrieval.errors import ModelError


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a scripted engine, for a test to look at."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None


Reply = str | Exception


@dataclass
class ScriptedEngine:
    """A deterministic engine: `replies` in order, or a function of the messages; an exception is raised.

    A token is a word with the space before it. `judgement` maps (prefix, candidate) to P(yes); without
    it, P is the share of the candidate's words that the prefix has too.
    """

    replies: Callable[[Sequence[Message]], Reply] | Sequence[Reply] = ()
    judgement: Callable[[str, str], float] | None = None
    name: str = "scripted"
    in_flight: int = 4
    history: list[Call] = field(default_factory=list)
    judged: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    warmed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._closed = False

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
        call = Call(tuple(checked_messages(messages)), max_tokens, temperature, tuple(stop), schema)
        words, finish = self._answer(call, cancel)
        return Completion("".join(words), finish, sum(len(m["content"].split()) for m in call.messages), len(words))

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
        call = Call(tuple(checked_messages(messages)), max_tokens, temperature, tuple(stop))
        return self._stream(call, cancel)

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
        for text in (prefix, *candidates):
            checked_text(text)
        with self._lock:
            self._check(cancel)
            self.judged.append((prefix, tuple(candidates)))
        return [(self.judgement or _overlap)(prefix, candidate) for candidate in candidates]

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`; kept in `warmed`."""
        with self._lock:
            self._check(None)
            self.warmed.append(checked_text(prefix))

    def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True

    def _stream(self, call: Call, cancel: threading.Event | None) -> Iterator[str]:
        for word in self._answer(call, cancel)[0]:
            self._check(cancel)
            yield word

    def _answer(self, call: Call, cancel: threading.Event | None) -> tuple[list[str], str]:
        checked_limit(call.max_tokens)
        with self._lock:
            self._check(cancel)
            self.history.append(call)
            if callable(self.replies):
                reply = self.replies(call.messages)
            elif self._next < len(self.replies):
                reply = self.replies[self._next]
                self._next += 1
            else:
                raise ModelError(f"{self.name!r} has no reply left after {self._next}; script more of them")
        if isinstance(reply, Exception):
            raise reply
        cut = min([reply.find(mark) for mark in call.stop if mark in reply], default=len(reply))
        words = re.findall(r"\s*\S+|\s+$", reply[:cut])
        return words[: call.max_tokens], "length" if len(words) > call.max_tokens else "stop"

    def _check(self, cancel: threading.Event | None) -> None:
        if self._closed:
            raise ModelError(f"the engine {self.name!r} is closed; open a new one")
        check_wanted(cancel)


def _overlap(prefix: str, candidate: str) -> float:
    words, known = set(re.findall(r"\w+", candidate.lower())), set(re.findall(r"\w+", prefix.lower()))
    return len(words & known) / len(words) if words else 0.0
