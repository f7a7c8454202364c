"""Settings: each from an environment variable WHYFEED_NAME, an argument of `Agent.open`, or its default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What can be set; it never changes. A model is a manifest name, a path to a GGUF file, or an http(s) URL.

    Raises ValueError, in one line, for an argument that is no setting and for a value of the wrong kind.
    """

    model_config = SettingsConfigDict(env_prefix="WHYFEED_", extra="forbid", frozen=True)

    home: Path = Path("~/.local/share/whyfeed")
    embedder: str = "use-multilingual-v3"
    writer: str = "qwen2.5-coder-1.5b-instruct-q4_k_m"
    ranker: str = "smollm2-135m-instruct-f16"
    encoder: str = "smollm2-135m-instruct-f16"  # reads each post once; a larger one reads better and as much slower
    llm_url: str = ""  # an OpenAI-compatible server for both roles, in place of writer and ranker
    llm_model: str = ""
    llm_key: str = ""
    llm_timeout: float = 30.0  # seconds that the server may be silent
    llm_in_flight: int = 16  # requests that a batch keeps at that server at once
    chat: Literal["auto", "plan", "agent"] = "auto"  # who plans a turn: rules, or a model that calls tools
    no_llm: bool = False
    index: str = "IDMap2,Flat"
    ray_workers: int = 2  # actors that rank and actors that write, with --ray
    write_seconds: float = 60.0  # that one answer waits for the writer; what is not written then is quoted
    judged: int = 20  # candidates that --llm-rank scores

    if not TYPE_CHECKING:  # type checkers see the arguments that pydantic derives from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as exc:
                first = exc.errors(include_url=False)[0]
                name = ".".join(map(str, first["loc"]))
                where = name if name in values else f"WHYFEED_{name.upper()}"
                raise ValueError(f"setting {where}: {first['msg']}") from None
