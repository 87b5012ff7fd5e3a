"""The backends that break the contract are made from these: two that keep it, and how the suite meets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from asyncllm.backend import Backend, HttpCall, Transport, require_supported
from asyncllm.errors import BadRequestError
from asyncllm.events import Event, Events, Finished, TextDelta, UsageReport
from asyncllm.testing import BackendConformance
from asyncllm.types import Message, Request, Usage

TOO_MUCH = BadRequestError("too much")


class Good:
    """Repeats the last message; keeps the contract, with four slots, and gives other tasks a turn at every event."""

    can = frozenset({"chat", "max_tokens"})

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.free = asyncio.Semaphore(4)

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        async with self.free:
            yield self.events(request)

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        for event in self.make(request):
            await asyncio.sleep(0)
            yield event

    def make(self, request: Request) -> list[Event]:
        words = request.messages[-1].text.split(" ")
        said = words[: request.sampling.max_tokens if isinstance(request.sampling.max_tokens, int) else None]
        texts = [TextDelta(word if position == 0 else f" {word}") for position, word in enumerate(said)]
        usage = Usage(input_tokens=len(words), output_tokens=len(said))
        return [*texts, UsageReport(usage), Finished("stop" if len(said) == len(words) else "length")]

    async def aclose(self) -> None:
        pass


class Subject(BackendConformance):
    """The suite as it meets a backend of this file."""

    name = "broken"
    kind: type[Good] = Good
    patience_s = 0.5
    longest_block_s = 0.2
    max_tokens = 64
    bad_models: tuple[str, ...] = ()
    job_request = Request(model="some-model", messages=(Message("user", "Name a colour."),))

    def connect(self, transport: Transport, base_url: str | None = None) -> Backend:
        return self.kind(transport)

    def expected(self, prompt: str, /) -> str | None:
        return prompt


def making(change: Callable[[Request, list[Event]], list[Event]], can: frozenset[str] = Good.can) -> type[Good]:
    """A backend whose events are changed on the way."""

    class Changed(Good):
        def make(self, request: Request) -> list[Event]:
            return change(request, super().make(request))

    Changed.can = can
    return Changed


def refusing(is_bad: Callable[[Request], object], error: Exception) -> type[Good]:
    """A backend that takes offence at some requests."""
    return making(lambda request, events: events if not is_bad(request) else throw(error))


def throw(error: Exception) -> list[Event]:
    raise error


class Http(Good):
    """Asks a service, and then says what it would have said anyway."""

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        call = HttpCall(url="http://nowhere", body=request.messages[-1].text.encode(), stream=request.stream)
        async with self.transport.open(call) as reply:
            await reply.read()
        async for event in super().events(request):
            yield event
