"""llama.cpp's own HTTP server with the small base: the OpenAI protocol as somebody else speaks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from whyfeed.agent.llm import weights

_PROGRAM = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port, params.verbosity = sys.argv[1], 2048, 1, 0, -1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass
class LlamaServer:
    """Its address, and the process that can be killed."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def running() -> Iterator[LlamaServer]:
    """Start it in a process of its own and kill that at the end."""
    path = weights.pull(weights.find("ranker"))
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield LlamaServer(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.wait(30)
        process.stdin.close()
        process.stdout.close()
