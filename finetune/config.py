"""Settings of a training, checked when they are made and fixed from then on.

Each training of a language model has a class of its own beside it (`JudgeConfig` in `finetune.llm.judge`, and so on);
here stands what several of them share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEFAULT_BASE = "smollm2-135m-instruct-f16"
SMALL_BERT = "all-minilm-l6-v2"  # what the click model and the tuned embedder start from
MAX_RANK = 16  # what vLLM serves unless it is started with a larger --max-lora-rank


class TrainingConfig(BaseModel):
    """What every training has. A wrong value is a ValueError of one line that names the field and the value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Annotated[
        str | Path, Field(description="One of whyfeed's weights, a name on the model hub, or a folder.")
    ] = DEFAULT_BASE
    batch: Annotated[int, Field(ge=1, description="Examples that one step learns from.")] = 4
    steps: Annotated[int | None, Field(ge=1, description="Optimiser steps; None: as the epochs need.")] = None
    lr: Annotated[float | None, Field(gt=0, description="The highest learning rate, at the end of the warm-up.")] = None
    seed: Annotated[int, Field(description="Of the order of examples, new weights, and dropout.")] = 0

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise ValueError(_one_line(exc)) from None

    @property
    def base_name(self) -> str:
        """How cards call the base: its name, or the folder's name rather than a path of this machine."""
        return self.base if isinstance(self.base, str) else self.base.name


class TimedConfig(TrainingConfig):
    """A training that a clock may end. With `minutes` the result depends on the machine's speed."""

    minutes: Annotated[float | None, Field(gt=0, description="Minutes of training before it ends; None: no limit.")] = (
        None
    )


class ClickDataConfig(TimedConfig):
    """A training on labelled posts (`finetune.llm.judge_examples`), measured on held-out ones."""

    epochs: Annotated[int, Field(ge=1, description="How often each example is read; `steps` goes before it.")] = 1
    data: Annotated[str, Field(description="What the card calls the data: a folder's name, or the ledger.")] = ""
    plain: Annotated[str, Field(description="What the card calls the baseline value of each held-out post.")] = (
        "item mean"
    )
    most_tested: Annotated[int, Field(ge=1, description="Held-out posts to measure on, at most; whole users.")] = 2000

    def total_steps(self, examples: int) -> int:
        """`steps`, or as many as `epochs` over so many examples need."""
        return self.steps or self.epochs * -(-examples // self.batch)


def _one_line(exc: ValidationError) -> str:
    """The first error: "rank must be at least 1, not 0"."""
    error = exc.errors()[0]
    context, kind, value = error.get("ctx", {}), error["type"], error["input"]
    if not error["loc"]:  # of several fields together, which the validator names
        return error["msg"].removeprefix("Value error, ")
    name = str(error["loc"][0])
    if kind == "greater_than_equal":
        return f"{name} must be at least {context['ge']}, not {value!r}"
    if kind == "less_than_equal":
        return f"{name} must be at most {context['le']}, not {value!r}"
    if kind == "greater_than":
        return f"{name} must be above {context['gt']:g}, not {value!r}"
    if kind == "literal_error":
        return f"{name} {value!r} is none of {context['expected'].replace(' or ', ', ')}"
    if kind == "extra_forbidden":
        return f"{name} is no setting of this training ({value!r} was given)"
    return f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}, not {value!r}"
