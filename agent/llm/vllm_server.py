"""Runs a local vLLM server: finds a Python with vLLM, builds the command line, and supervises the process.

vLLM needs a virtual environment of its own (extra `serve`), because it pins other versions of whyfeed's dependencies.
Its options: https://docs.vllm.ai/en/latest/cli/serve.html; experience with version 0.32: `docs/deployment.md`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from whyfeed.agent.llm.http_client import http_client
from whyfeed.retrieval.errors import HomeError, ModelError

PORT = 8100
ENVIRONMENT = Path(".venv-vllm")  # created by `make vllm`
_PROBE = (
    "import json, importlib.metadata as m, importlib.util as u\n"
    "assert u.find_spec('vllm')\n"
    "import torch\n"
    "found = [d.version for d in map(m.distribution, m.packages_distributions().get('vllm', []))]\n"
    "print(json.dumps({'version': (found or ['unknown'])[0], 'gpus': torch.cuda.device_count()}))\n"
)
_TAIL = 25  # lines of the log that are shown when the server fails


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python interpreter with vLLM; `gpus` is the number of GPUs that torch finds, 0 for a CPU build."""

    python: Path
    version: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the server.

    `model` is a folder or a name of the Hugging Face hub, and `name` its name for clients. `tensor` is the number of
    GPUs that share one copy of the weights (tensor parallelism), `copies` the number of copies (data parallelism).
    `context` is in tokens. `memory` is the share of a GPU's memory for weights and KV cache, or on a CPU the GB of the
    KV cache. `rank` is the largest rank of adapters; 0 turns adapters off. `key` is the API key that clients must
    send. `tool_parser` is vLLM's parser of the model's tool calls; "" for a model without them.
    """

    model: str
    name: str
    host: str = "127.0.0.1"
    port: int = PORT
    tensor: int = 1
    copies: int = 1
    context: int = 4096
    memory: float | None = None
    rank: int = 64
    adapters: int = 4  # loaded at the same time
    key: str = ""
    tool_parser: str = "hermes"

    @property
    def url(self) -> str:
        """The server's address for clients on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def find_environment(python: str | Path | None = None) -> Environment:
    """The given Python, or else the first of this one and that of `.venv-vllm` with vLLM; HomeError for none."""
    named = [Path(python)] if python else [Path(sys.executable), ENVIRONMENT / "bin" / "python"]
    for place in named:
        if shutil.which(str(place)) is None:
            continue
        done = subprocess.run([str(place), "-c", _PROBE], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
            # Symbolic links are not resolved: that of a virtual environment leads out of it.
            return Environment(place.absolute(), str(found["version"]), int(found["gpus"]))
    raise HomeError(
        f"no vLLM in {' or '.join(map(str, named))}; make an environment of its own (`make vllm`, or a new venv with "
        "`pip install vllm gguf`) and name its Python with --python, or set WHYFEED_LLM_URL to a server that runs"
    )


def command(options: Options, environment: Environment) -> list[str]:
    """The command line of the server. It runs vLLM's module, because `vllm serve` does not start on a CPU build."""
    parts = [
        str(environment.python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", options.model, "--served-model-name", options.name,
        "--host", options.host, "--port", str(options.port),
        "--max-model-len", str(options.context),
        "--enable-prefix-caching",
        "--disable-uvicorn-access-log",  # /health is requested every second
        # Small models write endless blank lines where a schema allows whitespace.
        "--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    ]  # fmt: skip
    if environment.gpus:
        # In bfloat16, with a significand of 8 bits, many of the scores that are read from logits would be equal.
        parts += ["--dtype", "auto", "--hf-overrides", json.dumps({"head_dtype": "float32"})]
        parts += ["--gpu-memory-utilization", str(0.9 if options.memory is None else options.memory)]
    else:
        # On a CPU, compiling costs minutes more than it saves. Prefixes are cached in whole blocks: small ones.
        parts += ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
    if options.tensor > 1:
        parts += ["--tensor-parallel-size", str(options.tensor)]
    if options.copies > 1:
        parts += ["--data-parallel-size", str(options.copies)]
    if options.rank:
        parts += ["--enable-lora", "--max-lora-rank", str(options.rank), "--max-loras", str(options.adapters)]
    if options.tool_parser:
        parts += ["--enable-auto-tool-choice", "--tool-call-parser", options.tool_parser]
    if options.key:
        parts += ["--api-key", options.key]
    return parts


def variables(options: Options, environment: Environment) -> dict[str, str]:
    """Environment variables of the server: no telemetry, and adapters can be loaded while it runs."""
    found = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # The path that whyfeed is imported from must not apply in the other environment.
    found.pop("PYTHONPATH", None)
    if options.rank:
        found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if Path(options.model).is_dir():
        found |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if not environment.gpus:
        found["VLLM_CPU_KVCACHE_SPACE"] = str(int(options.memory or 2))
    return found


class Supervisor:
    """Starts a server, waits until it is healthy, restarts it when it dies, and stops it with all its processes.

    Health is read from `url`/health. `patience` is the limit in seconds until the server must be healthy, `grace` that
    for its exit before it is killed. After more than `deaths` deaths within ten minutes it is not restarted. Its
    output goes to the file `log`; `say` is called with a line for each restart.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], url: str, log: Path, *, patience: float = 900.0,
        grace: float = 15.0, deaths: int = 5, say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._command, self._environment, self._url, self._log = list(command), dict(environment), url, log
        self._patience, self._grace, self._deaths, self._say = patience, grace, deaths, say
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Id of the server's main process; None while it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def run(self, stop: threading.Event, ready: Callable[[], None], tick: Callable[[], None] = lambda: None) -> None:
        """Keep the server running until `stop` is set.

        `ready` is called each time it has become healthy, `tick` about once a second while it is healthy. ModelError
        when it does not become healthy after the first start, or dies too often; HomeError when the log cannot be
        written or the command cannot be started.
        """
        died: list[float] = []
        try:
            while not stop.is_set():
                self._start()
                healthy = self._wait(stop)
                if stop.is_set():
                    return
                if healthy:
                    ready()
                    self._watch(stop, tick)
                    if stop.is_set():
                        return
                why = self._end()
                died = [when for when in died if when > time.monotonic() - 600] + [time.monotonic()]
                if not healthy and len(died) == 1:
                    raise ModelError(f"the server did not start ({why}); the end of its log:\n{self.tail()}")
                if len(died) > self._deaths:
                    raise ModelError(f"the server died {len(died)} times ({why}); the end of its log:\n{self.tail()}")
                pause = min(30.0, 2.0 ** (len(died) - 1))
                self._say(f"the server died ({why}); it starts again in {pause:.0f} s, its log is {str(self._log)!r}")
                stop.wait(pause)
        finally:
            self._end()
            if self._file is not None:
                self._file.close()

    def tail(self) -> str:
        """The last lines of the log, for error messages; "" when it cannot be read."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(line[:300] for line in lines[-_TAIL:])

    # ---- inside ----

    def _start(self) -> None:
        try:
            if self._file is None:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._log.open("wb")
            # In a new session all its workers can be stopped as one group, and Ctrl-C reaches only whyfeed.
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            raise HomeError(f"cannot start {self._command[0]!r} ({exc.strerror or exc}); check disk and path") from exc

    def _wait(self, stop: threading.Event) -> bool:
        until = time.monotonic() + self._patience
        while time.monotonic() < until and self.pid is not None:
            if healthy(self._url) or stop.wait(0.5):
                return True
        return False

    def _watch(self, stop: threading.Event, tick: Callable[[], None]) -> None:
        missed = 0
        while missed < 5 and self.pid is not None and not stop.wait(1.0):
            # A busy server may miss some checks; one whose engine is gone never answers again.
            missed = 0 if healthy(self._url, 5.0) else missed + 1
            if not missed:
                tick()

    def _end(self) -> str:
        """Stop all processes; returns how the main process ended."""
        process, self._process = self._process, None
        if process is None:
            return "stopped"
        code = process.poll()
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Signal the whole group: workers can outlive the main process and would keep memory and ports.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._grace)
            if not _lives(process.pid, self._grace if number == signal.SIGTERM else 5.0):
                break
        return "it hung" if code is None else f"exit code {code}"


def healthy(url: str, seconds: float = 2.0) -> bool:
    """Whether the server answers /health with status 200 within `seconds`."""
    import httpx

    try:
        with http_client(seconds) as client:
            return client.get(f"{url}/health").status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):  # refused, timed out, or not HTTP
        return False


def check_port(host: str, port: int) -> None:
    """HomeError when the port is in use or cannot be listened on."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise HomeError(f"cannot listen on {host}:{port} ({exc.strerror}); choose another --port") from exc


def _lives(group: int, seconds: float) -> bool:
    """Whether the process group still exists after waiting at most `seconds` for its end."""
    until = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        if time.monotonic() > until:
            return True
        time.sleep(0.1)
