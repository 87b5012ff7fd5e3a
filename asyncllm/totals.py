"""What several calls took together."""

from __future__ import annotations

from collections.abc import Sequence

from asyncllm.types import Response, Usage

__all__ = ["total_cost_usd", "total_usage"]


def total_usage(responses: Sequence[Response]) -> Usage:
    """The usage of all of `responses`.

    Input and output are unknown as soon as one response does not tell them; of the shares, such as `cached_tokens`,
    those that were told are added up.
    """
    if len(responses) == 1:
        return responses[0].usage
    total: dict[str, int | None] = {}
    for name in Usage.__struct_fields__:
        told = [getattr(response.usage, name) for response in responses]
        known = [count for count in told if count is not None]
        is_share = name not in ("input_tokens", "output_tokens")
        total[name] = sum(known) if known and (is_share or len(known) == len(told)) else None
    return Usage(**total)


def total_cost_usd(responses: Sequence[Response]) -> float | None:
    """The cost of all of `responses`, or `None` where that of one is unknown."""
    costs = [response.cost_usd for response in responses]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
