"""The checks of what arrives over the wire each fail a backend that reads it wrongly, in one way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from asyncllm.backend import Backend, Config, Context, HttpCall, HttpReply, Secret, Transport
from asyncllm.clock import LoopClock
from asyncllm.errors import APIConnectionError, APIError, ResponseValidationError, StreamInterrupted
from asyncllm.events import Event, Events, Finished, Started, TextDelta, ToolCallDelta, UsageReport
from asyncllm.testing import BackendConformance
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.types import Request, Timeouts, Usage
from asyncllm_openai import connect

_replace = msgspec.structs.replace


class Sound:
    """OpenAI's backend, with a place to meddle with what it asks, what it hears and what it tells."""

    def __init__(self, config: Config, context: Context) -> None:
        self.inner = connect(config, _replace(context, transport=Ears(context.transport, self.hear)))

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        async with self.inner.open(self.ask(request)) as events:
            yield self.tell(events, request)

    def ask(self, request: Request) -> Request:
        return request

    def hear(self, data: bytes) -> bytes:
        return data

    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        async for event in events:
            yield event

    async def aclose(self) -> None:
        await self.inner.aclose()


class Ears:
    """A transport whose replies are heard in another way."""

    def __init__(self, transport: Transport, hear: Callable[[bytes], bytes]) -> None:
        self.transport = transport
        self.hear = hear

    @asynccontextmanager
    async def open(self, call: HttpCall, /) -> AsyncGenerator[HttpReply]:
        async with self.transport.open(call) as reply:
            yield Misheard(reply, self.hear)

    async def aclose(self) -> None:
        await self.transport.aclose()


class Misheard:
    def __init__(self, reply: HttpReply, hear: Callable[[bytes], bytes]) -> None:
        self.reply = reply
        self.hear = hear
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers

    async def receive(self) -> bytes:
        return self.hear(await self.reply.receive())

    async def read(self) -> bytes:
        return await self.reply.read()

    async def drain(self) -> None:
        await self.reply.drain()


class Subject(BackendConformance):
    name = "openai"
    base_url = "http://127.0.0.1:9/v1"
    dialect = OpenAIDialect()
    patience_s = 0.5
    abort_s = 0.1
    kind: type[Sound] = Sound

    def connect(self, transport: Transport, base_url: str | None = None) -> Backend:
        key = Secret("sk-conformance-5e1f0c7a2b")
        config = Config(backend=self.name, base_url=base_url or self.base_url, api_key=key)
        return self.kind(config, Context(transport=transport, clock=LoopClock(), env={}))


# -- backends that mishear, misunderstand and hang, each in one way ----------------------------------------------------


def hearing(change: Callable[[bytes], bytes]) -> type[Sound]:
    """A backend to which the bytes of each read are others."""

    class Hearing(Sound):
        def hear(self, data: bytes) -> bytes:
            return change(data)

    return Hearing


def telling(change: Callable[[Event, Request], Iterable[Event]]) -> type[Sound]:
    """A backend that makes other events of each event."""

    class Telling(Sound):
        async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
            async for event in events:
                for other in change(event, request):
                    yield other

    return Telling


def asking(change: Callable[[Request], Request]) -> type[Sound]:
    """A backend that asks for something else."""

    class Asking(Sound):
        def ask(self, request: Request) -> Request:
            return change(request)

    return Asking


class NeedsWholeLines(Sound):
    """Breaks where the body ends in the middle of a line."""

    last = b"\n"

    def hear(self, data: bytes) -> bytes:
        if not data and not self.last.endswith(b"\n"):
            raise ValueError("half a line")
        self.last = data
        return b"" if data.endswith(b"[DONE]") else data


class SlipsTheMark(Sound):
    """Puts something before the byte order mark, so that it is no longer at the start."""

    def hear(self, data: bytes) -> bytes:
        return b"\n" + data if data.startswith(b"\xef\xbb\xbf") else data


class TakesAnyEnd(Sound):
    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        try:
            async for event in events:
                yield event
        except StreamInterrupted:
            yield Finished("stop")


class TellsAtTheEnd(Sound):
    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        for event in [event async for event in events]:
            yield event


class TakesHalfAReply(Sound):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        try:
            async with self.inner.open(request) as events:
                yield events
        except ResponseValidationError:
            yield _guess()


