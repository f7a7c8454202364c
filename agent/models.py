"""The models of a home by role, opened when they are first needed, and what state each is in."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from agent import weights as weight_files
from agent.engine import Engine, OpenAIEngine, open_engine
from agent.judge import MODEL as JUDGE
from agent.registry import Registry
from agent.settings import Settings
from agent.usage import MeteredEngine, Usage
from agent.weights import Weights
from retrieval.embedder import Embedder, open_embedder
from retrieval.errors import ModelError, WeightsError, WhyfeedError

Role = Literal["writer", "ranker"]
EMBEDDER = "embedder"  # in the registry: a folder of sentence-transformers, see `finetune.embed`
TUNED = "tuned"  # as a setting: the live one of those


def embedder_of(settings: Settings) -> Embedder:
    """The embedder that the settings name. ModelError when it is the home's own and none is live."""
    if settings.embedder != TUNED:
        return open_embedder(settings.embedder)
    registry = Registry(settings.home.expanduser())
    folder = registry.live(EMBEDDER)
    if folder is None:
        trouble = (
            registry.trouble(EMBEDDER) or "no embedder that was tuned in this home is live: whyfeed finetune embed"
        )
        raise ModelError(f"WHYFEED_EMBEDDER is {TUNED!r}, but {trouble}")
    return open_embedder(str(folder))


class Models:
    """Writer and ranker LLM. A role without a usable model answers None, and `status` says why."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.usage = Usage()
        self._lock = threading.Lock()
        self._engines: dict[Role, Engine] = {}
        self._opened: dict[Role, str] = {}  # from what
        self._registry = Registry(settings.home.expanduser())
        self._judge: tuple[object, str, tuple[float, float]] = (None, "", (1.0, 0.0))  # stamp, file, calibration
        self._failed: dict[Role, str] = {}
        self._progress: dict[str, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._fetching: threading.Thread | None = None

    def writer(self) -> Engine | None:
        """The writer LLM, or None while there is none."""
        return self._engine("writer")

    def ranker(self) -> Engine | None:
        """The LLM that judges a reader and a post, or None while there is none."""
        return self._engine("ranker")

    def calibration(self) -> tuple[float, float]:
        """Slope and intercept of the logit of the home's own judge; 1 and 0 of any other."""
        own = self._tuned()
        return self._judge[2] if own and self._opened.get("ranker") == own else (1.0, 0.0)

    def put(self, role: Role, engine: Engine) -> None:
        """Use an engine of the caller's own for a role, in place of what the settings name; `close` closes it."""
        with self._lock:
            self._engines[role] = MeteredEngine(engine, role, self.usage)
            self._opened.pop(role, None)

    def fetch(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Download missing weights in the background; `status` follows it, `close` stops it.

        `progress` is called with a file's name, the bytes that are there and those that it has.
        """
        wanted = [weights for role in ("ranker", "writer") if (weights := self._missing(role)) is not None]
        if not wanted or self._fetching is not None:
            return

        def report(name: str, done: int, total: int) -> None:
            self._progress[name] = (done, total)
            if progress is not None:
                progress(name, done, total)

        def run() -> None:
            for weights in wanted:
                try:
                    weight_files.pull(weights, report, self._stop)
                except WhyfeedError as exc:
                    if not self._stop.is_set():
                        self._failed[weights.role] = str(exc)  # type: ignore[index]
                finally:
                    self._progress.pop(weights.name, None)

        self._fetching = threading.Thread(target=run, name="whyfeed-weights", daemon=True)
        self._fetching.start()

    def status(self) -> dict[str, dict[str, Any]]:
        """By role: name, state (off, missing, downloading, ready, failed), bytes done and total, and why."""
        return {role: self._status(role) for role in ("writer", "ranker")}

    def describe(self, role: Role) -> str:
        """The state of a role in a few words, with the cause when it failed."""
        status = self._status(role)
        return f"{status['state']} ({status['why']})" if "why" in status else str(status["state"])

    def close(self) -> None:
        """Stop a download and unload the engines."""
        self._stop.set()
        if self._fetching is not None:
            self._fetching.join()
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    # ---- inside ----

    def _engine(self, role: Role) -> Engine | None:
        if self._settings.no_llm or self._stop.is_set():
            return None
        with self._lock:
            if role in self._engines:
                if role not in self._opened or self._opened[role] == self._spec(role):
                    return self._engines[role]
                self._engines.pop(role).close()  # another judge went live
                self._failed.pop(role, None)
            if role in self._failed or self._missing(role) is not None:
                return None
            try:
                engine = self._open(role)
            except (ModelError, WeightsError) as exc:
                self._failed[role] = str(exc)
                return None
            self._engines[role] = MeteredEngine(engine, role, self.usage)
            if not self._settings.llm_url:
                self._opened[role] = self._spec(role)
            return self._engines[role]

    def _open(self, role: Role) -> Engine:
        if self._settings.llm_url:
            engine = OpenAIEngine(
                self._settings.llm_url, self._settings.llm_model or None, self._settings.llm_key or None,
                in_flight=self._settings.llm_in_flight,
            )  # fmt: skip
            # What is kept bears the model's name, in the next process too.
            engine.find_model()
            return engine
        return open_engine(self._spec(role))

    def _spec(self, role: Role) -> str:
        return self._settings.writer if role == "writer" else self._tuned() or self._settings.ranker

    def _tuned(self) -> str:
        """The file of the home's live judge; empty when there is none that serves here, or a ranker was named."""
        if "ranker" in self._settings.model_fields_set:
            return ""
        stamp = self._registry.stamp(JUDGE)
        if stamp != self._judge[0]:
            folder = self._registry.live(JUDGE)  # reads every file: not at each request
            files = sorted(folder.glob("*.gguf")) if folder is not None else []
            calibration = (1.0, 0.0)
            if folder is not None:
                # Older judges have none, and no number of a card keeps a judge from serving.
                with suppress(OSError, ValueError, KeyError, TypeError):
                    said = json.loads((folder / "card.json").read_bytes())["calibration"]
                    calibration = float(said["slope"]), float(said["intercept"])
            self._judge = (stamp, str(files[0]) if files else "", calibration)
        return self._judge[1]

    def _missing(self, role: Role) -> Weights | None:
        """The manifest's weights of this role when they are not there yet."""
        if self._settings.no_llm or self._settings.llm_url:
            return None
        try:
            weights = weight_files.find(self._spec(role))
        except ValueError:
            return None  # a path or a URL of the operator's own
        return None if weights.state() == "ready" else weights

    def _status(self, role: Role) -> dict[str, Any]:
        name = self._settings.llm_model or self._settings.llm_url or self._spec(role)
        document: dict[str, Any] = {"name": Path(name).name if "://" not in name else name, "state": "ready"}
        weights = self._missing(role)
        if self._settings.no_llm:
            document["state"] = "off"
        elif role in self._failed:
            document |= {"state": "failed", "why": self._failed[role]}
        elif weights is not None and weights.name in self._progress:
            done, total = self._progress[weights.name]
            document |= {"state": "downloading", "done": done, "total": total}
        elif weights is not None:
            # The ranker is downloaded before the writer: the writer waits, it is not missing for good.
            waiting = self._fetching is not None and self._fetching.is_alive()
            document |= {"state": "downloading" if waiting else "missing", "done": 0, "total": weights.size}
        return document
