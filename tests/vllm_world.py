"""A real vLLM for tests: the small base on the CPU, started by `whyfeed serve-llm` over a home with a LoRA of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.llm_server import free_port
from whyfeed.agent.llm.vllm_server import ENVIRONMENT, healthy
from whyfeed.agent.registry import JUDGE, Registry
from whyfeed.finetune.llm.judge import train
from whyfeed.finetune.llm.judge_examples import Shown
from whyfeed.finetune.training import DEFAULT_BASE

ROOT = Path(__file__).parent.parent

PATIENCE = 900  # seconds to start: one to three minutes alone
LINES = ("Sourdough in winter (bread)", "Tax law for cats", "Espresso at home (coffee)", "Rust lifetimes", "早餐面包")


def python() -> Path | None:
    """The Python that has vLLM; None where the tests with it are not wanted.

    They are when `make vllm` has built the environment, or WHYFEED_TEST_VLLM=1 asks for them.
    """
    found = ROOT / ENVIRONMENT / "bin" / "python"
    if (ROOT / ENVIRONMENT / ".installed").exists() or os.environ.get("WHYFEED_TEST_VLLM") == "1":
        return found
    return None


WITH_VLLM = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(python() is None, reason="no vLLM here: make vllm"),
]


def shown(count: int) -> list[Shown]:
    """Readers with a history; every other one likes what the next does not."""
    return [
        Shown(
            f"u{number}", float(number), tuple(f"like: {line}" for line in LINES[: number % 4]), LINES,
            tuple((place + number) % 2 for place in range(len(LINES))), (0.5,) * len(LINES),
        )
        for number in range(count)
    ]  # fmt: skip


def add_judge(home: Path, seed: int = 0, method: str = "lora") -> Path:
    """Train a judge for a few steps, hard enough to move its scores, and make it the live one; returns its folder."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by names that are about to go
        out = Path(folder) / "judge"
        train(
            shown(8), shown(12)[8:], out, base=DEFAULT_BASE, method=method, rank=8, steps=3, batch=1, lr=0.01, seed=seed
        )
        registry = Registry(home)
        registry.add_folder(JUDGE, out, json.loads((out / "card.json").read_bytes()), live=True)
    found = registry.live(JUDGE)
    assert found is not None
    return found


@dataclass
class VllmServer:
    """`whyfeed serve-llm` at work: its address, the home whose adapters it serves, and what it said."""

    url: str
    home: Path
    process: subprocess.Popen[str]
    said: list[str]

    def until(self, line: str, seconds: float = 120.0) -> None:
        """Wait until it says something with these words."""
        end = time.monotonic() + seconds
        while not any(line in each for each in self.said):
            assert time.monotonic() < end, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.1)

    def group(self) -> int:
        """The process group of vLLM itself: whyfeed's only child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (child,) = (int(pid) for pid in children)
        return os.getpgid(child)

    def metric(self, name: str) -> float:
        """A counter of vLLM's own, summed over its labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@contextmanager
def serving(home: Path) -> Iterator[VllmServer]:
    """Start it, wait until it is healthy, and stop it as a service manager does."""
    wanted, port = python(), free_port()
    assert wanted is not None
    process = subprocess.Popen(
        [
            sys.executable, "-m", "whyfeed", "serve-llm", DEFAULT_BASE, "--home", str(home), "--port", str(port),
            "--python", str(wanted), "--context", "2048", "--rank", "16",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
    )  # fmt: skip
    server = VllmServer(f"http://127.0.0.1:{port}", home, process, [])

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            server.said.append(line.rstrip())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        server.until("whyfeed serves", PATIENCE)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
        listener.join(5)
        if process.stdout is not None:
            process.stdout.close()
    assert process.returncode == 0, server.said
    assert not healthy(server.url)
