"""The layer that answers a call with the answer that the same call got before."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

import asyncllm
from asyncllm.cache import MemoryCache
from asyncllm.collect import Collector
from asyncllm.events import (
    Event,
    Events,
    Finished,
    LogprobsDelta,
    Ready,
    ReasoningDelta,
    RefusalDelta,
    Skipped,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.middleware import Open, bottom
from asyncllm.middleware.cached import cache_key, cached
from asyncllm.testing import Script, ScriptedBackend, Stall, run_virtual
from asyncllm.trail import Trail
from asyncllm.types import (
    Choice,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Request,
    Sampling,
    TextPart,
    Timeouts,
    TokenLogprob,
    Tool,
    Usage,
)

REQUEST = Request(model="m", messages=(Message("user", "hi"),))
ANSWER: list[Event] = [Started("m", "id-1"), TextDelta("a"), TextDelta("b"), Finished("stop")]


def trail(request: Request = REQUEST) -> Trail:
    return Trail("chat", request, "scripted", "scripted")


def layer(scripts: Sequence[Script], cache: Any = None, **options: Any) -> tuple[Open, ScriptedBackend]:
    backend = ScriptedBackend(scripts)
    return cached(bottom(backend), cache or MemoryCache(), "here", **options), backend


async def ask(open_: Open, request: Request = REQUEST) -> list[Event]:
    async with open_(request, trail(request)) as events:
        return [event async for event in events]


# -- what is given again -----------------------------------------------------------------------------------------


async def test_the_same_call_is_answered_again_without_asking_and_the_trail_says_so() -> None:
    open_, backend = layer([ANSWER, [TextDelta("other"), Finished("stop")]])
    first, second = trail(), trail()

    async with open_(REQUEST, first) as events:
        one = [event async for event in events]
    async with open_(REQUEST, second) as events:
        two = [event async for event in events]

    assert one == two == ANSWER
    assert (first.cached, second.cached) == (False, True)
    assert backend.opened == backend.closed == 1


async def test_an_answer_that_comes_in_one_piece_stays_one_piece() -> None:
    calls = 0

    @asynccontextmanager
    async def whole(request: Request, _: Trail) -> AsyncIterator[Events]:
        nonlocal calls
        calls += 1
        yield Ready(ANSWER)

    open_ = cached(whole, MemoryCache(), "here")
    for _ in range(2):
        async with open_(REQUEST, trail()) as events:
            assert isinstance(events, Ready)
            assert (list(events.head), events.rest) == (ANSWER, None)

    assert calls == 1


_text = st.text(max_size=5)
_index = st.integers(0, 3)
_optional_text = st.none() | _text
_count = st.none() | st.integers(0, 10**9)
_logprob = st.floats(allow_nan=False)
_token = st.builds(
    TokenLogprob,
    _text,
    _logprob,
    st.none() | st.lists(st.integers(0, 255), max_size=3).map(tuple),
    st.lists(st.builds(TokenLogprob, _text, _logprob), max_size=2).map(tuple),
)
_event = st.one_of(
    st.builds(Started, _optional_text, _optional_text, st.none() | st.binary(max_size=20)),
    st.builds(TextDelta, _text, _index),
    st.builds(ReasoningDelta, _text, _index),
    st.builds(RefusalDelta, _text, _index),
    st.builds(ToolCallDelta, st.none() | _index, _optional_text, _optional_text, _text, _index),
    st.builds(LogprobsDelta, st.lists(_token, max_size=3).map(tuple), _index),
    st.builds(UsageReport, st.builds(Usage, input_tokens=_count, output_tokens=_count, cached_tokens=_count)),
)
_ending = st.builds(
    Finished, st.sampled_from(["stop", "length", "tool_calls", "content_filter", None]), _optional_text, _index
)


@given(st.lists(_event, max_size=12), st.lists(_ending, max_size=4), st.lists(_event, max_size=2))
def test_any_whole_answer_comes_again_exactly_and_nothing_else_does(
    events: list[Event], endings: list[Finished], late: list[Event]
) -> None:
    answer = [*events, *endings, *late]
    collector = Collector()
    collector.add(answer)
    # Its own `Finished` for each choice that has begun, and nothing after it counts for more.
    is_whole = collector.is_complete

    async def play() -> None:
        open_, backend = layer([answer])
        assert await ask(open_) == answer
        again = await ask(open_)
        assert again == answer
        assert [type(event) for event in again] == [type(event) for event in answer]
        assert (backend.opened == 1) == is_whole

    asyncio.run(play())


async def test_two_equal_calls_at_the_same_time_are_both_made() -> None:
    open_, backend = layer([[0.01, *ANSWER]])

    assert list(await asyncio.gather(ask(open_), ask(open_))) == [ANSWER, ANSWER]

    assert backend.opened == 2


# -- what is not kept --------------------------------------------------------------------------------------------

NOT_WHOLE: dict[str, list[Any]] = {
    "no end": [TextDelta("a")],
    "one of two choices without an end": [TextDelta("a"), TextDelta("b", 1), Finished("stop")],
    "an end that is an error": [TextDelta("a"), Finished("error")],
    "an error for one of two choices": [
        TextDelta("a"),
        Finished("stop"),
        TextDelta("b", 1),
        Finished("error", None, 1),
    ],
    "a part that was left out": [TextDelta("a"), Skipped(1), Finished("stop")],
    "nothing": [],
    "nothing but who answers": [Started("m")],
}


@pytest.mark.parametrize("script", NOT_WHOLE.values(), ids=NOT_WHOLE)
async def test_what_is_not_a_whole_answer_is_not_kept(script: list[Event]) -> None:
    open_, backend = layer([script])

    await ask(open_)
    await ask(open_)

    assert backend.opened == 2


async def test_an_answer_that_breaks_off_is_not_kept() -> None:
    open_, _ = layer([[*ANSWER, asyncllm.StreamInterrupted("cut")], ANSWER])

    with pytest.raises(asyncllm.StreamInterrupted):
        await ask(open_)

    assert await ask(open_) == ANSWER


async def test_an_answer_that_is_left_before_its_end_is_not_kept() -> None:
    open_, backend = layer([ANSWER])

    async with open_(REQUEST, trail()) as events:
        assert await anext(events) == ANSWER[0]
    await ask(open_)

    assert backend.opened == backend.closed == 2


async def test_an_answer_that_its_caller_has_no_use_for_is_not_kept() -> None:
    open_, backend = layer([ANSWER])

    with pytest.raises(ValueError, match="does not parse"):
        async with open_(REQUEST, trail()) as events:
            assert [event async for event in events] == ANSWER
            raise ValueError("does not parse")
    await ask(open_)

    assert backend.opened == backend.closed == 2


async def test_a_cancelled_call_frees_what_is_below_and_keeps_nothing() -> None:
    open_, backend = layer([[TextDelta("a"), Stall()], ANSWER])

    task = asyncio.create_task(ask(open_))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert backend.opened == backend.closed == 1
    assert await ask(open_) == ANSWER


async def test_an_answer_over_the_limit_is_passed_on_and_not_held() -> None:
    long: list[Event] = [*(TextDelta("x" * 100) for _ in range(50)), Finished("stop")]
    open_, backend = layer([long, long, ANSWER], largest_bytes=2000)

    assert await ask(open_) == long
    assert await ask(open_) == long
    assert await ask(open_) == ANSWER
    assert await ask(open_) == ANSWER
    assert backend.opened == 3


async def test_an_error_on_entering_is_raised_as_it_is() -> None:
    open_, _ = layer([asyncllm.OverloadedError("busy"), ANSWER])

    with pytest.raises(asyncllm.OverloadedError):
        await ask(open_)

    assert await ask(open_) == ANSWER


# -- caches that fail --------------------------------------------------------------------------------------------


class Shelf:
    """A cache whose content a test can see and spoil."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    async def aclose(self) -> None:
        """Nothing is held."""


