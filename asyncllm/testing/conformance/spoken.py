"""A backend whose service says what the check wants: the base of all checks that need a `Dialect`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec

from asyncllm.backend import Backend
from asyncllm.client import Client
from asyncllm.collect import Collector
from asyncllm.errors import AsyncLLMError
from asyncllm.events import Event
from asyncllm.testing.conformance.dialects import Dialect
from asyncllm.testing.conformance.harness import run_clean, within
from asyncllm.testing.conformance.subject import Subject
from asyncllm.testing.ops import Pause, Stall
from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport
from asyncllm.types import Request, Response, Timeouts

__all__ = ["Body", "Heard", "Spoken"]

Body: TypeAlias = bytes | Sequence[bytes | BaseException | Pause | Stall | float]
"""A body, whole or in the pieces that the network brings."""


class Heard(msgspec.Struct, frozen=True):
    """What became of one call."""

    events: list[Event]
    error: AsyncLLMError | None
    is_complete: bool
    response: Response
    """What the events amount to, up to the error if there was one."""


class Spoken(Subject):
    """A subject with a dialect. pytest does not collect these checks for one without."""

    words: Sequence[str] = ("The ", "sea ", "is ", "caf\u00e9", "-", "\U0001f30a", "blue.")
    """Pieces of the answer that the service gives."""

    @property
    def service(self) -> Dialect:
        """The dialect of a subject that has one."""
        assert self.dialect is not None, "this check needs a dialect: set `dialect`, or leave the check alone"
        return self.dialect

    def answer_frames(self) -> list[bytes]:
        """A whole streamed answer, frame by frame."""
        service = self.service
        return [service.start(), *(service.text(word) for word in self.words), service.finish(), service.end()]

    def hear(self, bodies: Iterable[Body], request: Request | None = None) -> list[Heard]:
        """Give each of `bodies` as the reply to one call of `request`, by one backend in one loop."""
        return run_clean(self._hear_all(bodies, request or self.request()))

    def hear_one(self, body: Body, request: Request | None = None) -> Heard:
        """Give `body` as the reply to one call of `request`."""
        return self.hear([body], request)[0]

    def hear_whole(self, body: Body, request: Request | None = None) -> Response:
        """What `body` amounts to, which must be a whole answer."""
        heard = self.hear_one(body, request)
        if heard.error is not None:
            raise heard.error
        assert heard.is_complete, "the events end without a Finished for every choice"
        return heard.response

    @asynccontextmanager
    async def listening(self, reply: ScriptedReply) -> AsyncGenerator[tuple[Backend, ScriptedTransport]]:
        """A backend to which every call is answered by `reply`; every reply must have been given back at the end."""
        transport = ScriptedTransport([reply])
        async with self.connected(transport=transport) as backend:
            yield backend, transport
        assert transport.opened == transport.closed, "a call does not give its reply back"

    def saying(self, body: Body, *, stream: bool = True, headers: Mapping[str, str] = {}) -> ScriptedReply:
        """A reply of status 200 with `body`."""
        kind = {"Content-Type": self.service.content_type} if stream else {}
        return ScriptedReply(headers={**kind, **headers}, body=body)

    def client(self, backend: Backend, timeouts: Timeouts) -> Client:
        """A client of `backend` that makes every call once."""
        return Client(backend=backend, model=self.model, retry=None, timeouts=timeouts, env={})

    async def _hear_all(self, bodies: Iterable[Body], request: Request) -> list[Heard]:
        reply = ScriptedReply()
        transport = ScriptedTransport([lambda _: reply])
        heard: list[Heard] = []
        async with self.connected(transport=transport) as backend:
            for body in bodies:
                reply = self.saying(body, stream=request.stream)
                heard.append(await self._hear(backend, request))
                assert transport.opened == transport.closed, "a call does not give its reply back"
        return heard

    async def _hear(self, backend: Backend, request: Request) -> Heard:
        collector = Collector()
        events: list[Event] = []
        failure: AsyncLLMError | None = None
        with within(self.patience_s, "a call"):
            try:
                async with asyncio.timeout(self.patience_s), backend.open(request) as lent:
                    async for event in lent:
                        events.append(event)  # noqa: PERF401  # what came before an error counts
            except AsyncLLMError as error:
                failure = error
        collector.add(events)
        return Heard(events, failure, collector.is_complete, collector.response())
