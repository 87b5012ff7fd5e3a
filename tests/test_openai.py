"""The openai backend over real sockets: what servers send, byte for byte, and what a caller gets of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import asyncllm
from asyncllm import (
    APIError,
    Client,
    ConfigError,
    Event,
    ProtocolError,
    ResponseValidationError,
    Skipped,
    StreamInterrupted,
    TextDelta,
)
from asyncllm.testing import Chunk, FaultyServer, Fin, Pause, Rst, Slice, Stall, Status
from asyncllm.testing.ops import Op
from chunks import HELLO, HELLO_CHUNKS, HELLO_EVENTS, delta, ndjson, sse

PROMPT = "my canary is blue"
REPLY = b'{"id":"r","model":"m","choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}]}'


@asynccontextmanager
async def serving(*ops: Op, **options: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server that answers every request with `ops`, and a client of it that tries once."""
    async with (
        FaultyServer(list(ops)) as server,
        Client(model="openai:m", base_url=server.url, api_key="k", retry=None, options=options) as client,
    ):
        yield server, client


def streamed(*pieces: bytes, kind: str = "text/event-stream") -> list[Op]:
    """A reply of `pieces`, each in a chunk of HTTP's of its own."""
    headers = {"Content-Type": kind, "Transfer-Encoding": "chunked"}
    return [Status(200, headers, None), *map(Chunk, pieces), Chunk()]


def to_the_end(*pieces: bytes, kind: str = "text/event-stream") -> list[Op]:
    """A reply that ends where its connection does, so that nobody can tell a cut from an end."""
    return [Status(200, {"Content-Type": kind, "Connection": "close"}, None), *pieces, Fin()]


async def events_of(client: Client) -> list[Event]:
    async with client.stream(PROMPT) as stream:
        return [event async for event in stream]


async def failure_of(client: Client) -> APIError:
    with pytest.raises(APIError) as caught:
        await events_of(client)
    assert PROMPT not in str(caught.value)
    return caught.value


async def test_a_stream_is_asked_for_as_one() -> None:
    async with serving(*streamed(HELLO)) as (server, client):
        await events_of(client)

    (seen,) = server.requests
    assert (seen.headers["accept"], seen.headers["cache-control"]) == ("text/event-stream", "no-store")


@pytest.mark.parametrize(
    "kind",
    [
        "text/event-stream",
        "text/event-stream;",
        "text/event-stream;charset=windows-1252",
        "Text/Event-Stream ; charset=utf-8",
        "",
    ],
)
async def test_an_event_stream_is_utf_8_under_any_of_its_names(kind: str) -> None:
    async with serving(*streamed(HELLO, kind=kind)) as (_, client):
        assert await events_of(client) == HELLO_EVENTS


@pytest.mark.parametrize(
    "kind",
    [
        "x bogus",
        "text/x-bogus",
        "text/plain",
        "application/octet-stream",
        "application/vnd.amazon.eventstream",
        "text/event-streams",
    ],
)
async def test_a_stream_of_another_kind_is_refused_by_its_name(kind: str) -> None:
    async with serving(*streamed(HELLO, kind=kind)) as (_, client):
        error = await failure_of(client)

    assert isinstance(error, ProtocolError)
    assert kind in error.message


@pytest.mark.parametrize("status", [201, 204, 205, 210, 299, 300, 404, 410, 503])
async def test_no_other_status_has_a_stream(status: int) -> None:
    headers = {"Content-Type": "text/event-stream"}
    async with serving(Status(status, headers, b"" if status in (204, 205) else HELLO)) as (_, client):
        error = await failure_of(client)

    assert error.status == status


async def test_a_page_that_never_ends_is_not_read_to_its_end() -> None:
    async with serving(*streamed(b"busy\n" * 1000, kind="text/plain")[:-1], Stall()) as (_, client):
        error = await failure_of(client)

    assert "text/plain (busy)" in error.message


async def test_a_web_page_in_place_of_a_stream_is_named_by_its_title() -> None:
    page = b"<!DOCTYPE html><html><head><title>\n Busy: my canary is blue\n</title></head>" + b"x" * 100_000
    async with serving(*streamed(page, kind="text/html; charset=utf-8")) as (_, client):
        error = await failure_of(client)

    assert isinstance(error, ProtocolError)
    assert "text/html (Busy: …): check base_url" in error.message
    assert error.body is not None
    assert error.body.startswith(b"<!DOCTYPE")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/problem+json"])
