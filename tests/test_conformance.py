"""Every first-party backend passes the one suite, and the suite fails backends that break the contract."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import pytest
from msgspec import UNSET

from asyncllm.backend import Backend, EmbedRequest, JobCall, JobRequest, JobState, Transport, require_supported
from asyncllm.errors import APIConnectionError, APIStatusError, UnsupportedError
from asyncllm.events import Event, Events, Finished, TextDelta, UsageReport
from asyncllm.testing import (
    BackendConformance,
    FaultyServer,
    Op,
    SeenRequest,
    Sse,
    Status,
    openai_chunks,
    openai_reply,
)
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.testing.conformance.options import OPTIONS
from asyncllm.types import Embeddings, ModelInfo, PromptCheck, Request, Tokens, Usage
from asyncllm_llamacpp import engine as engines
from asyncllm_llamacpp.engine import Engine
from asyncllm_llamacpp.options import Options as LlamaOptions
from asyncllm_llamacpp.options import find_model
from broken_backends import TOO_MUCH, Good, Http, Subject, making, refusing
from openai_batch_server import OpenAIBatchServer


class TestEcho(BackendConformance):
    name = "echo"
    supports = frozenset({"chat", "complete", "max_tokens"})
    max_tokens = 64
    speaks_http = False

    def expected(self, prompt: str, /) -> str | None:
        return prompt


class TestOpenAI(BackendConformance):
    """Against a server that repeats the prompt."""

    name = "openai"
    base_url = "http://127.0.0.1:9/v1"
    max_tokens = 64
    dialect = OpenAIDialect()
    batch_service = OpenAIBatchServer

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return repeat(request)

        async with FaultyServer(answer) as server, self.connected(base_url=f"{server.url}/v1") as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt


class TestLlamaCpp(BackendConformance):
    name = "llamacpp"
    model = "smollm2"
    max_tokens = 8
    api_key = None  # it runs in this process and takes none
    speaks_http = False
    long_prompt = "Write a story that never ends."  # of few tokens: it is the answer that is long
    many = 6
    # One thread: several that wait for each other crawl when another process needs a core as well.
    options: Mapping[str, Any] = {"n_parallel": 4, "n_ctx": 2048, "n_threads": 1}
    bad_models = ("/no/such/model.gguf",)
    engine: ClassVar[Engine]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def loaded(cls) -> Iterator[Engine]:
        """Every check has a client of its own, and all find the model loaded, which takes as long as most checks."""
        cls.engine = engines.borrow(find_model(cls.model, backend=cls.name), LlamaOptions(**cls.options))
        asyncio.run(cls.engine.ready())
        yield cls.engine
        engines.give_back(cls.engine)

    def held(self, _: Backend, /) -> int:
        return self.engine.options.n_parallel - self.engine.slots.free


def test_llamacpp_loads_and_embeds_where_it_is_told_to() -> None:
    suite = TestLlamaCpp()
    suite.options = {"n_ctx": 512, "n_threads": 1, "embedding": True, "pooling": "mean"}
    suite.embed_model = "smollm2"

    suite.test_texts_are_embedded_in_order_or_refused()
    suite.test_two_event_loops_in_a_row_each_have_a_backend()


def repeat(request: SeenRequest) -> Sequence[Op]:
    """An OpenAI server whose model says what it was told."""
    if request.path == "/v1/models":
        return [Status(body=msgspec.json.encode({"data": [{"id": "some-model", "owned_by": "nobody"}]}))]
    asked = request.json()
    if request.path == "/v1/embeddings":
        rows = [
            {"index": index, "embedding": [text.count("a"), text.count("r")]}
            for index, text in enumerate(asked["input"])
        ]
        return [Status(body=msgspec.json.encode({"data": rows, "model": asked["model"]}))]
    text, finish, usage = _answer(asked)
    if not asked.get("stream"):
        return [
            Status(body=_with_logprobs(asked, openai_reply([text] * asked.get("n", 1), finish=finish, usage=usage)))
        ]
    chunks: list[bytes] = []
    for index in range(asked.get("n", 1)):
        pieces = text.split(" ")
        pieces = [piece if position == 0 else f" {piece}" for position, piece in enumerate(pieces)]
        last = index == asked.get("n", 1) - 1
        chunks += openai_chunks(pieces, finish=finish, usage=usage if last else None, index=index)
    return [Sse([_with_logprobs(asked, chunk) for chunk in chunks])]


def _answer(asked: dict[str, Any]) -> tuple[str, str, Usage]:
    content = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if "response_format" in asked:
        text = '{"answer": true}'
    for stop in asked.get("stop", ()):
        text = text.partition(stop)[0]
    words = text.split(" ")
    limit = asked.get("max_tokens", len(words))
    usage = Usage(input_tokens=len(text) + 1, output_tokens=min(limit, len(words)))
    return " ".join(words[:limit]), "stop" if len(words) <= limit else "length", usage


def _with_logprobs(asked: dict[str, Any], document: bytes) -> bytes:
    reply = msgspec.json.decode(document)
    for choice in reply["choices"]:
        text = choice.get("message", choice.get("delta", {})).get("content")
        if asked.get("logprobs") and text:
            tops = [{"token": text, "logprob": -0.5}] * asked.get("top_logprobs", 0)
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": tops}]}
        if "prompt" in asked:
            choice["text"] = text
    return msgspec.json.encode(reply)


# -- backends that break the contract, each in one way ---------------------------------------------------------------


class TestGood(Subject):
    supports = Good.can


class OpensAtConnect(Good):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.read, self.write = os.pipe()
        weakref.finalize(self, os.close, self.read)
        weakref.finalize(self, os.close, self.write)


class ClosesOnlyOnce(Good):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed twice")
        self.closed = True


class ClosesOnlyAfterUse(Good):
    async def aclose(self) -> None:
        self._reader = self._reader + 1  # type: ignore[has-type]  # set by the first call only


class ClosesWhenAllIsRead(Good):
    async def aclose(self) -> None:
        for _ in range(4):
            await self.free.acquire()


class WaitsOnceClosed(Good):
    async def aclose(self) -> None:
        self.free = asyncio.Semaphore(0)


class SharesOneLoop(Good):
    loop: ClassVar[list[asyncio.AbstractEventLoop]] = []

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        self.loop.append(asyncio.get_running_loop())
        self.loop[0].call_soon(lambda: None)
        async for event in super().events(request):
            yield event


class KeepsThreads(Good):
    async def events(self, request: Request) -> AsyncGenerator[Event]:
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
        async for event in super().events(request):
            yield event


class Mixes(Good):
    request: Request

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        self.request = request
        await asyncio.sleep(0)
        for event in self.make(self.request):
            yield event


class Blocks(Good):
    async def events(self, request: Request) -> AsyncGenerator[Event]:
        time.sleep(0.3)  # noqa: ASYNC251  # the fault
        for event in self.make(request):
            yield event


class RefusesLate(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        yield self.events(request)

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        require_supported(request, self.can, backend="broken")
        async for event in super().events(request):
            yield event


class RefusesUnnamed(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        try:
            require_supported(request, self.can, backend="broken")
        except UnsupportedError as error:
            raise UnsupportedError(
                f"cannot do that: {request.messages[-1].text if request.messages else ''}"
            ) from error
        yield self.events(request)


class GeneratorOwns(Good):
    """The slot is freed where the events end, so never if they are not read to their end."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        await self.free.acquire()
        yield self.events(request)

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        async for event in super().events(request):
            yield event
            if isinstance(event, Finished):
                self.free.release()