# The last one is sound, and an answer without events.
@pytest.mark.parametrize("garbage", [b"", b"\x01", b"\xff" * 100, struct.pack(">BL", 1, crc32(b"\x90")) + b"\x90"])
async def test_garbage_in_a_cache_is_a_miss_and_is_written_over(
    garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf()
    open_, backend = layer([ANSWER], shelf)
    await ask(open_)
    (key,) = shelf.values
    shelf.values[key] = garbage

    assert [await ask(open_), await ask(open_)] == [ANSWER, ANSWER]
    assert backend.opened == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Shelf" in caplog.text


@settings(max_examples=200)
@given(st.data())
def test_no_damage_to_a_value_changes_an_answer(data: st.DataObject) -> None:
    async def play() -> None:
        shelf = Shelf()
        open_, _ = layer([ANSWER], shelf)
        await ask(open_)
        ((key, value),) = shelf.values.items()
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, len(value)))
        shelf.values[key] = value[:start] + data.draw(st.binary(max_size=4)) + value[end:]
        assert await ask(open_) == ANSWER

    logging.disable()
    try:
        asyncio.run(play())
    finally:
        logging.disable(logging.NOTSET)


async def test_a_cache_that_raises_costs_the_call_only_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Shelf):
        async def get(self, key: str) -> bytes | None:
            raise OSError("CANARY")

        async def put(self, key: str, value: bytes) -> None:
            raise OSError("CANARY")

    open_, backend = layer([ANSWER], Broken())

    assert [await ask(open_), await ask(open_)] == [ANSWER, ANSWER]
    assert backend.opened == backend.closed == 2
    assert len(caplog.records) == 1
    assert "CANARY" not in caplog.text