async def test_an_error_document_in_place_of_a_stream_is_the_error_it_means(kind: str) -> None:
    body = b'\n\n{"error":{"message":"slow down: my canary is blue","code":"rate_limit_exceeded"}}'
    async with serving(Status(200, {"Content-Type": kind}, body)) as (_, client):
        error = await failure_of(client)

    assert type(error) is asyncllm.RateLimitError
    assert error.message == "slow down: …"


async def test_a_whole_reply_in_place_of_a_stream_is_taken() -> None:
    async with serving(Status(200, {"Content-Type": "application/json"}, REPLY)) as (_, client):
        events = await events_of(client)

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hello"]


@pytest.mark.parametrize("body", [b"[" + REPLY + b"]", b"", b"\n\n", REPLY[:-5], b'"canary"'])
async def test_json_that_is_no_reply_is_refused(body: bytes) -> None:
    async with serving(Status(200, {"Content-Type": "application/json"}, body)) as (_, client):
        error = await failure_of(client)

    assert isinstance(error, ResponseValidationError)
    assert error.body == body


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-ndjson",
        "application/ndjson; charset=utf-8",
        "application/jsonl",
        "application/x-jsonlines",
        "application/stream+json",
    ],
)
async def test_chunks_may_come_one_a_line(kind: str) -> None:
    async with serving(Slice(7), *to_the_end(ndjson(*HELLO_CHUNKS), kind=kind)) as (_, client):
        assert await events_of(client) == HELLO_EVENTS


async def test_lines_that_are_cut_are_interrupted_with_what_had_come() -> None:
    lines = ndjson(*HELLO_CHUNKS)
    async with serving(*to_the_end(lines[: lines.index(b"finish_reason", -40)], kind="application/jsonl")) as (
        _,
        client,
    ):
        error = await failure_of(client)

    assert isinstance(error, StreamInterrupted)
    assert error.partial is not None
    assert error.partial.text == "Hello ✓"


FRAMINGS = {
    "lf": HELLO,
    "crlf": HELLO.replace(b"\n", b"\r\n"),
    "cr": HELLO.replace(b"\n", b"\r"),
    "a byte order mark": b"\xef\xbb\xbf" + HELLO,
    "pings": HELLO.replace(b"\n\n", b"\n\n: ping\n\nevent: ping\ndata: {}\n\ndata: ping\n\n"),
    "no blank line at the end": HELLO.removesuffix(b"\n\n"),
}


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("size", [1, 5, 100_000])
async def test_a_stream_is_the_same_in_one_segment_and_byte_by_byte(name: str, size: int) -> None:
    for framing in (streamed, to_the_end):
        async with serving(Slice(size), *framing(FRAMINGS[name])) as (_, client):
            assert await events_of(client) == HELLO_EVENTS


async def test_what_follows_done_is_dropped_and_the_connection_serves_again() -> None:
    ghost = sse(delta(content="ghost"), {"error": "too late"}) * 10
    async with serving(*streamed(HELLO, ghost)) as (server, client):
        for _ in range(3):
            assert await events_of(client) == HELLO_EVENTS

    assert server.connections == 1


@pytest.mark.parametrize("framing", [streamed, to_the_end])
async def test_a_clean_end_counts_if_every_choice_has_finished(framing: Any) -> None:
    async with serving(*framing(sse(*HELLO_CHUNKS))) as (_, client):
        assert await events_of(client) == HELLO_EVENTS


ENDS: dict[str, Sequence[Op]] = {
    "a clean end without a finish reason": streamed(sse(*HELLO_CHUNKS[:3])),
    "the end of the connection": to_the_end(sse(*HELLO_CHUNKS[:3])),
    "a cut event after the finish reason": to_the_end(sse(*HELLO_CHUNKS) + b'data: {"choices":[],"usa'),
    "one of two choices unfinished": streamed(sse(delta(1, content="x"), *HELLO_CHUNKS)),
    "a cut chunk": [*streamed(sse(*HELLO_CHUNKS))[:-1], Pause(0.02), b"ff\r\ndata", Fin()],
    "no last chunk": [*streamed(sse(*HELLO_CHUNKS))[:-1], Pause(0.02), Fin()],
    "a reset": [*streamed(sse(*HELLO_CHUNKS))[:-1], Pause(0.05), Rst()],
}


@pytest.mark.parametrize("name", ENDS)
async def test_any_other_end_is_an_interruption_with_what_had_come(name: str) -> None:
    async with serving(*ENDS[name]) as (_, client):
        error = await failure_of(client)

    assert isinstance(error, StreamInterrupted)
    assert error.maybe_billed
    assert error.partial is not None
    assert error.partial.text == "Hello ✓"


