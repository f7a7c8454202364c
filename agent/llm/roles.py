"""The language models of a home by role: opened on first use, with a fallback when the server is down, and status."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whyfeed.agent.llm import weights as weight_files
from whyfeed.agent.llm.circuit_breaker import CircuitBreaker
from whyfeed.agent.llm.engine import Engine
from whyfeed.agent.llm.open import open_engine
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.llm.usage import MeteredEngine, Usage
from whyfeed.agent.llm.vllm_adapters import adapter_name
from whyfeed.agent.llm.weights import Weights
from whyfeed.agent.registry import JUDGE, Registry
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.community.embedder import Embedder, open_embedder
from whyfeed.retrieval.errors import ModelError, WeightsError, WhyfeedError
from whyfeed.retrieval.progress import Progress

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

Role = Literal["writer", "ranker"]
ROLES: tuple[Role, ...] = ("writer", "ranker")
EMBEDDER = "embedder"  # name in the registry of a sentence-transformers folder, see `finetune.llm.embedder`
_CHECK_AGAIN = 5.0  # seconds between two checks whether the server has the home's judge as an adapter
TUNED = "tuned"  # value of the setting `embedder` for the live one of the registry


def embedder_of(settings: Settings) -> Embedder:
    """The embedder of the settings. ModelError when it is the tuned one and none is live, or when loading fails."""
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


@dataclass(frozen=True, slots=True)
class _OwnJudge:
    """The live judge of a home: its GGUF file ("" without one), its name at a server, calibration of its logit."""

    file: str = ""
    name: str = ""
    calibration: tuple[float, float] = (1.0, 0.0)  # slope, intercept


class RoleSlot:
    """The engines of one role: that of the server behind a circuit breaker, and a local one.

    Not safe for use from several threads: `Models` holds its lock while it changes a slot.
    """

    def __init__(self, role: Role, usage: Usage) -> None:
        self._role, self._usage = role, usage
        self.local: Engine | None = None  # weights in this process, or an engine given by the caller
        self.spec = ""  # the spec `local` was opened with
        self.given = False  # whether `local` was given by the caller
        self.failure = ""  # why `local` could not be opened
        self.breaker: CircuitBreaker | None = None
        self.served: Engine | None = None  # `breaker`, metered
        self.adapter = ""  # name of the adapter that is used at the server; "" for its base model
        self.checked = 0.0  # `time.monotonic` of the last check for adapters at the server

    @property
    def down(self) -> str:
        """Why the server is not used at the moment; "" when it is used, and without a server."""
        return self.breaker.down if self.breaker is not None else ""

    @property
    def serves(self) -> bool:
        """Whether there is a server and it is not known to be down."""
        return self.breaker is not None and not self.breaker.down

    def give(self, engine: Engine) -> None:
        """Use an engine given by the caller."""
        self.local, self.spec, self.given = self._metered(engine), "", True

    def serve(self, breaker: CircuitBreaker) -> Engine:
        """Use the server's engine. A replaced one is not closed, so that its running calls can finish."""
        self.breaker, self.served = breaker, self._metered(breaker)
        return self.served

    def open(self, spec: str) -> Engine | None:
        """The engine in this process, opened if necessary; None while weights are missing and when opening failed."""
        if self.local is not None and self.spec != spec:
            self.local.close()  # another judge went live
            self.local, self.failure = None, ""
        if self.local is None and not self.failure and _absent(spec) is None:
            try:
                self.local, self.spec = self._metered(open_engine(spec)), spec
            except (ModelError, WeightsError) as exc:
                self.failure = str(exc)
        return self.local

    def close(self) -> None:
        """Close every engine."""
        for engine in (self.local, self.breaker):
            if engine is not None:
                engine.close()
        self.local = self.breaker = self.served = None

    def _metered(self, engine: Engine) -> Engine:
        return MeteredEngine(engine, self._role, self._usage)


@dataclass(frozen=True, slots=True)
class RoleState:
    """State of a role: `name` is off, missing, downloading, ready, failed or fallback; `why` is the cause or ""."""

    name: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


