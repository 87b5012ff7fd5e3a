"""The faulty server does what its script says, and sees what was done to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Sequence

import pytest

from asyncllm.backend import HttpCall
from asyncllm.client import Client
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    ConfigError,
    ConnectTimeoutError,
    ProtocolError,
    StreamInterrupted,
)
from asyncllm.testing import (
    Chunk,
    FaultyServer,
    Fin,
    HalfClose,
    Op,
    Pause,
    Rst,
    SeenRequest,
    Slice,
    Sse,
    Stall,
    Status,
    Tls,
    openai_chunks,
    openai_stream,
)
from asyncllm.transport import AiohttpTransport
from asyncllm.types import Timeouts

# -- FaultyServer ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def transport() -> AsyncGenerator[AiohttpTransport]:
    made = AiohttpTransport()
    yield made
    await made.aclose()


async def fetch(transport: AiohttpTransport, url: str, *, stream: bool = False, body: bytes = b"{}") -> bytes:
    async with transport.open(HttpCall(url=url, body=body, stream=stream, timeouts=Timeouts(byte_idle_s=5))) as reply:
        return await reply.read()


async def test_a_server_keeps_what_it_was_sent_and_the_connection(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status(body=b"ok")]) as server:
        for number in range(3):
            assert await fetch(transport, f"{server.url}/path?q={number}", body=b'{"a": 1}') == b"ok"

    assert server.connections == 1
    assert [request.path for request in server.requests] == ["/path?q=0", "/path?q=1", "/path?q=2"]
    assert server.requests[0].method == "POST"
    assert server.requests[0].headers["content-length"] == "8"
    assert server.requests[0].json() == {"a": 1}
    assert {request.connection for request in server.requests} == {1}
    assert all(request.aborted_s is None for request in server.requests)


async def test_scripts_are_taken_in_order_and_the_last_one_again(transport: AiohttpTransport) -> None:
    async with FaultyServer([[Status(body=b"1")], [Status(body=b"2")]]) as server:
        got = [await fetch(transport, server.url) for _ in range(3)]

    assert got == [b"1", b"2", b"2"]


async def test_a_function_chooses_the_script(transport: AiohttpTransport) -> None:
    def script(request: SeenRequest) -> Sequence[Op]:
        return [Status(200 if request.path == "/yes" else 404, body=b"{}")]

    async with FaultyServer(script) as server:
        assert await fetch(transport, f"{server.url}/yes") == b"{}"
        with pytest.raises(APIError, match="404"):
            await fetch(transport, f"{server.url}/no")


async def test_an_error_in_a_script_function_comes_out_of_the_block(transport: AiohttpTransport) -> None:
    def script(_: SeenRequest) -> Sequence[Op]:
        raise ZeroDivisionError("mine")

    async def call() -> None:
        async with FaultyServer(script) as server:
            with pytest.raises(APIConnectionError):
                await fetch(transport, server.url)

    with pytest.raises(ZeroDivisionError, match="mine"):
        await call()


CHUNKED = Status(200, {"Transfer-Encoding": "chunked"}, None)
EVENTS = openai_chunks(["Hel", "lo"])


@pytest.mark.parametrize(
    ("script", "body"),
    [
        ([Status(body=b"0123456789")], b"0123456789"),
        ([Slice(1, 0.0005), Status(body=b"0123456789")], b"0123456789"),
        ([CHUNKED, Chunk(b"01"), 0.001, Pause(0.001), Chunk(b"23"), Chunk()], b"0123"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"], b"ok"),
        ([b"HTTP/1.1 200 OK\r\n\r\nto the end", Fin()], b"to the end"),
        ([b"HTTP/1.1 200 OK\r\n\r\nto the end", HalfClose(), Stall()], b"to the end"),
        ([Sse(["a", b"b", {"c": 1}])], b'data: a\n\ndata: b\n\ndata: {"c":1}\n\ndata: [DONE]\n\n'),
        ([Sse(["a"], ending="end", every_s=0.001)], b"data: a\n\n"),
        ([Sse(["a"], ending="end", framing="close")], b"data: a\n\n"),
        ([Sse(["a"], ending="fin", framing="close")], b"data: a\n\n"),
        ([Sse(EVENTS), Stall()], openai_stream(["Hel", "lo"])),
    ],
)
async def test_a_script_arrives_as_written(transport: AiohttpTransport, script: list[Op], body: bytes) -> None:
    async with FaultyServer(script) as server:
        assert await fetch(transport, server.url, stream=True) == body


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([Fin()], APIConnectionError),
        ([Rst()], APIConnectionError),
        ([b"garbage\r\n\r\n"], ProtocolError),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", Fin()], StreamInterrupted),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", 0.05, Rst()], StreamInterrupted),
        ([CHUNKED, Chunk(b"01"), Fin()], StreamInterrupted),
        ([Sse(["a"], ending="fin")], StreamInterrupted),
        ([Sse(["a"], ending="rst")], StreamInterrupted),
    ],
)
async def test_a_script_breaks_the_call_where_it_says(
    transport: AiohttpTransport, script: list[Op], error: type[APIError]
) -> None:
    async with FaultyServer(script) as server:
        with pytest.raises(error):
            await fetch(transport, server.url, stream=True)

    assert all(request.aborted_s is None for request in server.requests)


async def test_a_server_can_die_before_it_reads(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status()], on_connect=[Rst()]) as server:
        with pytest.raises(APIConnectionError):
            await fetch(transport, server.url)

    assert server.connections >= 1
    assert server.requests == []


@pytest.mark.parametrize(
    "script", [[Stall()], [Pause(30)], [Sse(EVENTS, ending="stall")], [Sse(["x" * 1000] * 1000, every_s=0.001)]]
)
async def test_a_client_that_leaves_is_noticed(transport: AiohttpTransport, script: list[Op]) -> None:
    async with FaultyServer(script) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await fetch(transport, server.url, stream=True)
        (left,) = await server.aborted()

    assert left is server.requests[0]
    assert left.aborted_s is not None
    assert 0 < left.aborted_s < 5


async def test_leaving_a_stream_of_a_client_stops_the_server() -> None:
    async with (
        FaultyServer([Sse(EVENTS, ending="stall")]) as server,
        Client(model="openai:any", base_url=f"{server.url}/v1", env={}) as client,
    ):
        async with client.stream("hi") as stream:
            async for _ in stream:
                break
        await server.aborted()


async def test_waiting_for_a_client_that_stays_ends() -> None:
    async with FaultyServer([Status()]) as server:
        with pytest.raises(TimeoutError):
            await server.aborted(within_s=0.01)


async def test_a_server_closes_what_is_still_open() -> None:
    async with FaultyServer([Stall()]) as server:
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await server.received()

    assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


async def test_a_client_that_does_not_read_does_not_keep_a_server_open() -> None:
    async with FaultyServer([Status(body=bytes(2**26))]) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await server.received()

    writer.transport.abort()


# -- the queue for connections ---------------------------------------------------------------------------------------


async def test_a_server_that_lets_nobody_in_makes_connecting_time_out(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status()], accept_after_s=None) as server:
        call = HttpCall(url=server.url, timeouts=Timeouts(connect_s=0.1))
        with pytest.raises(ConnectTimeoutError):
            async with transport.open(call):
                pass

    assert server.connections == 0


async def test_a_server_can_let_people_in_late(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status(body=b"ok")], accept_after_s=0.1) as server:
        assert await fetch(transport, server.url) == b"ok"

    assert server.connections == 1


# -- TLS -------------------------------------------------------------------------------------------------------------


async def shake(server: FaultyServer) -> bytes:
    """What a client gets that trusts the server's authority."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(server.url.rpartition(":")[2]), ssl=server.authority.client(), server_hostname="127.0.0.1"
    )
    try:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_good_certificate_is_trusted_by_those_who_know_its_authority() -> None:
    script: list[Op] = [Status(body=b"ok"), Fin()]
    async with FaultyServer(script, tls="good") as server:
        assert (await shake(server)).endswith(b"\r\n\r\nok")

    assert server.url.startswith("https://127.0.0.1:")
    assert server.authority.pem.startswith(b"-----BEGIN CERTIFICATE-----")


