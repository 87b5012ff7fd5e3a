"""The checks of deadlines, aborts, crowds, leaks, meaning and errors each fail a backend that is wrong there."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

import test_conformance
import test_conformance_batches
import test_conformance_wire
from asyncllm.backend import Backend, EmbedRequest, HttpCall, Transport, require_supported
from asyncllm.errors import APIConnectionError, APIStatusError, RateLimitError
from asyncllm.events import Event, Events, Finished, LogprobsDelta, TextDelta, UsageReport
from asyncllm.rejection import rejection
from asyncllm.testing import BackendConformance, conformance
from asyncllm.types import Embeddings, Request, TokenLogprob, Usage
from broken_backends import TOO_MUCH, Good, Http, Subject, making, refusing
from test_conformance import (
    AwaitsUnshielded,
    GeneratorOwns,
    HttpLosesFacts,
    HttpUntyped,
    KeepsThreads,
    Mixes,
    NoFinally,
)

_replace = msgspec.structs.replace


class NeedsLoopAtConnect(Good):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.loop = asyncio.get_running_loop()


class ClosesForOne(Good):
    closing = False

    async def aclose(self) -> None:
        assert not self.closing, "closed by two at once"
        self.closing = True
        await asyncio.sleep(0)
        self.closing = False


class ForgetsHalfAClose(Good):
    """Says that it is closed before it is."""

    pump: asyncio.Task[None] | None = None

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        self.pump = self.pump or asyncio.create_task(asyncio.sleep(5))
        async for event in super().events(request):
            yield event

    async def aclose(self) -> None:
        pump, self.pump = self.pump, None
        if pump is not None:
            await asyncio.sleep(0.01)
            pump.cancel()


class LateAtTheDoor(Good):
    """Takes its time before the first event, and takes a cancellation for a lost connection."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            raise APIConnectionError("it was lost") from None
        yield self.events(request)


class LateBetweenEvents(Good):
    async def events(self, request: Request) -> AsyncGenerator[Event]:
        for event in self.make(request):
            yield event
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                raise APIConnectionError("it was lost") from None


def only_whole(kind: type[Good]) -> type[Good]:
    """Keeps the contract for streams, and breaks it like `kind` for whole replies."""

    class OnlyWhole(kind):  # type: ignore[valid-type, misc]
        @asynccontextmanager
        async def open(self, request: Request, /) -> AsyncGenerator[Events]:
            async with Good.open(self, request) if request.stream else super().open(request) as events:
                yield events

    return OnlyWhole


class SlowToLeave(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        try:
            yield self.events(request)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.15)


