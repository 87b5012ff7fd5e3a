"""Answers as values: which types, over which backends, mended how often, and read while they are made."""

from __future__ import annotations

import enum
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

import asyncllm
from asyncllm import (
    Client,
    Failure,
    Finished,
    JsonSchema,
    Message,
    Price,
    ReasoningBlock,
    RefusalDelta,
    Request,
    ResponseValidationError,
    Started,
    TextDelta,
    Timeouts,
    TotalTimeoutError,
    Usage,
    UsageReport,
)
from asyncllm.backend import require_supported
from asyncllm.events import Events, ReasoningBlockDelta, ToolCallDelta
from asyncllm.testing import ScriptedBackend
from asyncllm.testing.scripted_backend import Script, Step
from asyncllm.typed.output import Output
from asyncllm.typed.schemas import strict_form


class City(msgspec.Struct):
    name: str
    people: int


@dataclass
class Point:
    x: int
    y: float = 0.0


class Pair(NamedTuple):
    a: int
    b: str


class Named(TypedDict):
    name: str


class Checked(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise ValueError(f"{self.name} is no name")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str]


PARIS = '{"name":"Paris","people":2}'


def said(*texts: str, usage: Usage | None = None, finish: Any = "stop") -> list[Step]:
    """The script of an answer."""
    report = [UsageReport(usage)] if usage is not None else []
    return [Started("m", "r"), *map(TextDelta, texts), *report, Finished(finish)]


class Wordy(ScriptedBackend):
    """Cannot be held to a schema."""

    def __init__(self, scripts: Sequence[Script], supported: frozenset[str] = frozenset({"chat", "complete"})) -> None:
        super().__init__(scripts)
        self.supported = supported
        self.refused = 0

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        try:
            require_supported(request, self.supported, backend="wordy")
        except asyncllm.UnsupportedError:
            self.refused += 1
            raise
        async with super().open(request) as events:
            yield events


# -- types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        (City, PARIS, City("Paris", 2)),
        (Point, '{"x": 1}', Point(1)),
        (Named, '{"name": "a"}', {"name": "a"}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Pair, '{"value": [1, "b"]}', Pair(1, "b")),
        (Color, '{"value": "blue"}', Color.BLUE),
        (Literal["a", "b"], '{"value": "b"}', "b"),
        (Cat | Dog, '{"value": {"type": "Dog", "tricks": ["sit"]}}', Dog(["sit"])),
        (list[City], f'{{"value": [{PARIS}]}}', [City("Paris", 2)]),
        (int, '{"value": 5}', 5),
        (str, '{"value": "x"}', "x"),
        (bool, '{"value": true}', True),
        (str | None, '{"value": null}', None),
        (Annotated[int, msgspec.Meta(ge=1)], '{"value": 5}', 5),
    ],
)
async def test_any_type_that_msgspec_decodes_is_asked_for_as_an_object(kind: Any, answer: str, value: Any) -> None:
    backend = ScriptedBackend([said(answer)])

    async with Client(backend=backend) as client:
        reply = await client.chat("hi", output_type=kind)

    assert reply.parsed == value
    (request,) = backend.requests
    assert isinstance(request.constraint, JsonSchema)
    assert request.constraint.schema["type"] == "object"


async def test_the_value_alone_is_taken_where_an_object_around_it_was_asked_for() -> None:
    async with Client(backend=ScriptedBackend([said("5")])) as client:
        assert (await client.chat("hi", output_type=int)).parsed == 5


async def test_an_object_with_a_value_of_its_own_is_no_wrapping() -> None:
    class Measure(msgspec.Struct):
        value: int

    async with Client(backend=ScriptedBackend([said('{"value": 5}')])) as client:
        assert (await client.chat("hi", output_type=Measure)).parsed == Measure(5)


