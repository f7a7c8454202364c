"""A deterministic engine for tests and benchmarks, with replies given in advance."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from whyfeed.agent.llm.engine import ChatRequest, Completion, JudgeRequest, Message, check_wanted, checked_text
from whyfeed.retrieval.errors import ModelError

Reply = str | Exception


@dataclass
class ScriptedEngine:
    """A deterministic engine. `replies` are given out in order, or computed by a function of the messages.

    A reply that is an exception is raised. A token is a word with the space before it. `judgement` maps (prefix,
    candidate) to P(yes); without it, P is the share of the candidate's words that are in the prefix too. `history`,
    `judged` and `warmed` record the requests, for tests.
    """

    replies: Callable[[Sequence[Message]], Reply] | Sequence[Reply] = ()
    judgement: Callable[[str, str], float] | None = None
    name: str = "scripted"
    in_flight: int = 4
    history: list[ChatRequest] = field(default_factory=list)
    judged: list[JudgeRequest] = field(default_factory=list)
    warmed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._closed = False

    def complete(self, request: ChatRequest) -> Completion:
        """See `Engine.complete`."""
        words, finish = self._answer(request)
        read = sum(len(message["content"].split()) for message in request.messages)
        return Completion("".join(words), finish, read, len(words))

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """See `Engine.stream`."""
        for word in self._answer(request)[0]:
            self._check(request.cancel)
            yield word

    def judge(self, request: JudgeRequest) -> list[float]:
        """See `Engine.judge`."""
        with self._lock:
            self._check(request.cancel)
            self.judged.append(request)
        judgement = self.judgement or _overlap
        return [judgement(request.prefix, candidate) for candidate in request.candidates]

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`; recorded in `warmed`."""
        with self._lock:
            self._check(None)
            self.warmed.append(checked_text(prefix))

    def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True

    def _answer(self, request: ChatRequest) -> tuple[list[str], str]:
        with self._lock:
            self._check(request.cancel)
            self.history.append(request)
            if callable(self.replies):
                reply = self.replies(request.messages)
            elif self._next < len(self.replies):
                reply = self.replies[self._next]
                self._next += 1
            else:
                raise ModelError(f"{self.name!r} has no reply left after {self._next}; script more of them")
        if isinstance(reply, Exception):
            raise reply
        cut = min([reply.find(mark) for mark in request.stop if mark in reply], default=len(reply))
        words = re.findall(r"\s*\S+|\s+$", reply[:cut])
        return words[: request.max_tokens], "length" if len(words) > request.max_tokens else "stop"

    def _check(self, cancel: threading.Event | None) -> None:
        if self._closed:
            raise ModelError(f"the engine {self.name!r} is closed; open a new one")
        check_wanted(cancel)


def _overlap(prefix: str, candidate: str) -> float:
    words, known = set(re.findall(r"\w+", candidate.lower())), set(re.findall(r"\w+", prefix.lower()))
    return len(words & known) / len(words) if words else 0.0
