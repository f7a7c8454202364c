"""Health checks of a home and its machine; each failed check says what to do."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from whyfeed.agent.agent import Agent
from whyfeed.agent.llm.weights import WEIGHTS
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.errors import WhyfeedError


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    detail: str


def examine(agent: Agent) -> list[Check]:
    """Check the home, the models, the disk and the memory. Never raises for what it finds."""
    checks = []
    try:
        status = agent.status()
        detail = f"{status['posts']} posts, {status['users']} readers in {agent.home}"
        checks.append(Check("home", status["posts"] > 0, detail if status["posts"] else f"{detail}: run whyfeed demo"))
    except WhyfeedError as exc:
        checks.append(Check("home", False, str(exc)))
    for weights in WEIGHTS:
        state = weights.state()
        advice = {
            "ready": "ready",
            "missing": "missing: whyfeed models pull",
            "damaged": "damaged: whyfeed models pull",
        }
        # Missing weights can be a choice (--no-llm), damaged ones cannot.
        checks.append(Check(weights.name, state != "damaged", advice[state]))
    registry = Registry(agent.home)
    for name in registry.names():
        trouble = registry.trouble(name)
        versions = registry.versions(name)
        live = next((f"version {each.version}" for each in versions if each.live), "what is built in")
        checks.append(Check(f"trained {name}", not trouble, trouble or f"{live} is live, of {len(versions)} trained"))
    free = shutil.disk_usage(agent.home).free
    checks.append(Check("disk", free > 200_000_000, f"{free / 1e9:.1f} GB free"))
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    checks.append(Check("memory", available > 500_000_000, f"{available / 1e9:.1f} GB free; the writer needs 2"))
    return checks
