"""Common to every server of whyfeed: open a port, make a first key, tell the address, end on a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import uvicorn
from anyio import CancelScope
from starlette.requests import Request

from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.http.access import Access, first_key
from whyfeed.ui.http.connections import HEAD, Connection

T = TypeVar("T")
Drain = Callable[[float], Coroutine[Any, Any, None]]
STOPPING = "the server is stopping; ask again in a moment"
END_SECONDS = 10  # that requests have to end when the server stops
_LAST_SECONDS = 3  # that is left then to say so
_STOPPING = "stopping"  # its name in the state of each request

_log = logging.getLogger(__name__)


def open_access(store: Store, on_first_key: Callable[[str], None] | None = None) -> Access:
    """The keys of a home, and WHYFEED_API_KEY, which may do everything.

    Without either an admin key is made, and given to `on_first_key`.
    """
    master = os.environ.get("WHYFEED_API_KEY", "")
    if not master and (secret := first_key(store)) is not None and on_first_key is not None:
        on_first_key(secret)
    return Access(store, master)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any free one. HomeError when the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise HomeError(
            f"cannot listen on port {port} of {host!r} ({exc.strerror or exc}); stop what runs there, or name another "
            "with --port"
        ) from exc


def address(host: str, listening: socket.socket) -> str:
    """The URL of a socket that listens."""
    return f"http://{in_url(host)}:{listening.getsockname()[1]}"


def in_url(host: str) -> str:
    """A host in the form it has in a URL."""
    return f"[{host}]" if ":" in host else host


def run(
    app: Any, listening: socket.socket, on_ready: Callable[[], None] | None = None, drain: Drain | None = None
) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT; `on_ready` is called once it answers. See `Server`."""
    if threading.current_thread() is threading.main_thread():
        # uvicorn sends itself the signal again after its shutdown; the agent must still be closed then.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Server(app, on_ready, drain).run(sockets=[listening])
    except KeyboardInterrupt:
        _log.debug("interrupted")


class Server(uvicorn.Server):
    """The one way in which whyfeed serves HTTP: with the limits of `ui.http.connections`, and an end in bounded time.

    When it is told to stop it takes no new connections, and what is running has `END_SECONDS` to finish. Then streams
    end with an error, where they wait by `stopping_of(request)`, and requests without an answer get 503. `drain`, when
    given, is called at the beginning of that time: it waits for work of its own and ends it in so many seconds.
    """

    def __init__(self, app: Any, on_ready: Callable[[], None] | None = None, drain: Drain | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, lifespan="on", ws="none", http=Connection,
                h11_max_incomplete_event_size=HEAD, timeout_graceful_shutdown=END_SECONDS + _LAST_SECONDS,
            )
        )  # fmt: skip
        self._on_ready = on_ready
        self._drain = drain
        self._stopping = Stopping()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve."""
        await super().startup(sockets)
        self.lifespan.state[_STOPPING] = self._stopping
        if self.started and self._on_ready is not None:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to serve."""
        ending = [asyncio.create_task(self._end())]
        if self._drain is not None:
            ending.append(asyncio.create_task(self._drain(END_SECONDS)))
        try:
            await super().shutdown(sockets)
        finally:
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _end(self) -> None:
        await asyncio.sleep(END_SECONDS)
        self._stopping.begin()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                await connection.give_up(STOPPING)


class Stopping:
    """Whether the server has to end what still runs."""

    def __init__(self) -> None:
        self._now = False
        self._waiting: set[CancelScope] = set()

    def begin(self) -> None:
        """From now on nothing waits any longer."""
        self._now = True
        for scope in list(self._waiting):
            scope.cancel()

    async def next(self, events: AsyncIterator[T]) -> T | None:
        """The next event of a stream, None at its end. HomeError when the server ends before."""
        with CancelScope() as scope:
            self._waiting.add(scope)
            try:
                if self._now:
                    scope.cancel()
                return await anext(events, None)
            finally:
                self._waiting.discard(scope)
        raise HomeError(STOPPING)


def stopping_of(request: Request) -> Stopping:
    """What knows whether the server of this request is stopping; a server that is not ours never says so."""
    found: Stopping = getattr(request.state, _STOPPING, None) or Stopping()
    return found
