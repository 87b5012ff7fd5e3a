"""Rows worked off by a service's own batches: split into parts, each made once, waited for, and its outcomes told.

What must outlive the process is written into a `Ledger`, in this order: that a part is about to be made, what the
service knows it by, each outcome, and that it is over. A part that was about to be made when the process ended is
looked for by its token, and made only if it is not there. So no part is made twice, wherever the process ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing

import msgspec

from asyncllm.backend import Batches, BatchItem, BatchOutcome, BatchRequest, BatchState, Clock
from asyncllm.batch.parts import Ledger, Part, VendorSettings, split
from asyncllm.batch_http import abandoned
from asyncllm.errors import (
    APIError,
    AsyncLLMError,
    ConfigError,
    JobFailedError,
    NotFoundError,
    ResponseValidationError,
    TotalTimeoutError,
    UnsupportedError,
)

__all__ = ["deliver", "run_part", "run_vendor", "settle", "wait"]

_GROWTH = 1.5
_SPREAD = 0.2
_TOLERATED = 10  # failures in a row that may pass
_CREATIONS = 5
_DELIVERIES = 5
_NEW_S = 60.0  # for which a batch that was just made may not be found yet
_ORDER = {"queued": 0, "running": 1}


# -- made once -------------------------------------------------------------------------------------------------------


async def settle(
    batches: Batches, part: Part, ledger: Ledger, *, clock: Clock, settings: VendorSettings = VendorSettings()
) -> BatchState:
    """The batch of `part`: the one that is there already, or one that is made now.

    Raises `APIError`, and `UnsupportedError` with `maybe_billed` where a batch may be there and the service cannot be
    asked for it.
    """
    if part.batch_id is not None:
        return BatchState(id=part.batch_id, status="queued")
    if not part.is_begun:
        await ledger.intent(part)
    else:
        found = await _find(batches, part, clock, settings)
        if found is not None:
            await ledger.created(part, found.id)
            return found
    state = await _create(batches, part, ledger, clock, settings)
    await ledger.created(part, state.id)
    return state


async def _create(batches: Batches, part: Part, ledger: Ledger, clock: Clock, settings: VendorSettings) -> BatchState:
    request = BatchRequest(
        model=part.model,
        items=part.items,
        token=part.token,
        labels=settings.labels,
        priority=settings.priority,
        max_runtime_s=settings.max_runtime_s,
        timeouts=settings.timeouts,
        extra=settings.extra,
    )
    pauses = _Pauses(settings)
    for left in reversed(range(_CREATIONS)):
        try:
            return await batches.create_batch(request)
        except APIError as error:
            if error.maybe_billed:
                found = await _find(batches, part, clock, settings, error)
                if found is not None:
                    return found
                if not left:
                    raise
            elif not error.retryable or not left:
                await ledger.withdrawn(part)
                raise
            await clock.sleep(pauses.next(error.retry_after_s))
        except (ConfigError, UnsupportedError):
            await ledger.withdrawn(part)
            raise
    raise AssertionError("the last attempt returns or raises")


async def _find(
    batches: Batches, part: Part, clock: Clock, settings: VendorSettings, cause: APIError | None = None
) -> BatchState | None:
    """The batch of a part that may have been made; `None` where it is still not there after `patience_s` seconds."""
    until = clock.time() + settings.patience_s
    pauses = _Pauses(settings)
    failures = 0
    while True:
        try:
            found = await batches.find_batch(part.token)
        except UnsupportedError as error:
            if settings.may_repeat:
                return None
            raise _unknown(error, cause) from cause
        except APIError as error:
            failures += 1
            if not error.retryable or failures > _TOLERATED:
                raise
            await clock.sleep(pauses.next(error.retry_after_s))
            continue
        failures = 0
        left_s = until - clock.time()
        if found is not None or left_s <= 0:
            return found
        await clock.sleep(min(pauses.next(None), left_s))


def _unknown(error: UnsupportedError, cause: APIError | None) -> UnsupportedError:
    when = "when the connection was lost" if cause is not None else "when an earlier run ended"
    return UnsupportedError(
        f"a batch was being made {when}, and the {error.backend!r} backend cannot ask whether it is there: look into "
        "the service's own list; if it is not there, may_repeat makes it again",
        backend=error.backend,
        field="find_batch",
        maybe_billed=True,
    )


# -- waited for ------------------------------------------------------------------------------------------------------


async def wait(
    batches: Batches,
    state: BatchState,
    *,
    clock: Clock,
    settings: VendorSettings = VendorSettings(),
    tell: Callable[[BatchState], None] | None = None,
) -> BatchState:
    """Look at a batch from time to time until it has ended, whichever way. `tell` hears of every look.

    A status that goes back is not believed. Failures that may pass are let pass, up to ten in a row, and so is a batch
    of which the service knows nothing for its first minute.

    Raises `APIError`, and `TotalTimeoutError` after `timeout_s`, with the last failure as its cause.
    """
    start = clock.time()
    pauses = _Pauses(settings)
    last: APIError | None = None
    failures = 0
    while not state.is_final:
        waited_s = clock.time() - start
        if settings.timeout_s is not None and waited_s >= settings.timeout_s:
            raise TotalTimeoutError(
                f"the batch {state.id} has not ended within timeout_s={settings.timeout_s} seconds; it goes on",
                elapsed_s=waited_s,
                maybe_billed=True,
            ) from last
        pause_s = pauses.next((last or state).retry_after_s)
        await clock.sleep(pause_s if settings.timeout_s is None else min(pause_s, settings.timeout_s - waited_s))
        try:
            seen = await batches.get_batch(state.id)
        except APIError as error:
            is_new = isinstance(error, NotFoundError) and clock.time() - start < _NEW_S
            failures += 1
            last = error
            if not is_new and (not error.retryable or failures > _TOLERATED):
                raise
            continue
        last, failures = None, 0
        if _ORDER.get(seen.status, 2) < _ORDER[state.status]:
            seen = msgspec.structs.replace(seen, status=state.status)
        state = seen
        if tell is not None:
            tell(state)
    return state


class _Pauses:
    """Waits that grow, each give or take a share that is drawn, and none shorter than what a service asks for."""

    def __init__(self, settings: VendorSettings, draw: Callable[[], float] = random.random) -> None:
        self._next_s = settings.interval_s
        self._longest_s = settings.longest_s
        self._draw = draw

    def next(self, asked_s: float | None) -> float:
        """Seconds to wait now."""
        pause_s = self._next_s * (1 + _SPREAD * (2 * self._draw() - 1))
        self._next_s = min(self._next_s * _GROWTH, self._longest_s)
        return max(pause_s, asked_s or 0.0)


# -- told ------------------------------------------------------------------------------------------------------------


async def deliver(
    batches: Batches,
    part: Part,
    state: BatchState,
    ledger: Ledger,
    *,
    clock: Clock,
    settings: VendorSettings = VendorSettings(),
) -> None:
    """Tell the ledger what became of each item of a batch that has ended, once each, and then that it is done.

    Results that break off are fetched again. What is in them twice counts once, and what was not asked for not at all.

    Raises `APIError`; what was told until then is told.
    """
    requests = {item.id: item.request for item in part.items}
    missing = dict.fromkeys(requests)
    unread: ResponseValidationError | None = None
    pauses = _Pauses(settings)
    for left in reversed(range(_DELIVERIES)):
        try:
            async with batches.batch_outcomes(state.id, requests) as outcomes:
                async for outcome in outcomes:
                    if outcome.id in missing:
                        await ledger.outcome(outcome)
                        del missing[outcome.id]
            break
        except ResponseValidationError as error:
            unread = error
            break
        except APIError as error:
            if not missing:
                break
            if not error.retryable or not left:
                raise
            await clock.sleep(pauses.next(error.retry_after_s))
    for id_ in missing:
        await ledger.outcome(BatchOutcome(id=id_, error=_no_outcome(state, unread)))
    await ledger.done(part, state)


def _no_outcome(state: BatchState, unread: ResponseValidationError | None) -> AsyncLLMError:
    """The error of an item that the results say nothing of."""
    match state.status:
        case "expired" | "cancelled":
            return abandoned(state.status)
        case "failed":
            return state.error or JobFailedError("the batch failed, and the service does not say why")
        case _:
            return unread or ResponseValidationError("the results of the batch say nothing of this item")


# -- all of it -------------------------------------------------------------------------------------------------------


async def run_part(
    batches: Batches,
    part: Part,
    ledger: Ledger,
    *,
    clock: Clock,
    settings: VendorSettings = VendorSettings(),
    tell: Callable[[BatchState], None] | None = None,
) -> None:
    """Make the batch of `part` unless it is there, wait for it, and tell what became of its items."""
    state = await settle(batches, part, ledger, clock=clock, settings=settings)
    state = await wait(batches, state, clock=clock, settings=settings, tell=tell)
    await deliver(batches, part, state, ledger, clock=clock, settings=settings)


async def run_vendor(
    batches: Batches,
    items: AsyncIterable[BatchItem],
    ledger: Ledger,
    *,
    clock: Clock,
    begun: Iterable[Part] = (),
    settings: VendorSettings = VendorSettings(),
    tell: Callable[[BatchState], None] | None = None,
) -> None:
    """Have a service work off `items`, and before them the parts that an earlier run has `begun` and not ended.

    After the first error no other part is begun; those under way come to their end, and then it is raised.
    """
    room = asyncio.Semaphore(settings.in_flight)
    errors: list[AsyncLLMError] = []

    async def work(part: Part) -> None:
        try:
            await run_part(batches, part, ledger, clock=clock, settings=settings, tell=tell)
        except AsyncLLMError as error:
            errors.append(error)
        finally:
            room.release()

    async with aclosing(_pieces(batches, begun, items, settings.part_items)) as pieces, asyncio.TaskGroup() as group:
        async for piece in pieces:
            if isinstance(piece, BatchOutcome):
                await ledger.outcome(piece)
                continue
            await room.acquire()
            if errors:
                room.release()
                break
            group.create_task(work(piece))
    if errors:
        raise errors[0]


async def _pieces(
    batches: Batches, begun: Iterable[Part], items: AsyncIterable[BatchItem], most: int
) -> AsyncGenerator[Part | BatchOutcome]:
    for part in begun:
        yield part
    async with aclosing(split(batches, items, most=most)) as pieces:
        async for piece in pieces:
            yield piece