async def _guess() -> AsyncIterator[Event]:
    yield TextDelta("perhaps")
    yield Finished("stop")


class CountsNames(Sound):
    """Takes every piece with a name for a new call."""

    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        position = -1
        async for event in events:
            if isinstance(event, ToolCallDelta):
                position += event.name is not None
                yield ToolCallDelta(position, f"call_{position}", event.name, event.arguments)
            else:
                yield event


class AddsUp(Sound):
    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        total = 0
        async for event in events:
            if isinstance(event, UsageReport):
                total += event.usage.input_tokens or 0
                yield UsageReport(_replace(event.usage, input_tokens=total))
            else:
                yield event


class CountsZero(Sound):
    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        yield UsageReport(Usage(input_tokens=0, output_tokens=0))
        async for event in events:
            yield event


class WantsWords(Sound):
    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        words = 0
        async for event in events:
            words += isinstance(event, TextDelta)
            if isinstance(event, Finished) and not words:
                raise StreamInterrupted("not a word came")
            yield event


class BearsAGrudge(Sound):
    failed = False

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        if self.failed:
            raise APIConnectionError("this backend failed before")
        try:
            async with self.inner.open(request) as events:
                yield events
        except APIError:
            self.failed = True
            raise


class RenamesCancellation(Sound):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        try:
            async with self.inner.open(request) as events:
                yield self.tell(events, request)
        except asyncio.CancelledError:
            raise APIConnectionError("it was lost") from None

    async def tell(self, events: Events, request: Request) -> AsyncGenerator[Event]:
        try:
            async for event in events:
                yield event
        except asyncio.CancelledError:
            raise APIConnectionError("it was lost") from None


class SlowToHangUp(Sound):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        opened = self.inner.open(request)
        events = await self._entered(opened)
        try:
            yield events
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.15)
            await opened.__aexit__(None, None, None)

    async def _entered(self, opened: object) -> Events:
        entering = asyncio.ensure_future(opened.__aenter__())  # type: ignore[attr-defined]
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.15)
            entering.cancel()
            raise


def lose_id(event: Event, _: Request) -> list[Event]:
    return [] if isinstance(event, ToolCallDelta) and event.name and not event.id else [event]


def strip_arguments(event: Event, _: Request) -> list[Event]:
    if isinstance(event, ToolCallDelta):
        return [_replace(event, arguments=event.arguments.strip())]
    return [event]


def lose_position(event: Event, _: Request) -> list[Event]:
    return [_replace(event, position=None)] if isinstance(event, ToolCallDelta) else [event]


def lose_shares(event: Event, _: Request) -> list[Event]:
    if isinstance(event, UsageReport):
        return [UsageReport(_replace(event.usage, cached_tokens=None))]
    return [event]


def strip_text(event: Event, _: Request) -> list[Event]:
    return [_replace(event, text=event.text.strip())] if isinstance(event, TextDelta) else [event]


def lose_index(event: Event, _: Request) -> list[Event]:
    return [_replace(event, index=0)] if isinstance(event, TextDelta) else [event]


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n'

