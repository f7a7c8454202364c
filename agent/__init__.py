"""One request from words to a checked answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.agent import Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> Any:
    # Opening an agent pulls in numpy and the store; `import agent` and `whyfeed --help` need neither.
    if name == "Agent":
        from agent.agent import Agent

        return Agent
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