class HangsAfterLeaving(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        over = asyncio.Event()
        yield self.read(request, over)
        over.set()

    async def read(self, request: Request, over: asyncio.Event) -> AsyncGenerator[Event]:
        for event in self.make(request):
            yield event
            if over.is_set():
                await asyncio.Event().wait()


class StopsTheOthersWhenCancelled(Good):
    era = 0

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        era = self.era
        try:
            for event in self.make(request):
                await asyncio.sleep(0.001)
                if self.era != era:
                    return
                yield event
        except asyncio.CancelledError:
            self.era += 1
            raise


class CancelsOnClose(Good):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.callers: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        caller = asyncio.current_task()
        assert caller is not None
        self.callers.add(caller)
        for event in self.make(request):
            await asyncio.sleep(0.001)
            yield event

    async def aclose(self) -> None:
        for caller in self.callers:
            caller.cancel()


class AnswersOnce(Good):
    last: Request | None = None

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        if request is self.last:
            raise APIConnectionError("this request was answered before")
        self.last = request
        async for event in super().events(request):
            yield event


class KeepsFiles(Good):
    async def events(self, request: Request) -> AsyncGenerator[Event]:
        weakref.finalize(self, os.close, os.dup(0))
        async for event in super().events(request):
            yield event


class KeepsRequests(Good):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.kept: list[Request] = []

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        self.kept.append(request)
        async for event in super().events(request):
            yield event


class SplitsContent(Good):
    def make(self, request: Request) -> list[Event]:
        content = request.messages[-1].content
        assert isinstance(content, str), "the content is no text"
        return super().make(request)


class ShowsPrompt(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        yield Shown(self.events(request), request.messages[-1].text)


class Shown:
    def __init__(self, events: AsyncIterator[Event], text: str) -> None:
        self.events = events
        self.text = text

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await anext(self.events)

    def __repr__(self) -> str:
        return f"<events of {self.text!r}>"


class LogsPrompt(Good):
    def make(self, request: Request) -> list[Event]:
        logging.getLogger("broken").debug("asked %s", request.messages[-1].text)
        return super().make(request)


def refused_anew(error: APIStatusError, how: type[Http]) -> APIStatusError:
    match how.__name__:
        case "ByStatusAlone":
            return rejection(error.status or 500, {}, b"")
        case "WholeSeconds":
            return RateLimitError("no", status=429, retry_after_s=int(error.retry_after_s or 0))
        case _:
            return rejection(error.status or 500, {}, msgspec.json.encode(msgspec.json.decode(error.body or b"")))


class Anew(Http):
    """Makes an error of its own out of the transport's."""

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        try:
            async for event in super().events(request):
                yield event
        except APIStatusError as error:
            raise refused_anew(error, type(self)) from None


class ByStatusAlone(Anew):
    pass


class WholeSeconds(Anew):
    pass


class NeedsJson(Anew):
    pass


class HttpEmbeds(Http):
    async def embed(self, _: EmbedRequest, /) -> Embeddings:
        try:
            async with self.transport.open(HttpCall(url="http://nowhere")) as reply:
                await reply.read()
        except APIStatusError as error:
            raise ValueError(f"HTTP {error.status}") from error
        return Embeddings(vectors=())


def ends_by(reason: str) -> type[Good]:
    return making(lambda _, all_: [*all_[:-1], Finished(reason)])  # type: ignore[arg-type]


def with_logprobs(token: TokenLogprob) -> type[Good]:
    return making(lambda _, all_: [LogprobsDelta((token,)), *all_], Good.can | {"logprobs", "top_logprobs"})


def counted_twice(request: Request, events: list[Event]) -> list[Event]:
    return [*events[:-1], UsageReport(Usage(input_tokens=len(events) + request.stream)), events[-1]]


def mark(request: Request, events: list[Event]) -> list[Event]:
    request.extra["seen"] = True
    return events


BREAKAGES = [
    # the check (without `test_`), the backend that it must fail, and what it must say
    ("a_backend_made_outside_of_a_loop_serves_inside_of_one", NeedsLoopAtConnect, "no running event loop"),
    ("closing_by_several_at_once_is_closing_once", ClosesForOne, "closed by two at once"),
    ("a_close_that_was_cancelled_can_be_made_up_for", ForgetsHalfAClose, "leaves 1 tasks running"),
    ("a_late_first_event_is_a_first_event_timeout", LateAtTheDoor, "it was lost"),
    ("a_pause_between_events_is_an_event_idle_timeout", LateBetweenEvents, "it was lost"),
    ("a_call_over_its_total_is_a_total_timeout", LateBetweenEvents, "it was lost"),
    ("a_whole_reply_that_is_cancelled_frees_the_call", only_whole(NoFinally), "next call fails|did not end"),
    ("a_whole_reply_in_a_cancelled_scope_frees_the_call", only_whole(AwaitsUnshielded), "next call fails|did not end"),
    ("a_whole_reply_past_a_deadline_frees_the_call", only_whole(NoFinally), "next call fails|did not end"),
    ("a_stream_that_its_reader_drops_frees_the_call", GeneratorOwns, "next call fails|did not end"),
    ("leaving_a_call_takes_no_time", SlowToLeave, "a call left by break is over after"),
    ("reading_on_after_leaving_does_not_hang", HangsAfterLeaving, "reading on after leaving did not end"),
    ("a_crowd_of_calls_is_answered_each_with_its_own", Mixes, "is answered with"),
    ("cancelling_some_of_a_crowd_does_not_disturb_the_others", StopsTheOthersWhenCancelled, "without a Finished"),
    ("closing_under_load_ends_every_call", CancelsOnClose, "cancelled because its backend was closed"),
    ("one_request_serves_many_calls", AnswersOnce, "was answered before"),
    ("many_calls_leave_no_file_and_no_thread", KeepsFiles, "files and sockets open, time after time"),
    ("many_calls_leave_no_file_and_no_thread", KeepsThreads, "threads running, time after time"),
    ("many_calls_leave_no_memory", KeepsRequests, "blocks of memory, time after time"),
    ("an_answer_that_max_tokens_cuts_says_so", ends_by("stop"), "ended by 'stop'"),
    (
        "a_stop_text_ends_the_answer_and_is_not_in_it",
        making(lambda _, all_: all_, Good.can | {"stop"}),
        "an answer that stops at .* has it",
    ),
    (
        "several_choices_have_an_index_and_an_end_each",
        making(lambda _, all_: all_, Good.can | {"n"}),
        r"three choices have the indices \[0\]",
    ),
    ("log_probabilities_belong_to_the_text", with_logprobs(TokenLogprob("Name", 0.5)), "has the logarithm 0.5"),
    ("log_probabilities_belong_to_the_text", with_logprobs(TokenLogprob("Other", -0.5)), "spell b'Other'"),
    ("every_event_is_what_its_type_says", ends_by("done"), "a Finished is malformed"),
    (
        "every_event_is_what_its_type_says",
        making(lambda _, all_: [TextDelta(b"bytes"), *all_]),  # type: ignore[arg-type]
        "a TextDelta is malformed",
    ),
    ("a_request_is_not_changed", making(mark, Good.can | {"extra"}), "is changed by its call"),
    ("a_message_in_parts_is_its_text", SplitsContent, "the content is no text"),
    (
        "an_empty_prompt_is_answered_or_refused_by_a_typed_error",
        refusing(lambda request: not request.messages[-1].text, IndexError("nothing there")),
        "nothing there",
    ),
    (
        "a_huge_prompt_is_answered_or_refused_as_too_long",
        refusing(lambda request: len(request.messages[-1].text) > 10_000, TOO_MUCH),
        "raises BadRequestError",
    ),
    ("a_running_call_shows_neither_key_nor_prompt", ShowsPrompt, "shows the prompt"),
    ("a_prompt_is_counted_alike_streamed_or_whole", making(counted_twice), "tokens streamed and"),
    ("nothing_private_is_logged", LogsPrompt, "is logged"),
    ("each_status_has_its_class_and_says_whether_to_try_again", HttpLosesFacts, "and not BadRequestError"),
    ("a_code_that_says_more_than_the_status_is_heard", ByStatusAlone, "and not ContentFilterError"),
    ("the_wait_that_a_service_asks_for_is_told", WholeSeconds, "is a wait of 0"),
    ("the_id_of_a_call_that_failed_is_told", HttpLosesFacts, "the x-request-id of an error is None"),
    ("an_error_that_says_nothing_still_has_its_status", NeedsJson, "not of the tree"),
    ("every_other_call_fails_by_the_same_classes", HttpEmbeds, "embed of a service that fails raises"),
    ("an_error_status_is_an_error_of_its_class", HttpUntyped, "not of the tree"),
]


@pytest.mark.parametrize(("check", "broken", "says"), BREAKAGES, ids=lambda value: getattr(value, "__name__", None))
def test_the_suite_fails_a_broken_backend(check: str, broken: type[Good], says: str) -> None:
    suite = Subject()
    suite.kind = broken
    # Less of everything than for a real one: a fault shows at once, and a call that hangs is given up soon.
    suite.bad_models = ()
    suite.abort_s = 0.1
    suite.crowd = 12
    suite.many = 20

    with pytest.raises(Exception, match=f"(?s){says}"):
        getattr(suite, f"test_{check}")()


class FreesLate(Good):
    """Hands its slot back after a while, when the call is over already."""

    held = 0

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        self.held += 1
        try:
            yield self.events(request)
        finally:
            asyncio.get_running_loop().call_later(0.15, self.give)

    def give(self) -> None:
        self.held -= 1


def test_what_a_subject_knows_to_be_held_must_be_free_in_time() -> None:
    class Counting(Subject):
        kind = FreesLate
        abort_s = 0.1

        def held(self, backend: Backend, /) -> int:
            assert isinstance(backend, FreesLate)
            return backend.held

    with pytest.raises(AssertionError, match="a call left by break is over after"):
        Counting().test_leaving_a_call_takes_no_time()


def test_every_check_is_known_to_fail_some_backend() -> None:
    batches = test_conformance_batches.BREAKAGES
    tables = (test_conformance.BREAKAGES, BREAKAGES, test_conformance_wire.BREAKAGES, batches)
    checks = {name.removeprefix("test_") for name in dir(BackendConformance) if name.startswith("test_")}

    assert {check for table in tables for check, *_ in table} == checks


def test_the_page_of_the_suite_lists_every_check() -> None:
    checks = {name.removeprefix("test_").replace("_", " ") for name in dir(BackendConformance) if name[:5] == "test_"}

    listed = {line.strip() for line in (conformance.__doc__ or "").splitlines() if line.startswith("    ")}

    assert checks <= listed