class Models:
    """The writer and the ranker LLM of a home. A role without a usable model is None; `status` says why.

    Safe for use from several threads.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.usage = Usage()
        self._lock = threading.Lock()
        self._slots: dict[Role, RoleSlot] = {role: RoleSlot(role, self.usage) for role in ROLES}
        self._registry = Registry(settings.home.expanduser())
        self._judge: tuple[object, _OwnJudge] = (None, _OwnJudge())  # stamp of the registry, judge read then
        self._caller: BaseChatModel | None = None
        self._given_caller = False
        self._progress: dict[str, tuple[int, int]] = {}  # name of weights -> bytes done, bytes in total
        self._stop = threading.Event()
        self._fetching: threading.Thread | None = None

    def writer(self) -> Engine | None:
        """The writer LLM, or None while there is none."""
        return self._engine("writer")

    def ranker(self) -> Engine | None:
        """The LLM that judges whether a reader will engage with a post, or None while there is none."""
        return self._engine("ranker")

    def tool_caller(self) -> BaseChatModel | None:
        """The server's model as a LangChain chat model, for tool calls; None without a server and while it is down."""
        if self._caller is not None and self._given_caller:
            return self._caller
        if not self._settings.llm_url or self.writer() is None:
            return None
        with self._lock:
            breaker = self._slots["writer"].breaker
            if breaker is None or breaker.down:
                return None
            if self._caller is None:
                from langchain_openai import ChatOpenAI
                from pydantic import SecretStr

                settings = self._settings
                self._caller = ChatOpenAI(
                    model=breaker.name, base_url=breaker.engine.url, api_key=SecretStr(settings.llm_key or "none"),
                    timeout=settings.llm_timeout, max_retries=1, temperature=0.0, max_completion_tokens=400,
                )  # fmt: skip
            return self._caller

    def check_server(self) -> None:
        """Let the circuit breakers check the server in the background, after a call outside of them got no answer."""
        for slot in self._slots.values():
            if slot.breaker is not None and not slot.breaker.down:
                threading.Thread(target=slot.breaker.probe, name="whyfeed-probe", daemon=True).start()

    def put_tool_caller(self, model: BaseChatModel) -> None:
        """Use a LangChain chat model given by the caller to plan chat turns."""
        self._caller, self._given_caller = model, True

    def calibration(self) -> tuple[float, float]:
        """(slope, intercept) to calibrate the judge's logit where the home's own judge is in use; else (1, 0)."""
        own, slot = self._own(), self._slots["ranker"]
        mine, asked = (own.name, slot.adapter) if slot.serves else (own.file, slot.spec)
        return own.calibration if mine and mine == asked else (1.0, 0.0)

    def put(self, role: Role, engine: Engine) -> None:
        """Use an engine given by the caller for a role, instead of that of the settings; `close` closes it."""
        with self._lock:
            self._slots[role].give(engine)

    def fetch(self, progress: Progress | None = None) -> None:
        """Download missing weights in the background; `status` reports it, `close` stops it.

        `progress` is called with the name of the weights, the bytes so far and in total.
        """
        roles: tuple[Role, ...] = ("ranker", "writer")
        wanted = [(role, weights) for role in roles if (weights := self._missing(role)) is not None]
        if not wanted or self._fetching is not None:
            return

        def report(name: str, done: int, total: int) -> None:
            self._progress[name] = (done, total)
            if progress is not None:
                progress(name, done, total)

        def run() -> None:
            for role, weights in wanted:
                try:
                    weight_files.pull(weights, report, self._stop)
                except WhyfeedError as exc:
                    if not self._stop.is_set():
                        self._slots[role].failure = str(exc)
                finally:
                    self._progress.pop(weights.name, None)

        self._fetching = threading.Thread(target=run, name="whyfeed-weights", daemon=True)
        self._fetching.start()

    def status(self) -> dict[str, dict[str, Any]]:
        """By role: name, state (see `RoleState`), for a download the bytes done and total, and the cause as "why"."""
        return {role: self._status(role) for role in ROLES}

    def state(self, role: Role) -> RoleState:
        """The state of a role."""
        status = self._status(role)
        return RoleState(str(status["state"]), str(status.get("why", "")))

    def describe(self, role: Role) -> str:
        """`state` as text, with the cause in brackets."""
        return str(self.state(role))

    def close(self) -> None:
        """Stop a download and close the engines."""
        self._stop.set()
        if self._fetching is not None:
            self._fetching.join()
        with self._lock:
            for slot in self._slots.values():
                slot.close()

    # ---- inside ----

    def _engine(self, role: Role) -> Engine | None:
        if self._settings.no_llm or self._stop.is_set():
            return None
        with self._lock:
            slot = self._slots[role]
            if slot.given:
                return slot.local
            if self._settings.llm_url:
                served = self._served(role)
                if not slot.down:
                    return served
            return slot.open(self._spec(role))

    def _served(self, role: Role) -> Engine:
        """The server's engine; for the ranker, the home's own judge once the server has loaded it as an adapter."""
        slot = self._slots[role]
        wanted = self._own().name if role == "ranker" else ""
        if slot.breaker is not None and slot.served is not None:
            due = time.monotonic() > slot.checked + _CHECK_AGAIN
            if wanted == slot.adapter or slot.down or not due:
                return slot.served
            slot.checked = time.monotonic()
            if (wanted if wanted in slot.breaker.probe() else "") == slot.adapter:
                return slot.served  # nothing has changed there
        breaker = CircuitBreaker(self._client(self._settings.llm_model or None))
        # Asking also fixes the model's name, which is part of the keys of cached documents.
        names = breaker.probe()
        if role == "ranker":
            slot.checked = time.monotonic()
            slot.adapter = wanted if wanted in names else ""
            if slot.adapter:
                breaker.close()
                breaker = CircuitBreaker(self._client(slot.adapter))
        return slot.serve(breaker)

    def _client(self, model: str | None) -> OpenAIEngine:
        settings = self._settings
        return OpenAIEngine(
            settings.llm_url, model, settings.llm_key or None, settings.llm_timeout, in_flight=settings.llm_in_flight
        )

    def _spec(self, role: Role) -> str:
        return self._settings.writer if role == "writer" else self._own().file or self._settings.ranker

    def _own(self) -> _OwnJudge:
        """The home's live judge; an empty one when there is none or the settings name a ranker."""
        if "ranker" in self._settings.model_fields_set:
            return _OwnJudge()
        stamp = self._registry.stamp(JUDGE)
        if stamp != self._judge[0]:
            folder = self._registry.live(JUDGE)  # reads every file, so only when the stamp has changed
            found = _OwnJudge()
            if folder is not None:
                calibration = (1.0, 0.0)
                # Older judges have no calibration; a bad one in the card does not keep the judge from being used.
                with suppress(OSError, ValueError, KeyError, TypeError):
                    said = json.loads((folder / "card.json").read_bytes())["calibration"]
                    calibration = float(said["slope"]), float(said["intercept"])
                files = sorted(map(str, folder.glob("*.gguf")))
                found = _OwnJudge(files[0] if files else "", adapter_name(folder), calibration)
            self._judge = (stamp, found)
        return self._judge[1]

    def _missing(self, role: Role) -> Weights | None:
        """The weights of this role that must still be downloaded; None when there are none, as with a server."""
        return None if self._settings.no_llm or self._settings.llm_url else _absent(self._spec(role))

    def _status(self, role: Role) -> dict[str, Any]:
        name = self._settings.llm_model or self._settings.llm_url or self._spec(role)
        document: dict[str, Any] = {"name": Path(name).name if "://" not in name else name, "state": "ready"}
        weights, slot = self._missing(role), self._slots[role]
        if self._settings.no_llm:
            document["state"] = "off"
        elif down := slot.down:
            instead = Path(self._spec(role)).name if _absent(self._spec(role)) is None else "nothing"
            document |= {"state": "fallback", "why": f"{down}; {instead} serves instead"}
        elif slot.failure and not self._settings.llm_url:
            document |= {"state": "failed", "why": slot.failure}
        elif weights is not None and weights.name in self._progress:
            done, total = self._progress[weights.name]
            document |= {"state": "downloading", "done": done, "total": total}
        elif weights is not None:
            # The ranker is downloaded before the writer, which is "downloading" while it waits.
            waiting = self._fetching is not None and self._fetching.is_alive()
            document |= {"state": "downloading" if waiting else "missing", "done": 0, "total": weights.size}
        return document


def _absent(spec: str) -> Weights | None:
    """The weights of the manifest with that name or role if they are not on this machine, else None."""
    try:
        weights = weight_files.find(spec)
    except ValueError:
        return None  # a path or a URL of the operator's own
    return None if weights.state() == "ready" else weights
