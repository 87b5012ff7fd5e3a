"""Headers that tell what a key's minute has left, in either vendor's form.

Source: https://platform.openai.com/docs/guides/rate-limits and
https://docs.anthropic.com/en/api/rate-limits#response-headers
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from asyncllm.server.limits.quota import Rates

__all__ = ["Headers", "anthropic_headers", "openai_headers"]

Headers = list[tuple[bytes, bytes]]


def openai_headers(rates: Rates) -> Headers:
    """`x-ratelimit-...`; what resets does so after a duration such as `1m0s`."""
    reset = _duration(rates.wait_s)
    return [
        (f"x-ratelimit-{field}-{kind}".encode(), str(value).encode())
        for kind, limit, left in _kinds(rates)
        for field, value in (("limit", limit), ("remaining", left), ("reset", reset))
    ]


def anthropic_headers(rates: Rates) -> Headers:
    """`anthropic-ratelimit-...`; what resets does so at a time."""
    reset = datetime.fromtimestamp(time.time() + rates.wait_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        (f"anthropic-ratelimit-{kind}-{field}".encode(), str(value).encode())
        for kind, limit, left in _kinds(rates)
        for field, value in (("limit", limit), ("remaining", left), ("reset", reset))
    ]


def _kinds(rates: Rates) -> list[tuple[str, int, int]]:
    kinds = (("requests", rates.requests, rates.left_requests), ("tokens", rates.tokens, rates.left_tokens))
    return [(kind, limit, left) for kind, limit, left in kinds if limit is not None]


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