class NoFinally(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        await self.free.acquire()
        yield self.events(request)
        self.free.release()


class AwaitsUnshielded(Good):
    """Frees the slot after an await, which level cancellation strikes again."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        await self.free.acquire()
        try:
            yield self.events(request)
        finally:
            await asyncio.sleep(0)
            self.free.release()


class AwaitsBeforeTry(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        await self.free.acquire()
        await asyncio.sleep(0)
        try:
            require_supported(request, self.can, backend="broken")
            yield self.events(request)
        finally:
            self.free.release()


class Swallows(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        try:
            yield self.events(request)
        except Exception:
            return


class RenamesCancellation(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        try:
            yield self.events(request)
        except asyncio.CancelledError:
            raise APIConnectionError("the connection was lost") from None


class LeavesTasks(Good):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        pump = asyncio.create_task(asyncio.sleep(5))
        yield self.events(request)
        pump.cancel()


class StopsTheOthers(Good):
    era = 0

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, self.can, backend="broken")
        yield self.events(request)
        self.era += 1

    async def events(self, request: Request) -> AsyncGenerator[Event]:
        era = self.era
        async for event in super().events(request):
            if self.era != era:
                return
            yield event


class HttpUntyped(Http):
    async def events(self, request: Request) -> AsyncGenerator[Event]:
        try:
            async for event in super().events(request):
                yield event
        except APIStatusError as error:
            raise ValueError(f"HTTP {error.status}") from error


class HttpLosesFacts(Http):
    async def events(self, request: Request) -> AsyncGenerator[Event]:
        try:
            async for event in super().events(request):
                yield event
        except APIStatusError as error:
            raise APIStatusError("the service failed", status=error.status) from error


class ShowsKey(Good):
    def __repr__(self) -> str:
        return f"<{Subject.api_key}>"


class Counts(Good):
    async def check_prompt(self, _: Request, /) -> PromptCheck:
        return PromptCheck(tokens=1, limit=None)


class TellsTokens(Good):
    async def tokenize(self, _: Request, /) -> Tokens:
        return Tokens(ids=(1, 2))

    async def detokenize(self, _: Request, /) -> str:
        return "four five"


class Embeds(Good):
    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        return Embeddings(vectors=tuple((float(position),) for position in range(len(request.texts))))


class Lists(Good):
    async def list_models(self) -> list[ModelInfo]:
        return [ModelInfo(id="one"), ModelInfo(id="one")]


class GoesBack(Good):
    """Its jobs are running, and then in line again."""

    job_calls: frozenset[JobCall] = frozenset({"submit"})

    async def submit(self, _: JobRequest, /) -> JobState:
        return JobState(id="job", status="running")

    async def poll(self, job_id: str, /) -> JobState:
        return JobState(id=job_id, status="queued")

    async def cancel(self, job_id: str, /) -> JobState:
        return JobState(id=job_id, status="cancelled")

    async def job_result(self, state: JobState, /) -> object:
        return state.id


class ForgetsItsResult(GoesBack):
    """Its jobs are done and have made nothing."""

    async def poll(self, job_id: str, /) -> JobState:
        return JobState(id=job_id, status="succeeded")

    async def job_result(self, _: JobState, /) -> object:
        return None


class NotAlive(Good):
    async def is_alive(self) -> bool:
        return False


ALL_OPTIONS = frozenset(OPTIONS)
BREAKAGES = [
    # the check (without `test_`), the backend that it must fail, and what it must say
    ("connecting_needs_no_running_loop_and_opens_nothing", OpensAtConnect, "leaves a file or a socket open"),
    ("a_backend_that_was_never_used_can_be_closed", ClosesOnlyAfterUse, "_reader"),
    ("closing_twice_is_closing_once", ClosesOnlyOnce, "closed twice"),
    ("closing_with_a_stream_open_does_not_hang", ClosesWhenAllIsRead, "aclose did not end"),
    ("a_call_after_closing_does_not_hang", WaitsOnceClosed, "a call did not end"),
    ("two_event_loops_in_a_row_each_have_a_backend", SharesOneLoop, "Event loop is closed"),
    ("two_event_loops_in_a_row_each_have_a_backend", KeepsThreads, "leaves a thread running"),
    ("a_call_yields_events_that_fold_to_a_complete_response", making(lambda _, all_: all_[:-1]), "without a Finished"),
    ("a_call_yields_events_that_fold_to_a_complete_response", making(lambda _, all_: all_[-1:]), "is empty"),
    ("each_choice_has_one_finished_after_its_last_delta", making(lambda _, all_: [*all_, all_[-1]]), "after Finished"),
    ("each_choice_has_one_finished_after_its_last_delta", making(lambda _, all_: [*all_, all_[0]]), "after Finished"),
    ("nothing_comes_after_the_last_finished", making(lambda _, all_: [*all_, all_[-2]]), "is a UsageReport"),
    (
        "streamed_or_not_the_answer_is_of_one_kind",
        making(lambda request, all_: all_ if request.stream else [all_[0], all_[-1]]),
        "output known",
    ),
    ("no_delta_is_empty", making(lambda _, all_: [TextDelta(""), *all_]), "is empty"),
    (
        "usage_is_plausible_or_unknown",
        making(lambda _, all_: [UsageReport(Usage(input_tokens=-1)), *all_[:1], all_[-1]]),
        "input_tokens is -1",
    ),
    (
        "a_conversation_of_several_turns_is_answered",
        refusing(lambda request: len(request.messages) > 1, TOO_MUCH),
        "too much",
    ),
    (
        "every_character_is_taken",
        refusing(lambda request: "\0" in request.messages[-1].text, TOO_MUCH),
        "a NUL is refused",
    ),
    (
        "half_a_character_is_taken_or_refused_by_a_typed_error",
        making(lambda request, all_: all_ if request.messages[-1].text.encode() else []),
        "surrogates not allowed",
    ),
    ("eight_calls_at_once_do_not_mix", Mixes, "was answered with"),
    ("the_event_loop_keeps_turning", Blocks, "stood still"),
    (
        "every_option_is_honoured_or_refused_by_name",
        making(lambda _, all_: all_, ALL_OPTIONS - {"complete"}),
        "stop is accepted and ignored.* n is accepted and ignored.* Choice is accepted and ignored",
    ),
    ("every_option_is_honoured_or_refused_by_name", RefusesLate, "only after the call was entered"),
    ("every_option_is_honoured_or_refused_by_name", RefusesUnnamed, "whose field is None"),
    (
        "an_option_that_is_not_set_is_not_missed",
        refusing(lambda request: request.sampling.max_tokens is UNSET, TOO_MUCH),
        "too much",
    ),
    ("leaving_after_the_first_event_frees_the_call", GeneratorOwns, "a call after .* did not end"),
    ("leaving_without_reading_frees_the_call", GeneratorOwns, "a call after .* did not end"),
    (
        "an_exception_in_the_block_frees_the_call_and_passes",
        NoFinally,
        "the next call fails|a call after .* did not end",
    ),
    ("an_exception_in_the_block_frees_the_call_and_passes", Swallows, "comes out of the block as None"),
    ("cancelling_the_task_frees_the_call", NoFinally, "the next call fails|a call after .* did not end"),
    ("cancelling_the_task_frees_the_call", LeavesTasks, "leaves 6 tasks running"),
    ("cancelling_the_task_frees_the_call", RenamesCancellation, "in place of CancelledError"),
    (
        "a_call_cancelled_at_any_step_frees_what_it_holds",
        AwaitsBeforeTry,
        "the next call fails|a call after .* did not end",
    ),
    ("a_deadline_of_asyncio_frees_the_call", NoFinally, "the next call fails|a call after .* did not end"),
    ("a_cancelled_scope_of_anyio_frees_the_call", AwaitsUnshielded, "the next call fails|a call after .* did not end"),
    ("a_deadline_of_anyio_frees_the_call", AwaitsUnshielded, "the next call fails|a call after .* did not end"),
    (
        "entering_when_already_cancelled_frees_the_call",
        AwaitsBeforeTry,
        "the next call fails|a call after .* did not end",
    ),
    ("a_stream_left_while_others_run_does_not_touch_them", StopsTheOthers, "without a Finished"),
    ("an_error_status_is_an_error_of_its_class", HttpUntyped, "not of the tree"),
    ("an_error_status_is_an_error_of_its_class", HttpLosesFacts, "loses the Retry-After"),
    ("a_reply_that_is_broken_is_never_an_answer", Http, "passes for a complete answer"),
    ("a_model_that_cannot_answer_is_a_typed_error", Good, "the bad model 'bad' answers"),
    ("a_refused_option_is_an_error_that_travels_and_says_nothing_private", RefusesUnnamed, "repeats the prompt"),
    ("a_backend_does_not_show_its_key", ShowsKey, "has the key"),
    ("a_prompt_is_counted_or_the_count_refused", Counts, "1 tokens for a text"),
    ("tokens_are_told_and_read_again_or_refused", TellsTokens, "the tokens of a text are those of another"),
    ("texts_are_embedded_in_order_or_refused", Embeds, "order of their texts"),
    ("models_are_listed_or_the_list_refused", Lists, "two models have one name"),
    ("a_backend_that_answers_says_that_it_is_alive", NotAlive, "is_alive is False"),
    ("a_job_is_worked_off_or_refused", GoesBack, "goes back to 'queued'"),
    ("a_job_is_worked_off_or_refused", ForgetsItsResult, "has made nothing"),
    ("a_client_gets_the_same_answer", making(lambda _, all_: all_[:-1]), "terminal event"),
]


@pytest.mark.parametrize(("check", "broken", "says"), BREAKAGES, ids=lambda value: getattr(value, "__name__", None))
def test_the_suite_fails_a_broken_backend(check: str, broken: type[Good], says: str) -> None:
    suite = Subject()
    suite.kind = broken
    suite.bad_models = ("bad",)

    with pytest.raises(Exception, match=f"(?s){says}"):
        getattr(suite, f"test_{check}")()


def test_a_check_that_does_not_apply_is_not_collected() -> None:
    assert TestOpenAI.test_an_event_of_a_megabyte_is_read is BackendConformance.test_an_event_of_a_megabyte_is_read
    assert TestOpenAI.test_the_id_of_a_call_that_failed_is_told is not None
    assert TestGood.test_an_event_of_a_megabyte_is_read is None
    assert TestGood.test_the_id_of_a_call_that_failed_is_told is not None
    assert TestEcho.test_an_event_of_a_megabyte_is_read is None
    assert TestEcho.test_the_id_of_a_call_that_failed_is_told is None


def test_no_two_groups_of_checks_share_a_name() -> None:
    groups = [group for group in BackendConformance.__mro__ if group.__name__.endswith("Checks")]

    names = [name for group in groups for name, value in vars(group).items() if callable(value)]

    assert len(names) == len(set(names))


def test_only_level_cancellation_finds_an_unshielded_clean_up() -> None:
    suite = Subject()
    suite.kind = AwaitsUnshielded

    suite.test_cancelling_the_task_frees_the_call()
    suite.test_a_deadline_of_asyncio_frees_the_call()
