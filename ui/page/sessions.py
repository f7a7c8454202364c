"""The sessions of all tabs: how many there may be, how much each may ask for, and when they end.

A session that has ended loses nothing: the next message of its tab says where the tab is, and a new session goes on
from there.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whyfeed.ui.http.access import Refused
from whyfeed.ui.page.session import Session

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

MOST = 500  # sessions; about 50 KB each
_IDLE = 1800.0  # seconds without a message after which a session ends
_AT_ONCE = 16  # messages of one session that are worked on; in a tab there are two or three
_STREAMS = 4  # open answers of one session; a tab has one
_EVENTS = 240  # messages of a session a minute; typing in the search field sends up to seven a second
_NEW = 120  # sessions of an address a minute
# Newcomers are written to the home, where they stay.
NEWCOMERS_OF_ADDRESS = 20  # an hour
_NEWCOMERS_AN_HOUR = 200  # of all addresses
_NEWCOMERS_A_DAY = 1000


@dataclass(slots=True)
class _Tab:
    address: str
    used: float
    session: Session | None = None
    running: int = 0
    streams: int = 0


class Sessions:
    """The sessions by the id that the browser makes for its tab. Every method may be called from any thread.

    `forget` is called with the id of each session that has ended.
    """

    def __init__(
        self, agent: Agent, language: str, forget: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        self._agent = agent
        self._language = language
        self._forget = forget
        self._clock = clock
        self._lock = threading.RLock()  # an abandoned generator may be closed in the middle of anything
        self._tabs: OrderedDict[str, _Tab] = OrderedDict()  # the one that was used last is the last
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def __len__(self) -> int:
        return len(self._tabs)

    def admit(self, id: str, address: str) -> None:
        """Let a message of a tab in; a new tab's session ends that of the tab that was idle longest, if there are many.

        Raises Refused (429) when the tab or its address asks for too much.
        """
        from limits import RateLimitItemPerMinute

        self.end_idle()
        with self._lock:
            tab = self._tabs.get(id)
            if tab is None:
                if not self._limiter.hit(RateLimitItemPerMinute(_NEW), "new", address):
                    raise Refused(429, "too many tabs were opened from this address; wait a minute", 60)
                if len(self._tabs) >= MOST:
                    idle = next((each for each, other in self._tabs.items() if not other.running), None)
                    if idle is None:
                        raise Refused(429, "too many people use the page just now; wait a moment", 10)
                    self._end(idle)
                tab = self._tabs[id] = _Tab(address, self._clock())
            if tab.running >= _AT_ONCE:
                raise Refused(429, "this tab still waits for earlier answers; wait a moment", 5)
            if not self._limiter.hit(RateLimitItemPerMinute(_EVENTS), "events", id):
                raise Refused(429, "this tab sends too much; wait a moment", 5)
            self._use(id)

    def end_idle(self) -> None:
        """End the sessions that have not been used for half an hour."""
        with self._lock:
            oldest = self._clock() - _IDLE
            for id in [id for id, tab in self._tabs.items() if tab.used < oldest and not tab.running]:
                self._end(id)

    @contextmanager
    def working(self, id: str) -> Iterator[Session | None]:
        """The session of a tab while one of its messages is worked on; None where it has not begun."""
        with self._lock:
            if id not in self._tabs:  # it ended while the message waited
                self._tabs[id] = _Tab("", self._clock())
            tab = self._tabs[id]
            tab.running += 1
            self._use(id)
        try:
            yield tab.session
        finally:
            with self._lock:
                tab.running -= 1

    def begin(self, id: str) -> Session:
        """The session of a tab at work; a new one where it has none."""
        with self._lock:
            tab = self._tabs[id]
            if tab.session is None:
                tab.session = Session(self._agent, self._language, lambda: self._may_join(tab.address))
            return tab.session

    @contextmanager
    def streaming(self, id: str) -> Iterator[None]:
        """A tab reads its answers. Raises Refused: 404 for a tab that has asked nothing, 429 for too many at once."""
        with self._lock:
            tab = self._tabs.get(id)
            if tab is None:
                raise Refused(404, "this tab has asked nothing; open the page again")
            if tab.streams >= _STREAMS:
                raise Refused(429, "this tab reads its answers already", 5)
            tab.streams += 1
        try:
            yield
        finally:
            with self._lock:
                tab.streams -= 1

    def _use(self, id: str) -> None:
        self._tabs[id].used = self._clock()
        self._tabs.move_to_end(id)

    def _end(self, id: str) -> None:
        del self._tabs[id]
        self._forget(id)

    def _may_join(self, address: str) -> bool:
        """Whether one more newcomer may be made from this address; counts it if so."""
        from limits import RateLimitItemPerDay, RateLimitItemPerHour

        allowances = (
            (RateLimitItemPerHour(NEWCOMERS_OF_ADDRESS), f"newcomers of {address}"),
            (RateLimitItemPerHour(_NEWCOMERS_AN_HOUR), "newcomers"),
            (RateLimitItemPerDay(_NEWCOMERS_A_DAY), "newcomers"),
        )
        with self._lock:
            return all(self._limiter.test(*each) for each in allowances) and all(
                self._limiter.hit(*each) for each in allowances
            )
