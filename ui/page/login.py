"""The page's login: one name and password for all visitors, cookies that prove it, and pauses after wrong passwords."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from whyfeed.ui.http.access import Refused

Clock = Callable[[], float]

_KEPT = 7 * 86_400.0  # seconds that a login lasts without a request
_LOGINS = 1000
_FREE = 5  # wrong passwords of an address before it must wait
_FREE_IN_ALL = 30
_LONGEST = 900.0  # seconds; each further wrong password doubles the pause up to this
_LONGEST_IN_ALL = 30.0
_FORGET = 3600.0  # seconds after which wrong passwords no longer count
_ADDRESSES = 10_000


def address_of(client: tuple[str, int] | None) -> str:
    """Who asks: an IP address; of IPv6 its /64, which one visitor has whole."""
    host = client[0] if client else ""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


@dataclass(slots=True)
class _Wrong:
    count: int = 0
    until: float = 0.0  # no password is looked at before this time


class Throttle:
    """Growing pauses after wrong passwords, for each address and for all together.

    An address from which the right one came waits for its own wrong passwords alone, so that others cannot lock its
    visitors out.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()
        self._all = _Wrong()
        self._known: OrderedDict[str, None] = OrderedDict()

    def begin(self, address: str) -> None:
        """Count one attempt as wrong until `right` says otherwise. Raises Refused (429) where it must wait.

        Counting comes first, so that many attempts at once are counted, too.
        """
        with self._lock:
            now = self._clock()
            own = self._wrong.pop(address, None) or _Wrong()
            self._wrong[address] = own
            while len(self._wrong) > _ADDRESSES:
                self._wrong.popitem(last=False)
            pairs = [(own, _FREE, _LONGEST)]
            if address not in self._known:
                pairs.append((self._all, _FREE_IN_ALL, _LONGEST_IN_ALL))
            wait = max(wrong.until for wrong, _, _ in pairs) - now
            if wait > 0:
                raise Refused(429, f"too many wrong passwords; wait {int(wait) + 1} s", int(wait) + 1)
            for wrong, free, longest in pairs:
                if now - wrong.until > _FORGET:
                    wrong.count = 0
                wrong.count += 1
                pause = min(2.0 ** min(wrong.count - free, 60), longest) if wrong.count >= free else 0.0
                wrong.until = now + pause

    def right(self, address: str) -> None:
        """The attempt that was begun had the right password."""
        with self._lock:
            self._wrong.pop(address, None)
            if address not in self._known:
                self._all.count = max(0, self._all.count - 1)
                self._all.until = min(self._all.until, self._clock())
            self._known[address] = None
            self._known.move_to_end(address)
            while len(self._known) > _ADDRESSES:
                self._known.popitem(last=False)


class Login:
    """Name and password of the page's visitors. Logins are kept in memory: a restart ends them."""

    def __init__(self, name: str, password: str, clock: Clock = time.monotonic) -> None:
        self._expected = _digest(name, password)
        self._clock = clock
        self._throttle = Throttle(clock)
        self._lock = threading.Lock()
        self._used: OrderedDict[bytes, float] = OrderedDict()
        # Cookies do not tell ports apart: two pages of one machine must not overwrite each other's.
        self.cookie = f"whyfeed-login-{secrets.token_hex(4)}"

    def enter(self, name: str, password: str, address: str) -> str:
        """A new token for the cookie. Raises Refused: 400 for a wrong name or password, 429 after too many."""
        self._throttle.begin(address)
        if not hmac.compare_digest(_digest(name.strip(), password), self._expected):
            raise Refused(400, "wrong name or password")
        self._throttle.right(address)
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._used[_hash(token)] = self._clock()
            while len(self._used) > _LOGINS:
                self._used.popitem(last=False)
        return token

    def knows(self, token: str) -> bool:
        """Whether the token is that of a login which has not ended; counts as its use."""
        key, now = _hash(token), self._clock()
        with self._lock:
            used = self._used.pop(key, None)
            if used is None or now - used > _KEPT:
                return False
            self._used[key] = now
            return True

    def leave(self, token: str) -> None:
        """End a login."""
        with self._lock:
            self._used.pop(_hash(token), None)

    def set_cookie(self, token: str, *, secure: bool) -> str:
        """The Set-Cookie header for a token; an empty one ends the browser's login."""
        return (
            f"{self.cookie}={token}; Path=/; HttpOnly; SameSite=Lax"
            + ("; Secure" if secure else "")
            + ("" if token else "; Max-Age=0")
        )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _digest(name: str, password: str) -> bytes:
    return _hash(name) + _hash(password)
