"""Times as the exchange format writes them: ISO 8601, Unix seconds, an order number, or nothing.

Inside whyfeed a time is a float of Unix seconds (or an order number: nothing depends on the unit
except freshness, which is then relative to the community's own span).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def parse_time(value: object) -> float | None:
    """Read one time. None and the empty string mean unknown; anything unreadable is a ValueError."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        raise ValueError(f"time {value!r} is neither ISO 8601 nor a number")
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        text = str(value).strip()
        try:
            seconds = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                raise ValueError(f"time {value!r} is neither ISO 8601 nor a number") from None
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = moment.timestamp()
    if seconds != seconds or abs(seconds) == float("inf"):
        raise ValueError(f"time {value!r} is not finite")
    return seconds


def format_time(seconds: float | None) -> str | float | None:
    """Write a time as ISO 8601 in UTC; order numbers (below 1971) stay numbers."""
    if seconds is None:
        return None
    if seconds < 31_536_000 or seconds > 253_402_300_799:
        return seconds
    # Counted in whole milliseconds, so that a time that was read back is written the same again.
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=round(seconds * 1000))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
