"""Access over the network: keys, their scopes and users, and rate limits."""

from __future__ import annotations

import hmac
import time
from typing import Any

from whyfeed.agent.operations import Operation
from whyfeed.retrieval.store.keys import Key, Keys
from whyfeed.retrieval.store.store import Store


class Refused(Exception):
    """A request that is not served. `status` and `headers` are those of HTTP.

    `retry_after` is in seconds, where waiting helps.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)


class Access:
    """Keys of the home, and a `master` key from the environment, which may do everything and is never stored."""

    def __init__(self, store: Store, master: str = "") -> None:
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        self._keys = Keys(store)
        self._master = master
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def authenticate(self, authorization: str | None) -> Key:
        """The key of an `Authorization: Bearer KEY` header; counts one request. Raises Refused (401, 429)."""
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.casefold() != "bearer" or not secret:
            raise Refused(401, "give a key: Authorization: Bearer KEY (`whyfeed keys add` makes one)")
        if self._master and hmac.compare_digest(secret.encode(), self._master.encode()):
            return Key("master", frozenset({"admin"}))  # it is not counted
        key = self._keys.find(secret)
        if key is None:
            raise Refused(401, "unknown key; `whyfeed keys list` shows those that there are")
        self._spend(key)
        return key

    def allow(self, key: Key, operation: Operation, arguments: Any) -> None:
        """Refuse with 403 what the key's scopes do not cover, or another user's data."""
        self.allow_scope(key, operation.scope)
        user = getattr(arguments, "user", None)
        if user is not None:
            self.allow_user(key, user)

    def allow_scope(self, key: Key, scope: str) -> None:
        """Refuse with 403 a key without this scope."""
        if not key.may(scope):
            raise Refused(403, f"the key {key.name!r} has not the scope {scope!r}")

    def allow_user(self, key: Key, user: str) -> None:
        """Refuse with 403 a key that may not touch this user's data."""
        if not key.sees(user):
            raise Refused(403, f"the key {key.name!r} may not see the user {user!r}")

    def _spend(self, key: Key) -> None:
        from limits import RateLimitItemPerMinute

        allowance = RateLimitItemPerMinute(key.per_minute)
        if not self._limiter.hit(allowance, key.name):
            wait = self._limiter.get_window_stats(allowance, key.name).reset_time - time.time()
            raise Refused(429, f"more than {key.per_minute} requests a minute; wait", max(1, int(wait) + 1))


def first_key(store: Store) -> str | None:
    """The secret of a new admin key "first" when the home has no key at all, else None."""
    keys = Keys(store)
    return None if keys.all() else keys.add("first", ["admin"])
