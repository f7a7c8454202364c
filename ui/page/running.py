"""What the page is answering right now, and how it ends when the server stops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from whyfeed.ui.page.session import Session

_LOOK_SECONDS = 0.1
_FLUSH_SECONDS = 0.5  # that the last news have to reach the browser


class Running:
    """The sessions that work on an answer. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: Counter[Session] = Counter()

    @contextmanager
    def work(self, session: Session) -> Iterator[None]:
        """Within it, the session is working."""
        with self._lock:
            self._sessions[session] += 1
        try:
            yield
        finally:
            with self._lock:
                self._sessions[session] -= 1
                self._sessions += Counter()  # drops those that have come to zero

    async def drain(self, seconds: float) -> None:
        """Wait for all work to end; what still runs after so many seconds ends with an error that the page shows."""
        if await self._ended(seconds):
            await asyncio.sleep(_FLUSH_SECONDS)
            return
        for session in self._all():
            session.break_off()
        await self._ended(1)
        await asyncio.sleep(_FLUSH_SECONDS)

    async def _ended(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._all():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions)
