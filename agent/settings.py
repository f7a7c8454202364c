"""Settings: each comes from an argument of `Agent.open`, an environment variable WHYFEED_NAME, or its default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


def _named(folder: Any) -> Any:
    if isinstance(folder, str) and not folder.strip():
        raise ValueError("an empty name is no folder; leave it out for the default")
    return folder


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000)]


class Settings(BaseSettings):
    """The settings; immutable. A model is a manifest name, a path to a GGUF file, or an http(s) URL.

    Raises ValueError, in one line, for an unknown argument and for a value of the wrong type or out of range.
    """

    model_config = SettingsConfigDict(env_prefix="WHYFEED_", extra="forbid", frozen=True)

    home: Annotated[Path, BeforeValidator(_named)] = Path("~/.local/share/whyfeed")
    embedder: str = "use-multilingual-v3"
    writer: str = "qwen2.5-coder-1.5b-instruct-q4_k_m"
    ranker: str = "smollm2-135m-instruct-f16"
    encoder: str = "smollm2-135m-instruct-f16"  # encodes each post; larger is better and slower
    llm_url: str = ""  # an OpenAI-compatible server for both roles, in place of writer and ranker
    llm_model: str = ""
    llm_key: str = ""
    llm_timeout: Seconds = 30.0  # seconds without data before a request to the server fails
    llm_in_flight: Count = 16  # concurrent requests of a batch to that server
    chat: Literal["auto", "plan", "agent"] = "auto"  # how a turn is planned: by rules, or by a model that calls tools
    no_llm: bool = False
    index: str = "IDMap2,Flat"
    ray_workers: Count = 2  # with --ray: number of ranking actors, and of writing actors
    write_seconds: Seconds = 60.0  # seconds that an answer waits for clauses; the rest are quoted
    judged: Count = 20  # number of candidates that --llm-rank scores

    if not TYPE_CHECKING:  # type checkers see the arguments that pydantic derives from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as exc:
                first = exc.errors(include_url=False)[0]
                name = ".".join(map(str, first["loc"]))
                where = name if name in values else f"WHYFEED_{name.upper()}"
                raise ValueError(f"setting {where}: {first['msg']}") from None
