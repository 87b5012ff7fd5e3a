"""Times as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from asyncllm.errors import ConfigError

__all__ = ["duration_s", "moment", "written"]

_DURATION = re.compile(r"(\d{1,9})\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration_s(text: str, where: str) -> float:
    """Seconds of a time such as 90s, 10m, 1h, 30d or 2w. Raises `ConfigError`."""
    told = _DURATION.fullmatch(text.strip().lower())
    if told is None:
        raise ConfigError(f"{where} takes a time such as 90s, 10m, 12h, 30d or 2w", field=where)
    return float(int(told[1]) * _SECONDS[told[2]])


def moment(text: str, where: str, now: float) -> float:
    """The Unix time that is so long after `now`, or a date and time, UTC unless it says else. Raises `ConfigError`."""
    if _DURATION.fullmatch(text.strip().lower()):
        return now + duration_s(text, where)
    try:
        date = datetime.fromisoformat(text.strip())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{where} takes a time such as 30d, or a date such as 2027-01-31 or 2027-01-31T18:00", field=where
        ) from None


def written(unix_s: float) -> str:
    """A Unix time to the second, UTC."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "after all dates"
