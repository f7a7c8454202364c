"""Who plans a turn of a conversation: a server's model that calls tools, or the rules of `agent.understanding`."""

from __future__ import annotations

import threading

from whyfeed.agent.chat.exam import Exam
from whyfeed.agent.chat.planner import Planner
from whyfeed.agent.llm.roles import Models
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.store.store import Store


class PlannerChoice:
    """Chooses at each turn, because a server's model may appear, vanish or change. Safe for many threads."""

    def __init__(self, models: Models, settings: Settings, store: Store) -> None:
        self._models = models
        self._settings = settings
        self._store = store
        self._home = store.home
        self._lock = threading.Lock()
        self._planner: Planner | None = None
        self._exam: Exam | None = None

    def planner(self) -> Planner | None:
        """The planner of this turn; None where the rules plan it.

        `Settings.chat` may demand either. By default a model plans once it has passed the exam, which runs in the
        background, once for each model.
        """
        if self._settings.chat == "plan":
            return None
        with self._lock:
            model = self._models.tool_caller()
            if model is None:
                return None
            if self._planner is None or self._planner.model is not model:
                self._planner = Planner(model, self._home, self._models.usage, self._store.user)
            if self._settings.chat == "agent":
                return self._planner
            if self._exam is None:
                self._exam = Exam(self._home / "tool-exam.json")
            return self._planner if self._exam.passed(self._planner) else None

    def close(self) -> None:
        """Stop a running exam and close the planner's file."""
        if self._exam is not None:
            self._exam.stop()
        if self._planner is not None:
            self._planner.close()
