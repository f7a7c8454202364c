"""Examines whether a model calls tools well enough to plan turns, on sentences whose right call is known."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whyfeed.agent.chat.planner import Planner, instructions, tool
from whyfeed.agent.chat.tools import TURNS, request_of
from whyfeed.agent.understanding.references import Context
from whyfeed.retrieval.files import write_whole
from whyfeed.retrieval.language import Language, detect_language

PASSED = 0.9  # of the sentences; an assumption, not measured on models
_log = logging.getLogger(__name__)
_TITLES = ("Sourdough in winter", "A quieter grinder", "Qubits for beginners", "Tax law for freelancers", "冬天种番茄")
_SHOWN = Context(("p1", "p2", "p3", "p4", "p5"), dict(zip(("p1", "p2", "p3", "p4", "p5"), _TITLES, strict=True)))

# A sentence, and the fields that the request must have; None: no tool may be called.
SENTENCES: tuple[tuple[str, Mapping[str, Any] | None], ...] = (
    ("What should I read?", {"intent": "recommend", "query": None}),
    ("Show me something about espresso", {"intent": "search", "query": "espresso"}),
    ("Anything practical on error correction?", {"intent": "search"}),
    ("Less politics, please", {"intent": "less_like", "exclude": ("politics",)}),
    ("I want to see more woodworking", {"intent": "more_like", "include": ("woodworking",)}),
    ("No football this week", {"intent": "less_like", "exclude": ("football",), "horizon": "week"}),
    ("Not the second one", {"intent": "hide", "posts": ("p2",)}),
    ("More like the first", {"intent": "more_like", "posts": ("p1",)}),
    ("Why did you show me number 3?", {"intent": "why", "posts": ("p3",)}),
    ("Compare 1 and 4", {"intent": "compare", "posts": ("p1", "p4")}),
    ("Sum up the last one", {"intent": "summarise", "posts": ("p5",)}),
    ("Show me others", {"intent": "recommend", "others": True}),
    ("Undo that", {"intent": "undo"}),
    ("Forget everything about gardening", {"intent": "forget", "query": "gardening"}),
    ("What do you know about me?", {"intent": "profile"}),
    ("Who should I follow?", {"intent": "people"}),
    ("Thanks, that was helpful!", None),
    ("What's the weather tomorrow?", None),
    ("今天看什么？", {"intent": "recommend", "query": None}),
    ("少推荐体育", {"intent": "less_like", "exclude": ("体育",)}),
    ("不要第二个", {"intent": "hide", "posts": ("p2",)}),
    ("为什么推荐第三个？", {"intent": "why", "posts": ("p3",)}),
    ("换一批", {"intent": "recommend", "others": True}),
    ("找点关于番茄的帖子", {"intent": "search", "query": "番茄"}),
)


class Exam:
    """The marks of models, kept in a file. A new model is examined once, in the background."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._marks = _read(file)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._running: set[str] = set()

    def passed(self, planner: Planner) -> bool:
        """Whether this planner's model has passed; starts the exam where it has no mark yet."""
        name = name_of(planner)
        with self._lock:
            if name in self._marks:
                return self._marks[name] >= PASSED
            if name not in self._running:
                self._running.add(name)
                threading.Thread(target=self._hold, args=(planner, name), name="whyfeed-exam", daemon=True).start()
            return False

    def stop(self) -> None:
        """Stop a running exam; its model is examined again later."""
        self._stop.set()

    def _hold(self, planner: Planner, name: str) -> None:
        try:
            mark = examine(planner, self._stop)
        except Exception as exc:  # an unreachable server says nothing about its model: examined again later
            _log.info("no exam for %s: %s", name, exc)
            mark = None
        with self._lock:
            self._running.discard(name)
            if mark is not None:
                self._marks[name] = mark
                write_whole(self._file, json.dumps(self._marks, indent=1).encode())


def examine(planner: Planner, stop: threading.Event | None = None) -> float | None:
    """The share of `SENTENCES` whose first call is the right one; None when stopped. Raises what the model raises."""
    right = 0
    bound = planner.model.bind_tools([tool(name, lambda *_: "") for name in TURNS])
    for text, wanted in SENTENCES:
        if stop is not None and stop.is_set():
            return None
        language = detect_language(text, "en")
        answer = bound.invoke([("system", instructions(_SHOWN, language)), ("user", text)])
        calls = getattr(answer, "tool_calls", None) or []
        right += _is_right(calls[0] if calls else None, wanted, text, language)
    return right / len(SENTENCES)


def name_of(planner: Planner) -> str:
    """The name that a model has at its server."""
    return str(getattr(planner.model, "model_name", type(planner.model).__name__))


def _is_right(
    call: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None, text: str, language: Language
) -> bool:  # fmt: skip
    if call is None or wanted is None:
        return call is None and wanted is None
    try:
        request = request_of(call["name"], call["args"], text, _SHOWN, language)
    except ValueError:
        return False
    return all(getattr(request, key) == value for key, value in wanted.items())


def _read(file: Path) -> dict[str, float]:
    try:
        return {str(name): float(mark) for name, mark in json.loads(file.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
