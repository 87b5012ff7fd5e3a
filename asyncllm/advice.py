"""How long a server asks to wait before the next attempt, in every form that headers say it.

Nothing here raises, whatever a server sends: what cannot be understood says nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]

# What `Retry-After` may say, and the durations of `x-ratelimit-reset-*`.
_NUMBER = re.compile(r"[0-9]{1,35}(\.[0-9]{1,9})?")
_SPAN = re.compile(
    r"(?=[0-9])(?:(?P<h>[0-9]{1,9})h)?(?:(?P<m>[0-9]{1,9})m(?!s))?"
    r"(?:(?P<s>[0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:(?P<ms>[0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?"
)
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, or `None` where it does not say or cannot be understood.

    Reads `retry-after-ms`, then `Retry-After` as seconds or as an HTTP date, then when a limit that is used up starts
    afresh. A date is read against the reply's own `Date` where it has one: the local clock may be wrong. Of several
    answers the longest counts.

    Sources: RFC 9110 section 10.2.3, and the documentation of OpenAI and Azure for the headers that are their own.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        values = _values(headers, name)
        waits = [float(number) / unit for value in values for number in _numbers(value)]
        if unit == 1:
            waits += [wait_s for value in values if (wait_s := _until(value, headers)) is not None]
        if waits:
            return max(waits)
    resets = [
        span_s
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0"
        for value in _values(headers, f"x-ratelimit-reset-{kind}")
        if (span_s := _span(value)) is not None
    ]
    return max(resets, default=None)


def _values(headers: Mapping[str, str], name: str) -> Sequence[str]:
    """Every header called `name`; a plain mapping holds one at the most."""
    every: Callable[[str, Sequence[str]], Sequence[str]] | None = getattr(headers, "getall", None)
    return every(name, ()) if every is not None else [headers[name]] if name in headers else ()


def _numbers(value: str) -> list[str]:
    """The number in `value`, or the numbers where something on the way has joined several headers with commas."""
    parts = [part.strip() for part in value.split(",")]
    return parts if all(_NUMBER.fullmatch(part) for part in parts) else []


def _until(value: str, headers: Mapping[str, str]) -> float | None:
    then = _timestamp(value)
    if then is None:
        return None
    now = _timestamp(headers.get("date", ""))
    wait_s = then - (time.time() if now is None else now)
    return wait_s if wait_s > 0 else None


def _timestamp(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
        # One of the three forms names no zone. All HTTP dates are in UTC.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except Exception:  # the parser is made for mail and raises whatever its arithmetic happens to
        return None


def _span(value: str) -> float | None:
    """Seconds of `1h2m3.5s`, `6m0s` or `20ms`."""
    found = _SPAN.fullmatch(value.strip())
    return None if found is None else sum(float(text) * _UNIT_S[unit] for unit, text in found.groupdict("0").items())
