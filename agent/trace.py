"""The trace of one request: what each stage kept, what it removed and why, and how long it took.

It is the only record of decisions: why, why-not, the page *Behind* and the log all read it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a stage went. The record's `detail` gives the reason."""

    OK = "ok"
    OFF = "off"  # requested, but there is no model for it
    FAILED = "failed"
    FALLBACK = "fallback"  # the stage answered by a simpler method than intended


@dataclass(slots=True)
class StageRecord:
    """One stage of one request. `removed` counts posts by reason code; `detail` says why `status` is not ok."""

    name: str
    ms: float = 0.0
    entered: int = 0
    left: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    status: Status = Status.OK
    detail: str = ""
    note: str = ""

    def end(self, status: Status, detail: object) -> None:
        """Set the status and its reason, given as words or as the exception that was raised."""
        self.status, self.detail = status, str(detail)

    def to_json(self) -> dict[str, Any]:
        """The record in the public JSON schema; `detail` and `note` only when they are not empty."""
        document = {
            "name": self.name,
            "ms": round(self.ms, 1),
            "in": self.entered,
            "out": self.left,
            "removed": self.removed,
            "status": self.status.value,
        }
        told = {"detail": self.detail, "note": self.note}
        return document | {key: text for key, text in told.items() if text}


@dataclass(slots=True)
class Trace:
    """The trace of one request.

    `removed` maps a post to the stage and the reason code that removed it. `weights` are the ranker's (signal ->
    weight), so that any score can be recomputed from the stored signals.
    """

    request: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    removed: dict[str, tuple[str, str]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, entered: int = 0) -> Iterator[StageRecord]:
        """Time a stage. An exception is recorded and raised again."""
        record = StageRecord(name, entered=entered)
        self.stages.append(record)
        start = time.perf_counter()
        try:
            yield record
        except Exception as exc:
            record.end(Status.FAILED, exc)
            raise
        finally:
            record.ms = (time.perf_counter() - start) * 1000

    def remove(self, record: StageRecord, post: str, reason: str) -> None:
        """Record that this stage removed `post` because of `reason`."""
        record.removed[reason] = record.removed.get(reason, 0) + 1
        self.removed.setdefault(post, (record.name, reason))

    def to_json(self) -> dict[str, Any]:
        """The trace in the public JSON schema, with prompt versions and ranker weights."""
        return {
            "request": self.request,
            "stages": [stage.to_json() for stage in self.stages],
            "models": self.models,
            "prompts": self.prompts,
            "weights": {name: round(weight, 4) for name, weight in self.weights.items()},
        }
