"""HTTP over real sockets: what arrives, what is sent, and every way the other end can fail."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest

import asyncllm
from asyncllm import Timeouts
from asyncllm.backend import HttpCall
from asyncllm.testing import Chunk, FaultyServer, Fin, Pause, Rst, Slice, Stall, Status
from asyncllm.testing.ops import Op
from asyncllm.transport import AiohttpTransport

CANARY = "canary-5d1e"


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport()
    yield transport
    await transport.aclose()


async def read(transport: AiohttpTransport, url: str, **fields: Any) -> bytes:
    async with transport.open(HttpCall(url=url, body=b"{}", **fields)) as reply:
        return await reply.read()


async def read_pieces(transport: AiohttpTransport, url: str, **fields: Any) -> list[bytes]:
    pieces: list[bytes] = []
    async with transport.open(HttpCall(url=url, stream=True, **fields)) as reply:
        while data := await reply.receive():
            pieces.append(data)
    return pieces


def stream(*rest: Op) -> list[Op]:
    """A streamed reply that begins well."""
    headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    return [Status(200, headers, None), Chunk(b"data: a\n\n"), Pause(0.02), *rest]


async def test_a_call_arrives_as_it_was_made(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status(200, {}, b"hi")]) as server:
        body = await read(transport, f"{server.url}/v1/x?y=1", headers={"Authorization": "Bearer k"})

    (seen,) = server.requests
    assert body == b"hi"
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/x?y=1", b"{}")
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["accept-encoding"] == "identity"
    assert "cookie" not in seen.headers


async def test_a_body_read_to_its_end_gives_its_connection_to_the_next_call(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status(200, {}, b"hi")]) as server:
        for _ in range(3):
            await read(transport, server.url)

        assert server.connections == 1


async def test_leaving_early_cuts_the_connection_at_once(transport: AiohttpTransport) -> None:
    async with FaultyServer(stream(Stall())) as server:
        async with transport.open(HttpCall(url=server.url, stream=True)) as reply:
            await reply.receive()

        assert await server.aborted()


@pytest.mark.parametrize("how", ["task", "asyncio.timeout", "anyio"])
async def test_cancelling_a_read_cuts_the_connection(transport: AiohttpTransport, how: str) -> None:
    async with FaultyServer(stream(Stall())) as server:
        if how == "task":
            task = asyncio.create_task(read_pieces(transport, server.url))
            await server.received()
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "asyncio.timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await read_pieces(transport, server.url)
        else:
            with anyio.move_on_after(0.1) as scope:
                await read_pieces(transport, server.url)
            assert scope.cancelled_caught

        assert await server.aborted()


BROKEN: dict[str, tuple[Sequence[Op], type[asyncllm.APIError], bool]] = {
    "closed without an answer": ([Fin()], asyncllm.APIConnectionError, True),
    "reset without an answer": ([Rst()], asyncllm.APIConnectionError, True),
    "half a status line": ([b"HTTP/1.1 2", Fin()], asyncllm.APIConnectionError, True),
    "not HTTP": ([b"garbage\r\n\r\n", Fin()], asyncllm.ProtocolError, True),
    "two lengths": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi"],
        asyncllm.ProtocolError,
        True,
    ),
    "a huge header": ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 80_000 + b"\r\n\r\n"], asyncllm.ProtocolError, True),
    "a body shorter than it says": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", Fin()],
        asyncllm.APIConnectionError,
        True,
    ),
    "a cut chunk": (
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhi", Fin()],
        asyncllm.APIConnectionError,
        True,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_reply_is_never_a_refusal_of_the_request(transport: AiohttpTransport, name: str) -> None:
    script, kind, retryable = BROKEN[name]

    async with FaultyServer(script) as server:
        with pytest.raises(asyncllm.APIError) as caught:
            await read(transport, server.url)

    assert type(caught.value) is kind
    assert not isinstance(caught.value, asyncllm.APIStatusError)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("end", [[Fin()], [Rst()], [b"zz\r\n", Fin()]], ids=["fin", "rst", "bad framing"])
async def test_a_stream_that_breaks_off_is_interrupted(transport: AiohttpTransport, end: list[Op]) -> None:
    async with FaultyServer(stream(*end)) as server:
        with pytest.raises(asyncllm.StreamInterrupted) as caught:
            await read_pieces(transport, server.url)

    assert caught.value.maybe_billed


async def test_nobody_listening_is_said_with_the_address(transport: AiohttpTransport) -> None:
    async with FaultyServer([]) as server:
        url = server.url

    with pytest.raises(asyncllm.APIConnectionError, match="cannot connect to 127.0.0.1:") as caught:
        await read(transport, f"{url}/v1/{CANARY}")

    assert caught.value.retryable
    assert not caught.value.maybe_billed
    assert CANARY not in str(caught.value)


async def test_a_name_that_does_not_exist_is_said(transport: AiohttpTransport) -> None:
    with pytest.raises(asyncllm.APIConnectionError, match="nowhere.invalid"):
        await read(transport, "http://nowhere.invalid/v1")


async def test_plain_http_where_tls_was_asked_for_is_said_and_not_retried(transport: AiohttpTransport) -> None:
    async with FaultyServer([], on_connect=[b"HTTP/1.0 400 Bad Request\r\n\r\n"]) as server:
        with pytest.raises(asyncllm.APIConnectionError, match="TLS") as caught:
            await read(transport, server.url.replace("http:", "https:"))

    assert not caught.value.retryable


async def test_a_connection_that_is_not_accepted_times_out(transport: AiohttpTransport) -> None:
    # A full backlog drops what knocks: the kernel answers nothing at all.
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    knocking = []
    for _ in range(4):
        knock = socket.socket()
        knock.setblocking(False)
        knock.connect_ex(("127.0.0.1", port))
        knocking.append(knock)
    try:
        with pytest.raises(asyncllm.ConnectTimeoutError, match="connect_s=0.2") as caught:
            await read(transport, f"http://127.0.0.1:{port}", timeouts=Timeouts(connect_s=0.2))
    finally:
        for one in [*knocking, listener]:
            one.close()

    assert isinstance(caught.value, TimeoutError)
    assert not caught.value.maybe_billed


@pytest.mark.parametrize("is_stream", [False, True])
async def test_silence_in_the_middle_of_a_reply_times_out(transport: AiohttpTransport, is_stream: bool) -> None:
    async with FaultyServer(stream(Stall())) as server:
        with pytest.raises(asyncllm.ByteIdleTimeoutError, match="byte_idle_s=0.1") as caught:
            fetch = read_pieces if is_stream else read
            await fetch(transport, server.url, timeouts=Timeouts(byte_idle_s=0.1))

        assert await server.aborted()
    assert caught.value.maybe_billed
    assert caught.value.__cause__ is not caught.value


async def test_a_slow_consumer_is_not_a_silent_server(transport: AiohttpTransport) -> None:
    async with (
        FaultyServer(stream(Chunk(b"data: b\n\n"), Chunk())) as server,
        transport.open(HttpCall(url=server.url, stream=True, timeouts=Timeouts(byte_idle_s=0.1))) as reply,
    ):
        first = await reply.receive()
        await asyncio.sleep(0.3)
        rest = await reply.read()

    assert first + rest == b"data: a\n\ndata: b\n\n"


async def test_a_byte_now_and_then_keeps_a_reply_alive(transport: AiohttpTransport) -> None:
    script = [Slice(5, 0.05), *stream(Chunk(b"data: bbbbbbbbbbbbbb\n\n"), Chunk())]

    async with FaultyServer(script) as server:
        pieces = await read_pieces(transport, server.url, timeouts=Timeouts(byte_idle_s=1))

    assert b"".join(pieces).endswith(b"bbb\n\n")


REDIRECTS = [301, 302, 303, 307, 308]


@pytest.mark.parametrize("status", REDIRECTS)
async def test_no_redirect_carries_key_or_prompt_elsewhere(transport: AiohttpTransport, status: int) -> None:
    async with (
        FaultyServer([Status(200, {}, b"stolen")]) as other,
        FaultyServer([Status(status, {"Location": f"{other.url}/?{CANARY}"}, b"")]) as server,
    ):
        with pytest.raises(asyncllm.RedirectRefusedError, match="base_url") as caught:
            await read(transport, server.url, headers={"x-api-key": CANARY})

        assert other.requests == []
    assert not caught.value.retryable
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("status", [201, 204, 205, 299])
async def test_a_stream_needs_a_status_of_200(transport: AiohttpTransport, status: int) -> None:
    async with FaultyServer([Status(status, {}, b"")]) as server:
        with pytest.raises(asyncllm.ProtocolError):
            await read_pieces(transport, server.url)


async def test_an_error_body_is_read_within_bounds(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status(500, {}, b"x" * (10 * 2**20))]) as server:
        with pytest.raises(asyncllm.InternalServerError) as caught:
            await read(transport, server.url)

    assert caught.value.body is not None
    assert len(caught.value.body) == 64 * 2**10


async def test_the_key_never_comes_back_in_an_error(transport: AiohttpTransport) -> None:
    body = f'{{"error":{{"message":"unknown key {CANARY}"}}}}'.encode()

    async with FaultyServer([Status(401, {}, body)]) as server:
        with pytest.raises(asyncllm.AuthenticationError) as caught:
            await read(transport, server.url, headers={"Authorization": f"Bearer {CANARY}"})

    assert CANARY not in str(caught.value)
    assert "unknown key ***" in str(caught.value)


async def test_cookies_are_not_kept(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status(200, {"Set-Cookie": "a=b"}, b"hi")]) as server:
        await read(transport, server.url)
        await read(transport, server.url)

    assert "cookie" not in server.requests[1].headers


async def test_proxies_of_the_environment_are_not_used(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyServer([Status(200, {}, b"proxy")]) as proxy, FaultyServer([Status(200, {}, b"hi")]) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)

        assert await read(transport, server.url) == b"hi"


async def test_a_body_that_was_not_asked_to_be_compressed_is_handed_on_as_it_is(transport: AiohttpTransport) -> None:
    packed = gzip.compress(b"hi")

    async with FaultyServer([Status(200, {"Content-Encoding": "gzip"}, packed)]) as server:
        assert await read(transport, server.url) == packed


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\r\n": "a"}])
async def test_a_header_cannot_smuggle_another(transport: AiohttpTransport, headers: dict[str, str]) -> None:
    async with FaultyServer([Status(200, {}, b"hi")]) as server:
        with pytest.raises(asyncllm.ConfigError):
            await read(transport, server.url, headers=headers)

        assert server.requests == []


async def test_a_closed_transport_says_so() -> None:
    transport = AiohttpTransport()
    await transport.aclose()
    await transport.aclose()

    with pytest.raises(asyncllm.APIConnectionError, match="closed"):
        await read(transport, "http://127.0.0.1:1")


async def test_cancelling_twenty_calls_a_hundred_times_leaks_nothing(transport: AiohttpTransport) -> None:
    async with FaultyServer(stream(Stall())) as server:
        for _ in range(100):
            tasks = [asyncio.create_task(read_pieces(transport, server.url)) for _ in range(20)]
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        session = transport._session
        assert session is not None
        assert session.connector is not None
        assert not session.connector._acquired


async def test_a_reply_that_nobody_asked_for_is_never_the_reply_to_the_next_call(transport: AiohttpTransport) -> None:
    late: list[Op] = [Status(200, {}, b"mine"), Pause(0.02), Status(200, {}, b"of somebody else"), Stall()]
    async with FaultyServer(lambda seen: late) as server:
        assert await read(transport, server.url) == b"mine"
        await asyncio.sleep(0.1)
        assert await read(transport, server.url) == b"mine"
        await asyncio.sleep(0.1)
        assert await read(transport, server.url) == b"mine"

    assert server.connections == 3
