"""One writing process for many reading processes: reads are local, writes are forwarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from whyfeed.retrieval.store.conversations import Conversations
from whyfeed.retrieval.store.store import Store

T = TypeVar("T", Store, Conversations)
# part, method, positional arguments -> the method's return value; raises what the method raises
Send = Callable[[str, str, tuple[Any, ...]], Any]

# All methods by which requests write: events, stored documents, turns and traces.
WRITES: dict[str, frozenset[str]] = {
    "Store": frozenset({"append", "put_users", "forget", "erase", "keep"}),
    "Conversations": frozenset({"start", "add", "remember"}),
}


class _Forwarding:
    """Proxy of a part of a home: its writing methods run in the writer's process, everything else runs here."""

    def __init__(self, part: Any, send: Send) -> None:
        self._part = part
        self._send = send

    def __getattr__(self, method: str) -> Any:
        name = type(self._part).__name__
        if method in WRITES[name]:
            return lambda *arguments: self._send(name, method, arguments)
        return getattr(self._part, method)


def forwarding(part: T, send: Send) -> T:
    """The part, with its writes forwarded to the writer."""
    return cast(T, _Forwarding(part, send))


class Writer:
    """The one process that writes: executes the writes that other processes send."""

    def __init__(self, store: Store) -> None:
        self._parts: dict[str, Any] = {"Store": store, "Conversations": Conversations(store)}

    def write(self, part: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Run a writing method. Raises ValueError for any other method."""
        if method not in WRITES.get(part, ()):
            raise ValueError(f"{part}.{method} is not for others to call")
        return getattr(self._parts[part], method)(*arguments)
