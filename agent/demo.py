"""The communities that whyfeed ships, so that a new home has something real to talk about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import retrieval
from agent.agent import Agent
from retrieval.exchange import ImportReport

FOLDER = Path(retrieval.__file__).parent / "demo"


def import_demo(agent: Agent, progress: Callable[[str, int], None] | None = None) -> ImportReport | None:
    """Import the shipped communities, unless this very version of them has been imported before."""
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.jsonl.gz")))).hexdigest()
    if agent.marked("demo") == content:
        return None
    report = agent.import_folder(FOLDER, progress)
    agent.mark("demo", content)
    return report
