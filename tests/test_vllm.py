"""vLLM's command line, its supervisor and the adapters that it gets, without a vLLM: a small server stands for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT
from tests.llm_server import FakeServer, free_port, running
from whyfeed.agent.llm.vllm_adapters import Adapters, adapter_name, refusal
from whyfeed.agent.llm.vllm_server import (
    Environment,
    Options,
    Supervisor,
    check_port,
    command,
    find_environment,
    healthy,
    variables,
)
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.errors import HomeError, ModelError

CPU = Environment(Path("/venv/bin/python"), "0.32.0", 0)
GPU = Environment(Path("/venv/bin/python"), "0.33.0", 8)

# Listens at a port (answering /health) with a child of its own, and dies as it is told.
SERVER = """
import http.server, os, subprocess, sys, threading, time
folder, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
starts = len(os.listdir(folder))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(os.path.join(folder, f"{os.getpid()}.{child.pid}"), "w").close()
print("started number", starts, flush=True)
if how == "never":
    print("ValueError: No such model", flush=True)
    sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if how == "always" or (how == "dies" and starts < 2):
            threading.Timer(0.3, lambda: os._exit(7)).start()
    def log_message(self, *_):
        pass
if how == "stubborn":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Run:
    """A supervisor at work in a thread, and what it did."""

    def __init__(self, folder: Path, how: str, **options: Any) -> None:
        self.folder, self.log = folder / "starts", folder / "log" / "vllm.log"
        self.folder.mkdir()
        (folder / "server.py").write_text(textwrap.dedent(SERVER))
        port = free_port()
        arguments = [sys.executable, str(folder / "server.py"), str(self.folder), str(port), how]
        self.url, self.said, self.ready, self.ticks = f"http://127.0.0.1:{port}", list[str](), 0, 0
        self.supervisor = Supervisor(
            arguments, dict(os.environ), self.url, self.log, say=self.said.append, **{"grace": 2.0, **options}
        )
        self.stop, self.error = threading.Event(), list[Exception]()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        def ready() -> None:
            self.ready += 1

        def tick() -> None:
            self.ticks += 1

        try:
            self.supervisor.run(self.stop, ready, tick)
        except Exception as exc:
            self.error.append(exc)

    def until(self, true: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.said, self.supervisor.tail())
            time.sleep(0.02)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()

    @property
    def processes(self) -> list[int]:
        return [int(pid) for path in self.folder.iterdir() for pid in path.name.split(".")]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(how: str = "lives", **options: Any) -> Run:
        runs.append(Run(tmp_path, how, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


# ---- the supervisor


def test_a_server_is_waited_for_watched_and_stopped_with_all_its_processes(started: Callable[..., Run]) -> None:
    run = started()
    run.until(lambda: run.ready == 1 and run.ticks > 0)
    assert healthy(run.url)
    pids = run.processes
    assert all(map(lives, pids))
    assert len(pids) == 2
    run.end()
    assert not any(map(lives, pids))
    assert not healthy(run.url)
    assert run.error == []


def test_a_server_that_dies_is_started_again_and_nothing_of_the_old_one_is_left(started: Callable[..., Run]) -> None:
    run = started("dies")
    run.until(lambda: run.ready == 3 and run.ticks > 3)
    by_start = sorted(run.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    server, child = map(int, by_start[-1].name.split("."))
    assert lives(server)
    assert lives(child)
    assert not any(lives(int(pid)) for path in by_start[:-1] for pid in path.name.split("."))
    assert [line.split(";")[0] for line in run.said] == ["the server died (exit code 7)"] * 2


def test_a_server_that_hangs_is_started_again(started: Callable[..., Run]) -> None:
    run = started()
    run.until(lambda: run.ready == 1)
    pid = run.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    run.until(lambda: run.ready == 2, 60)
    assert not lives(pid)
    assert run.said[0].startswith("the server died (it hung)")


def test_a_server_that_never_starts_shows_the_end_of_its_log(started: Callable[..., Run]) -> None:
    run = started("never")
    run.until(lambda: bool(run.error))
    assert isinstance(run.error[0], ModelError)
    assert "exit code 3" in str(run.error[0])
    assert "ValueError: No such model" in str(run.error[0])
    assert not any(map(lives, run.processes))


def test_a_server_that_takes_too_long_is_ended(started: Callable[..., Run], tmp_path: Path) -> None:
    run = started("stubborn", patience=0.0)
    run.until(lambda: bool(run.error))
    assert "did not start" in str(run.error[0])
    assert not any(map(lives, run.processes))


def test_a_server_that_dies_again_and_again_is_given_up(started: Callable[..., Run]) -> None:
    run = started("always", deaths=2)
    run.until(lambda: bool(run.error), 40)
    assert "died 3 times" in str(run.error[0])


def test_one_that_does_not_hear_is_killed_with_its_children(started: Callable[..., Run]) -> None:
    run = started("stubborn", grace=0.5)
    run.until(lambda: run.ready == 1)
    pids = run.processes
    run.end()
    assert not any(map(lives, pids))


def test_what_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    supervisor = Supervisor(["/no/such/python"], {}, "http://127.0.0.1:9", tmp_path / "log")
    with pytest.raises(HomeError, match="cannot start '/no/such/python'"):
        supervisor.run(threading.Event(), lambda: None)
    with running(FakeServer()) as fake, pytest.raises(HomeError, match="another --port"):
        check_port("127.0.0.1", int(fake.url.rsplit(":", 1)[1]))


def test_a_python_without_vllm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HomeError, match=r"no vLLM in .*pip install vllm"):
        find_environment()
    with pytest.raises(HomeError, match="no vLLM in /no/python"):
        find_environment("/no/python")


# ---- the command line


def options(**more: Any) -> Options:
    return Options("org/model", "small", **more)


def test_a_card_and_a_cpu_get_their_own_options() -> None:
    cpu, gpu = command(options(), CPU), command(options(), GPU)
    assert cpu[:3] == ["/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert "--enforce-eager" in cpu
    assert cpu[cpu.index("--dtype") + 1] == "float32"
    assert int(cpu[cpu.index("--block-size") + 1]) % 32 == 0  # all that its attention takes
    assert "--enforce-eager" not in gpu
    assert gpu[gpu.index("--gpu-memory-utilization") + 1] == "0.9"
    assert "--tensor-parallel-size" not in gpu
    for both in (cpu, gpu):
        assert "--enable-prefix-caching" in both
        assert both[both.index("--served-model-name") + 1] == "small"
        said = json.loads(both[both.index("--structured-outputs-config") + 1])
        assert said == {"backend": "xgrammar", "disable_any_whitespace": True}


def test_several_cards_are_one_option_each() -> None:
    many = command(options(tensor=2, copies=4, memory=0.5), GPU)
    assert many[many.index("--tensor-parallel-size") + 1] == "2"
    assert many[many.index("--data-parallel-size") + 1] == "4"
    assert many[many.index("--gpu-memory-utilization") + 1] == "0.5"


def test_the_environment_reports_to_nobody_and_lets_adapters_come(tmp_path: Path) -> None:
    found = variables(options(), CPU)
    assert found["VLLM_NO_USAGE_STATS"] == found["DO_NOT_TRACK"] == "1"
    assert found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "HF_HUB_OFFLINE" not in found or found["HF_HUB_OFFLINE"] == os.environ.get("HF_HUB_OFFLINE")
    assert variables(Options(str(tmp_path), "x"), CPU)["HF_HUB_OFFLINE"] == "1"
    none = options(rank=0)
    assert "--enable-lora" not in command(none, GPU)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in variables(none, GPU)


def test_a_server_that_others_reach_needs_a_key(run_cli: Callable[..., Any]) -> None:
    done = run_cli("serve-llm", "org/model", "--host", "0.0.0.0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--key" in done.stderr
    done = run_cli("serve-llm", "org/model", "--gpus", "many")
    assert done.returncode == 2
    assert "neither T nor TxC" in done.stderr


# ---- adapters


def adapter(folder: Path, tensors: tuple[str, ...] = ("lora_A.weight", "lora_B.weight"), **config: Any) -> Path:
    """A folder as PEFT writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none",
        "base_model_name_or_path": "small", "modules_to_save": None, "rank_pattern": {},
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **config}))
    names = [f"base_model.model.model.layers.0.self_attn.q_proj.{name}" for name in tensors]
    save_file({name: np.zeros((2, 2), np.float32) for name in names}, folder / "adapter_model.safetensors")
    return folder


def test_plain_lora_is_served(tmp_path: Path) -> None:
    assert refusal(adapter(tmp_path / "a"), "small", 8) == ""
    everything = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    assert refusal(adapter(tmp_path / "b", target_modules=everything, use_rslora=True), "small", 8) == ""


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"use_dora": True}, "no DoRA"),
        ({"peft_type": "ADALORA"}, "no ADALORA"),
        ({"peft_type": "PREFIX_TUNING", "r": None}, "no PREFIX_TUNING"),
        ({"peft_type": "IA3"}, "no IA3"),
        ({"peft_type": "BOTTLENECK"}, "no BOTTLENECK"),
        ({"r": 32}, "rank is 32 and the server takes 16; start the server with --rank 32"),
        ({"rank_pattern": {"q_proj": 64}}, "rank is 64"),
        ({"bias": "lora_only"}, "no biases"),
        ({"modules_to_save": ["lm_head"]}, "no whole modules"),
        ({"target_modules": ["q_proj", "c_attn"]}, "no LoRA on c_attn"),
        ({"target_modules": r".*\.q_proj"}, "no LoRA on"),
        ({"base_model_name_or_path": "other"}, "trained on 'other' and the server has 'small'"),
        ({"r": "many"}, "cannot be read"),
        ({"target_modules": None}, "cannot be read"),
    ],
)
def test_what_vllm_would_answer_500_to_is_not_sent(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    said = refusal(adapter(tmp_path / "a", **config), "small", 16)
    assert why in said
    assert "\n" not in said


def test_files_are_looked_at_before_they_are_sent(tmp_path: Path) -> None:
    assert "lora_magnitude_vector" in refusal(adapter(tmp_path / "a", ("lora_magnitude_vector",)), "small", 16)
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"\xff" * 50)
    assert "cannot be read" in refusal(tmp_path / "a", "small", 16)
    assert "cannot be read" in refusal(tmp_path / "none", "small", 16)
    cut = adapter(tmp_path / "c")
    (cut / "card.json").write_text(json.dumps({"settings": {"cut": 12}}))
    assert "first 12 layers" in refusal(cut, "small", 16)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as fake:
        yield fake


def put(registry: Registry, folder: Path, *, live: bool = True, **config: Any) -> str:
    """The next version of the judge; returns its name at a server."""
    version = registry.add_folder("judge", adapter(folder, **config), {"settings": {"cut": None}}, live=live)
    return f"judge-v{version}"


def test_the_live_judge_is_loaded_and_replaced_while_the_server_runs(server: FakeServer, tmp_path: Path) -> None:
    registry, said = Registry(tmp_path / "home"), list[str]()
    adapters = Adapters(registry, server.url, "small", 16, say=said.append)
    adapters.sync()
    assert server.adapters == {}
    first = put(registry, tmp_path / "1")
    adapters.sync()
    adapters.sync()
    assert list(server.adapters) == [first]
    folder = registry.live("judge")
    assert folder is not None
    assert server.adapters[first] == str(folder)
    assert adapter_name(folder) == first
    second = put(registry, tmp_path / "2")
    adapters.sync()
    assert list(server.adapters) == [second]  # the new one first, then away with the old one
    refused = put(registry, tmp_path / "3", use_dora=True)
    adapters.sync()
    assert server.adapters == {}
    assert said == [
        f"{first} is loaded", f"{second} is loaded", f"{refused} is not loaded: vLLM serves no DoRA; serve it merged",
    ]  # fmt: skip
    registry.rollback("judge")
    adapters.sync()
    assert list(server.adapters) == [second]


def test_a_server_that_was_started_again_gets_its_adapter_again(server: FakeServer, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home")
    name = put(registry, tmp_path / "1")
    adapters = Adapters(registry, server.url, "small", 16, say=lambda _: None)
    adapters.restarted()
    server.adapters.clear()
    adapters.restarted()
    assert list(server.adapters) == [name]


def test_a_server_that_refuses_an_adapter_is_quoted(server: FakeServer, tmp_path: Path) -> None:
    registry, said = Registry(tmp_path / "home"), list[str]()
    put(registry, tmp_path / "1")
    server.status, server.failures = 500, 1
    Adapters(registry, server.url, "small", 16, say=said.append).restarted()
    assert "HTTP 500" in said[0]
    assert "EngineCore" in said[0]
    Adapters(registry, "http://127.0.0.1:9", "small", 16, say=said.append).restarted()
    assert "does not answer" in said[1]


def test_the_module_needs_nothing_heavy() -> None:
    code = "import sys, whyfeed.agent.llm.vllm_server, whyfeed.agent.llm.vllm_adapters; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert not {"torch", "openai", "vllm", "transformers"} & set(done.stdout.split())
