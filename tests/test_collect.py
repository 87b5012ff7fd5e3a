"""The fold: nothing is lost, whatever order and shape the pieces come in."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    RefusalDelta,
    Skipped,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from asyncllm.collect import Collector, collect


def test_pieces_of_every_kind_are_joined_by_choice() -> None:
    response = collect(
        [
            Started("m", "r-1"),
            ReasoningDelta("think"),
            TextDelta("b", 1),
            TextDelta("a", 0),
            TextDelta("A", 0),
            RefusalDelta("no", 1),
            LogprobsDelta((TokenLogprob("a", -0.5),)),
            UsageReport(Usage(input_tokens=3)),
            Finished("stop", "eos", 0),
            Finished("length", "max_tokens", 1),
        ]
    )

    assert [choice.message.text for choice in response.choices] == ["aA", "b"]
    assert response.text == "aA"
    assert response.reasoning == "think"
    assert response.choices[1].message.refusal == "no"
    assert response.logprobs == (TokenLogprob("a", -0.5),)
    assert (response.model, response.request_id, response.usage.input_tokens) == ("m", "r-1", 3)
    assert [choice.finish_reason_raw for choice in response.choices] == ["eos", "max_tokens"]


def test_a_later_usage_report_replaces_field_by_field() -> None:
    response = collect(
        [UsageReport(Usage(input_tokens=3, cached_tokens=1)), UsageReport(Usage(input_tokens=3, output_tokens=5))]
    )

    assert response.usage == Usage(input_tokens=3, output_tokens=5, cached_tokens=1)


def test_parts_that_were_left_out_are_counted_and_open_no_choice() -> None:
    collector = Collector()
    collector.add([Started("m"), Skipped(0)])

    assert not collector.has_content
    collector.add([TextDelta("a"), Skipped(2), Finished("stop")])
    assert collector.response().skipped == 2
    assert collect([TextDelta("a"), Finished("stop")]).skipped == 0


PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'

SHAPES: dict[str, list[ToolCallDelta]] = {
    "index and id, then index alone": [
        ToolCallDelta(0, "a", "f"),
        ToolCallDelta(0, arguments='{"city":'),
        ToolCallDelta(1, "b", "f"),
        ToolCallDelta(0, arguments='"Paris"}'),
        ToolCallDelta(1, arguments=ROME),
    ],
    "no index at all, whole calls": [ToolCallDelta(None, "a", "f", PARIS), ToolCallDelta(None, "b", "f", ROME)],
    "no index and no id, whole calls": [ToolCallDelta(None, None, "f", PARIS), ToolCallDelta(None, None, "f", ROME)],
    "index 0 for every call": [ToolCallDelta(0, "a", "f", PARIS), ToolCallDelta(0, "b", "f", ROME)],
    "index 0 for every call, in pieces": [
        ToolCallDelta(0, "a", "f", '{"city":'),
        ToolCallDelta(0, None, None, '"Paris"}'),
        ToolCallDelta(0, "b", "f", '{"city":'),
        ToolCallDelta(0, None, None, '"Rome"}'),
    ],
    "id and name repeated on each piece": [
        ToolCallDelta(0, "a", "f", '{"city":'),
        ToolCallDelta(0, "a", "f", '"Paris"}'),
        ToolCallDelta(1, "b", "f", ROME),
    ],
    "no index, id repeated": [
        ToolCallDelta(None, "a", "f", '{"city":'),
        ToolCallDelta(None, "b", "f", '{"city":'),
        ToolCallDelta(None, "a", None, '"Paris"}'),
        ToolCallDelta(None, "b", None, '"Rome"}'),
    ],
    "the id comes late": [
        ToolCallDelta(0, None, "f", '{"city":'),
        ToolCallDelta(0, "a", None, '"Paris"}'),
        ToolCallDelta(1, None, "f", ROME),
        ToolCallDelta(1, "b"),
    ],
    "the second call comes first": [ToolCallDelta(1, "b", "f", ROME), ToolCallDelta(0, "a", "f", PARIS)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tool_calls_are_put_together_whatever_their_shape(shape: str) -> None:
    calls = collect([*SHAPES[shape], Finished("tool_calls")]).tool_calls

    assert [(call.name, call.arguments) for call in calls] == [("f", PARIS), ("f", ROME)]
    assert len({call.id for call in calls}) == 2


def test_a_call_without_a_name_is_kept_and_not_dropped() -> None:
    calls = collect([ToolCallDelta(0, "a", None, "{}"), Finished("tool_calls")]).tool_calls

    assert calls == (ToolCall("a", "", "{}"),)


@given(st.data())
def test_no_character_of_any_call_is_lost_when_pieces_of_calls_interleave(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5))
    queues = [
        [ToolCallDelta(n, f"id{n}", f"f{n}"), *(ToolCallDelta(n, arguments=letter) for letter in text)]
        for n, text in enumerate(texts)
    ]
    events: list[Event] = []
    while any(queues):
        queue = data.draw(st.sampled_from([queue for queue in queues if queue]))
        events.append(queue.pop(0))

    calls = collect(events).tool_calls

    assert {call.name: call.arguments for call in calls} == {f"f{n}": text for n, text in enumerate(texts)}


wild_pieces = st.builds(
    ToolCallDelta,
    st.none() | st.integers(-1, 2),
    st.none() | st.sampled_from(["", "a", "b"]),
    st.none() | st.sampled_from(["", "f", "g"]),
    st.text(max_size=6),
    st.integers(0, 1),
)


@given(st.lists(wild_pieces, max_size=30))
def test_pieces_of_calls_in_any_shape_lose_no_character(pieces: list[ToolCallDelta]) -> None:
    reply = collect(pieces)

    for choice in reply.choices:
        sent = "".join(piece.arguments for piece in pieces if piece.index == choice.index)
        assert sorted("".join(call.arguments for call in choice.message.tool_calls)) == sorted(sent)


def test_an_argument_cut_inside_an_escape_is_joined_before_it_is_parsed() -> None:
    text = '{"a": "\\\\u00e9\\\\n\\u2713"}'

    for cut in range(len(text) + 1):
        (call,) = collect([ToolCallDelta(0, "c", "f", text[:cut]), ToolCallDelta(0, None, "f", text[cut:])]).tool_calls
        assert call.parse_arguments() == {"a": "\\u00e9\\n✓"}


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 3)), max_size=40), st.randoms())
def test_folding_in_batches_of_any_size_gives_the_same(pieces: list[tuple[str, int]], random: object) -> None:
    events: list[Event] = [TextDelta(text, index) for text, index in pieces]
    in_batches = Collector()
    start = 0
    while start < len(events):
        size = random.randint(1, 7)  # type: ignore[attr-defined]
        in_batches.add(events[start : start + size])
        start += size

    assert in_batches.response() == collect(events)
    assert in_batches.count == len(events)


def test_a_reply_is_complete_only_when_every_choice_has_ended() -> None:
    collector = Collector()

    states = []
    for event in (TextDelta("a", 0), TextDelta("b", 1), Finished("stop", None, 0), Finished("stop", None, 1)):
        collector.add([event])
        states.append(collector.is_complete)

    assert states == [False, False, False, True]
    assert not Collector().is_complete


def test_the_fold_is_linear_in_the_number_of_pieces() -> None:
    def seconds(count: int) -> float:
        started = time.process_time()
        collect([TextDelta("token ")] * count)
        return time.process_time() - started

    seconds(1000)

    # Ten times the pieces take about ten times as long; a quadratic fold would take a hundred times as long.
    assert seconds(400_000) < 40 * max(seconds(40_000), 0.002)
