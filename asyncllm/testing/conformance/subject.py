"""What the checks are told about the backend under test, and the few things that all of them do with it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from asyncllm.backend import Backend, Config, Context, JobRequest, Secret, Transport
from asyncllm.clock import LoopClock
from asyncllm.collect import Collector
from asyncllm.events import Event
from asyncllm.registry import Registry
from asyncllm.testing.conformance.dialects import Dialect
from asyncllm.testing.conformance.harness import run_clean, settled, within
from asyncllm.types import Message, Request, Response, Sampling

if TYPE_CHECKING:
    from asyncllm.testing.conformance.batches import BatchService

__all__ = ["Subject", "check"]

S = TypeVar("S", bound="Subject")

_STORY = " ".join(["Write a story that never ends: a lighthouse, a storm, a ship without a crew, and so on."] * 6)


class Subject:
    """A backend under test. Only `name` and `model` must be set; every attribute can be."""

    name: str = ""
    """What the backend is registered under."""
    model: str = "some-model"
    """A model that answers, in the backend's own naming."""
    embed_model: str | None = None
    """A model that embeds, where it is another one or where it must: without it, a backend that has `embed` may still
    refuse as it is configured here."""
    job_request: JobRequest | None = None
    """What a job is made of; without it, a backend that has jobs is asked for none."""
    bad_models: tuple[str, ...] = ()
    """Models that cannot answer: a call to each is an error of the tree."""
    options: Mapping[str, Any] = {}
    """`Config.options`."""
    base_url: str | None = None
    api_key: str | None = "sk-conformance-5e1f0c7a2b"
    """Given to every backend, and looked for in every error."""
    env: Mapping[str, str] = {}
    """The environment, which is empty otherwise."""
    prompt: str = "Name three colours and a fruit."
    long_prompt: str = _STORY
    """A prompt whose answer is still under way after its first event."""
    max_tokens: int | None = 16
    """Bound of every answer but the long ones; `None` for a backend without such an option."""
    long_max_tokens: int | None = 256
    chat: bool = True
    """Whether prompts are sent as chats; `False` sends text completions."""
    supports: frozenset[str] | None = None
    """The options that must be accepted, all others being refused, by the names of `require_supported`. `None` takes
    the backend at its word: whatever it accepts, it must honour."""
    speaks_http: bool = True
    """Whether the backend reaches its model through `context.transport`. `False` leaves out the checks of what a
    service may answer; a backend that turns out to send nothing passes them."""
    dialect: Dialect | None = None
    """What the service behind a backend that speaks HTTP sends. With it, the checks of what arrives over the wire are
    collected too; `OpenAIDialect()` is that of OpenAI and its like."""
    batch_service: type[BatchService] | None = None
    """The class of the service behind a backend that has `Batches`; with it, their checks are collected too."""
    huge_prompt: str = "one two three four " * 5000
    """A prompt longer than most models take: it is answered or refused as too long."""
    rounds: int = 6
    """How many calls are abandoned in a row, more than the backend has slots."""
    crowd: int = 32
    """How many calls are made at once."""
    many: int = 40
    """How many calls are made between two looks at what has grown."""
    abort_s: float = 0.25
    """How soon after it was left a call has let go of what it held. The quickest of several tries counts, since a
    busy machine delays some and a backend that waits delays all."""
    patience_s: float = 60
    """How long any one thing may take before it counts as hanging."""
    longest_block_s: float = 1
    """How long the event loop may stand still while an answer is made."""

    def expected(self, prompt: str, /) -> str | None:  # noqa: ARG002  # for those who override it
        """The one right answer to `prompt`, for a backend of which it is known; `None` for a real model."""
        return None

    def connect(self, transport: Transport, base_url: str | None = None) -> Backend:
        """Connect the backend over `transport`. The default loads what is registered under `name`."""
        config = Config(
            backend=self.name,
            base_url=base_url or self.base_url,
            api_key=None if self.api_key is None else Secret(self.api_key),
            options=dict(self.options),
        )
        return _registry().load(self.name)(config, Context(transport=transport, clock=LoopClock(), env=self.env))

    def held(self, backend: Backend, /) -> int:  # noqa: ARG002  # for those who override it
        """How many connections or slots calls hold at this moment, where somebody can tell."""
        return 0

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        """Lend a connected backend. Override it to start a server first, around `connected(base_url=server.url)`."""
        async with self.connected() as backend:
            yield backend

    @asynccontextmanager
    async def connected(
        self, *, base_url: str | None = None, transport: Transport | None = None
    ) -> AsyncGenerator[Backend]:
        """Connect over real HTTP, or over `transport`, and close everything at the end of the block."""
        if transport is None:
            # Imported here: aiohttp, which a backend without HTTP does not need.
            from asyncllm.transport import AiohttpTransport

            transport = AiohttpTransport()
        backend = self.connect(transport, base_url)
        try:
            yield backend
        finally:
            with within(self.patience_s, "aclose"):
                async with asyncio.timeout(self.patience_s):
                    await backend.aclose()
                    await transport.aclose()

    def request(self, prompt: str | None = None, *, stream: bool = True, max_tokens: int | None = None) -> Request:
        """A plain request: `prompt` or the subject's own, bounded by `max_tokens` or the subject's own."""
        text = self.prompt if prompt is None else prompt
        limit = max_tokens or self.max_tokens
        request = Request(model=self.model, stream=stream, sampling=Sampling(max_tokens=limit) if limit else Sampling())
        if self.chat:
            return msgspec.structs.replace(request, messages=(Message("user", text),))
        return msgspec.structs.replace(request, prompt=text)

    def long_request(self, *, stream: bool = True) -> Request:
        """A request whose answer is not over with its first event."""
        return self.request(self.long_prompt, stream=stream, max_tokens=self.long_max_tokens)

    async def events(self, backend: Backend, request: Request) -> list[Event]:
        """All events of one call."""
        with within(self.patience_s, "a call"):
            async with asyncio.timeout(self.patience_s), backend.open(request) as events:
                return [event async for event in events]

    async def answer(self, backend: Backend, request: Request | None = None) -> Response:
        """The whole answer to a call. Fails unless it is complete."""
        collector = Collector()
        collector.add(await self.events(backend, request or self.request()))
        assert collector.is_complete, "the events end without a Finished for every choice"
        return collector.response()

    def run(self, body: Callable[[Backend], Awaitable[None]]) -> None:
        """Run `body` with a fresh backend in a fresh loop, and see that nothing outlives the backend."""

        async def main() -> None:
            before = asyncio.all_tasks()
            async with self.make_backend() as backend:
                await body(backend)
            await settled(before, "closing the backend")

        run_clean(main())


def check(body: Callable[[S, Backend], Awaitable[None]]) -> Callable[[S], None]:
    """Make a check of `body`: a method that pytest calls without an argument and without a loop."""

    def checked(self: S) -> None:
        self.run(functools.partial(body, self))

    # Not functools.wraps: pytest would follow it to the signature of `body` and look for a fixture called `backend`.
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(checked, name, getattr(body, name))
    return checked


@functools.cache
def _registry() -> Registry:
    return Registry()