def test_a_cache_that_hangs_costs_the_call_two_waits_and_no_more() -> None:
    class Hanging(Shelf):
        async def get(self, key: str) -> bytes | None:
            await asyncio.Event().wait()
            return None

        async def put(self, key: str, value: bytes) -> None:
            await asyncio.Event().wait()

    async def play() -> float:
        open_, _ = layer([ANSWER], Hanging())
        began = asyncio.get_running_loop().time()
        assert await ask(open_) == ANSWER
        return asyncio.get_running_loop().time() - began

    assert run_virtual(play()) == pytest.approx(4)


async def test_a_request_that_has_no_key_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    open_, backend = layer([ANSWER])
    odd = msgspec.structs.replace(REQUEST, extra={"hook": object()})

    assert [await ask(open_, odd), await ask(open_, odd)] == [ANSWER, ANSWER]
    assert backend.opened == 2
    assert "MemoryCache failed at key" in caplog.text


async def test_an_event_that_cannot_be_kept_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    answer: list[Event] = [TextDelta("\ud800"), Finished("stop")]
    open_, backend = layer([answer])

    assert [await ask(open_), await ask(open_)] == [answer, answer]
    assert backend.opened == 2
    assert "MemoryCache failed at encode" in caplog.text


# -- which calls are the same ------------------------------------------------------------------------------------

FULL = Request(
    model="m",
    messages=(Message("user", [TextPart("hi"), ImagePart(data=b"png")]),),
    sampling=Sampling(temperature=0.5, stop=("a", "b"), logit_bias={"1": 2.0, "3": -1.0}),
    tools=(Tool("t", "does", {"type": "object", "properties": {"a": {}, "b": {}}}),),
    tool_choice="auto",
    parallel_tool_calls=True,
    constraint=JsonSchema({"type": "object", "required": []}),
    extra={"a": 1, "b": {"c": 2, "d": 3}},
)

OTHER: dict[str, dict[str, Any]] = {
    "model": {"model": "n"},
    "messages": {"messages": (Message("user", "hi"),)},
    "a part of another kind": {"messages": (Message("user", [TextPart("hi"), TextPart("png")]),)},
    "prompt": {"prompt": "hi"},
    "token ids": {"prompt": (1, 2)},
    "sampling": {"sampling": Sampling(temperature=0.5)},
    "tools": {"tools": ()},
    "tool_choice": {"tool_choice": "none"},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "constraint": {"constraint": None},
    "a constraint of another kind": {"constraint": Regex("a")},
    "a third kind": {"constraint": Grammar("a")},
    "a fourth kind": {"constraint": Choice(("a",))},
    "extra": {"extra": {"a": 1}},
    "extra of another type": {"extra": {"a": True, "b": {"c": 2, "d": 3}}},
    "extra as text": {"extra": {"a": "1", "b": {"c": 2, "d": 3}}},
}
SAME = {"stream": True, "timeouts": Timeouts(total_s=1), "idempotency_key": "k"}


