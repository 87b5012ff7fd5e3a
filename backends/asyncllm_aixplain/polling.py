"""Asking after a run until it is over: never past the deadline of the call, and never with the key elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from math import inf

from asyncllm.backend import Clock, HttpCall, Transport
from asyncllm.errors import (
    APIError,
    APITimeoutError,
    FirstEventTimeoutError,
    ResponseValidationError,
    TotalTimeoutError,
)
from asyncllm.trusted import Trusted
from asyncllm.types import Timeouts
from asyncllm_aixplain.failures import scrubbed
from asyncllm_aixplain.replies import is_over

__all__ = ["Poller"]

_LEAST_S = 0.2
_MOST_S = 60.0
_GROWTH = 1.1
_SPREAD = 0.2
_TOLERATED = 3  # failures in a row that may pass
_MARGIN_S = 0.1  # before the deadline: what is raised then knows why


class Poller:
    """Asks after runs. `wait_s` is the first wait; `draw` gives numbers from 0 up to 1 for the jitter."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        headers: Mapping[str, str],
        *,
        trusted: Trusted,
        wait_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._headers = headers
        self._trusted = trusted
        self._wait_s = max(wait_s, _LEAST_S)
        self._draw = draw

    async def result(self, url: str, run: HttpCall, since: float) -> bytes:
        """The last word of the run at `url`, which the call `run` began at `since`.

        Raises `RedirectRefusedError` before anything is sent, `APIError` for what will not pass by itself, and
        `FirstEventTimeoutError` or `TotalTimeoutError`, with the last failure as its cause, where time runs out.
        """
        self._trusted.check(url)
        timeouts = run.timeouts
        call = HttpCall(method="GET", url=url, headers=self._headers, timeouts=timeouts)
        limit_s = min(inf if limit is None else limit for limit in (timeouts.first_event_s, timeouts.total_s))
        margin_s = min(_MARGIN_S, limit_s / 10)
        due = since + limit_s - margin_s
        wait_s, asked_s, row = self._wait_s, 0.0, 0
        last: APIError | None = None
        while (left_s := due - self._clock.time()) > 0:
            jittered_s = wait_s * (1 + _SPREAD * (2 * self._draw() - 1))
            await self._clock.sleep(min(left_s, max(jittered_s, asked_s)))
            wait_s, asked_s = min(wait_s * _GROWTH, _MOST_S), 0.0
            try:
                # Even where the wait took what was left, the question is asked: the margin is its time.
                body = await self._ask(call, max(due - self._clock.time(), 0) + margin_s / 2)
                if body is None:
                    break
                if is_over(body):
                    return body
            except APIError as error:
                row += 1
                last, asked_s = scrubbed(error, run), error.retry_after_s or 0.0
                if not _may_pass(error) or row > _TOLERATED:
                    raise last from None
            else:
                row = 0
        raise _late(timeouts, self._clock.time() - since) from last

    async def _ask(self, call: HttpCall, within_s: float) -> bytes | None:
        """The state of the run, or `None` where it did not come in time. Raises `APIError`."""
        try:
            async with asyncio.timeout(None if within_s == inf else within_s), self._transport.open(call) as reply:
                return await reply.read()
        except APIError:
            raise
        except TimeoutError:
            return None


def _may_pass(error: APIError) -> bool:
    """Whether the next question may get an answer: a page of something in between is no answer of the service."""
    return error.retryable or isinstance(error, ResponseValidationError)


def _late(timeouts: Timeouts, elapsed_s: float) -> APITimeoutError:
    first_s, total_s = timeouts.first_event_s, timeouts.total_s
    is_total = total_s is not None and (first_s is None or total_s <= first_s)
    kind = TotalTimeoutError if is_total else FirstEventTimeoutError
    named = f"total_s={total_s}" if is_total else f"first_event_s={first_s}"
    return kind(
        f"the run was accepted and was not over within {named} seconds",
        elapsed_s=elapsed_s,
        retryable=False,
        maybe_billed=True,
    )
