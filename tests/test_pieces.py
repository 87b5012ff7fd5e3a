"""Events as the chunks of a stream: what is written is read as the same answer, by any reader of lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.collect import collect
from asyncllm.dialect import ReplyStream
from asyncllm.dialect.pieces import DONE, ChunkWriter
from asyncllm.errors import RateLimitError
from asyncllm.events import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.types import Response, TokenLogprob, Usage

USAGE = UsageReport(Usage(input_tokens=3, output_tokens=2))
texts = st.text(st.characters(codec="utf-8"), max_size=20)
choices = st.integers(0, 2)
deltas = st.one_of(
    st.builds(TextDelta, texts, choices),
    st.builds(ReasoningDelta, texts, choices),
    st.builds(RefusalDelta, texts, choices),
    st.builds(LogprobsDelta, st.just((TokenLogprob("a", -0.5),)), choices),
)
batches = st.lists(st.lists(deltas, max_size=6), max_size=6)


def writer(**options: Any) -> ChunkWriter:
    return ChunkWriter(id_="c-1", model="m", created=1, **options)


def documents(written: bytes) -> list[Any]:
    lines = written.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def read(written: bytes) -> Response:
    stream = ReplyStream()
    events = stream.feed(written)
    if stream.error is not None:
        raise stream.error
    return collect([*events, *stream.close()])


def ended(events: list[Event]) -> list[Event]:
    opened = {getattr(event, "index", 0) for event in events} or {0}
    return [*events, *(Finished("stop", "stop", index) for index in sorted(opened))]


def seen(response: Response) -> list[Any]:
    return [
        (one.index, one.message.text, one.message.reasoning or None, one.message.refusal or None, one.logprobs or None)
        for one in response.choices
    ]


@given(batches)
def test_what_is_written_is_read_as_the_same_answer(given_: list[list[Event]]) -> None:
    whole = ended([event for batch in given_ for event in batch])
    ends: list[Event] = [event for event in whole if isinstance(event, Finished)]
    made = writer(include_usage=True)

    written = b"".join(made.write(batch) for batch in given_) + made.write([*ends, USAGE])
    answer = read(written + made.end())

    assert seen(answer) == seen(collect(whole))
    assert answer.usage == USAGE.usage


@given(batches)
def test_every_event_is_one_line_to_every_reader(given_: list[list[Event]]) -> None:
    made = writer()

    written = b"".join(map(made.write, given_)).decode()

    assert all(line.startswith("data: {") or not line for line in written.splitlines())
    assert len(written.splitlines()) == 2 * written.count("\n\n")


def test_tool_calls_are_read_as_they_were() -> None:
    events: list[Event] = [
        ToolCallDelta(position=0, id="a", name="f", arguments='{"x"'),
        ToolCallDelta(position=0, arguments=": 1}"),
        ToolCallDelta(id="b", name="g", arguments="{}"),
        Finished("tool_calls"),
    ]
    made = writer()

    answer = read(made.write(events) + made.end())

    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("a", "f", '{"x": 1}'), ("b", "g", "{}"),
    ]  # fmt: skip
    assert answer.finish_reason == "tool_calls"


def test_the_role_stands_in_the_first_chunk_of_each_choice_alone() -> None:
    found = documents(writer().write([TextDelta("a"), TextDelta("b"), TextDelta("c", 1)]))

    assert [one["choices"][0]["delta"] for one in found] == [
        {"role": "assistant", "content": "a"}, {"content": "b"}, {"role": "assistant", "content": "c"},
    ]  # fmt: skip


def test_probabilities_stand_beside_their_text() -> None:
    (found,) = documents(writer().write([TextDelta("a"), LogprobsDelta((TokenLogprob("a", -0.5),))]))

    assert found["choices"][0]["delta"]["content"] == "a"
    assert found["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5


def test_usage_comes_in_a_chunk_without_choices_and_only_where_it_is_asked_for() -> None:
    events: list[Event] = [Started("other", "r"), TextDelta("a"), USAGE, Finished("stop")]
    plain, asked, continuous = writer(), writer(include_usage=True), writer(include_usage=True, continuous_usage=True)

    without = documents(plain.write(events) + plain.end())
    with_it = documents(asked.write(events) + asked.end())
    always = documents(continuous.write(events) + continuous.end())

    assert not any("usage" in one for one in without)
    assert [one["usage"] for one in with_it[:-1]] == [None, None]
    assert (with_it[-1]["choices"], with_it[-1]["usage"]["total_tokens"]) == ([], 5)
    assert always[-2]["usage"]["total_tokens"] == 5


@pytest.mark.parametrize(("reason", "told"), [("length", "length"), (None, "stop")])
def test_every_stream_says_why_it_ended(reason: Any, told: str) -> None:
    found = documents(writer().write([TextDelta("a"), Finished(reason)]))

    assert found[-1]["choices"][0]["finish_reason"] == told


def test_a_text_completion_has_texts() -> None:
    made = writer(is_chat=False)

    found = documents(made.write([TextDelta("a"), LogprobsDelta((TokenLogprob("a", -0.5),)), Finished("stop")]))

    assert [(one["object"], one["choices"][0]["text"]) for one in found] == [
        ("text_completion", "a"),
        ("text_completion", ""),
    ]
    assert found[0]["choices"][0]["logprobs"]["tokens"] == ["a"]


@pytest.mark.parametrize("is_chat", [True, False])
def test_what_is_said_in_a_silence_changes_no_answer(is_chat: bool) -> None:
    made = writer(is_chat=is_chat)
    said = [
        made.keep_alive(),
        made.write([TextDelta("a")]),
        made.keep_alive(),
        made.write([Finished("stop")]),
        made.end(),
    ]

    assert read(b"".join(said)).text == "a"


def test_an_error_is_an_event_and_the_end() -> None:
    written = writer().fail(RateLimitError("too many", status=429))

    assert written.endswith(DONE)
    with pytest.raises(RateLimitError, match="too many"):
        read(written)
