"""The decoders against inputs by the ten thousand.

A short run is part of every test run and always the same; the long one (`-m slow`) draws a seed, which it prints and
which `FUZZ_SEED` sets. What fails names its seed and the number of its case.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from asyncllm import Event
from asyncllm.collect import Collector
from asyncllm.dialect import ReplyStream, read_embeddings, read_models, read_reply
from asyncllm.errors import AsyncLLMError, EventTooLargeError
from asyncllm.ndjson import NDJSONDecoder
from asyncllm.sse import SSEDecoder
from chunks import HELLO_CHUNKS, delta, ndjson, sse
from sse_reference import reference, reference_data


def runs(quick: int, long: int) -> pytest.MarkDecorator:
    """How many cases a test goes through, in the short run and in the long one."""
    slowly = (pytest.mark.slow, pytest.mark.timeout(900))
    return pytest.mark.parametrize("count", [quick, pytest.param(long, marks=slowly)])


def cases(count: int) -> Iterator[tuple[str, random.Random]]:
    """For each case what to call it, and where its randomness comes from."""
    seed = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().randrange(2**32) if count > 20_000 else 1)
    print(f"FUZZ_SEED={seed}")
    for number in range(count):
        yield f"case {number} of FUZZ_SEED={seed}", random.Random(f"{seed} {number}")


def pieces_of(data: bytes, rng: random.Random) -> list[bytes]:
    """`data` in pieces: whole, of one size, or of any."""
    match rng.randrange(4):
        case 0:
            return [data]
        case 1:
            size = rng.choice((1, 2, 3, 7, 64))
            return [data[at : at + size] for at in range(0, len(data), size)]
        case _:
            cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(8)))
            return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def mutate(data: bytes, rng: random.Random, words: list[bytes]) -> bytes:
    """`data` with a few bytes changed, lost, doubled, moved or put in."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 1, 2, 5, 20)))
        match rng.randrange(5):
            case 0:
                changed[at:at] = rng.choice(words)
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end]
            case 3:
                changed[at:end] = rng.randbytes(end - at)
            case _:
                changed[at:at] = bytes([rng.randrange(256)])
    return bytes(changed)


# -- server-sent events ------------------------------------------------------------------------------------------


