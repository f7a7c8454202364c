"""The protocol of language model engines: requests, answers, and cancellable background work."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from whyfeed.retrieval.errors import ModelError

Message = Mapping[str, str]  # role (system, user, assistant) and content
T = TypeVar("T")

# Texts that chat templates turn into control tokens: <|im_start|>, </s>, <start_of_turn>, [INST] and similar.
_CONTROL = re.compile(
    r"<(?=[|｜][^<>|｜]{1,40}[|｜]>|/?s>|(?:start|end)_of_turn>|/?(?:tool_call|think)>)|\[(?=/?INST\])"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to answer, validated when it is created.

    Control tokens in the messages are broken up (see `defuse`), so that a text cannot end its own message. `schema` is
    the JSON schema of the answer; an answer with the finish reason "length" may violate it. Setting `cancel` ends the
    call with a ModelError. ModelError when the messages are empty or a text has a lone surrogate, which no tokeniser
    accepts; ValueError when `max_tokens` is below 1.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    stop: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        # The class is frozen; only `object.__setattr__` can set its fields.
        object.__setattr__(self, "messages", tuple(checked_messages(self.messages)))
        object.__setattr__(self, "stop", tuple(checked_text(mark) for mark in self.stop))


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """Asks for P(`yes`) against `no` as the next token after `prefix` + candidate, for each candidate.

    Prefix and candidate are tokenised separately. Both are raw prompts, in which control tokens are effective: pass
    text of users through `defuse` first. Setting `cancel` ends the call with a ModelError. ModelError when a text has
    a lone surrogate.
    """

    prefix: str
    candidates: Sequence[str]
    yes: str = "Yes"
    no: str = "No"
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        for text in (self.prefix, *self.candidates, self.yes, self.no):
            checked_text(text)


@dataclass(frozen=True, slots=True)
class Completion:
    """The text of an answer. `finish_reason` is "stop", or "length" when `max_tokens` or the context ended it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    tokens: int


class Engine(Protocol):
    """One language model. Safe to call from several threads; all its failures are raised as ModelError."""

    @property
    def name(self) -> str:
        """Name of the model, for traces."""
        ...

    @property
    def in_flight(self) -> int:
        """Number of concurrent calls that keep it busy: 1 in this process, more for a server that batches them."""
        ...

    def complete(self, request: ChatRequest) -> Completion:
        """The answer to a conversation."""
        ...

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """The same answer in pieces, as they are generated; closing the iterator stops the generation."""
        ...

    def judge(self, request: JudgeRequest) -> list[float]:
        """P(yes) for each candidate, in 0..1."""
        ...

    def warm(self, prefix: str) -> None:
        """Process a prefix ahead, to make the next `judge` with it faster. ModelError as of `checked_text`."""
        ...

    def close(self) -> None:
        """Stop running calls and release memory and connections; later calls raise ModelError."""
        ...


def defuse(text: str) -> str:
    """The text with every control token of common chat formats broken up by a space: <|im_end|> to < |im_end|>."""
    return _CONTROL.sub(lambda match: f"{match[0]} ", text)


def checked_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Copies of the messages, defused; ModelError when all are empty or a text has a lone surrogate."""
    if not messages or not any(message["content"].strip() for message in messages):
        raise ModelError("the conversation is empty; send at least one message with words in it")
    return [{"role": message["role"], "content": defuse(checked_text(message["content"]))} for message in messages]


def checked_text(text: str) -> str:
    """The text itself; ModelError when it has a lone surrogate, which no tokeniser accepts."""
    if found := _SURROGATE.search(text):
        raise ModelError(f"a prompt holds the lone surrogate {found[0]!r} at {found.start()}; decode the text properly")
    return text


def check_wanted(cancel: threading.Event | None) -> None:
    """ModelError when the caller has cancelled."""
    if cancel is not None and cancel.is_set():
        raise ModelError("stopped by the caller; ask again when the answer is wanted")


class Deadline(threading.Event):
    """An event that is set when `cancel` is set, or when `seconds` have passed."""

    def __init__(self, cancel: threading.Event, seconds: float) -> None:
        super().__init__()
        self._cancel, self._until = cancel, time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time has run out and `cancel` is not set."""
        return not self._cancel.is_set() and time.monotonic() >= self._until

    def is_set(self) -> bool:
        """See `threading.Event.is_set`."""
        return super().is_set() or self._cancel.is_set() or time.monotonic() >= self._until

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Event.wait`."""
        end = time.monotonic() + timeout if timeout is not None else self._until
        while not self.is_set() and (left := min(end, self._until) - time.monotonic()) > 0:
            super().wait(min(left, 0.05))
        return self.is_set()


class Job(Generic[T]):
    """Work in a background thread, whose caller can stop waiting at any moment.

    The work passes pieces to the caller with `emit`, and must end when `stop` is set. The thread is a daemon, so that
    a server that hangs does not keep the program from exiting.
    """

    def __init__(self, work: Callable[[Job[T]], T], name: str) -> None:
        self.stop = threading.Event()
        self._work = work
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._value: T
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def emit(self, piece: str) -> None:
        """Pass a piece to the caller."""
        self._pieces.put(piece)

    def pieces(self, cancel: threading.Event | None = None) -> Iterator[str]:
        """Start, and yield pieces until the end; then raise the error of the work, if any.

        Closing the iterator early, or setting `cancel`, sets `stop`.
        """
        self.thread.start()
        try:
            while True:
                check_wanted(cancel)
                try:
                    piece = self._pieces.get(timeout=0.05)
                except queue.Empty:
                    continue
                if piece is None:
                    break
                yield piece
        finally:
            self.stop.set()
        if self._error is not None:
            raise self._error

    def result(self, cancel: threading.Event | None = None) -> T:
        """Start, wait for the end, and return the result of the work, or raise its error."""
        for _ in self.pieces(cancel):
            pass
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._work(self)
        except BaseException as exc:  # raised again in the caller's thread by `pieces`
            self._error = exc
        finally:
            self._pieces.put(None)
