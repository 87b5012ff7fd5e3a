"""Send a call a second time when its answer is late to begin, and keep whichever begins first.

It costs a second prompt now and then, and takes the slowest few of a hundred calls off the caller's clock. The request
that loses is aborted at once. It counts in the usage with its prompt, which has been read by then.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import anyio
import msgspec

from asyncllm.errors import ConfigError
from asyncllm.events import Event, Events, Ready
from asyncllm.middleware import Open
from asyncllm.trail import Trail
from asyncllm.types import Noun, Request

__all__ = ["Hedge", "hedge"]

_SEEN = 100
_ENOUGH = 20
_LEAVE_S = 5


class Hedge(Noun, frozen=True, kw_only=True):
    """When to send a call a second time."""

    after_s: float | None = None
    """Seconds without a piece of the answer; `None` takes what 95 of the last hundred calls to the deployment needed,
    and sends nothing twice until it has seen twenty."""

    def __post_init__(self) -> None:
        if self.after_s is not None and not (type(self.after_s) in (int, float) and self.after_s > 0):
            raise ConfigError(
                f"after_s is a number of seconds above zero, or None; got {self.after_s!r}", field="after_s"
            )


def hedge(open_: Open, policy: Hedge) -> Open:
    """Make the calls of `open_` twice where `policy` says so."""
    return _Hedger(open_, policy)


class _Hedger:
    """The layer: what all calls to one deployment share."""

    __slots__ = ("_policy", "_seen", "open")

    def __init__(self, open_: Open, policy: Hedge) -> None:
        self.open = open_
        self._policy = policy
        self._seen: deque[float] = deque(maxlen=_SEEN)

    def __call__(self, request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        return _Hedged(self, request, trail)

    def after_s(self) -> float | None:
        """Seconds to wait before the second request; `None` for ever."""
        if self._policy.after_s is not None:
            return self._policy.after_s
        if len(self._seen) < _ENOUGH:
            return None
        return sorted(self._seen)[int(len(self._seen) * 0.95)]

    def see(self, seconds: float) -> None:
        """A call began to be answered after `seconds`."""
        self._seen.append(seconds)


class _Hedged:
    """One call."""

    __slots__ = ("_layer", "_request", "_runs", "_trail")

    def __init__(self, layer: _Hedger, request: Request, trail: Trail) -> None:
        self._layer = layer
        self._request = request
        self._trail = trail
        self._runs: list[_Run] = []

    async def __aenter__(self) -> Events:
        try:
            winner = await self._race()
        except BaseException:
            await self._leave()
            raise
        for run in self._runs:
            if run is not winner:
                run.task.cancel()  # awaited on leaving: the answer need not wait for it
                self._trail.abandoned += 1
        return Ready(winner.head, winner.batches())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _race(self) -> _Run:
        layer = self._layer
        time = asyncio.get_running_loop().time
        began = time()
        first = self._start(self._request)
        await asyncio.wait([first.entered], timeout=layer.after_s())
        if not first.entered.done():
            # A key of its own: under the first one's a server may answer both with one and the same failure.
            key = secrets.token_hex(16) if self._request.idempotency_key else None
            self._start(msgspec.structs.replace(self._request, idempotency_key=key))
        pending: set[asyncio.Future[BaseException | None]] = {run.entered for run in self._runs}
        while pending:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for run in self._runs:
                if run.entered.done() and run.entered.result() is None:
                    layer.see(time() - began)
                    return run
            pending = {waiter for waiter in pending if not waiter.done()}
        error = first.entered.result()
        assert error is not None  # all have failed
        raise error

    def _start(self, request: Request) -> _Run:
        run = _Run(self._layer.open, request, self._trail)
        self._runs.append(run)
        return run

    async def _leave(self) -> None:
        for run in self._runs:
            run.left.set()
            if not run.is_at_its_end:
                run.task.cancel()
        with anyio.move_on_after(_LEAVE_S, shield=True):
            await asyncio.wait([run.task for run in self._runs])


class _Run:
    """One of the two requests, in a task of its own: what is entered there is left there."""

    def __init__(self, open_: Open, request: Request, trail: Trail) -> None:
        self.entered: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        """Done with `None` when the answer has begun, or with the error in its place."""
        self.left = asyncio.Event()
        self.head: Sequence[Event] = ()
        self.is_at_its_end = False
        """Whether every event has been taken over, so that nothing is left to abort."""
        self._queue: asyncio.Queue[Sequence[Event] | BaseException | None] = asyncio.Queue(1)
        self.task = asyncio.create_task(self._run(open_, request, trail))

    async def batches(self) -> AsyncGenerator[Sequence[Event]]:
        """What comes after `head`."""
        while (batch := await self._queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    async def _run(self, open_: Open, request: Request, trail: Trail) -> None:
        try:
            async with open_(request, trail) as events:
                ready = Ready.of(events)
                self.head = ready.head
                self.entered.set_result(None)
                if ready.rest is not None:
                    async for batch in ready.rest:
                        await self._queue.put(batch)
                await self._queue.put(None)
                self.is_at_its_end = True
                await self.left.wait()
        except BaseException as error:
            if not self.entered.done():
                self.entered.set_result(error)
            elif not self.left.is_set():
                await self._queue.put(error)
