"""The models of a home by role, opened when they are first needed, and what state each is in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whyfeed.agent.llm import weights as weight_files
from whyfeed.agent.llm.circuit_breaker import GuardedEngine
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

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

Role = Literal["writer", "ranker"]
EMBEDDER = "embedder"  # in the registry: a folder of sentence-transformers, see `finetune.llm.embedder`
_LOOK_AGAIN = 5.0  # seconds until a server that lacked the home's judge is asked for it again
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


@dataclass(frozen=True, slots=True)
class _OwnJudge:
    """The live judge of a home: its GGUF file ("" without one), its name at a server, slope and intercept."""

    file: str = ""
    name: str = ""
    calibration: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True, slots=True)
class RoleState:
    """State of a role: off, missing, downloading, ready, failed or fallback, and why where that is known."""

    name: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


class Models:
    """Writer and ranker LLM. A role without a usable model answers None, and `status` says why."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.usage = Usage()
        self._lock = threading.Lock()
        self._engines: dict[Role, Engine] = {}
        self._opened: dict[Role, str] = {}  # from what
        self._registry = Registry(settings.home.expanduser())
        self._judge: tuple[object, _OwnJudge] = (None, _OwnJudge())  # with the registry's stamp
        self._guards: dict[Role, GuardedEngine] = {}
        self._metered: dict[Role, MeteredEngine] = {}  # before those
        self._caller: BaseChatModel | None = None
        self._given_caller = False
        self._adapter = ""  # that the server is asked for as the ranker
        self._looked = 0.0  # when the server was last asked for it
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

    def tool_caller(self) -> BaseChatModel | None:
        """The server's model as LangChain calls it, with tools; None without a server, and while it is down."""
        if self._caller is not None and self._given_caller:
            return self._caller
        if not self._settings.llm_url or self.writer() is None or not self._serves("writer"):
            return None
        with self._lock:
            guard = self._guards["writer"]
            if self._caller is None:
                from langchain_openai import ChatOpenAI
                from pydantic import SecretStr

                settings = self._settings
                self._caller = ChatOpenAI(
                    model=guard.name, base_url=guard.engine.url, api_key=SecretStr(settings.llm_key or "none"),
                    timeout=settings.llm_timeout, max_retries=1, temperature=0.0, max_completion_tokens=400,
                )  # fmt: skip
            return self._caller

    def check_server(self) -> None:
        """Something that goes past the guards found no answer: have them look, without waiting for it."""
        for guard in self._guards.values():
            if not guard.down:
                threading.Thread(target=guard.find, name="whyfeed-look", daemon=True).start()

    def put_tool_caller(self, model: BaseChatModel) -> None:
        """Use a model of the caller's own to plan turns."""
        self._caller, self._given_caller = model, True

    def calibration(self) -> tuple[float, float]:
        """Slope and intercept of the logit of the home's own judge; 1 and 0 of any other."""
        own = self._own()
        served = self._serves("ranker")
        mine, asked = (own.name, self._adapter) if served else (own.file, self._opened.get("ranker"))
        return own.calibration if mine and mine == asked else (1.0, 0.0)

    def put(self, role: Role, engine: Engine) -> None:
        """Use an engine of the caller's own for a role, in place of what the settings name; `close` closes it."""
        with self._lock:
            self._engines[role] = MeteredEngine(engine, role, self.usage)
            self._opened[role] = ""

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

    def state(self, role: Role) -> RoleState:
        """The state of a role, with the cause when it failed."""
        status = self._status(role)
        return RoleState(str(status["state"]), str(status.get("why", "")))

    def describe(self, role: Role) -> str:
        """`state` in a few words."""
        return str(self.state(role))

    def close(self) -> None:
        """Stop a download and unload the engines."""
        self._stop.set()
        if self._fetching is not None:
            self._fetching.join()
        with self._lock:
            for engine in (*self._engines.values(), *self._guards.values()):
                engine.close()
            self._engines.clear()
            self._guards.clear()

    # ---- inside ----

    def _engine(self, role: Role) -> Engine | None:
        if self._settings.no_llm or self._stop.is_set():
            return None
        with self._lock:
            if self._opened.get(role) == "":
                return self._engines[role]
            if self._settings.llm_url:
                served = self._served(role)
                if not self._guards[role].down:
                    return served
            return self._local(role)

    def _served(self, role: Role) -> Engine:
        """The server's engine; as the ranker the home's own judge as soon as the server has it as an adapter."""
        wanted = self._own().name if role == "ranker" else ""
        found = self._guards.get(role)
        stale = found is not None and role == "ranker" and wanted != self._adapter
        if found is not None and not (stale and not found.down and time.monotonic() > self._looked + _LOOK_AGAIN):
            return self._metered[role]
        if found is not None:
            self._looked = time.monotonic()
            if (wanted if wanted in found.find() else "") == self._adapter:
                return self._metered[role]  # nothing has changed there
        guard = GuardedEngine(self._client(self._settings.llm_model or None))
        # What is kept bears the model's name, in the next process too.
        names = guard.find()
        if role == "ranker":
            self._looked = time.monotonic()
            self._adapter = wanted if wanted in names else ""
            if self._adapter:
                guard.close()
                guard = GuardedEngine(self._client(self._adapter))
        # One that was replaced is left to end what it does; it holds connections alone.
        self._guards[role] = guard
        self._metered[role] = MeteredEngine(guard, role, self.usage)
        return self._metered[role]

    def _client(self, model: str | None) -> OpenAIEngine:
        settings = self._settings
        return OpenAIEngine(
            settings.llm_url, model, settings.llm_key or None, settings.llm_timeout, in_flight=settings.llm_in_flight
        )

    def _serves(self, role: Role) -> bool:
        return role in self._guards and not self._guards[role].down

    def _local(self, role: Role) -> Engine | None:
        """The engine in this process; None where its weights are not there, or are of no use."""
        spec = self._spec(role)
        if role in self._engines and self._opened[role] != spec:
            self._engines.pop(role).close()  # another judge went live
            self._failed.pop(role, None)
        if role in self._engines:
            return self._engines[role]
        if role in self._failed or self._absent(role) is not None:
            return None
        try:
            engine = open_engine(spec)
        except (ModelError, WeightsError) as exc:
            self._failed[role] = str(exc)
            return None
        self._engines[role] = MeteredEngine(engine, role, self.usage)
        self._opened[role] = spec
        return self._engines[role]

    def _spec(self, role: Role) -> str:
        return self._settings.writer if role == "writer" else self._own().file or self._settings.ranker

    def _own(self) -> _OwnJudge:
        """The home's live judge; nothing when there is none, or a ranker was named."""
        if "ranker" in self._settings.model_fields_set:
            return _OwnJudge()
        stamp = self._registry.stamp(JUDGE)
        if stamp != self._judge[0]:
            folder = self._registry.live(JUDGE)  # reads every file: not at each request
            found = _OwnJudge()
            if folder is not None:
                calibration = (1.0, 0.0)
                # Older judges have none, and no number of a card keeps a judge from serving.
                with suppress(OSError, ValueError, KeyError, TypeError):
                    said = json.loads((folder / "card.json").read_bytes())["calibration"]
                    calibration = float(said["slope"]), float(said["intercept"])
                files = sorted(map(str, folder.glob("*.gguf")))
                found = _OwnJudge(files[0] if files else "", adapter_name(folder), calibration)
            self._judge = (stamp, found)
        return self._judge[1]

    def _missing(self, role: Role) -> Weights | None:
        """The manifest's weights of this role when they are not there yet; with a server none are needed."""
        return None if self._settings.no_llm or self._settings.llm_url else self._absent(role)

    def _absent(self, role: Role) -> Weights | None:
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
        elif role in self._guards and (down := self._guards[role].down):
            instead = Path(self._spec(role)).name if self._absent(role) is None else "nothing"
            document |= {"state": "fallback", "why": f"{down}; {instead} serves instead"}
        elif role in self._failed and not self._settings.llm_url:
            document |= {"state": "failed", "why": self._failed[role]}
        elif weights is not None and weights.name in self._progress:
            done, total = self._progress[weights.name]
            document |= {"state": "downloading", "done": done, "total": total}
        elif weights is not None:
            # The ranker is downloaded before the writer: the writer waits, it is not missing for good.
            waiting = self._fetching is not None and self._fetching.is_alive()
            document |= {"state": "downloading" if waiting else "missing", "done": 0, "total": weights.size}
        return document
