"""The held-out sentences, and when a sentence counts as understood: for tests and `benchmarks.understand`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whyfeed.agent.request import Request
from whyfeed.agent.understanding.references import Context

HELD_OUT = Path("tests/data/utterances-heldout.jsonl")
CONTEXT = Context(
    shown=("p1", "p2", "p3", "p4", "p5"),
    titles={
        "p1": "Can I keep an opened bottle of port in the fridge?",
        "p2": "How does the surface code correct errors?",
        "p3": "Which yeast suits a dry mead?",
        "p4": "Is quantum annealing faster than simulated annealing?",
        "p5": "What glass should a stout be served in?",
    },
    focus="p2",
)
Row = dict[str, Any]


def load(path: Path = HELD_OUT) -> list[Row]:
    """The held-out sentences with the request that each asks for."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def topics_right(request: Request, row: Row) -> bool:
    """Query, include, exclude and posts are as expected, upper and lower case aside."""

    def lower(values: Any) -> list[str]:
        return [value.lower() for value in values]

    return (
        (request.query or "").lower() == row.get("query", "").lower()
        and lower(request.include) == lower(row.get("include", []))
        and lower(request.exclude) == lower(row.get("exclude", []))
        and list(request.posts) == row.get("posts", [])
    )
