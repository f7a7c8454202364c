"""Times of the exchange format: ISO 8601, Unix seconds, or an order number; read and written.

Inside whyfeed a time is a float of Unix seconds, or an order number where the data has no dates. Only freshness
depends on the unit, and it is measured relative to the time span of the community.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def parse_time(value: object) -> float | None:
    """Read one time, as Unix seconds; None and "" give None. ValueError for anything else that is not a time."""
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
    # Rounded to whole milliseconds: a time that is written, read and written again stays the same.
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=round(seconds * 1000))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
