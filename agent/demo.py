"""Import of the demo communities and the demo desk that whyfeed ships."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from whyfeed.agent.agent import Agent
from whyfeed.retrieval.store.exchange import ImportReport

FOLDER = Path(str(files("whyfeed.retrieval"))) / "demo"
DESK_FOLDER = FOLDER.with_name("demo_desk")


def import_demo(agent: Agent, progress: Callable[[str, int], None] | None = None) -> ImportReport | None:
    """Import the demo communities and the demo desk, unless the same versions have been imported before.

    Returns the report of the communities, or None when they were already imported.
    """
    report = _import(agent, "demo", FOLDER, progress)
    _import(agent, "demo desk", DESK_FOLDER, progress)
    return report


def _import(agent: Agent, mark: str, folder: Path, progress: Callable[[str, int], None] | None) -> ImportReport | None:
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl.gz")))).hexdigest()
    if agent.marked(mark) == content:
        return None
    report = agent.import_folder(folder, progress)
    agent.mark(mark, content)
    return report