def test_what_shapes_the_answer_shapes_the_key() -> None:
    requests = [FULL, *(msgspec.structs.replace(FULL, **other) for other in OTHER.values())]

    keys = [cache_key(request, "here") for request in requests]

    assert len(set(keys)) == len(requests)
    assert cache_key(FULL, "there") not in keys
    assert {field for other in OTHER.values() for field in other} | SAME.keys() == set(Request.__struct_fields__)


def test_how_the_answer_travels_does_not() -> None:
    keys = {cache_key(msgspec.structs.replace(FULL, **{name: value}), "here") for name, value in SAME.items()}

    assert keys == {cache_key(FULL, "here")}


def _backwards(value: Any) -> Any:
    """The same value, with every dict in the opposite order."""
    if isinstance(value, Mapping):
        return {name: _backwards(one) for name, one in reversed(list(value.items()))}
    return [_backwards(one) for one in value] if isinstance(value, list) else value


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_object = st.dictionaries(st.text(max_size=3), _json, max_size=3)
_temperature = st.sampled_from([UNSET, 0, 0.0, 1, 1.0, 0.7])
_request = st.builds(
    Request,
    model=st.sampled_from(["m", "n"]),
    messages=st.lists(st.builds(Message, st.sampled_from(["user", "system"]), _text), max_size=2).map(tuple),
    sampling=st.builds(
        Sampling,
        temperature=_temperature,
        max_tokens=st.sampled_from([UNSET, 1, 2]),
        stop=st.sampled_from([UNSET, "a", ("a",), ("a", "b")]),
    ),
    tools=st.lists(st.builds(Tool, _text, parameters=st.just(UNSET) | _object), max_size=2).map(tuple),
    constraint=st.none() | st.builds(JsonSchema, _object) | st.builds(Regex, _text) | st.builds(Grammar, _text),
    stream=st.booleans(),
    extra=_object,
)


def _wire(request: Request) -> str:
    """What two requests must share to get one answer, told in another way than the key is made."""

    def plain(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            return [type(value).__name__, *(plain(getattr(value, name)) for name in value.__struct_fields__)]
        if isinstance(value, Mapping):
            return [{repr(name): repr(plain(one))} for name, one in sorted(value.items())]
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return value

    sampling = request.sampling
    if sampling.temperature is not UNSET:
        sampling = msgspec.structs.replace(sampling, temperature=float(sampling.temperature))
    same = msgspec.structs.replace(request, stream=False, sampling=sampling)
    return repr(plain(same))


@given(_request)
def test_equal_requests_share_a_key_whatever_the_order_of_their_dicts(request: Request) -> None:
    constraint = request.constraint
    if isinstance(constraint, JsonSchema):
        constraint = msgspec.structs.replace(constraint, schema=_backwards(constraint.schema))
    tools = tuple(
        tool if tool.parameters is UNSET else msgspec.structs.replace(tool, parameters=_backwards(tool.parameters))
        for tool in request.tools
    )
    other = msgspec.structs.replace(
        request, tools=tools, constraint=constraint, extra=_backwards(request.extra), stream=not request.stream
    )

    assert cache_key(other, "here") == cache_key(request, "here")


@given(_request, _request)
def test_two_requests_share_a_key_exactly_if_they_ask_the_same(one: Request, two: Request) -> None:
    assert (cache_key(one, "here") == cache_key(two, "here")) == (_wire(one) == _wire(two))


@given(_request, st.data())
def test_a_change_of_one_field_changes_the_key(request: Request, data: st.DataObject) -> None:
    other = data.draw(_request)
    field = data.draw(st.sampled_from(["model", "messages", "sampling", "tools", "constraint", "extra"]))
    changed = msgspec.structs.replace(request, **{field: getattr(other, field)})

    assert (cache_key(changed, "here") == cache_key(request, "here")) == (_wire(changed) == _wire(request))