@pytest.mark.parametrize(
    "answer",
    [
        f"\n {PARIS}\n",
        f"```json\n{PARIS}\n```",
        f"First:\n```\n{{}}\n```\nand better:\n```json\n{PARIS}\n```\nDone.",
        f"Sure! Here it is: {PARIS} I hope it helps.",
        f"<think>It has {{braces}}.</think>\n{PARIS}",
        f'<think>Like {{"name": "Rome"}}</think>{PARIS}.',
    ],
)
async def test_json_is_found_between_fences_and_words(answer: str) -> None:
    async with Client(backend=ScriptedBackend([said(answer)])) as client:
        assert (await client.chat("hi", output_type=City, repairs=0)).parsed == City("Paris", 2)


async def test_a_list_is_found_in_words() -> None:
    async with Client(backend=ScriptedBackend([said("These: [1, 2] are they.")])) as client:
        assert (await client.chat("hi", output_type=list[int])).parsed == [1, 2]


@pytest.mark.parametrize("step", [ToolCallDelta(0, "c", "f", "{}"), RefusalDelta("no")])
async def test_an_answer_that_asks_for_a_tool_or_refuses_is_not_parsed(step: Step) -> None:
    text = [TextDelta("let me see")] if isinstance(step, ToolCallDelta) else []

    async with Client(backend=ScriptedBackend([[*text, step, Finished("stop")]])) as client:
        reply = await client.chat("hi", output_type=City)

    assert reply.parsed is None


async def test_an_empty_answer_is_no_value() -> None:
    backend = ScriptedBackend([said(""), said(PARIS)])

    async with Client(backend=backend) as client:
        with pytest.raises(ResponseValidationError):
            await client.chat("hi", output_type=City, repairs=0)
    assert backend.opened == 1


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Color, '"canary"'),
        (Literal["a"], '{"value": "canary"}'),
        (Cat | Dog, '{"type": "canary"}'),
        (Annotated[str, msgspec.Meta(pattern="^a$")], '"canary"'),
        (msgspec.defstruct("S", [("a", int)], forbid_unknown_fields=True), '{"canary": 1}'),
        (list[int], '["canary"]'),
        (int, "canary"),
        (Literal["a"], '"a - at canary"'),
        (Literal["a"], '"the owner\'s canary"'),
        (Checked, '{"name": "canary"}'),
    ],
)
async def test_the_error_names_the_place_and_never_quotes_the_answer(kind: Any, answer: str) -> None:
    async with Client(backend=ScriptedBackend([said(answer)])) as client:
        with pytest.raises(ResponseValidationError) as caught:
            await client.chat("hi", output_type=kind)

    assert caught.value.field == "output_type"
    assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.facts()}"


# -- strict mode -------------------------------------------------------------------------------------------------


class Maybe(msgspec.Struct):
    name: str
    nick: str | None = None
    mood: Literal["good", "bad"] = "good"


class Tree(msgspec.Struct):
    name: str
    left: Tree | None = None


def test_strict_mode_is_asked_for_where_it_means_the_same() -> None:
    constraint = Output(Tree).constraint

    assert constraint.strict is True
    assert constraint.schema["required"] == ["name", "left"]
    assert constraint.schema["additionalProperties"] is False
    assert constraint.schema["$defs"]["Tree"]["additionalProperties"] is False
    assert "default" not in str(constraint.schema)


@pytest.mark.parametrize(
    "kind",
    [
        Maybe,  # `mood` may be left out, and is not null then
        Point,
        dict[str, int],
        Any,
        Pair,
        Annotated[int, msgspec.Meta(ge=1)],
        list[Any],
        Literal["a", 1],
        set[int],
    ],
)
def test_a_schema_without_a_strict_form_goes_as_it_is(kind: Any) -> None:
    output = Output(kind)

    assert output.constraint.strict is msgspec.UNSET
    assert output.constraint.schema == output.schema


