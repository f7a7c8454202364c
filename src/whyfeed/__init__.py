"""whyfeed answers "what should I read?" with real posts and reasons that can be checked.

A public name is loaded when it is first used, so that `import whyfeed` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.answer import Answer, Item, Reason
    from whyfeed.agent.desk.suggestion import ReplySuggestion
    from whyfeed.agent.settings import Settings
    from whyfeed.retrieval.errors import (
        DataError,
        HomeError,
        ModelError,
        UnknownConversation,
        UnknownEvent,
        UnknownPost,
        UnknownUser,
        UnreachableError,
        WeightsError,
        WhyfeedError,
    )

    __version__: str

__all__ = [
    "Agent",
    "Answer",
    "DataError",
    "HomeError",
    "Item",
    "ModelError",
    "Reason",
    "ReplySuggestion",
    "Settings",
    "UnknownConversation",
    "UnknownEvent",
    "UnknownPost",
    "UnknownUser",
    "UnreachableError",
    "WeightsError",
    "WhyfeedError",
    "__version__",
]

_MODULES = {
    "Agent": "whyfeed.agent.agent",
    "Answer": "whyfeed.agent.answer",
    "Item": "whyfeed.agent.answer",
    "Reason": "whyfeed.agent.answer",
    "ReplySuggestion": "whyfeed.agent.desk.suggestion",
    "Settings": "whyfeed.agent.settings",
}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("whyfeed")
    except PackageNotFoundError:  # run from its folder, not installed
        return "0"


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'whyfeed' has no attribute {name!r}")
        if name == "__version__":
            return _version()
        return getattr(import_module(_MODULES.get(name, "whyfeed.retrieval.errors")), name)

    def __dir__() -> list[str]:
        return __all__
