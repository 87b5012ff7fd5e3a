"""An answer that is not of the type that was asked for is shown to its model again, with what is wrong with it.

Every round is a call of its own for limits, budgets and hooks; the caller gets one response that says what all of them
took. Only an answer that came to its own end is asked for again: one that was cut off at `max_tokens` would be cut off
again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from asyncllm.calls import CallOptions, Prompt, output_of, repairs_of
from asyncllm.errors import APIError, ResponseValidationError
from asyncllm.totals import total_cost_usd, total_usage
from asyncllm.types import Failure, Message, Response, Timeouts

__all__ = ["Ask", "next_key", "repaired"]

Ask = Callable[[Prompt, CallOptions], Awaitable[Response]]
"""Makes one call."""


async def repaired(ask: Ask, prompt: Prompt, options: CallOptions, timeouts: Timeouts) -> Response:
    """The answer to a chat that has an `output_type`, asked for again as often as `repairs` allows.

    Raises as `ask` does; the last misfit as `ResponseValidationError`, its `partial` saying what all rounds took.
    """
    output = output_of(options)
    repairs = repairs_of(options, stream=False)
    time = asyncio.get_running_loop().time
    started = time()
    timeouts = options.get("timeouts", timeouts)
    earlier: list[Response] = []
    while True:
        try:
            return _totalled(earlier, await ask(prompt, options))
        except ResponseValidationError as error:
            response = error.partial
            if output is None or error.field != "output_type" or response is None:
                raise
            if len(earlier) == repairs or response.finish_reason not in ("stop", None):
                error.partial = _totalled(earlier, response)
                raise
        except APIError as error:
            if earlier and error.partial is None:
                error.partial = _totalled(earlier[:-1], earlier[-1])
                error.maybe_billed = True
            raise
        earlier.append(response)
        turns = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        answer = [response.choices[0].message] if response.text else []  # some services take no empty turn
        prompt = [*turns, *answer, Message("user", output.repair(response))]
        options = options.copy()
        if "idempotency_key" in options:
            options["idempotency_key"] = next_key(options["idempotency_key"], len(earlier))
        if timeouts.total_s is not None:
            left_s = timeouts.total_s - (time() - started)
            options["timeouts"] = replace(timeouts, total_s=max(left_s, 0.001))


def next_key(key: str, number: int) -> str:
    """The idempotency key of the call that follows by `number` in a conversation: another body needs another key."""
    return hashlib.sha256(f"{number}:{key}".encode()).hexdigest()


def _totalled(earlier: list[Response], last: Response) -> Response:
    """`last`, with what all rounds took, and the misfits among its failures."""
    if not earlier:
        return last
    rounds = [*earlier, last]
    failures: list[Failure] = []
    for response in earlier:
        misfit = Failure(
            error="ResponseValidationError",
            backend=response.backend,
            model=response.model,
            request_id=response.request_id,
        )
        failures += [*response.failures, misfit]
    return replace(
        last,
        usage=total_usage(rounds),
        cost_usd=total_cost_usd(rounds),
        queue_s=sum(response.queue_s for response in rounds),
        failures=(*failures, *last.failures),
        cached=all(response.cached for response in rounds),
    )