def test_enums_say_their_type_in_strict_mode() -> None:
    assert strict_form({"enum": ["a", "b"]}) == {"type": "string", "enum": ["a", "b"]}
    assert strict_form({"enum": [1, None]}) == {"type": ["integer", "null"], "enum": [1, None]}
    assert Output(Cat | Dog).constraint.strict is True


def test_a_schema_is_never_changed_in_place() -> None:
    schema = Output(Tree).schema
    before = json.dumps(schema)

    strict_form(schema)

    assert json.dumps(schema) == before


# -- backends without schemas ------------------------------------------------------------------------------------


async def test_a_backend_that_takes_no_schema_is_asked_in_words() -> None:
    backend = Wordy([said(f"Here: {PARIS}")])

    async with Client(backend=backend) as client:
        reply = await client.chat("hi", output_type=City)
        again = await client.chat("hi", output_type=City)

    assert reply.parsed == again.parsed == City("Paris", 2)
    system, user = backend.requests[0].messages
    assert (system.role, user) == ("system", Message("user", "hi"))
    assert '"people"' in system.text
    assert backend.requests[0].constraint is None
    assert backend.refused == 1  # it is known now


async def test_the_words_join_the_system_text_that_is_there() -> None:
    backend = Wordy([said(PARIS)])

    async with Client(backend=backend) as client:
        await client.chat("hi", system="Be brief.", output_type=City)

    roles = [message.role for message in backend.requests[0].messages]
    assert roles == ["system", "user"]
    assert backend.requests[0].messages[0].text.startswith("Be brief.\n\nAnswer with one JSON object")


async def test_other_refusals_stay_refusals() -> None:
    backend = Wordy([said(PARIS)])

    async with Client(backend=backend) as client:
        with pytest.raises(asyncllm.UnsupportedError, match="tools"):
            await client.chat("hi", output_type=City, tools=[asyncllm.Tool("f")])
        with pytest.raises(asyncllm.UnsupportedError, match="JsonSchema"):
            await client.chat("hi", constraint=JsonSchema({"type": "object"}))
        with pytest.raises(asyncllm.UnsupportedError, match="JsonSchema"):
            await client.complete("hi", output_type=City)


async def test_a_schema_refused_for_what_is_in_it_is_put_in_words_and_the_next_one_is_tried() -> None:
    class Picky(Wordy):
        @asynccontextmanager
        async def open(self, request: Request, /) -> AsyncGenerator[Events]:
            if isinstance(request.constraint, JsonSchema) and "minimum" in str(request.constraint.schema):
                raise asyncllm.UnsupportedError("minimum", field="constraint")
            async with super().open(request) as events:
                yield events

    backend = Picky([said("5")], frozenset({"chat", "JsonSchema"}))

    async with Client(backend=backend) as client:
        await client.chat("hi", output_type=Annotated[int, msgspec.Meta(ge=1)])
        await client.chat("hi", output_type=int)

    assert [request.constraint is None for request in backend.requests] == [True, False]


async def test_a_stream_is_asked_for_in_words_too() -> None:
    async with Client(backend=Wordy([said("Sure: ", PARIS)])) as client:
        async with client.stream("hi", output_type=City) as stream:
            async for _ in stream:
                pass

    assert stream.response.parsed == City("Paris", 2)


def test_a_schema_holds_each_type_once() -> None:
    outer = msgspec.defstruct("Outer", [("city", City)])

    assert list(Output(outer).schema["$defs"]) == ["City"]
    assert list(Output(Tree).schema["$defs"]) == ["Tree"]


# -- repairs -----------------------------------------------------------------------------------------------------


async def test_a_misfit_is_shown_to_its_model_and_asked_for_again() -> None:
    wrong = '{"name": "Paris", "people": "many"}'
    block = ReasoningBlockDelta(ReasoningBlock("x", {"sealed": 1}))
    backend = ScriptedBackend([[block, *said(wrong)], said(PARIS)])
    prompt = [Message("user", "hi")]

    async with Client(backend=backend) as client:
        reply = await client.chat(prompt, system="Be brief.", output_type=City)

    assert reply.parsed == City("Paris", 2)
    first, second = backend.requests
    assert second.messages[:2] == first.messages
    assert second.constraint == first.constraint
    assert (second.messages[2].text, second.messages[2].reasoning_blocks) == (wrong, (block.block,))
    assert "`$.people`" in second.messages[3].text
    assert len(second.messages) == 4
    assert prompt == [Message("user", "hi")]


