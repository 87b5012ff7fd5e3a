"""When a job is asked after: what is waited between two questions, and which failures are let pass.

Each wait is longer than the one before, by a factor and up to a bound, give or take a share that is drawn. The first is
not shorter than it was asked for, and none is shorter than what the service wants. No question goes past the deadline.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from math import inf, isfinite
from typing import Any, Protocol, TypedDict

from msgspec import Struct

from asyncllm.backend import Clock, JobState
from asyncllm.calls import check_names
from asyncllm.errors import APIError, AsyncLLMError, InvalidRequestError, JobTimeoutError

__all__ = ["Look", "WaitOptions", "Waits", "looks", "waits_of"]

_LEAST_S = 0.2
_TOLERATED = 5  # failures in a row that may pass
_MARGIN_S = 0.5  # before the deadline: the time of the last question


class WaitOptions(TypedDict, total=False):
    """How a job is waited for, seconds throughout."""

    timeout: float | None
    """After how long to give up; by default never."""
    interval: float
    """The first wait, 0.5, and never below 0.2."""
    backoff: float
    """By what each wait is longer than the one before: 1.1."""
    jitter: float
    """The share by which a wait may be longer or shorter: 0.2."""
    max_interval: float
    """Where waits stop growing: 60."""


class Waits(Struct, frozen=True, kw_only=True):
    """The same, complete."""

    timeout: float | None = None
    interval: float = 0.5
    backoff: float = 1.1
    jitter: float = 0.2
    max_interval: float = 60.0


class Look(Protocol):
    """One question after a job."""

    def __call__(self, within_s: float, /) -> Awaitable[JobState]:
        """Where the job stands. Raises `TimeoutError` where the answer did not come in time, and `APIError`."""
        ...


def waits_of(options: WaitOptions) -> Waits:
    """The options, checked. Raises `InvalidRequestError`."""
    check_names(options, WaitOptions.__optional_keys__)
    _require(options, "timeout", "a number of seconds above zero, or None", lambda value: value is None or value > 0)
    _require(options, "interval", "a number of seconds from zero up", lambda value: value >= 0)
    _require(options, "backoff", "a number from 1 up", lambda value: value >= 1)
    _require(options, "jitter", "a share from 0 to below 1", lambda value: 0 <= value < 1)
    _require(options, "max_interval", "a number of seconds above zero", lambda value: value > 0)
    return Waits(**options)


async def looks(
    look: Look,
    waits: Waits,
    clock: Clock,
    *,
    told: JobState | None,
    name: str,
    draw: Callable[[], float] = random.random,
) -> AsyncGenerator[JobState]:
    """Where a job stands, at each look, to its end. `told` is what is known of it already; `name` tells it in errors.

    Raises `JobTimeoutError`; a failure that will not pass by itself, at once; and one that has not passed after
    several questions in a row. All failures in a row are the `attempts` of what is raised.
    """
    start = clock.time()
    limit_s = inf if waits.timeout is None else waits.timeout
    margin_s = min(_MARGIN_S, limit_s / 10)
    due = start + limit_s - margin_s
    least_s = max(waits.interval, _LEAST_S)
    wait_s, asked_s, is_first = least_s, told.retry_after_s or 0.0 if told else 0.0, told is None
    failures: list[AsyncLLMError] = []
    while True:
        if not is_first:
            left_s = due - clock.time()
            if left_s <= 0 or asked_s > left_s + margin_s:
                await clock.sleep(max(0.0, left_s))
                raise _late(waits, name, clock.time() - start, failures) from (failures[-1] if failures else None)
            jittered_s = max(least_s, wait_s * (1 + waits.jitter * (2 * draw() - 1)))
            await clock.sleep(min(left_s, max(jittered_s, asked_s)))
            wait_s = max(least_s, min(wait_s * waits.backoff, waits.max_interval))
        is_first, asked_s = False, 0.0
        try:
            # Even where the wait took what was left, the question is asked: the margin is its time.
            state = await look(max(due - clock.time(), 0.0) + margin_s)
        except APIError as error:
            failures.append(error)
            asked_s = error.retry_after_s or 0.0
            if not error.retryable or len(failures) > _TOLERATED:
                error.attempts = tuple(failures) if len(failures) > 1 else ()
                raise
        except TimeoutError:
            cause = failures[-1] if failures else None
            raise _late(waits, name, clock.time() - start, failures) from cause
        else:
            failures.clear()
            asked_s = state.retry_after_s or 0.0
            yield state
            if state.is_final:
                return


def _late(waits: Waits, name: str, elapsed_s: float, failures: list[AsyncLLMError]) -> JobTimeoutError:
    return JobTimeoutError(
        f"the job was not over within timeout={waits.timeout} seconds; it goes on, and client.job({name!r}) finds it",
        elapsed_s=elapsed_s,
        attempts=failures,
    )


def _require(options: Any, name: str, told: str, holds: Callable[[Any], bool]) -> None:
    value: Any = options.get(name)
    if name not in options or (value is None and name == "timeout"):
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value) or not holds(value):
        raise InvalidRequestError(f"{name} is {told}", field=name)