async def test_half_a_connection_can_be_closed_under_tls() -> None:
    script: list[Op] = [b"HTTP/1.1 200 OK\r\n\r\nok", HalfClose(), Stall()]
    async with FaultyServer(script, tls="good") as server:
        assert (await shake(server)).endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    ("tls", "reason"),
    [("expired", "certificate has expired"), ("wrong_host", "IP address mismatch"), ("unknown_ca", "local issuer")],
)
async def test_a_bad_certificate_is_refused_for_its_own_reason(tls: Tls, reason: str) -> None:
    async with FaultyServer([Status()], tls=tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            await shake(server)

    assert server.requests == []


@pytest.mark.parametrize("tls", ["good", "expired", "wrong_host", "unknown_ca", "plain"])
async def test_nothing_is_sent_to_a_server_that_proves_nothing(transport: AiohttpTransport, tls: Tls) -> None:
    async with FaultyServer([Status()], tls=tls) as server:  # whose authority the transport does not know
        with pytest.raises(APIConnectionError) as caught:
            await fetch(transport, server.url)

    assert not caught.value.retryable
    assert server.requests == []


async def test_a_handshake_can_stall(transport: AiohttpTransport) -> None:
    async with FaultyServer([Status()], tls="stall") as server:
        with pytest.raises(ConnectTimeoutError):
            async with transport.open(HttpCall(url=server.url, timeouts=Timeouts(connect_s=0.1))):
                pass

    assert server.connections == 1


def test_a_server_without_tls_has_no_certificate() -> None:
    with pytest.raises(ValueError, match="tls="):
        _ = FaultyServer([]).authority


def test_the_package_that_tls_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)

    FaultyServer([Status()])
    with pytest.raises(ConfigError, match="pip install trustme"):
        FaultyServer([Status()], tls="good")
