"""Common to every server of whyfeed: open a port, make a first key, tell the address, end on a signal."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.http.access import Access, first_key

_LAST_SECONDS = 10  # that requests have to end when the server stops

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


def run(app: Any, listening: socket.socket, on_ready: Callable[[], None] | None = None) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT; `on_ready` is called once it answers."""

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and on_ready is not None:
                on_ready()

    if threading.current_thread() is threading.main_thread():
        # uvicorn sends itself the signal again after its shutdown; the agent must still be closed then.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="on", ws="none",
        timeout_graceful_shutdown=_LAST_SECONDS,
    )  # fmt: skip
    try:
        Announcing(config).run(sockets=[listening])
    except KeyboardInterrupt:
        _log.debug("interrupted")