async def test_usage_cost_and_failures_are_those_of_all_rounds() -> None:
    scripts = [said("no", usage=Usage(input_tokens=10, output_tokens=1, cached_tokens=3))]
    scripts.append(said(PARIS, usage=Usage(input_tokens=20, output_tokens=5)))
    price = Price(input_usd=1_000_000, output_usd=2_000_000)

    async with Client(backend=ScriptedBackend(scripts), model="m", prices={"m": price}) as client:
        reply = await client.chat("hi", output_type=City)

    assert reply.usage == Usage(input_tokens=30, output_tokens=6, cached_tokens=3)
    assert reply.cost_usd == 30 + 12
    assert reply.failures == (
        Failure(error="ResponseValidationError", backend="ScriptedBackend", model="m", request_id="r"),
    )


async def test_usage_that_one_round_does_not_tell_is_unknown() -> None:
    scripts = [said("no"), said(PARIS, usage=Usage(input_tokens=20, output_tokens=5))]

    async with Client(backend=ScriptedBackend(scripts)) as client:
        reply = await client.chat("hi", output_type=City)

    assert reply.usage.total_tokens is None


@pytest.mark.parametrize(("repairs", "calls"), [({}, 2), ({"repairs": 0}, 1), ({"repairs": 3}, 4)])
async def test_there_are_so_many_repairs_and_no_more(repairs: Any, calls: int) -> None:
    backend = ScriptedBackend([said("no", usage=Usage(input_tokens=1, output_tokens=1))])

    async with Client(backend=backend) as client:
        with pytest.raises(ResponseValidationError) as caught:
            await client.chat("hi", output_type=City, **repairs)

    assert backend.opened == calls
    assert caught.value.partial is not None
    assert caught.value.partial.usage.total_tokens == 2 * calls
    assert len(caught.value.partial.failures) == calls - 1


async def test_an_answer_that_was_cut_off_is_not_asked_for_again() -> None:
    backend = ScriptedBackend([said('{"name": "Par', finish="length")])

    async with Client(backend=backend) as client:
        with pytest.raises(ResponseValidationError, match="length"):
            await client.chat("hi", output_type=City)

    assert backend.opened == 1


async def test_an_empty_answer_is_repaired_without_an_empty_turn() -> None:
    backend = ScriptedBackend([said(), said(PARIS)])

    async with Client(backend=backend) as client:
        await client.chat("hi", output_type=City)

    assert [message.role for message in backend.requests[1].messages] == ["user", "user"]


async def test_each_round_has_an_idempotency_key_of_its_own_and_the_same_one_next_time() -> None:
    keys = []
    for _ in range(2):
        backend = ScriptedBackend([said("no"), said(PARIS)])
        async with Client(backend=backend) as client:
            await client.chat("hi", output_type=City, idempotency_key="k")
        keys.append([request.idempotency_key for request in backend.requests])

    assert keys[0] == keys[1]
    assert keys[0][0] == "k"
    assert keys[0][1] not in ("k", None)


async def test_the_total_timeout_is_over_all_rounds() -> None:
    backend = ScriptedBackend([said("no"), [asyncllm.testing.Stall()]])

    async with Client(backend=backend) as client:
        with pytest.raises(TotalTimeoutError) as caught:
            await client.chat("hi", output_type=City, timeouts=Timeouts(total_s=0.1))

    assert (backend.requests[1].timeouts.total_s or 1) < 0.1
    assert caught.value.partial is not None
    assert caught.value.partial.text == "no"


