"""One client's connection: what it may send before any key is known, and for how long it may keep us waiting.

uvicorn bounds neither the number of connections nor the time that a request takes to arrive, so that anybody who can
reach the port could fill the memory or the table of open files.
"""

from __future__ import annotations

import asyncio
import json
import resource
from http import HTTPStatus
from typing import Any

import h11
from fastapi import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY = 2_000_000  # bytes of a request's body
HEAD = 32_768  # bytes of a request's line and headers
HEAD_SECONDS = 10.0  # from the connection, or the first byte of a further request, to the end of its headers
BODY_SECONDS = 60.0  # from there to the end of its body
SEND_SECONDS = 60.0  # in which the client reads the next part of an answer
_MOST = 512  # connections at once


class Connection(H11Protocol):
    """uvicorn's connection with limits. Where there are too many, the one that has waited longest for a request goes.

    A refusal is `{"error": "one line"}`, as those of the service.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._awaited = "head"  # the part of the request that is arriving: head, body or nothing
        self._deadline: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; it is refused with 503 where there are too many and all others are at work."""
        super().connection_made(transport)
        self._arm(HEAD_SECONDS)
        if len(self.connections) > most_connections():
            idle = [each for each in self.connections if isinstance(each, Connection) and each.is_idle]
            longest = min(idle, key=lambda each: each._since)
            if longest.cycle is None:
                longest._refuse(503, "too many connections; ask again in a moment")
            else:
                longest._close()  # its client may be sending a request, which is not the one that was refused

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._arm(None)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; 431 when the headers are too long."""
        if self.conn.their_state is h11.IDLE:
            before, _ = self.conn.trailing_data
            end = (before[-3:] + data).find(b"\r\n\r\n")
            if len(before) + (len(data) if end < 0 else end) > HEAD:
                return self._refuse(431, f"the headers have more than {HEAD} bytes")
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle what has arrived, and set the time by which the rest must be there."""
        super().handle_events()
        if self.transport.is_closing():
            return
        theirs = self.conn.their_state
        awaited = "nothing"
        if theirs is h11.SEND_BODY:
            awaited = "body"
        elif theirs is h11.IDLE and self.conn.trailing_data[0]:
            awaited = "head"
        if awaited != self._awaited:
            self._awaited, self._since = awaited, self.loop.time()
            self._arm({"head": HEAD_SECONDS, "body": BODY_SECONDS}.get(awaited))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "this cannot be read as HTTP")

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        if self._sending is None:
            self._sending = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, the client has read."""
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    async def give_up(self, message: str) -> None:
        """Answer 503 for a request that nothing was answered to yet; whatever answers it now writes into the void."""
        cycle = self.cycle
        if cycle is None or cycle.response_started or cycle.disconnected:
            return
        body = _document(message)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await cycle.send({"type": "http.response.start", "status": 503, "headers": headers})
        await cycle.send({"type": "http.response.body", "body": body, "more_body": False})
        cycle.disconnected = True

    def _arm(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._awaited == "head":
            self._refuse(408, "the request took too long to arrive")
        else:
            self._close()  # whoever reads the body learns that the client is gone

    def _refuse(self, status: int, message: str) -> None:
        """Answer instead of the application, which knows no request yet, and close."""
        body = _document(message)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._close()

    def _close(self) -> None:
        self._arm(None)
        self._unset_keepalive_if_required()
        self.connections.discard(self)  # at once, so that it is not chosen again
        self.transport.close()


class BodyLimit:
    """ASGI middleware: the application gets no more than `most` bytes of a body, else its reading raises 413."""

    def __init__(self, app: Any, most: int = BODY) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise HTTPException(413, f"the body has more than {self._most} bytes")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


def most_connections() -> int:
    """How many connections are kept: half of the files that this process may open at most, the home needs some."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if files == resource.RLIM_INFINITY else max(16, min(_MOST, files // 2))


def _document(message: str) -> bytes:
    return json.dumps({"error": message}).encode()
