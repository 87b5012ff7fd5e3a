"""What each layer between a caller and a backend costs, in CPU time a call and an event.

Everything is in memory: the backend lends its events as a list, or as batches of sixteen, so that nothing but our own
code is on the clock. The layers are put on one after the other, from the inside out; a figure is the difference between
two neighbours. The last rows are the whole client, without and with everything that can be asked of it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import msgspec

import asyncllm
from asyncllm.cache import MemoryCache
from asyncllm.clock import LoopClock
from asyncllm.events import Event, Events, Ready
from asyncllm.identity import Origin
from asyncllm.middleware import Open, bottom
from asyncllm.middleware.cached import cached
from asyncllm.middleware.deadlines import deadlines
from asyncllm.middleware.fallback import Fallback
from asyncllm.middleware.gate import gate
from asyncllm.middleware.hedge import hedge
from asyncllm.middleware.limits import limits
from asyncllm.middleware.retry import RetryQuota, retry
from asyncllm.middleware.total_timeout import total_timeout
from asyncllm.place import Means, Place
from asyncllm.trail import Trail
from asyncllm.types import Message, Request
from asyncllm.watchdog import Watchdog
from bench.report import heading, number, table

_BATCH = 16
_BATCHES = 64
_MICRO = 1_000_000
_POLICY = asyncllm.Retry()


class Cost(msgspec.Struct):
    """Microseconds of CPU, medians over the rounds."""

    layer: str
    call_us: list[float]
    event_us: list[float]


class _Answers:
    """A backend that has its answer ready: whole, or in batches."""

    def __init__(self) -> None:
        self._whole: list[Event] = [asyncllm.TextDelta("token " * 200), asyncllm.Finished("stop")]
        self._batch: list[Event] = [asyncllm.TextDelta("token ")] * _BATCH

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        return _Lent(Ready((), self._batches()) if request.stream else Ready(self._whole))

    async def _batches(self) -> AsyncGenerator[Sequence[Event]]:
        for _ in range(_BATCHES):
            yield self._batch
        yield self._whole[-1:]

    async def aclose(self) -> None:
        """Nothing is held."""


class _Lent:
    def __init__(self, events: Ready) -> None:
        self._events = events

    async def __aenter__(self) -> Events:
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._events.aclose()


def measure(*, quick: bool, rounds: int) -> list[Cost]:
    """CPU of a plain call and of a streamed event through each stack of layers; the stacks take turns."""
    return asyncio.run(_measure(50 if quick else 1000, 2 if quick else 20, rounds))


async def _measure(calls: int, streams: int, rounds: int) -> list[Cost]:
    ways = [*_stacks(), *_clients()]
    costs = [Cost(name, [], []) for name, _ in ways]
    for _ in range(rounds + 1):
        for cost, (_, way) in zip(costs, ways, strict=True):
            cost.call_us.append(await _cpu_us(way, calls, stream=False))
            cost.event_us.append(await _cpu_us(way, streams, stream=True) / (_BATCH * _BATCHES))
    for cost in costs:
        del cost.call_us[0], cost.event_us[0]  # the first round warms up
    return costs


_Way = Callable[[bool], Awaitable[None]]


async def _cpu_us(way: _Way, times: int, *, stream: bool) -> float:
    started = time.process_time()
    for _ in range(times):
        await way(stream)
    return (time.process_time() - started) / times * _MICRO


def _stacks() -> list[tuple[str, _Way]]:
    dog, clock, limiter = Watchdog(), LoopClock(), asyncllm.Limiter()
    stacks: list[tuple[str, Open]] = [("backend alone", bottom(_Answers()))]

    def put(name: str, layer: Callable[[Open], Open]) -> None:
        stacks.append((f"+ {name}", layer(stacks[-1][1])))

    put("deadlines: first event, event idle", lambda open_: deadlines(open_, dog))
    put("gate", gate)
    put("limits, none set", lambda open_: limits(open_, limiter, _POLICY.pause_s))
    put("retry", lambda open_: retry(open_, _POLICY, clock, limiter, RetryQuota(_POLICY)))
    put("total deadline, none set", lambda open_: lambda request, trail: total_timeout(open_, request, trail, dog))
    ways = [(name, _through(open_)) for name, open_ in stacks]
    default = stacks[-1][1]
    bounded = asyncllm.Limiter(asyncllm.Limits(concurrency=64, requests_per_minute=10**9, tokens_per_minute=10**12))
    means = Means(clock=clock, dog=dog, retry=_POLICY)
    places = [
        Place(_Answers(), name=name, label=name, limiter=limiter, means=means, origin=Origin(name, ()))
        for name in ("one", "other")
    ]
    extras: list[tuple[str, Open]] = [
        ("default and a total deadline", lambda request, trail: total_timeout(default, _timed(request), trail, dog)),
        ("default and limits of all kinds", limits(default, bounded, _POLICY.pause_s)),
        ("default and hedging", hedge(default, asyncllm.Hedge(after_s=60))),
        ("default behind a cache that answers", cached(default, MemoryCache(), "here")),
        ("default over a list of two", lambda request, trail: Fallback([(place, request) for place in places], trail)),
    ]
    return ways + [(name, _through(open_)) for name, open_ in extras]


def _timed(request: Request) -> Request:
    return msgspec.structs.replace(request, timeouts=asyncllm.Timeouts(total_s=600))


def _through(open_: Open) -> _Way:
    plain = Request(model="m", messages=(Message("user", "hi"),))
    streamed = msgspec.structs.replace(plain, stream=True)

    async def way(stream: bool) -> None:
        request = streamed if stream else plain
        trail = Trail("chat", request, "bench", "bench")
        async with open_(request, trail) as events:
            ready = Ready.of(events)
            if ready.rest is not None:
                async for _ in ready.rest:
                    pass

    return way


class _Watcher:
    def before(self, _: Trail) -> None:
        """Look on."""

    def after(self, _: Trail, __: asyncllm.Response | None) -> None:
        """Look on."""


def _clients() -> list[tuple[str, _Way]]:
    default = asyncllm.Client(backend=_Answers())
    hooked = asyncllm.Client(backend=_Answers(), hooks=[_Watcher()], budget=asyncllm.Budget(tokens=10**12))
    return [("the whole client, by default", _asked(default)), ("with a hook and a budget", _asked(hooked))]


def _asked(client: asyncllm.Client) -> _Way:
    async def way(stream: bool) -> None:
        if not stream:
            await client.chat("hi")
            return
        async with client.stream("hi") as events:
            async for _ in events:
                pass

    return way


def text(costs: Sequence[Cost]) -> str:
    """The figures as a table, each with what it adds to the stack before it."""
    rows: list[list[str]] = []
    before: Cost | None = None
    for cost in costs:
        call, event = statistics.median(cost.call_us), statistics.median(cost.event_us)
        added = ["", ""]
        if before is not None and cost.layer.startswith("+"):
            added = [
                number(call - statistics.median(before.call_us)),
                number(event - statistics.median(before.event_us), 3),
            ]
        rows.append([cost.layer, number(call), added[0], number(event, 3), added[1]])
        before = cost
    header = ["CPU, us", "a plain call", "added", f"an event, {_BATCH} a read", "added"]
    return f"{heading('What each layer costs, in memory, without sockets.')}\n{table(header, rows)}"
