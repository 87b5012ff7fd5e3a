"""Checks of a service that stops talking: each deadline has its own error, and whoever leaves is seen to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from asyncllm.backend import Backend
from asyncllm.client import Client
from asyncllm.errors import (
    APITimeoutError,
    ByteIdleTimeoutError,
    ConnectTimeoutError,
    EventIdleTimeoutError,
    FirstEventTimeoutError,
    TotalTimeoutError,
)
from asyncllm.testing.conformance.harness import run_clean, settled, within
from asyncllm.testing.conformance.spoken import Body, Spoken
from asyncllm.testing.ops import Chunk, Op, Stall, Status
from asyncllm.testing.server import FaultyServer
from asyncllm.types import Request, Timeouts

__all__ = ["StallChecks"]

_SHORT_S = 0.05
_IDLE_S = 0.25  # long enough that keep-alives would feed it on a busy machine too
_PINGS = 200


class StallChecks(Spoken):
    """The service stalls where a check wants it to; nothing else ends the call."""

    def test_a_service_that_never_begins_is_a_first_event_timeout(self) -> None:
        """No byte, no event, or nothing but keep-alives: `FirstEventTimeoutError`, streamed or not."""
        service = self.service
        timeouts = Timeouts(first_event_s=_SHORT_S)
        bodies: tuple[tuple[Body, bool], ...] = (
            ([Stall()], True),
            ([Stall()], False),
            (self._keep_alives(), True),
            ([service.reply(["a"])[:5], Stall()], False),
        )
        for body, stream in bodies:
            error = run_clean(self._timed_out(body, timeouts, stream=stream))
            assert type(error) is FirstEventTimeoutError, f"a service that never begins is {error!r}"
            assert not error.events, f"nothing came, and the error tells of {error.events} events"
            _is_timed(error, _SHORT_S)

    def test_a_stream_that_stops_is_an_event_idle_timeout(self) -> None:
        """Keep-alives do not feed that clock; the error has what had come."""
        frames = self.answer_frames()[:4]
        bodies: tuple[Body, ...] = ([*frames, Stall()], self._keep_alives(*frames))
        for body in bodies:
            error = run_clean(self._timed_out(body, Timeouts(event_idle_s=_IDLE_S)))
            assert type(error) is EventIdleTimeoutError, f"a stream that stops is {error!r}"
            _is_timed(error, _IDLE_S)
            self._has_partial(error)

    def test_a_call_that_takes_too_long_is_a_total_timeout(self) -> None:
        """A stream, with what had come, and a whole reply."""
        frames = self.answer_frames()[:4]
        timeouts = Timeouts(total_s=_SHORT_S)
        error = run_clean(self._timed_out([*frames, Stall()], timeouts))
        assert type(error) is TotalTimeoutError, f"a stream that takes too long is {error!r}"
        _is_timed(error, _SHORT_S)
        self._has_partial(error)
        whole = run_clean(self._timed_out([self.service.reply(["a"])[:5], Stall()], timeouts, stream=False))
        assert type(whole) is TotalTimeoutError, f"a whole reply that takes too long is {whole!r}"
        _is_timed(whole, _SHORT_S)

    def test_silence_of_the_network_is_a_byte_idle_timeout(self) -> None:
        """Over a real socket, by the `byte_idle_s` of the request."""
        for stream in (True, False):
            error = run_clean(self._silent_server(Timeouts(byte_idle_s=_SHORT_S), stream=stream))
            assert type(error) is ByteIdleTimeoutError, f"a reply without another byte is {error!r}"
            _is_timed(error, _SHORT_S)

    def test_a_service_that_accepts_no_connection_is_a_connect_timeout(self) -> None:
        """Over a real socket whose queue is full, by the `connect_s` of the request."""
        error = run_clean(self._full_server(Timeouts(connect_s=_SHORT_S)))
        assert type(error) is ConnectTimeoutError, f"a connection that nobody accepts is {error!r}"
        assert not error.maybe_billed, "a request that was not sent may be billed"
        _is_timed(error, _SHORT_S)

    def test_waiting_for_a_service_can_be_cancelled(self) -> None:
        """By the task, a scope or a deadline, before the first byte and after it: the reply is given back at once."""
        first = self.answer_frames()[:2]
        bodies: tuple[tuple[Body, bool], ...] = (([Stall()], True), ([*first, Stall()], True), ([Stall()], False))
        for ways in (_cancel, _scope, _deadline):
            for body, stream in bodies:
                run_clean(self._cancelled(body, ways, stream=stream))

    def test_the_service_sees_at_once_that_its_caller_has_left(self) -> None:
        """Over a real socket: when a call is left, its connection closes."""
        for stream in (True, False):
            run_clean(self._left(stream=stream))

    def _keep_alives(self, *frames: bytes) -> Body:
        """`frames`, and then nothing but keep-alives, for several times as long as the deadlines here."""
        ping = self.service.keep_alive()
        return [*frames, *(piece for _ in range(_PINGS) for piece in (_SHORT_S / 5, ping)), Stall()]

    async def _timed_out(self, body: Body, timeouts: Timeouts, *, stream: bool = True) -> APITimeoutError:
        async with self.listening(self.saying(body, stream=stream)) as (backend, _):
            return await self._timeout_of(self.client(backend, timeouts), stream=stream)

    async def _timeout_of(self, client: Client, *, stream: bool) -> APITimeoutError:
        """The deadline that a call of `client` runs into."""
        with within(self.patience_s, "a call with a deadline"):
            try:
                async with asyncio.timeout(self.patience_s):
                    if not stream:
                        await (client.chat if self.chat else client.complete)(self.prompt)
                    else:
                        async with (client.stream if self.chat else client.stream_complete)(self.prompt) as events:
                            async for _ in events:
                                pass
            except APITimeoutError as error:
                return error
        raise AssertionError("a service that stalls is answered for")

    def _has_partial(self, error: APITimeoutError) -> None:
        said = "".join(self.words[:3])
        assert error.events, "events came before the deadline and the error tells of none"
        assert error.partial is not None, "a deadline in the middle of an answer has no partial"
        assert error.partial.text == said, f"{said!r} had come and the partial has {error.partial.text!r}"

    async def _silent_server(self, timeouts: Timeouts, *, stream: bool) -> APITimeoutError:
        async with self._served([Stall()], stream=stream) as (backend, server):
            error = await self._timeout_of(self.client(backend, timeouts), stream=stream)
            await server.aborted(within_s=self.patience_s)
            return error

    async def _full_server(self, timeouts: Timeouts) -> APITimeoutError:
        async with (
            FaultyServer([Stall()], accept_after_s=None) as server,
            self.connected(base_url=server.url + self.service.prefix) as backend,
        ):
            return await self._timeout_of(self.client(backend, timeouts), stream=True)

    @asynccontextmanager
    async def _served(self, then: Sequence[Op], *, stream: bool) -> AsyncGenerator[tuple[Backend, FaultyServer]]:
        """A backend and a real server that sends half an answer and goes on with `then`."""
        service = self.service
        kind = service.content_type if stream else "application/json"
        half = b"".join(self.answer_frames()[:3]) if stream else service.reply(["a"])[:5]
        head = Status(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"}, None)
        async with (
            FaultyServer([head, Chunk(half), *then]) as server,
            self.connected(base_url=server.url + service.prefix) as backend,
        ):
            yield backend, server

    async def _left(self, *, stream: bool) -> None:
        quickest_s = self.patience_s
        request = self.request(stream=stream)
        async with self._served([Stall()], stream=stream) as (backend, server):
            loop = asyncio.get_running_loop()
            for count in range(1, 4):
                task = asyncio.create_task(_read(backend, request))
                await server.received(count, within_s=self.patience_s)
                await asyncio.sleep(0.02)
                started = loop.time()
                task.cancel()
                with within(self.patience_s, "the connection of a call that was left"):
                    await server.aborted(count, within_s=self.patience_s)
                quickest_s = min(quickest_s, loop.time() - started)
                await asyncio.wait([task], timeout=self.patience_s)
        assert quickest_s <= self.abort_s, f"the connection of a call that was left closes after {quickest_s:.2f} s"

    async def _cancelled(self, body: Body, way: Callable[[Awaitable[None]], Awaitable[None]], *, stream: bool) -> None:
        quickest_s = self.patience_s
        loop = asyncio.get_running_loop()
        async with self.listening(self.saying(body, stream=stream)) as (backend, transport):
            before = asyncio.all_tasks()
            for _ in range(3):
                started = loop.time()
                with within(self.patience_s, "a call that was cancelled while it waited"):
                    async with asyncio.timeout(self.patience_s):
                        await way(_read(backend, self.request(stream=stream)))
                quickest_s = min(quickest_s, loop.time() - started)
                assert transport.opened == transport.closed, "a call that was cancelled keeps its reply"
            await settled(before, "a call that was cancelled while it waited")
        limit_s = self.abort_s + _SHORT_S
        assert quickest_s <= limit_s, f"a call that is cancelled while it waits ends after {quickest_s:.2f} s"


async def _read(backend: Backend, request: Request) -> None:
    async with backend.open(request) as events:
        async for _ in events:
            pass


async def _cancel(call: Awaitable[None]) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(_SHORT_S)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), f"a cancelled call ends with {task.exception()!r} in place of CancelledError"


async def _scope(call: Awaitable[None]) -> None:
    with anyio.move_on_after(_SHORT_S) as scope:
        await call
    assert scope.cancelled_caught, "the cancellation of a scope does not come out of the call"


async def _deadline(call: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(_SHORT_S):
            await call
    except TimeoutError:
        return
    raise AssertionError("the deadline around a call does not come out of it")


def _is_timed(error: APITimeoutError, at_least_s: float) -> None:
    assert isinstance(error, TimeoutError), f"a {type(error).__name__} is no TimeoutError"
    # A loop's clock is coarse, and timers may strike a tick early.
    assert error.elapsed_s is not None, f"a {type(error).__name__} does not say how long it took"
    assert error.elapsed_s >= at_least_s * 0.9, f"a deadline of {at_least_s} s strikes after {error.elapsed_s} s"