NAMES = (
    [b"data"] * 8 + [b"id", b"event", b"retry"] * 2 + [b"", b"Data", b" data", b"data ", b"data\0", b"dat", b"error"]
)
SEPARATORS = [b":", b": ", b": ", b":  ", b"", b" :", b":\t", b"::", b":\xc2\xa0"]
VALUES = [
    *[b"", b"x", b" ", b"{}", b"[DONE]", b": ", b"data: x", "héllo 🙂".encode(), b"\xef\xbb\xbf", b"0", b"7", b"02000"],
    *[b"123456789", b"-5", b"1_000", b"+5", "١٢".encode(), b"\0", b"a\0b", b"\xc2\xa0", b"\xc2\x85", b"\xe2\x80\xa8"],
    *[b"\x0b\x0c\x1c", b"\xff", b"\xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf0\x9f\x99", b"\xf4\x90\x80\x80"],
]
ENDINGS = [b"\n", b"\n", b"\r", b"\r\n", b"\n\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"]
OPENINGS = [b"", b"", b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xef\xbb", b"\xef", b"\n", b"\r"]
WHOLE = [b"data: {}\n\n", b'data: {"a":1}\r\n\r\n', b": ping\n\n", b"data: x\ndata: y\n\n", b"event: x\n", b"id: 7\n"]
WORDS = [b"\r", b"\n", b"\r\n", b":", b" ", b"\0", b"\xef\xbb\xbf", b"data: ", b"id:", b"event:", b"retry: 5", b"\n\n"]


def event_stream(rng: random.Random) -> bytes:
    parts = [rng.choice(OPENINGS)]
    for _ in range(rng.randrange(14)):
        if rng.random() < 0.3:
            parts.append(rng.choice(WHOLE))
        else:
            parts += (rng.choice(NAMES), rng.choice(SEPARATORS), rng.choice(VALUES), rng.choice(ENDINGS))
    return b"".join(parts)


@runs(4_000, 100_000)
def test_event_streams_decode_as_the_reference_does(count: int) -> None:
    started_s = time.process_time()
    for name, rng in cases(count):
        data = event_stream(rng)
        if rng.random() < 0.5:
            data = mutate(data, rng, WORDS)
        decoder = SSEDecoder()
        events = [event for piece in pieces_of(data, rng) for event in decoder.feed(piece)]

        expected = reference(data)
        assert [(event.type, event.text, event.id) for event in events] == expected.events, f"{name}: {data!r}"
        assert [event.data for event in events] == reference_data(data), f"{name}: {data!r}"
        assert decoder.last_event_id == expected.last_event_id, f"{name}: {data!r}"
        # The reference reads nine digits of a number that may have more.
        assert str(decoder.retry_ms)[:9] == str(expected.retry_ms)[:9], f"{name}: {data!r}"
    assert time.process_time() - started_s < 60 * max(count / 100_000, 0.5)


# -- lines -------------------------------------------------------------------------------------------------------


LINE_WORDS = [
    b"\n",
    b"\r\n",
    b"{",
    b"}",
    b"}{",
    b'"',
    b"\\",
    b"[",
    b" ",
    b"\xef\xbb\xbf",
    b"\xe2\x9c",
    b"NaN",
    b"1e999",
]


@runs(5_000, 50_000)
def test_lines_of_any_kind_lose_nothing_and_raise_nothing(count: int) -> None:
    for name, rng in cases(count):
        data = ndjson(*(value(rng) for _ in range(rng.randrange(6))), ending=rng.choice(["\n", "\r\n", "\n\n", " "]))
        if rng.random() < 0.7:
            data = mutate(data, rng, LINE_WORDS)
        limit = rng.choice([None, None, 10, 100])
        whole, in_pieces = ([data], pieces_of(data, rng))

        outcome = lines_of(in_pieces, limit)

        assert outcome == lines_of(whole, limit), f"{name}: {data!r}"
        if outcome is not None:
            lost = data.removeprefix(b"\xef\xbb\xbf").translate(None, b" \t\r\n")
            assert b"".join(outcome).translate(None, b" \t\r") == lost, f"{name}: {data!r}"


def lines_of(pieces: list[bytes], limit: int | None) -> list[bytes] | None:
    decoder = NDJSONDecoder(max_line_bytes=limit)
    try:
        documents = [document for piece in pieces for document in decoder.feed(piece)]
        return documents + decoder.close()
    except EventTooLargeError:
        return None


# -- chunks and whole replies ------------------------------------------------------------------------------------


TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.5}]}
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}
CHUNKS: list[dict[str, Any]] = [
    *HELLO_CHUNKS,
    delta(1, content="other"),
    delta(reasoning_content="hm", refusal=None),
    delta(tool_calls=[CALL]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": "more"}}]),
    {"choices": [], "usage": USAGE},
    {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [TOKEN]}}]},
    {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [{"b": -2}]}}]},
    {"error": {"message": "boom", "type": "server_error", "code": 500, "param": None}},
    {"object": "error", "message": "boom", "code": 400},
    {"detail": [{"loc": ["body", "model"], "msg": "missing"}]},
]
REPLIES: list[dict[str, Any]] = [
    *CHUNKS,
    {
        "id": "r",
        "model": "m",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "tool_calls": [CALL]},
                "finish_reason": "stop",
                "logprobs": {"content": [TOKEN]},
            }
        ],
        "usage": USAGE,
    },
    {"data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": "AACAPwAAAD8="}], "usage": USAGE},
    {"data": [{"id": "a", "owned_by": "b", "max_model_len": 5}]},
]
ODD: list[Any] = [
    *[
        None,
        True,
        False,
        0,
        1,
        -1,
        2**31,
        2**63,
        10**40,
        0.5,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "null",
        "stop",
        "0",
    ],
    *["\ud83d", "\ude00", "a\ud83d", "\ude00b", "\x00", "²", "ééé", "x" * 50, [], {}, [None], [[]], [{}], {"a": 1}],
    *[{"text": "\ud83d"}, {"message": {"message": 5}}, "AAA=", "!"],
]
BYTES = [
    b"\xff",
    b"\\ud83d",
    b"\\u0000",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 30,
    b"null",
    b"{",
    b"}",
    b"[",
    b'"',
    b",",
]
ENDS = [b"", b"data: [DONE]\n\n", b"data: [DONE]", b"event: error\n", b"error: x\n\n", b": ping\n\n", b"data: {"]