BREAKAGES = [
    # the check (without `test_`), the backend that it must fail, and what it must say
    (
        "a_stream_that_is_cut_in_two_anywhere_reads_the_same",
        hearing(lambda data: data.decode("utf-8", "replace").encode()),
        "a stream cut in two",
    ),
    (
        "a_stream_that_comes_byte_by_byte_reads_the_same",
        hearing(lambda data: b": nothing" if data == b"\n" else data),
        "a stream in equal pieces",
    ),
    ("every_kind_of_line_end_ends_a_line", hearing(lambda data: data.replace(b"\r", b"")), "for line ends .* breaks"),
    ("a_byte_order_mark_is_not_part_of_a_stream", SlipsTheMark, "after a byte order mark"),
    (
        "comments_and_fields_that_nobody_knows_are_no_events",
        hearing(lambda data: data.replace(b": ping", b"data: {half")),
        "with comments",
    ),
    (
        "characters_that_only_look_like_line_ends_are_kept",
        hearing(lambda data: data.replace("\u2028".encode(), b"\n")),
        "like line ends break|arrives as",
    ),
    ("a_stream_without_its_last_blank_line_is_whole_or_interrupted", NeedsWholeLines, "half a line"),
    ("a_stream_that_ends_early_is_interrupted", TakesAnyEnd, "passes for a whole one"),
    ("what_came_before_a_cut_is_delivered", TellsAtTheEnd, "came before the cut and '' came out"),
    ("an_error_in_a_stream_comes_after_what_was_said", TellsAtTheEnd, "came before the error and '' came out"),
    (
        "a_stream_is_over_at_its_end",
        hearing(lambda data: data.replace(b"data: [DONE]", b": over")),
        "a call did not end",
    ),
    ("each_piece_is_delivered_when_it_comes", TellsAtTheEnd, "did not end"),
    ("an_event_of_a_megabyte_is_read", hearing(lambda data: data[: 2**16]), "a large event"),
    (
        "a_whole_answer_in_place_of_a_stream_is_read_or_refused",
        telling(lambda event, request: [] if request.stream and isinstance(event, TextDelta) else [event]),
        "reads ''",
    ),
    ("a_whole_reply_that_ends_early_is_no_answer", TakesHalfAReply, "passes for an answer"),
    ("arguments_that_are_cut_anywhere_are_one_call", telling(strip_arguments), "fold to other tool calls"),
    ("a_call_may_name_itself_once_or_in_every_piece", CountsNames, "fold to other tool calls"),
    ("two_calls_that_come_in_turns_stay_apart", telling(lose_position), "fold to other tool calls"),
    ("calls_without_an_id_are_kept_and_get_one", telling(lose_id), "lost or mixed"),
    (
        "tool_calls_are_the_same_streamed_or_whole",
        telling(lambda event, request: [event] if request.stream or not isinstance(event, ToolCallDelta) else []),
        "of a whole reply differ",
    ),
    (
        "a_tool_call_and_its_result_reach_the_service",
        asking(lambda request: _replace(request, messages=request.messages[:-1])),
        "does not reach the service",
    ),
    ("usage_is_what_the_service_tells", telling(lose_shares), "was told and"),
    ("usage_that_the_service_does_not_tell_is_unknown", CountsZero, "no usage was told"),
    ("usage_that_is_told_again_is_not_added_up", AddsUp, "usage was told twice"),
    (
        "the_model_and_the_id_of_a_reply_are_told",
        telling(lambda event, _: [] if isinstance(event, Started) else [event]),
        "the model that answered is None",
    ),
    ("an_answer_without_a_word_is_an_answer", WantsWords, "not a word came"),
    ("every_character_of_an_answer_arrives", telling(strip_text), "arrives as"),
    ("choices_that_come_in_turns_stay_apart", telling(lose_index), "two choices come out as"),
    ("a_call_after_one_that_failed_is_answered", BearsAGrudge, "failed before"),
    ("a_service_that_never_begins_is_a_first_event_timeout", RenamesCancellation, "it was lost"),
    (
        "a_stream_that_stops_is_an_event_idle_timeout",
        hearing(lambda data: USAGE if data == b": ping\n\n" else data),
        "a call with a deadline did not end",
    ),
    ("a_call_that_takes_too_long_is_a_total_timeout", RenamesCancellation, "it was lost"),
    (
        "silence_of_the_network_is_a_byte_idle_timeout",
        asking(lambda request: _replace(request, timeouts=Timeouts())),
        "a call with a deadline did not end",
    ),
    (
        "a_service_that_accepts_no_connection_is_a_connect_timeout",
        asking(lambda request: _replace(request, timeouts=Timeouts())),
        "a call with a deadline did not end",
    ),
    ("waiting_for_a_service_can_be_cancelled", RenamesCancellation, "in place of CancelledError"),
    ("the_service_sees_at_once_that_its_caller_has_left", SlowToHangUp, "closes after"),
]


@pytest.mark.parametrize("check", [check for check, *_ in BREAKAGES])
def test_a_backend_that_is_not_meddled_with_passes(check: str) -> None:
    getattr(Subject(), f"test_{check}")()


@pytest.mark.parametrize(("check", "broken", "says"), BREAKAGES, ids=lambda value: getattr(value, "__name__", None))
def test_the_suite_fails_a_broken_backend(check: str, broken: type[Sound], says: str) -> None:
    suite = Subject()
    suite.kind = broken

    with pytest.raises(Exception, match=f"(?s){says}"):
        getattr(suite, f"test_{check}")()
