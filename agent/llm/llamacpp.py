"""The engine for a GGUF model in this process: llama.cpp through `xllamacpp`, on the CPU, one call at a time."""

from __future__ import annotations

import atexit
import gc
import http.client
import json
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from whyfeed.agent.llm.engine import ChatRequest, Completion, Job, JudgeRequest, check_wanted, checked_text
from whyfeed.agent.llm.llama_labels import label_options, label_probability
from whyfeed.retrieval.errors import ModelError, one_line

T = TypeVar("T")

# Prompt tokens in one batch, between two checks for cancellation: under 2 s for 1.5 B weights on one core. Larger
# batches are about 5 % faster.
_BATCH = 64

_living: weakref.WeakSet[EmbeddedEngine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # If the interpreter exits while native code runs, the process crashes with a segmentation fault.
    for engine in list(_living):
        engine.close()


def available_memory() -> int | None:
    """Bytes of memory available without swapping, within the limit of the control group; None when unknown."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        free = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free


_IDLE = 0.5  # load average of the last minute below which a machine counts as idle


class EmbeddedEngine:
    """A GGUF model, loaded at the first call. Calls run one at a time; others wait.

    `n_ctx` is the context in tokens, for prompt and answer together. `threads` is `free_cores()` by default: threads
    wait for each other in busy loops, so with as many threads as cores everything takes ten times longer when another
    program runs (on two idle cores a second thread is 1.5 times faster). An engine cannot be used after a fork in the
    child process. `memory` returns the available bytes or None; too little is a ModelError at the first call.

    `judge` is deterministic: the same prefix and candidate give the same bits, whatever is judged before or with them.
    For this, the prefix is always computed without a cache and in the same batches, the cache is cut back to exactly
    the prefix before every candidate, and prefix and candidate are tokenised separately. Scores of different builds,
    thread counts or machines are not comparable.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        n_ctx: int = 4096,
        memory: Callable[[], int | None] = available_memory,
    ) -> None:
        if n_ctx < 1 or (threads is not None and threads < 1):
            raise ValueError(f"n_ctx and threads must be at least 1, not {n_ctx} and {threads}")
        self.path = Path(path)
        self.name = self.path.stem
        self.in_flight = 1
        self.threads = threads or free_cores()
        self.n_ctx = n_ctx
        self._memory = memory
        self._key = secrets.token_urlsafe(32)
        self._lock = threading.Lock()  # held by the job that uses the server
        self._jobs: set[Job[Any]] = set()
        self._jobs_lock = threading.Lock()
        self._server: Any = None
        self._process = 0  # id of the process that loaded the server
        self._closed = False
        self._prefix: str | None = None  # the prefix in the slot's cache; None when it holds anything else
        self._prefix_ids: list[int] = []
        self._labels: dict[str, int] = {}
        _living.add(self)

    def complete(self, request: ChatRequest) -> Completion:
        """See `Engine.complete`."""
        return self._chat(request).result(request.cancel)

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """See `Engine.stream`."""
        return self._chat(request).pieces(request.cancel)

    def judge(self, request: JudgeRequest) -> list[float]:
        """See `Engine.judge`; `yes` and `no` must each be one token, and neither text may be empty."""
        if not request.prefix or not all(request.candidates):
            raise ValueError("prefix and candidates must not be empty")
        if not request.candidates:
            return []

        def work(job: Job[list[float]]) -> list[float]:
            labels = self._label(request.yes), self._label(request.no)
            if labels[0] == labels[1]:
                raise ValueError(f"yes and no are the same token: {request.yes!r}")
            self._cache_prefix(request.prefix, job)
            return [self._probability(candidate, labels, job) for candidate in request.candidates]

        return self._job(work, "whyfeed-judge").result(request.cancel)

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`; effective until the next call with another prompt. ValueError for an empty prefix."""
        if not checked_text(prefix):
            raise ValueError("prefix must not be empty")
        self._job(lambda job: self._cache_prefix(prefix, job), "whyfeed-warm").result()

    def load(self) -> None:
        """Load the weights now instead of at the first call; ModelError when that fails."""
        self._job(lambda job: None, "whyfeed-load").result()

    def close(self) -> None:
        """See `Engine.close`; waits for the native code, which checks for cancellation every 64 tokens of a prompt."""
        self._closed = True
        if self._process not in (0, os.getpid()):
            return  # a forked child has none of the threads, so it can stop and free nothing
        with self._jobs_lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.stop.set()
        for job in jobs:
            if job.thread.ident is not None and job.thread is not threading.current_thread():
                job.thread.join()
        with self._lock:
            self._server = None
            gc.collect()

    # ---- inside ----

    def _job(self, work: Callable[[Job[T]], T], name: str) -> Job[T]:
        """A job that loads the server if necessary and runs `work` with exclusive use of it."""

        def alone(job: Job[T]) -> T:
            with self._jobs_lock:
                self._jobs.add(job)
            try:
                while not self._lock.acquire(timeout=0.1):
                    check_wanted(job.stop)
                try:
                    check_wanted(job.stop)
                    self._open()
                    return work(job)
                finally:
                    self._lock.release()
            finally:
                with self._jobs_lock:
                    self._jobs.discard(job)

        # In a forked child, locks may be held by threads that do not exist there.
        if self._process not in (0, os.getpid()):
            raise ModelError(f"{self.name!r} was loaded before this process was forked; open it in each process")
        return Job(alone, name)

    def _open(self) -> None:
        if self._closed:
            raise ModelError(f"the engine {self.name!r} is closed; open a new one")
        if self._server is not None:
            return
        try:
            with self.path.open("rb") as file:
                magic = file.read(4)
            size = self.path.stat().st_size
        except OSError as exc:
            raise ModelError(f"cannot read the model {str(self.path)!r} ({exc.strerror}); check the path") from exc
        if magic != b"GGUF":
            raise ModelError(f"{str(self.path)!r} is not a GGUF file; convert the model, or name another file")
        # Weights, a repacked copy of a part of them, and the context; measured: at most 1.9 GB for a file of 1.1 GB.
        free, need = self._memory(), int(size * 1.3)
        if free is not None and free < need:
            raise ModelError(
                f"{self.name!r} needs about {need >> 20} MB of memory and {free >> 20} MB are free; "
                "end other programs, or use a smaller model"
            )
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_ctx = self.n_ctx
        params.n_batch = params.n_ubatch = _BATCH
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        params.verbosity = -1
        params.cache_ram_mib = 0  # no copies of old slots: they take gigabytes and could restore a prefix from a cache
        # The server listens on 127.0.0.1, which every local user can reach; only this object knows the key.
        params.api_keys = [self._key]
        params.cors_origins = ""
        params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        try:
            self._server = xllamacpp.Server(params)
        except Exception as exc:  # usually RuntimeError; the native code may raise others
            raise ModelError(
                f"cannot load {str(self.path)!r} ({one_line(exc)}): it is damaged, or of an unknown architecture; "
                "run `whyfeed models verify`, or name another file"
            ) from exc
        self._process = os.getpid()
        # One request, to be sure that the server's loop runs: a stop before the loop begins is lost, and the server
        # would never end.
        self._native("handle_completions", {"prompt": "a", "n_predict": 0, "cache_prompt": False})

    def _chat(self, request: ChatRequest) -> Job[Completion]:
        body: dict[str, Any] = {
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": list(request.stop),
            "cache_prompt": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # without it there is no callback, and no cancellation, while the prompt is read
        }
        if request.schema is not None:
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}

        def work(job: Job[Completion]) -> Completion:
            self._prefix = None  # the chat replaces it in the slot's cache
            text: list[str] = []
            finish, usage = "", {"prompt_tokens": 0, "completion_tokens": 0}

            def take(chunk: dict[str, Any]) -> None:
                nonlocal finish, usage
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", ()):
                    finish = choice.get("finish_reason") or finish
                    if piece := choice["delta"].get("content"):
                        text.append(piece)
                        job.emit(piece)

            self._streamed("handle_chat_completions", body, take, job)
            return Completion("".join(text), finish, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))

        return self._job(work, "whyfeed-chat")

    def _streamed(
        self,
        route: str,
        body: dict[str, Any],
        take: Callable[[dict[str, Any]], None],
        job: Job[Any],
    ) -> None:
        """Run one streamed request. The native code drops exceptions of callbacks: they are kept and raised here."""
        failed: list[BaseException] = []

        def callback(chunk: Any) -> bool:
            try:
                for each in chunk if isinstance(chunk, list) else [chunk]:
                    self._refuse_error(each)
                    take(each)
            except BaseException as exc:
                failed.append(exc)
            return bool(failed) or job.stop.is_set()

        answer = self._native(route, body, callback)
        if failed:
            raise failed[0]
        if isinstance(answer, dict):  # an error before the first chunk
            self._refuse_error(answer)
        check_wanted(job.stop)

    def _native(self, route: str, *arguments: Any) -> Any:
        try:
            # Called by name: a bound method in a traceback's frames would keep the server alive after `close`, and
            # its threads would crash when the interpreter exits.
            return getattr(self._server, route)(*arguments)
        except (RuntimeError, ValueError, UnicodeError) as exc:  # bad JSON, a bad schema, bad UTF-8
            raise ModelError(f"{self.name!r} refuses the request ({one_line(exc)}); check prompt and schema") from exc

    def _refuse_error(self, answer: Mapping[str, Any]) -> None:
        error = answer.get("error")
        if not error:
            return
        if error.get("type") == "exceed_context_size_error":
            tokens = error.get("n_prompt_tokens")
            raise ModelError(f"a prompt of {tokens} tokens is too long for {self.name!r} ({self.n_ctx}); shorten it")
        said = " ".join(str(error.get("message", error)).split())[:300]
        raise ModelError(f"{self.name!r} refuses the request ({said}); check prompt and schema")

    def _complete_ids(self, ids: list[int], job: Job[Any], **options: Any) -> dict[str, Any]:
        """One raw completion of token ids; returns its last chunk."""
        last: dict[str, Any] = {}

        def take(chunk: dict[str, Any]) -> None:
            if chunk.get("choices"):
                last.update(chunk)

        body = {"prompt": ids, "cache_prompt": True, "stream": True, "return_progress": True, **options}
        self._streamed("handle_completions", body, take, job)
        return last

    def _cache_prefix(self, prefix: str, job: Job[Any]) -> None:
        """Make exactly this prefix the content of the slot's cache, computed without reuse of the old content."""
        if self._prefix == prefix:
            return
        self._prefix = None  # if interrupted, the cache holds a part of the prefix
        self._prefix_ids = self._tokens(prefix, opening=True)
        self._complete_ids(self._prefix_ids, job, n_predict=0, cache_prompt=False)
        self._prefix = prefix

    def _probability(self, candidate: str, labels: tuple[int, int], job: Job[Any]) -> float:
        # Cut the cache back to the prefix. Otherwise the common start of two successive candidates would be reused,
        # and the rest computed in a batch of another shape, with other rounding.
        self._complete_ids(self._prefix_ids, job, n_predict=0)
        ids = self._prefix_ids + self._tokens(candidate, opening=False)
        body = {"prompt": ids, "cache_prompt": True, "n_predict": 1, **label_options(labels)}
        answer = self._native("handle_completions", body)
        self._refuse_error(answer)
        check_wanted(job.stop)
        try:
            return label_probability(answer, labels)
        except LookupError as exc:
            raise ModelError(
                f"{self.name!r} did not weigh the two labels against each other; use another model"
            ) from exc

    def _label(self, text: str) -> int:
        if text not in self._labels:
            ids = self._tokens(text, opening=False)
            if len(ids) != 1:
                raise ValueError(f"{text!r} is {len(ids)} tokens of {self.name!r}; a label must be one")
            self._labels[text] = ids[0]
        return self._labels[text]

    def _tokens(self, text: str, *, opening: bool) -> list[int]:
        """Token ids of a text; `opening` adds the model's beginning-of-sequence token, if it has one."""
        # The server object has no method for this, so its HTTP port is used.
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=30)
        try:
            body = json.dumps({"content": text, "add_special": opening, "parse_special": True})
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", "/tokenize", body, headers)
            answer = json.loads(connection.getresponse().read())
            self._refuse_error(answer)
            return [int(token) for token in answer["tokens"]]
        except (OSError, http.client.HTTPException, ValueError, LookupError) as exc:
            raise ModelError(f"{self.name!r} cannot split text into tokens ({one_line(exc)}); open it again") from exc
        finally:
            connection.close()


def free_cores() -> int:
    """The number of cores for an engine: all of them if the machine was idle for a minute, else all but one."""
    try:
        cores = len(os.sched_getaffinity(0))
        idle = os.getloadavg()[0] < _IDLE
    except (AttributeError, OSError):  # not on Linux
        return max(1, (os.cpu_count() or 1) - 1)
    return cores if idle else max(1, cores - 1)
