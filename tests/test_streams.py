"""Streamed replies: what servers send under the name of OpenAI's format, and what is made of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    ResponseValidationError,
    Skipped,
    Started,
    StreamInterrupted,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from asyncllm.collect import collect
from asyncllm.dialect import ReplyStream, read_reply
from chunks import HELLO, HELLO_CHUNKS, HELLO_EVENTS, delta, ndjson, read_stream, sse


def test_a_stream_cut_anywhere_gives_the_same_events() -> None:
    for cut in range(len(HELLO) + 1):
        assert read_stream(HELLO, cut) == HELLO_EVENTS


@given(st.lists(st.integers(0, len(HELLO)), max_size=30))
def test_a_stream_cut_everywhere_gives_the_same_events(cuts: list[int]) -> None:
    assert read_stream(HELLO, *cuts) == HELLO_EVENTS


@pytest.mark.parametrize("ending", ["\r\n\r\n", "\r\r"])
def test_line_endings_make_no_difference(ending: str) -> None:
    data = sse(delta(content="Hel"), delta(content="lo ✓"), delta(finish="stop"), "[DONE]", ending=ending)

    for cut in range(len(data) + 1):
        assert read_stream(data, cut) == HELLO_EVENTS


def test_a_stream_that_stops_anywhere_before_its_end_is_interrupted() -> None:
    # From the finish reason on, a clean end of the body is an end; before it, it never is.
    data = sse(delta(content="a"), delta(content="b"), delta(finish="stop"))

    for end in range(len(data)):
        with pytest.raises(StreamInterrupted):
            read_stream(data[:end])
    assert read_stream(data)[-1] == Finished("stop", "stop")


def test_a_stream_that_stops_in_the_middle_of_an_event_is_interrupted_after_its_finish_reason_too() -> None:
    whole = sse(delta(content="a"), delta(finish="stop"))
    usage = b"event: message\n" + sse({"choices": [], "usage": {"prompt_tokens": 1}})

    for end in range(1, len(usage)):
        with pytest.raises(StreamInterrupted, match="in the middle of an event"):
            read_stream(whole + usage[:end])
    for clean in (b"", b": ping", b": ping\n", b"\n", b"\r\n"):
        assert read_stream(whole + clean)[-1] == Finished("stop", "stop")


@pytest.mark.parametrize("choices", [[], None])
def test_done_without_any_choice_is_not_an_answer(choices: list[object] | None) -> None:
    for data in (sse("[DONE]"), sse({"id": "r", "model": "m", "choices": choices}, "[DONE]"), b"data: [DONE]"):
        with pytest.raises(StreamInterrupted, match="without any choice"):
            read_stream(data)


TERMINAL = {
    "no space": b"data:[DONE]\n\n",
    "no blank line": b"data: [DONE]\n",
    "no line end": b"data: [DONE]",
    "padded": b"data: [DONE] \n\n",
}


@pytest.mark.parametrize("name", TERMINAL)
def test_done_is_taken_in_every_form_seen(name: str) -> None:
    data = sse(delta(content="a")) + TERMINAL[name]

    assert read_stream(data) == [Started("m", "r"), TextDelta("a"), Finished(None, None)]


def test_what_follows_done_is_not_read() -> None:
    assert read_stream(HELLO + sse(delta(content="ghost"))) == HELLO_EVENTS


KEEP_ALIVES = [
    b": OPENROUTER PROCESSING\n\n",
    b": ping\n\n",
    b"data:\n\n",
    b"data: : ping\n\n",
    b"data: ping\n\n",
    b"data: keep-alive\n\n",
    b"data: KEEPALIVE\n\n",
    b"data: : OPENROUTER PROCESSING\n\n",
    b"data: : ping - 2026-01-01 12:00:00+00:00\n\n",
    b": ping - 2026-01-01 12:00:00+00:00\n\n",
    b"event: ping\ndata: 1735689600\n\n",
    b'event: ping\ndata: {"type": "ping"}\n\n',
    b"event: heartbeat\ndata: alive\n\n",
    b"data: {}\n\n",
    b"event: ping\n\n",
    b"id: 1\n\n",
    b"retry: 10\n\n",
]


@pytest.mark.parametrize("noise", KEEP_ALIVES)
def test_keep_alives_are_not_events(noise: bytes) -> None:
    pieces = HELLO.split(b"\n\n")[:-1]

    data = noise + b"".join(piece + b"\n\n" + noise for piece in pieces)

    assert read_stream(data) == HELLO_EVENTS


def test_usage_is_taken_wherever_it_comes() -> None:
    data = sse(
        {"id": "r", "model": "m", "choices": [], "prompt_filter_results": []},
        {**delta(content="a"), "usage": {"prompt_tokens": 1}},
        {**delta(finish="stop"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"choices": None, "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        "[DONE]",
    )

    events = read_stream(data)

    assert [event.usage.output_tokens for event in events if isinstance(event, UsageReport)] == [None, 1, 2]
    assert collect(events).usage == Usage(input_tokens=1, output_tokens=2)


def test_text_after_a_finish_reason_still_counts_and_the_last_reason_wins() -> None:
    events = read_stream(sse(delta(content="a", finish="stop"), delta(content="b"), delta(finish="length"), "[DONE]"))

    assert collect(events).text == "ab"
    assert [event for event in events if isinstance(event, Finished)] == [Finished("length", "length")]


def test_choices_of_n_answers_keep_apart() -> None:
    events = read_stream(
        sse(delta(0, content="a"), delta(1, content="b"), delta(1, "length"), delta(0, "stop", content="A"))
    )

    assert [choice.message.text for choice in collect(events).choices] == ["aA", "b"]
    with pytest.raises(StreamInterrupted, match="1 choices unfinished"):
        read_stream(sse(delta(0, content="a"), delta(1, content="b"), delta(0, "stop")))


def test_reasoning_and_tool_calls_and_logprobs_stream() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    chunk = delta(content="a")
    chunk["choices"][0]["logprobs"] = {"content": [token]}

    events = read_stream(
        sse(
            delta(reasoning="hm"),
            delta(reasoning_content="m"),
            chunk,
            delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
            delta(finish="tool_calls"),
            "[DONE]",
        )
    )

    assert events[1:-1] == [
        ReasoningDelta("hm"),
        ReasoningDelta("m"),
        TextDelta("a"),
        LogprobsDelta((asyncllm.TokenLogprob("a", -0.5, (97,)),)),
        ToolCallDelta(0, "c", "f"),
        ToolCallDelta(0, arguments="{}"),
    ]


def test_a_character_split_over_two_chunks_is_made_whole() -> None:
    data = b"".join(
        b'data: {"id":"r","model":"m","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text
        for text in (b"a\\ud83d", b"\\ude00b", b"\\ud83d!")
    )

    events = read_stream(data + b"data: [DONE]\n\n")

    assert collect(events).text == "a😀b\ufffd!"


@pytest.mark.parametrize("first", [{"choices": [], "model": "", "id": ""}, {"type": "ping"}, {"choices": None}])
def test_who_answers_is_told_by_the_first_chunk_that_knows(first: dict[str, Any]) -> None:
    assert read_stream(sse({**first, "prompt_filter_results": [{}]}) + HELLO) == HELLO_EVENTS


@pytest.mark.parametrize("word", ["null", "", None])
def test_no_finish_reason_is_none_however_it_is_spelt(word: str | None) -> None:
    with pytest.raises(StreamInterrupted):
        read_stream(sse(delta(content="a", finish=word)))
    assert read_stream(sse(delta(content="a", finish=word), "[DONE]"))[-1] == Finished(None, None)


CUT = {
    "content": {"delta": {"content": "%s"}},
    "reasoning": {"delta": {"reasoning_content": "%s"}},
    "refusal": {"delta": {"refusal": "%s"}},
    "text": {"text": "%s"},
    "arguments": {"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "%s"}}]}},
}


def in_chunks(field: str, *pieces: str, other: str = "") -> bytes:
    """A stream of `pieces`, as JSON text, in one field of choice 0, with a chunk of choice 1 after each."""
    lines: list[str] = []
    for piece in pieces:
        chunk = {"id": "r", "model": "m", "choices": [CUT[field]]}
        lines.append(json.dumps(chunk).replace("%s", piece))
        if other:
            lines.append(json.dumps(delta(1, content=other)))
    return sse(*lines, "[DONE]")


def said(events: list[Event], index: int = 0) -> str:
    """What choice `index` amounts to, in whichever field it came."""
    message = next(choice.message for choice in collect(events).choices if choice.index == index)
    arguments = "".join(call.arguments for call in message.tool_calls)
    return message.text + (message.reasoning or "") + (message.refusal or "") + arguments


@pytest.mark.parametrize("field", CUT)
def test_a_character_cut_in_two_is_made_whole_in_every_field(field: str) -> None:
    assert said(read_stream(in_chunks(field, "a\\ud83d", "\\ude00b"))) == "a😀b"
    assert said(read_stream(in_chunks(field, "a\\ud83d", "b"))) == "a\ufffdb"
    assert said(read_stream(in_chunks(field, "a\\ud83d", "b", "\\ude00"))) == "a\ufffdb\ufffd"
    assert said(read_stream(in_chunks(field, "\\ud83d", "\\ude00\\ud83d", "\\ude00"))) == "😀😀"
    assert said(read_stream(in_chunks(field, "\\ude00", "x\\ud83dy"))) == "\ufffdx\ufffdy"


@pytest.mark.parametrize("field", CUT)
def test_a_character_whose_second_half_never_comes_is_replaced(field: str) -> None:
    assert said(read_stream(in_chunks(field, "a", "b\\ud83d"))) == "ab\ufffd"


@pytest.mark.parametrize("field", CUT)
def test_a_character_is_made_whole_across_chunks_of_another_choice(field: str) -> None:
    events = read_stream(in_chunks(field, "a\\ud83d", "\\ude00b", other="x"))

    assert (said(events, 0), said(events, 1)) == ("a😀b", "xx")


def test_what_is_decoded_for_half_a_character_is_decoded_fast_again_after_it() -> None:
    stream = ReplyStream()
    usual = stream.feed(sse(delta(content="a"))) and stream._decode

    stream.feed(in_chunks("content", "\\ud83d").removesuffix(sse("[DONE]")))
    held = stream._decode
    stream.feed(in_chunks("content", "\\ude00").removesuffix(sse("[DONE]")))

    assert held is not usual
    assert stream._decode is usual


ODD: dict[str, Any] = {
    "a byte that is no UTF-8": (b'{"content":"a\xffb"}', "a\ufffdb"),
    "half a character anywhere else": (b'{"content":"ab","role":"\\ud83d"}', "ab"),
    "a null role": (b'{"content":"ab","role":null}', "ab"),
    "a list of parts": (b'{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}', "ab"),
    "no parts": (b'{"content":"ab","tool_calls":[]}', "ab"),
    "an empty object for a list": (b'{"content":"ab","tool_calls":{}}', "ab"),
    "reasoning that is an object": (b'{"content":"ab","reasoning":{"effort":1}}', "ab"),
    "a refusal that is false": (b'{"content":"ab","refusal":false}', "ab"),
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_field_does_not_cost_a_chunk(name: str) -> None:
    odd, text = ODD[name]
    chunk = b'data: {"id":"r","model":"m","choices":[{"index":0,"delta":%b}]}\n\n' % odd

    assert collect(read_stream(chunk + sse("[DONE]"))).text == text


@pytest.mark.parametrize(
    "odd",
    [
        b'"index":"0"',
        b'"index":0.0',
        b'"index":null',
        b'"index":0,"logprobs":{"content":[{"token":"a","logprob":NaN}]}',
        b'"index":0,"logprobs":[]',
        b'"index":0,"logprobs":{"content":[{"token":5}]}',
        b'"index":0,"logprobs":{"content":[{"token":"\\udc00","logprob":-1e999}]}',
        b'"index":0,"finish_reason":0',
        b'"index":0,"text":null,"message":[]',
    ],
)
def test_one_odd_field_beside_the_text_does_not_cost_it(odd: bytes) -> None:
    chunk = b'data: \xef\xbb\xbf{"id":5,"model":null,"choices":[{"delta":{"content":"a"},%b}],"usage":"much"}\n\n' % odd

    reply = collect(read_stream(chunk + sse("[DONE]")))

    assert (reply.text, reply.request_id, reply.usage) == ("a", "5", Usage())


@pytest.mark.parametrize("content", ["5", "true", "{}", "[{}]", '[{"type":"image"}]', '["a"]', '{"text":"a"}'])
def test_content_of_another_type_is_refused_and_never_guessed_at(content: str) -> None:
    with pytest.raises(ResponseValidationError, match="content") as caught:
        read_stream(sse({"choices": [{"index": 0, "delta": {"content": json.loads(content)}}]}))

    assert caught.value.maybe_billed


def test_named_events_carry_chunks_like_any_other() -> None:
    # DashScope's native framing: id, event and status before each data line.
    data = b"".join(
        b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n" % (number, json.dumps(chunk).encode())
        for number, chunk in enumerate(HELLO_CHUNKS, 1)
    )

    for cut in range(len(data) + 1):
        assert read_stream(data, cut) == HELLO_EVENTS


def test_a_chunk_that_comes_twice_is_two_pieces() -> None:
    # They carry no number, and a model does say the same token twice.
    assert collect(read_stream(sse(delta(content="ha"), delta(content="ha"), delta(finish="stop")))).text == "haha"


# -- errors ------------------------------------------------------------------------------------------------------


ERRORS = [
    (b'data: {"error":{"message":"boom","type":"server_error","code":500}}\n\n', asyncllm.InternalServerError),
    (b'data: {"error":"boom"}\n\n', asyncllm.InternalServerError),
    (b'data: {"object":"error","message":"boom","code":400}\n\n', asyncllm.BadRequestError),
    (b'error: {"code":429,"message":"boom"}\n\n', asyncllm.RateLimitError),
    (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"boom"}}\n\n',
        asyncllm.OverloadedError,
    ),
    (b"event: error\ndata: boom\n\n", asyncllm.InternalServerError),
    (b'event: error\ndata: "boom"\n\n', asyncllm.InternalServerError),
    (b'event: error\ndata: {"message":"boom","choices":[]}\n\n', asyncllm.InternalServerError),
    (b'event: error\ndata: boom {"choices":[{"delta":{"content":"b"}}]}\n\n', asyncllm.InternalServerError),
    (b'error: {"code":429,"message":"boom"}\n\ndata: [DONE]\n\n', asyncllm.RateLimitError),
    (b'data: {"error":{"message":"boom \\ud83d"}}\n\n', asyncllm.InternalServerError),
    (
        b'data: {"error":{"message":"boom"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n',
        asyncllm.InternalServerError,
    ),
    (b'data: {"text":"boom","error_code":50001}\n\ndata: [DONE]\n\n', asyncllm.InternalServerError),
    (b'data: {"detail":"boom"}\n\ndata: [DONE]\n\n', asyncllm.InternalServerError),
    (b'data: {"code":"Throttling","message":"boom","choices":[]}\n\n', asyncllm.InternalServerError),
    (b'data: {"type":"error","code":"rate_limit_exceeded","message":"boom"}\n\n', asyncllm.RateLimitError),
]


@pytest.mark.parametrize(("frame", "kind"), ERRORS, ids=range(len(ERRORS)))
def test_an_error_frame_raises_what_it_means_and_keeps_what_came_before(frame: bytes, kind: type[Exception]) -> None:
    stream = ReplyStream()

    events = stream.feed(sse(delta(content="a")) + frame)

    assert events == [Started("m", "r"), TextDelta("a")]
    assert type(stream.error) is kind
    assert "boom" in str(stream.error)


@pytest.mark.parametrize(
    "frame",
    [
        b"event: error\ndata\n\n",
        b"event: error\ndata: {}\n\n",
        b"event: error\ndata: [DONE]\n\n",
        b"event: error\ndata: ping\n\n",
        b'data: {"error":{}}\n\n',
        b'data: {"error":500}\n\n',
        b'data: {"error":true,"choices":[]}\n\n',
    ],
)
def test_an_error_without_words_is_an_error(frame: bytes) -> None:
    with pytest.raises(asyncllm.APIStatusError) as caught:
        read_stream(sse(delta(content="a", finish="stop")) + frame + sse("[DONE]"))

    assert caught.value.retryable


@pytest.mark.parametrize("nothing", [None, False, "", {}, []])
def test_an_empty_error_beside_choices_is_none(nothing: object) -> None:
    assert read_stream(sse(*({**chunk, "error": nothing} for chunk in HELLO_CHUNKS), "[DONE]")) == HELLO_EVENTS


def test_the_servers_own_string_is_kept_word_for_word() -> None:
    with pytest.raises(asyncllm.InternalServerError) as caught:
        read_stream(sse({"error": "CUDA error: out of memory"}))

    assert caught.value.message == "CUDA error: out of memory"


def test_a_chunk_that_cannot_be_read_ends_the_stream_by_position_and_not_by_content() -> None:
    stream = ReplyStream()

    events = stream.feed(sse(delta(content="a"), '{"choices": canary'))

    assert events[-1] == TextDelta("a")
    assert isinstance(stream.error, ResponseValidationError)
    assert "chunk 1" in str(stream.error)
    assert "canary" not in str(stream.error)


def test_an_error_inside_a_reply_repeats_neither_key_nor_prompt() -> None:
    frame = b'{"error":{"message":"key sk-canary saw my secret prompt"}}'
    sent = b'{"messages":[{"role":"user","content":"my secret prompt"}]}'
    stream = ReplyStream(sent=sent, secrets=("sk-canary",))

    stream.feed(b"data: " + frame + b"\n\n")
    with pytest.raises(asyncllm.InternalServerError) as caught:
        read_reply(frame, sent=sent, secrets=("sk-canary",))

    assert str(stream.error) == str(caught.value) == "key *** saw …"


BAD_CHUNKS = {
    "no JSON": "{",
    "another type": "[]",
    "choices that are none": '{"choices":5}',
    "too deep": '{"error":' * 100_000,
    "a number too long": '{"choices":[{"index":%s}]' % ("9" * 5000),
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_bad_chunk_ends_the_stream_or_is_left_out_and_counted(name: str) -> None:
    data = sse(HELLO_CHUNKS[0], HELLO_CHUNKS[1], BAD_CHUNKS[name], *HELLO_CHUNKS[2:], "[DONE]")

    with pytest.raises(ResponseValidationError, match="chunk 2: ") as caught:
        read_stream(data)
    events = read_stream(data, skip_bad=True)

    assert caught.value.body == BAD_CHUNKS[name].encode()[:65536]
    assert caught.value.maybe_billed
    assert events == [*HELLO_EVENTS[:2], Skipped(2), *HELLO_EVENTS[2:]]
    assert collect(events).skipped == 1


def test_an_error_is_never_left_out() -> None:
    with pytest.raises(asyncllm.InternalServerError, match="boom"):
        read_stream(sse(delta(content="a"), "{", {"error": "boom"}, "[DONE]"), skip_bad=True)


# -- servers that repeat all of the answer in each chunk ---------------------------------------------------------


def test_totals_become_pieces() -> None:
    def call(arguments: str) -> dict[str, Any]:
        return {"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}}

    events = read_stream(
        sse(
            delta(reasoning_content="h"),
            delta(reasoning_content="hm", content=""),
            delta(1, content="x"),
            delta(reasoning_content="hm", content="Hel"),
            delta(content="Hello"),
            delta(1, content="xy"),
            delta(content="Hello", tool_calls=[{"index": 1, "id": "d", "function": {"name": "g", "arguments": ""}}]),
            delta(content="Hello", tool_calls=[call('{"a"')]),
            delta(content="Hello", tool_calls=[call('{"a":1}')]),
            delta(content="Hello", tool_calls=[call('{"a":1}')], finish="stop"),
            delta(1, content="xy", finish="stop"),
        ),
        cumulative=True,
    )

    reply = collect(events)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["x", "Hel", "lo", "y"]
    assert (reply.text, reply.reasoning, reply.choices[1].message.text) == ("Hello", "hm", "xy")
    assert reply.tool_calls == (ToolCall("c", "f", '{"a":1}'), ToolCall("d", "g", ""))


def test_totals_in_whole_messages_are_read_too() -> None:
    data = sse(
        *(
            {"choices": [{"message": {"content": text}, "finish_reason": word}]}
            for text, word in (("a", "null"), ("ab", "null"), ("ab", "stop"))
        )
    )

    assert read_stream(data, cumulative=True)[1:] == [TextDelta("a"), TextDelta("b"), Finished("stop", "stop")]


def test_a_total_that_does_not_repeat_the_answer_is_an_error_after_what_came() -> None:
    stream = ReplyStream(cumulative=True)

    events = stream.feed(sse(delta(content="canary"), delta(content="x"), delta(content="xy")))

    assert events == [Started("m", "r"), TextDelta("canary")]
    assert isinstance(stream.error, ResponseValidationError)
    assert "canary" not in str(stream.error)


def test_a_total_may_be_cut_in_the_middle_of_a_character() -> None:
    events = read_stream(in_chunks("content", "a", "a\\ud83d", "a\\ud83d\\ude00", "a😀b"), cumulative=True)

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "😀", "b"]


# -- a chunk a line ----------------------------------------------------------------------------------------------


LINES = {
    "plain": ndjson(*HELLO_CHUNKS),
    "done": ndjson(*HELLO_CHUNKS, "[DONE]"),
    "crlf": ndjson(*HELLO_CHUNKS, ending="\r\n"),
    "blank lines": ndjson(*HELLO_CHUNKS, ending="\n\n \r\n"),
    "no last line end": ndjson(*HELLO_CHUNKS).rstrip(),
    "one line": ndjson(*HELLO_CHUNKS, ending=" "),
    "a byte order mark": b"\xef\xbb\xbf" + ndjson(*HELLO_CHUNKS),
    "not escaped": ndjson(*(json.dumps(chunk, ensure_ascii=False) for chunk in HELLO_CHUNKS)),
}


@pytest.mark.parametrize("name", LINES)
def test_chunks_that_come_one_a_line_are_the_same_events_at_every_cut(name: str) -> None:
    data = LINES[name]

    for cut in range(len(data) + 1):
        assert read_stream(data, cut, lines=True) == HELLO_EVENTS


def test_lines_that_stop_anywhere_before_their_end_are_interrupted() -> None:
    data = ndjson(*HELLO_CHUNKS)

    for end in range(len(data) - 1):
        with pytest.raises(StreamInterrupted):
            read_stream(data[:end], lines=True)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_last_line_that_is_cut_is_an_interruption_and_no_bad_chunk(skip_bad: bool) -> None:
    with pytest.raises(StreamInterrupted, match="in the middle of a chunk"):
        read_stream(ndjson(*HELLO_CHUNKS) + b'{"choices":[],"usa', lines=True, skip_bad=skip_bad)


def test_an_error_line_is_an_error() -> None:
    with pytest.raises(asyncllm.RateLimitError, match="slow down"):
        read_stream(ndjson(*HELLO_CHUNKS, {"error": {"message": "slow down", "code": 429}}), lines=True)
    with pytest.raises(asyncllm.InternalServerError, match="boom"):
        read_stream(ndjson(HELLO_CHUNKS[1]) + b'{"error":"boom"}', lines=True)


# -- cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("cumulative", [False, True])
def test_reading_is_linear_in_the_number_of_chunks(lines: bool, cumulative: bool) -> None:
    write = ndjson if lines else sse

    def seconds(count: int) -> float:
        piece = write(delta(content="token")) * 50
        stream = ReplyStream(lines=lines, cumulative=cumulative)
        started = time.process_time()
        for _ in range(count // 50):
            stream.feed(piece)
        return time.process_time() - started

    seconds(500)

    assert seconds(20_000) < 40 * max(seconds(2_000), 0.002)
