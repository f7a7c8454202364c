"""What a language model is asked and answers, the protocol of an engine, and work that can be left at any moment."""

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

# What chat templates turn into control tokens: <|im_start|>, </s>, <start_of_turn>, [INST] and their kind.
_CONTROL = re.compile(
    r"<(?=[|｜][^<>|｜]{1,40}[|｜]>|/?s>|(?:start|end)_of_turn>|/?(?:tool_call|think)>)|\[(?=/?INST\])"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to answer, checked when it is made and fit to send as it is.

    `messages` and `stop` are kept as tuples, with the control tokens of the messages broken (see `defuse`), so that a
    text cannot end its own message. `schema` is the JSON schema of the answer; text that "length" cut may break it.
    Setting `cancel` ends the call with a ModelError. ModelError when there is nothing to answer or a text holds a lone
    surrogate, which no tokeniser takes; ValueError when `max_tokens` is below 1.
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
        # The class is frozen: this is how it may set its own fields.
        object.__setattr__(self, "messages", tuple(checked_messages(self.messages)))
        object.__setattr__(self, "stop", tuple(checked_text(mark) for mark in self.stop))


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """How likely `yes` is, against `no`, as the token after `prefix` + candidate, for each candidate.

    Prefix and candidate are tokenised apart. Both are prompts as the model reads them: control tokens count, and
    `defuse` takes them out of the words of others. Setting `cancel` ends the call with a ModelError. ModelError when a
    text holds a lone surrogate.
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
    """What a model wrote. `finish_reason` is "stop", or "length" when `max_tokens` or the context cut it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    tokens: int


class Engine(Protocol):
    """One language model. Safe to call from several threads; whatever goes wrong is a ModelError."""

    @property
    def name(self) -> str:
        """What traces call the model."""
        ...

    @property
    def in_flight(self) -> int:
        """How many calls at once keep it busy: one in this process, many behind a server that batches them."""
        ...

    def complete(self, request: ChatRequest) -> Completion:
        """The answer to a conversation."""
        ...

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """The same answer in pieces, as they come; leaving the loop ends the work."""
        ...

    def judge(self, request: JudgeRequest) -> list[float]:
        """P(yes) of each candidate, in 0..1."""
        ...

    def warm(self, prefix: str) -> None:
        """Read a prefix ahead, so that the next `judge` with it is sooner done; `checked_text` holds for it."""
        ...

    def close(self) -> None:
        """Stop what runs and give back memory and connections; later calls are a ModelError."""
        ...


def defuse(text: str) -> str:
    """The text with every control token of the usual chat formats broken by a space: <|im_end|> to < |im_end|>."""
    return _CONTROL.sub(lambda match: f"{match[0]} ", text)


def checked_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages fit to send; ModelError for those that servers answer from imagination or choke on."""
    if not messages or not any(message["content"].strip() for message in messages):
        raise ModelError("the conversation is empty; send at least one message with words in it")
    return [{"role": message["role"], "content": defuse(checked_text(message["content"]))} for message in messages]


def checked_text(text: str) -> str:
    """The text itself; ModelError when it holds half of a surrogate pair, which no tokeniser takes."""
    if found := _SURROGATE.search(text):
        raise ModelError(f"a prompt holds the lone surrogate {found[0]!r} at {found.start()}; decode the text properly")
    return text


def check_wanted(cancel: threading.Event | None) -> None:
    """ModelError when the caller does not want the answer any more."""
    if cancel is not None and cancel.is_set():
        raise ModelError("stopped by the caller; ask again when the answer is wanted")


class Deadline(threading.Event):
    """A `cancel` that is set when the one given is, and after so many seconds by itself."""

    def __init__(self, cancel: threading.Event, seconds: float) -> None:
        super().__init__()
        self._cancel, self._until = cancel, time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether it was time that ran out."""
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
    """One piece of work in a thread of its own, so that whoever waits can leave at any moment.

    The work hands out pieces with `emit` and looks at `stop`; its thread is a daemon, because a server
    that hangs must not keep the program from ending.
    """

    def __init__(self, work: Callable[[Job[T]], T], name: str) -> None:
        self.stop = threading.Event()
        self._work = work
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._value: T
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def emit(self, piece: str) -> None:
        """Give a piece to whoever waits."""
        self._pieces.put(piece)

    def pieces(self, cancel: threading.Event | None = None) -> Iterator[str]:
        """Start, and yield pieces until the end; leaving early, or setting `cancel`, sets `stop`."""
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
        """Start, wait for the end, and return what the work returned."""
        for _ in self.pieces(cancel):
            pass
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._work(self)
        except BaseException as exc:  # it is raised again where the result is waited for
            self._error = exc
        finally:
            self._pieces.put(None)