async def test_a_value_that_does_not_fit_is_told_and_not_the_object_around_it() -> None:
    backend = ScriptedBackend([said('{"value": "c"}'), said('{"value": "a"}')])

    async with Client(backend=backend) as client:
        reply = await client.chat("hi", output_type=Literal["a", "b"])

    assert reply.parsed == "a"
    assert "Invalid enum value 'c'" in backend.requests[-1].messages[-1].text


@pytest.mark.parametrize("options", [{"repairs": -1}, {"repairs": True}, {"repairs": "1"}])
async def test_repairs_are_a_number(options: Any) -> None:
    async with Client(backend=ScriptedBackend([said(PARIS)])) as client:
        with pytest.raises(asyncllm.InvalidRequestError) as caught:
            await client.chat("hi", output_type=City, **options)

    assert caught.value.field == "repairs"


async def test_repairs_are_refused_where_there_can_be_none() -> None:
    async with Client(backend=ScriptedBackend([said(PARIS)])) as client:
        with pytest.raises(asyncllm.InvalidRequestError, match="stream"):
            client.stream("hi", output_type=City, repairs=1)
        with pytest.raises(asyncllm.InvalidRequestError, match="output_type"):
            await client.chat("hi", repairs=1)
        with pytest.raises(asyncllm.InvalidRequestError, match="complete has no repairs"):
            await client.complete("hi", output_type=City, repairs=1)


async def test_every_round_may_go_to_the_model_that_answers() -> None:
    down = asyncllm.OverloadedError("full", status=503)
    backend = ScriptedBackend([down, said("no"), said(PARIS)])

    async with Client(backend=backend, model=["a", "b"], retry=None) as client:
        reply = await client.chat("hi", output_type=City)

    assert reply.parsed == City("Paris", 2)
    assert [failure.error for failure in reply.failures] == ["OverloadedError", "ResponseValidationError"]


# -- partial objects ---------------------------------------------------------------------------------------------


async def test_the_object_so_far_can_be_read_while_it_is_made() -> None:
    async with Client(backend=ScriptedBackend([said('{"name": "Pa', 'ris", "peo', 'ple": 2', "}")])) as client:
        async with client.stream("hi", output_type=City) as stream:
            seen = [stream.partial async for event in stream if isinstance(event, TextDelta)]

    assert seen == [{"name": "Pa"}, {"name": "Paris"}, {"name": "Paris"}, {"name": "Paris", "people": 2}]
    assert stream.response.parsed == City("Paris", 2)
    assert stream.partial == {"name": "Paris", "people": 2}


async def test_objects_come_when_they_change_and_unwrapped() -> None:
    pieces = ['{"va', 'lue": [', "1", ", 2", ", ", "3]}"]

    async with Client(backend=ScriptedBackend([said(*pieces)])) as client:
        async with client.stream("hi", output_type=list[int]) as stream:
            seen = [value async for value in stream.objects()]

    assert seen == [[], [1], [1, 2], [1, 2, 3]]
    assert stream.response.parsed == [1, 2, 3]


async def test_a_stream_without_a_type_has_a_partial_too_and_nothing_is_read_unless_asked() -> None:
    async with Client(backend=ScriptedBackend([said('[{"a"', ": 1", "}]")])) as client:
        async with client.stream("hi") as stream:
            assert stream.partial is None
            async for _ in stream:
                pass
        async with client.stream("hi") as unread:
            async for _ in unread:
                pass

    assert stream.partial == [{"a": 1}]
    assert unread._fold._growing is None


def test_objects_come_in_sync_too() -> None:
    with asyncllm.sync.Client(backend=ScriptedBackend([said('{"value": "a', "b", '"}')])) as client:
        with client.stream("hi", output_type=str) as stream:
            assert list(stream.objects()) == ["a", "ab"]
            assert stream.partial == "ab"
        assert client.chat("hi", output_type=str).parsed == "ab"
