"""Opens an engine given by a file, a name or an address: weights in this process, or an OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path

from whyfeed.agent.llm import weights
from whyfeed.agent.llm.engine import Engine
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.retrieval.errors import ModelError


def open_engine(
    spec: str,
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout: float = 60.0,
    threads: int | None = None,
    n_ctx: int = 4096,
) -> Engine:
    """The engine given by the path of a GGUF file, a name or role of the manifest, or the http(s) address of a server.

    `model`, `api_key` and `timeout` (seconds) apply to a server; `threads` and `n_ctx` (tokens of context) to weights
    in this process. ModelError when `spec` is none of the three, WeightsError when the weights are missing or wrong.
    """
    if spec.startswith(("http://", "https://")):
        return OpenAIEngine(spec, model, api_key, timeout)
    from whyfeed.agent.llm.llamacpp import EmbeddedEngine

    try:
        entry = weights.find(spec)
    except ValueError as exc:
        path = Path(spec).expanduser()
        if path.suffix != ".gguf" and not path.is_file():
            raise ModelError(f"unknown model {spec!r}: not a GGUF file, not an http(s) address, and {exc}") from None
        return EmbeddedEngine(path, threads=threads, n_ctx=n_ctx)
    if entry.role == "embedder":
        raise ModelError(f"{spec!r} makes vectors and does not write; name a writer or a ranker")
    return EmbeddedEngine(weights.check(entry), threads=threads, n_ctx=n_ctx)