ERRORS = {
    "an object": (b'data: {"error":{"message":"boom","type":"overloaded_error"}}\n\n', asyncllm.OverloadedError),
    "a string": (b'data: {"error":"boom"}\n\n', asyncllm.InternalServerError),
    "old vllm": (b'data: {"object":"error","message":"boom","code":400}\n\n', asyncllm.BadRequestError),
    "an error field": (b'error: {"code":503,"message":"boom"}\n\ndata: [DONE]\n\n', asyncllm.OverloadedError),
    "an error event": (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"boom"}}\n\n',
        asyncllm.OverloadedError,
    ),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_in_a_stream_is_typed_and_has_what_had_come(name: str) -> None:
    frame, kind = ERRORS[name]
    async with serving(*streamed(sse(*HELLO_CHUNKS[:3]), frame)) as (_, client):
        error = await failure_of(client)

    assert type(error) is kind
    assert error.message == "boom"
    assert error.partial is not None
    assert error.partial.text == "Hello ✓"


async def test_a_bad_chunk_ends_the_call_by_its_place_with_what_had_come() -> None:
    async with serving(*streamed(sse(*HELLO_CHUNKS[:3], "{canary"), sse("[DONE]"))) as (_, client):
        error = await failure_of(client)

    assert isinstance(error, ResponseValidationError)
    assert "chunk 3" in error.message
    assert "canary" not in str(error)
    assert error.partial is not None
    assert error.partial.text == "Hello ✓"


async def test_a_bad_chunk_is_left_out_and_counted_where_the_option_says_so() -> None:
    data = sse(*HELLO_CHUNKS[:3], "{", "[]", HELLO_CHUNKS[3], "[DONE]")
    async with serving(*streamed(data), on_bad_event="skip") as (_, client):
        async with client.stream(PROMPT) as stream:
            events = [event async for event in stream]
        reply = stream.response

    assert [event for event in events if isinstance(event, Skipped)] == [Skipped(3), Skipped(4)]
    assert (reply.text, reply.finish_reason, reply.skipped) == ("Hello ✓", "stop", 2)


async def test_totals_are_read_as_pieces_where_the_option_says_so() -> None:
    data = sse(delta(content="Hel"), delta(content="Hello"), delta(content="Hello", finish="stop"), "[DONE]")
    async with serving(*streamed(data), delta_mode="cumulative") as (_, client):
        assert [piece async for piece in client.stream_text(PROMPT)] == ["Hel", "lo"]


@pytest.mark.parametrize("option", ["on_bad_event", "delta_mode"])
async def test_an_option_that_says_neither_word_is_refused_by_name(option: str) -> None:
    for value in ("ignore", 5):
        async with Client(model="openai:m", base_url="http://127.0.0.1:9", options={option: value}) as client:
            with pytest.raises(ConfigError) as caught:
                await client.chat("hi")
            assert caught.value.field == option


async def test_blank_lines_before_a_plain_reply_are_no_part_of_it() -> None:
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    waiting = [op for _ in range(5) for op in (Chunk(b"\r\n\n"), Pause(0.02))]
    async with serving(Status(200, headers, None), *waiting, Chunk(REPLY), Chunk()) as (_, client):
        reply = await client.chat(PROMPT)

    assert reply.text == "Hello"


async def test_of_two_headers_the_longer_wait_is_the_servers_advice() -> None:
    head = (
        b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nRetry-After: 20\r\nx-should-retry: false\r\nContent-Length: 0\r\n\r\n"
    )
    async with serving(head) as (_, client):
        error = await failure_of(client)

    assert (error.retry_after_s, error.retryable) == (20, False)


@pytest.mark.parametrize("word", ["true", "false", "junk"])
async def test_advice_on_retrying_in_a_good_reply_changes_nothing(word: str) -> None:
    async with serving(Status(200, {"x-should-retry": word, "Retry-After": "9"}, REPLY)) as (server, client):
        assert (await client.chat(PROMPT)).text == "Hello"

    assert len(server.requests) == 1


async def test_one_model_is_found_in_the_list_by_its_id() -> None:
    listed = b'{"data": [{"id": "small", "owned_by": "acme"}, {"id": "large/one", "max_model_len": 4096}]}'
    async with FaultyServer([Status(200, {}, listed)]) as server:
        async with Client(model="openai:large/one", base_url=f"{server.url}/v1", env={}) as client:
            found = await client.get_model()
            with pytest.raises(asyncllm.NotFoundError, match="'none'"):
                await client.get_model("openai:none")

    assert (found.id, found.context_tokens) == ("large/one", 4096)