def value(rng: random.Random) -> Any:
    """Any JSON value, most often something like a chunk."""
    return odd(rng.choice(REPLIES), rng) if rng.random() < 0.8 else rng.choice(ODD)


def odd(document: Any, rng: random.Random) -> Any:
    """`document` with some of its values, names or places changed."""
    if rng.random() < 0.06:
        return rng.choice(ODD)
    if isinstance(document, dict):
        items = list(cast("dict[str, Any]", document).items())
        if items and rng.random() < 0.05:
            items.pop(rng.randrange(len(items)))
        if rng.random() < 0.05:
            items.append((rng.choice(FIELDS), rng.choice(ODD)))
        return {name: odd(item, rng) for name, item in items}
    if isinstance(document, list):
        many = cast("list[Any]", document) * rng.choice((1, 1, 1, 1, 2))
        return [odd(item, rng) for item in many]
    return document


FIELDS = [
    *[
        "choices",
        "delta",
        "message",
        "content",
        "index",
        "finish_reason",
        "logprobs",
        "usage",
        "error",
        "object",
        "code",
    ],
    *["detail", "status", "tool_calls", "function", "arguments", "name", "id", "model", "text", "refusal", "reasoning"],
    *["bytes", "top_logprobs", "token", "data", "embedding", "type", "\ud83d"],
]


def check_events(events: list[Event]) -> None:
    """What a caller does with events: fold them, write them down, send texts on."""
    collector = Collector()
    collector.add(events)
    response = collector.response()
    msgspec.json.encode(events)
    msgspec.json.encode(response)
    repr(response)


@runs(5_000, 50_000)
def test_chunks_of_any_kind_are_events_or_an_error_of_ours_at_every_cut(count: int) -> None:
    for name, rng in cases(count):
        lines = rng.random() < 0.3
        write: Callable[..., bytes] = ndjson if lines else sse
        data = write(*(odd(rng.choice(CHUNKS), rng) for _ in range(rng.randrange(6))))
        data = mutate(data, rng, BYTES) if rng.random() < 0.5 else data
        data += rng.choice(ENDS)
        options = {"lines": lines, "cumulative": rng.random() < 0.2, "skip_bad": rng.random() < 0.3}
        try:
            events, error = outcome_of([data], **options)
            again = outcome_of(pieces_of(data, rng), **options)
            check_events(events)
        except Exception as failure:
            raise AssertionError(f"{name}: {options} {data!r}") from failure

        assert again == (events, error), f"{name}: {options} {data!r}"


def outcome_of(
    pieces: list[bytes], *, lines: bool, cumulative: bool, skip_bad: bool
) -> tuple[list[Event], tuple[str, str] | None]:
    """The events of a stream, and the class and text of the error that it ends with."""
    stream = ReplyStream(sent=b'{"prompt":"a secret"}', lines=lines, cumulative=cumulative, skip_bad=skip_bad)
    events: list[Event] = []
    try:
        for piece in pieces:
            events += stream.feed(piece)
            if stream.error is not None:
                raise stream.error
            if stream.done:
                return events, None
        events += stream.close()
    except AsyncLLMError as error:
        return events, (type(error).__name__, str(error))
    return events, None


@runs(5_000, 50_000)
def test_replies_of_any_kind_are_read_or_refused_with_an_error_of_ours(count: int) -> None:
    for name, rng in cases(count):
        document = odd(rng.choice(REPLIES), rng)
        body = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
        body = mutate(body, rng, BYTES) if rng.random() < 0.5 else body
        try:
            readers: list[Callable[[], object]] = [
                lambda: check_events(read_reply(body)),  # noqa: B023  # called in this turn of the loop
                lambda: read_embeddings(body, count=2),  # noqa: B023
                lambda: read_models(body),  # noqa: B023
            ]
            for reader in readers:
                try:
                    reader()
                except AsyncLLMError as error:
                    repr(error)
        except Exception as failure:
            raise AssertionError(f"{name}: {body!r}") from failure
