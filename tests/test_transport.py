"""HTTP over real sockets: what arrives, what is sent, and every way the other end can fail."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncllm
from asyncllm import Timeouts
from asyncllm.backend import HttpCall
from asyncllm.testing import Chunk, FaultyServer, Fin, Pause, Rst, SeenRequest, Slice, Stall, Status, in_pieces
from asyncllm.testing.ops import Op
from asyncllm.transport import AiohttpTransport
from asyncllm.transport.inflate import Inflater

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


def shown(error: BaseException) -> str:
    """Everything that a log could show of an error, its causes and contexts included."""
    texts: list[str] = []
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is not None:
            texts += [str(one), repr(one), repr(one.args)]
            queue += [one.__cause__, one.__context__]
    return "\n".join(texts)


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


async def test_an_address_that_leads_nowhere_is_said(transport: AiohttpTransport) -> None:
    # A network that is documentation only: there is no route to it, or nobody at its end.
    with pytest.raises(asyncllm.APIConnectionError) as caught:
        await read(transport, "http://192.0.2.1:9/v1", timeouts=Timeouts(connect_s=0.3))

    assert caught.value.retryable
    assert not caught.value.maybe_billed


def test_a_process_without_sockets_left_says_so_and_names_the_limit() -> None:
    script = """
import asyncio, os, resource, socket
import asyncllm
from asyncllm.backend import HttpCall
from asyncllm.transport import AiohttpTransport

async def main():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = AiohttpTransport()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for address in (url, "http://service.invalid/"):
        try:
            async with transport.open(HttpCall(url=address)):
                pass
        except asyncllm.APIConnectionError as error:
            print(type(error).__name__, error.retryable, error.maybe_billed, "64 files" in str(error))
    for one in taken:
        os.close(one)
    await transport.aclose()
    server.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["ResourceExhaustedError False False True"] * 2
    assert done.stderr == ""


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def tls_server(
    certificate: trustme.LeafCert, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncGenerator[str]:
    """An HTTPS server with this certificate, and its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def trusting(authority: trustme.CA) -> AiohttpTransport:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return AiohttpTransport(ssl_context=context)


async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")


async def test_a_certificate_that_is_trusted_is_good(authority: trustme.CA) -> None:
    transport = trusting(authority)

    async with tls_server(authority.issue_cert("127.0.0.1"), hello) as url:
        assert await read(transport, url) == b"hi"
    await transport.aclose()


CERTIFICATES: dict[str, Callable[[trustme.CA], trustme.LeafCert]] = {
    "expired": lambda authority: authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 2, tzinfo=UTC)),
    "of another host": lambda authority: authority.issue_cert("service.example"),
    "of an unknown authority": lambda _: trustme.CA().issue_cert("127.0.0.1"),
}


@pytest.mark.parametrize("fault", CERTIFICATES)
async def test_a_bad_certificate_is_said_and_not_tried_again(authority: trustme.CA, fault: str) -> None:
    transport = trusting(authority)

    async with tls_server(CERTIFICATES[fault](authority), hello) as url:
        with pytest.raises(asyncllm.APIConnectionError, match="certificate") as caught:
            await read(transport, url)
    await transport.aclose()

    assert not caught.value.retryable
    assert not caught.value.maybe_billed


async def test_a_handshake_that_stalls_is_a_connection_that_times_out(transport: AiohttpTransport) -> None:
    async with FaultyServer([], on_connect=[Stall()]) as server:
        with pytest.raises(asyncllm.ConnectTimeoutError, match="connect_s=0.2") as caught:
            await read(transport, server.url.replace("http:", "https:"), timeouts=Timeouts(connect_s=0.2))

    assert not caught.value.maybe_billed


async def test_a_handshake_that_is_cut_may_be_tried_again(transport: AiohttpTransport) -> None:
    async with FaultyServer([], on_connect=[Fin()]) as server:
        with pytest.raises(asyncllm.APIConnectionError) as caught:
            await read(transport, server.url.replace("http:", "https:"))

    assert caught.value.retryable
    assert not caught.value.maybe_billed


async def test_leaving_a_stream_over_tls_cuts_it_though_its_server_says_no_goodbye(authority: trustme.CA) -> None:
    transport = trusting(authority)
    gone = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nab")
        await writer.drain()
        try:
            while await reader.read(100):
                pass
        finally:
            gone.set()

    async with tls_server(authority.issue_cert("127.0.0.1"), stall) as url:
        async with transport.open(HttpCall(url=url, stream=True)) as reply:
            await reply.receive()
        async with asyncio.timeout(5):
            await gone.wait()
    await transport.aclose()


async def test_no_redirect_leads_from_tls_to_plain_text(authority: trustme.CA) -> None:
    transport = trusting(authority)

    async with FaultyServer([Status(200, {}, b"stolen")]) as other:

        async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(f"HTTP/1.1 307 X\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n".encode())

        async with tls_server(authority.issue_cert("127.0.0.1"), redirect) as url:
            with pytest.raises(asyncllm.RedirectRefusedError):
                await read(transport, url, headers=SECRETS)
        assert other.connections == 0
    await transport.aclose()


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


SECRETS = {
    name: f"{CANARY}-{name}"
    for name in ("Authorization", "x-api-key", "api-key", "x-goog-api-key", "Proxy-Authorization", "Cookie")
}
ELSEWHERE: dict[str, Callable[[str], str]] = {
    "another port": lambda url: f"{url}/{CANARY}?key={CANARY}",
    "another name of the host": lambda url: url.replace("127.0.0.1", "localhost") + "/x",
    "without a scheme": lambda url: url.removeprefix("http:") + "/x",
    "with a user name": lambda url: url.replace("//", f"//{CANARY}@") + "/x",
    "with TLS": lambda url: url.replace("http:", "https:"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_carries_key_or_prompt_to_another_origin(
    transport: AiohttpTransport, status: int, where: str
) -> None:
    async with FaultyServer([Status(200, {}, b"stolen")]) as other:
        location = ELSEWHERE[where](other.url)
        async with FaultyServer([Status(status, {"Location": location}, b"")]) as server:
            with pytest.raises(asyncllm.RedirectRefusedError, match="base_url") as caught:
                await read(transport, f"{server.url}/{CANARY}", headers=SECRETS)

        assert len(server.requests) == 1
        assert other.requests == []
        assert other.connections == 0
    assert not caught.value.retryable
    assert f":{other.url.rsplit(':', 1)[1]}" in str(caught.value)
    assert CANARY not in shown(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 304])
async def test_a_redirect_that_would_change_the_request_is_refused(transport: AiohttpTransport, status: int) -> None:
    async with FaultyServer([Status(status, {"Location": "/moved"}, b"")]) as server:
        with pytest.raises(asyncllm.RedirectRefusedError):
            await read(transport, server.url, headers=SECRETS)

        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("location", ["/moved?x=1", "moved?x=1", "{url}/moved?x=1", "HTTP://{host}/moved?x=1"])
async def test_a_redirect_within_the_origin_repeats_the_call_there(
    transport: AiohttpTransport, status: int, location: str
) -> None:
    def script(seen: SeenRequest) -> list[Op]:
        url = server.url
        to = location.format(url=url, host=url.removeprefix("http://"))
        return [Status(200, {}, b"hi") if seen.path == "/moved?x=1" else Status(status, {"Location": to}, b"")]

    async with FaultyServer(script) as server:
        assert await read(transport, f"{server.url}/v1", headers=SECRETS) == b"hi"

    first, second = server.requests
    assert second.method == "POST"
    assert second.body == first.body == b"{}"
    assert second.headers == first.headers


@pytest.mark.parametrize("location", ["/", "", "http://"])
async def test_redirects_in_a_circle_end(transport: AiohttpTransport, location: str) -> None:
    async with FaultyServer([Status(307, {"Location": location}, b"")]) as server:
        with pytest.raises(asyncllm.RedirectRefusedError, match="more than 3"):
            await read(transport, server.url)

        assert len(server.requests) == 4


@pytest.mark.parametrize("headers", [{}, {"Location": "http://[::1"}, {"Location": "data:x"}])
async def test_a_redirect_to_nowhere_is_refused(transport: AiohttpTransport, headers: dict[str, str]) -> None:
    async with FaultyServer([Status(307, headers, b"")]) as server:
        with pytest.raises(asyncllm.RedirectRefusedError):
            await read(transport, server.url)

        assert len(server.requests) == 1


async def test_a_redirect_that_brings_a_user_name_is_refused(transport: AiohttpTransport) -> None:
    def script(seen: SeenRequest) -> list[Op]:
        return [Status(307, {"Location": server.url.replace("//", f"//{CANARY}@")}, b"")]

    async with FaultyServer(script) as server:
        with pytest.raises(asyncllm.RedirectRefusedError) as caught:
            await read(transport, server.url)

        assert len(server.requests) == 1
    assert CANARY not in shown(caught.value)


# -- connections that were used before ---------------------------------------------------------------------------

OK: list[Op] = [Status(200, {}, b"hi")]


@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["fin", "rst"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_call_lost_on_a_used_connection_is_sent_once_more_at_once(
    transport: AiohttpTransport, end: Op, is_stream: bool
) -> None:
    scripts: list[list[Op]] = [OK, [end], [Status(200, {}, b"again")]]

    async with FaultyServer(scripts) as server:
        await read(transport, server.url)

        assert await read(transport, server.url, stream=is_stream) == b"again"
        assert [seen.connection for seen in server.requests] == [1, 1, 2]
        assert server.requests[1].body == server.requests[2].body


async def test_a_call_is_sent_no_more_than_twice_however_many_connections_are_stale(
    transport: AiohttpTransport,
) -> None:
    def script(seen: SeenRequest) -> list[Op]:
        return [0.05, *OK] if len(server.requests) <= 5 else [Fin()]

    async with FaultyServer(script) as server:
        await asyncio.gather(*(read(transport, server.url) for _ in range(5)))
        with pytest.raises(asyncllm.APIConnectionError) as caught:
            await read(transport, server.url)

        assert len(server.requests) == 7
    assert caught.value.maybe_billed
    assert caught.value.retryable


@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["fin", "rst"])
async def test_a_used_connection_that_began_to_answer_is_not_a_stale_one(transport: AiohttpTransport, end: Op) -> None:
    async with FaultyServer([OK, [b"HTTP/1.1 2", 0.05, end]]) as server:
        await read(transport, server.url)
        with pytest.raises(asyncllm.APIConnectionError) as caught:
            await read(transport, server.url)

        assert len(server.requests) == 2
    assert caught.value.maybe_billed


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["fin", "rst"])
async def test_a_call_lost_on_a_new_connection_is_not_sent_again(
    transport: AiohttpTransport, end: Op, method: str
) -> None:
    async with FaultyServer([[end], OK]) as server:
        with pytest.raises(asyncllm.APIConnectionError) as caught:
            await read(transport, server.url, method=method)

        assert len(server.requests) == 1
    assert caught.value.maybe_billed


async def test_a_connection_whose_server_sends_more_than_it_said_is_not_used_again(
    transport: AiohttpTransport,
) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"

    async with FaultyServer([[*OK, smuggled], OK]) as server:
        assert await read(transport, server.url) == b"hi"
        assert await read(transport, server.url) == b"hi"
        assert server.connections == 2


@pytest.mark.parametrize("hint", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_informational_replies_are_passed_over(transport: AiohttpTransport, hint: bytes, is_stream: bool) -> None:
    async with FaultyServer([hint, 0.02, hint, *OK]) as server:
        assert await read(transport, server.url, stream=is_stream) == b"hi"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_server_that_switches_protocols_is_refused(transport: AiohttpTransport, is_stream: bool) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc"

    async with FaultyServer([switch]) as server:
        with pytest.raises(asyncllm.ProtocolError):
            await read(transport, server.url, stream=is_stream)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.0 200 OK\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 ok fine\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200\r\nConnection: close\r\n\r\nhi",
    ],
)
async def test_old_and_odd_servers_are_understood(transport: AiohttpTransport, reply: bytes) -> None:
    script: list[Op] = [reply, 0.02, Fin()]

    async with FaultyServer(script) as server:
        assert await read(transport, server.url) == b"hi"
        assert await read(transport, server.url, stream=True) == b"hi"


@pytest.mark.parametrize("size", [100, 5 * 2**20])
@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["fin", "rst"])
async def test_an_answer_that_comes_before_the_request_is_sent_wins(
    transport: AiohttpTransport, size: int, end: Op
) -> None:
    body = b'{"error":{"message":"too long"}}'
    early = b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async with FaultyServer([], on_connect=[0.05, early, 0.05, end]) as server:
        for _ in range(5):
            with pytest.raises(asyncllm.APIStatusError, match="too long") as caught:
                async with transport.open(HttpCall(url=server.url, body=bytes(size))):
                    pass

            assert caught.value.status == 413


async def test_a_connection_whose_request_was_not_sent_whole_is_not_used_again(transport: AiohttpTransport) -> None:
    early = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

    async with FaultyServer(OK, on_connect=[0.05, early, Stall()]) as server:
        for _ in range(2):
            async with transport.open(HttpCall(url=server.url, body=bytes(20 * 2**20))) as reply:
                assert await reply.read() == b"hi"

        assert server.connections == 2


async def test_a_large_body_arrives_whole(transport: AiohttpTransport) -> None:
    body = bytes(range(256)) * 2**14

    async with FaultyServer(OK) as server:
        async with transport.open(HttpCall(url=server.url, body=body)) as reply:
            assert await reply.read() == b"hi"

    assert server.requests[0].body == body


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


# -- what was not asked for --------------------------------------------------------------------------------------


def deflate(data: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(wbits=bits)
    return packer.compress(data) + packer.flush()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": lambda data: deflate(data, 15),
    "deflate ": lambda data: deflate(data, -15),
}


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("framing", ["length", "close"])
async def test_a_body_that_comes_compressed_all_the_same_is_inflated(
    transport: AiohttpTransport, coding: str, framing: str
) -> None:
    text = b"hello " * 1000
    packed = PACKED[coding](text)
    head = Status(200, {"Content-Encoding": coding}, packed)
    script: list[Op] = (
        [head] if framing == "length" else [Status(200, {"Content-Encoding": coding}, None), packed, Fin()]
    )

    async with FaultyServer(script) as server:
        assert await read(transport, server.url) == text
        assert b"".join(await read_pieces(transport, server.url)) == text


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_any_other_coding_is_named(transport: AiohttpTransport, coding: str, is_stream: bool) -> None:
    async with FaultyServer([Status(200, {"Content-Encoding": coding}, b"xx")]) as server:
        with pytest.raises(asyncllm.ProtocolError, match=f"'{coding}'"):
            await read(transport, server.url, stream=is_stream)


def compressed_stream(packed: bytes, *rest: Op) -> list[Op]:
    return [Status(200, {"Content-Encoding": "gzip", "Content-Type": "text/event-stream"}, None), packed, *rest]


@pytest.mark.parametrize("kept", [0, 1, 9, -9, -1])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_compressed_body_that_stops_early_is_cut_off(
    transport: AiohttpTransport, kept: int, is_stream: bool
) -> None:
    packed = gzip.compress(b"data: a\n\n", mtime=0)

    async with FaultyServer(compressed_stream(packed[:kept], Fin())) as server:
        with pytest.raises(asyncllm.APIError) as caught:
            await read(transport, server.url, stream=is_stream)

    assert type(caught.value) is (asyncllm.StreamInterrupted if is_stream else asyncllm.APIConnectionError)
    assert caught.value.maybe_billed


@pytest.mark.parametrize(
    "packed", [b"not gzip at all", gzip.compress(b"a", mtime=0)[:-8] + bytes(8), gzip.compress(b"a", mtime=0) + b"??"]
)
async def test_a_corrupt_compressed_body_is_said(transport: AiohttpTransport, packed: bytes) -> None:
    async with FaultyServer(compressed_stream(packed, Fin())) as server:
        with pytest.raises(asyncllm.ProtocolError, match="corrupt"):
            await read_pieces(transport, server.url)


async def test_events_that_are_compressed_come_out_as_they_come_in(transport: AiohttpTransport) -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(b"data: a\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(b"data: b\n\n") + packer.flush()

    async with FaultyServer(compressed_stream(first, Stall())) as server:
        async with transport.open(HttpCall(url=server.url, stream=True)) as reply:
            async with asyncio.timeout(5):
                assert await reply.receive() == b"data: a\n\n"
    async with FaultyServer(compressed_stream(first, 0.05, second, Fin())) as server:
        assert await read_pieces(transport, server.url) == [b"data: a\n\n", b"data: b\n\n"]


async def test_what_a_few_bytes_unfold_to_is_bounded() -> None:
    bomb = gzip.compress(bytes(20 * 2**20))
    transport = AiohttpTransport(max_body_bytes=2**20)

    async with FaultyServer([Status(200, {"Content-Encoding": "gzip"}, bomb)]) as server:
        with pytest.raises(asyncllm.BodyTooLargeError, match="max_body_bytes=1048576"):
            await read(transport, server.url)
        pieces = await read_pieces(transport, server.url)
    await transport.aclose()

    assert max(map(len, pieces)) <= 256 * 2**10
    assert sum(map(len, pieces)) == 20 * 2**20


@given(
    st.lists(st.binary(max_size=400_000), min_size=1, max_size=3),
    st.sampled_from([31, 15, -15]),
    st.integers(1, 5000),
)
@settings(deadline=None, max_examples=60)
def test_whatever_was_deflated_is_inflated_from_pieces_of_any_size(parts: list[bytes], bits: int, size: int) -> None:
    data = b"".join(parts) * 3
    packed = b"".join(deflate(part * 3, bits) for part in parts) if bits == 31 else deflate(data, bits)
    inflater = Inflater("gzip" if bits == 31 else "deflate")
    out: list[bytes] = []

    for piece in in_pieces(packed, max(size, len(packed) // 500)):
        assert not inflater.is_complete or bits == 31
        inflater.feed(piece)
        while plain := inflater.take():
            assert len(plain) <= 256 * 2**10
            out.append(plain)

    assert inflater.is_complete
    assert b"".join(out) == (b"".join(part * 3 for part in parts) if bits == 31 else data)


@pytest.mark.parametrize("is_compressed", [False, True])
async def test_an_error_is_read_whether_or_not_it_comes_compressed(
    transport: AiohttpTransport, is_compressed: bool
) -> None:
    body = b'{"error":{"message":"no such model"}}'
    headers = {"Content-Encoding": "gzip"} if is_compressed else {}

    async with FaultyServer([Status(404, headers, gzip.compress(body) if is_compressed else body)]) as server:
        with pytest.raises(asyncllm.NotFoundError, match="no such model"):
            await read(transport, server.url)


# -- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [10, 11])
async def test_a_body_that_is_read_whole_has_a_limit(size: int, framing: str) -> None:
    transport = AiohttpTransport(max_body_bytes=10)
    chunked: list[Op] = [Status(200, {"Transfer-Encoding": "chunked"}, None), Chunk(b"x" * size), 0.02, Chunk()]

    async with FaultyServer([Status(200, {}, b"x" * size)] if framing == "length" else chunked) as server:
        if size == 10:
            assert len(await read(transport, server.url)) == size
        else:
            with pytest.raises(asyncllm.BodyTooLargeError, match="max_body_bytes=10") as caught:
                await read(transport, server.url)
            assert not caught.value.retryable
            assert caught.value.maybe_billed
        assert sum(map(len, await read_pieces(transport, server.url))) == size
    await transport.aclose()


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_body_bytes": 0},
        {"max_body_bytes": True},
        {"max_body_bytes": 1.5},
        {"proxy": f"socks5://{CANARY}"},
        {"proxy": f"//{CANARY}"},
        {"proxy": 7},
        {"proxy": f"http://{CANARY}:x"},
        {"ssl_context": False},
    ],
)
def test_an_argument_that_cannot_be_right_is_named_and_not_shown(arguments: dict[str, Any]) -> None:
    with pytest.raises(asyncllm.ConfigError, match=next(iter(arguments))) as caught:
        AiohttpTransport(**arguments)

    assert CANARY not in shown(caught.value)


async def test_headers_up_to_the_limit_are_read_and_longer_ones_end(transport: AiohttpTransport) -> None:
    fitting = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000 + b"\r\nContent-Length: 2\r\n\r\nhi"

    async with FaultyServer([[fitting], [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20]]) as server:
        assert await read(transport, server.url) == b"hi"
        with pytest.raises(asyncllm.ProtocolError):
            await read(transport, server.url)


# -- proxies -----------------------------------------------------------------------------------------------------


async def test_a_proxy_that_was_asked_for_is_used_with_its_password() -> None:
    async with FaultyServer([Status(200, {}, b"via")]) as proxy:
        transport = AiohttpTransport(proxy=proxy.url.replace("//", "//user:word@"))
        assert await read(transport, "http://service.invalid/v1") == b"via"
        await transport.aclose()

    assert proxy.requests[0].path == "http://service.invalid/v1"
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


@pytest.mark.parametrize(("status", "retryable"), [(407, False), (403, False), (503, True)])
async def test_a_proxy_that_refuses_is_told_from_the_service(status: int, retryable: bool) -> None:
    async with FaultyServer([Status(status, {}, b"")]) as proxy:
        transport = AiohttpTransport(proxy=proxy.url.replace("//", f"//user:{CANARY}@"))
        with pytest.raises(asyncllm.APIConnectionError, match="proxy") as caught:
            await read(transport, f"https://service.invalid/{CANARY}")
        await transport.aclose()

    assert caught.value.retryable is retryable
    assert caught.value.status == status
    assert CANARY not in shown(caught.value)


async def test_a_proxy_that_is_not_there_is_said_without_its_password() -> None:
    async with FaultyServer([]) as gone:
        address = gone.url.replace("//", f"//user:{CANARY}@")
    transport = AiohttpTransport(proxy=address)

    with pytest.raises(asyncllm.APIConnectionError, match="cannot connect to the proxy") as caught:
        await read(transport, "http://service.invalid/v1")
    await transport.aclose()

    assert CANARY not in shown(caught.value)
    assert CANARY not in repr(transport)


@pytest.mark.parametrize("bad", ["\r\n", "\r", "\n", "\0"], ids=["crlf", "cr", "lf", "nul"])
@pytest.mark.parametrize("where", ["name", "value"])
async def test_a_header_cannot_smuggle_another(transport: AiohttpTransport, bad: str, where: str) -> None:
    headers = {f"X{bad}Y": "a"} if where == "name" else {"Authorization": f"Bearer {CANARY}{bad}Y: b"}

    async with FaultyServer([Status(200, {}, b"hi")]) as server:
        with pytest.raises(asyncllm.ConfigError, match="header") as caught:
            await read(transport, server.url, headers=headers)

        assert server.requests == []
    assert CANARY not in shown(caught.value)


async def test_a_closed_transport_says_so() -> None:
    transport = AiohttpTransport()
    await transport.aclose()
    await transport.aclose()

    with pytest.raises(asyncllm.APIConnectionError, match="closed"):
        await read(transport, "http://127.0.0.1:1")


async def test_a_reply_that_nobody_asked_for_is_never_the_reply_to_the_next_call(transport: AiohttpTransport) -> None:
    late: list[Op] = [Status(200, {}, b"mine"), Pause(0.02), Status(200, {}, b"of somebody else"), Stall()]
    async with FaultyServer(lambda seen: late) as server:
        assert await read(transport, server.url) == b"mine"
        await asyncio.sleep(0.1)
        assert await read(transport, server.url) == b"mine"
        await asyncio.sleep(0.1)
        assert await read(transport, server.url) == b"mine"

    assert server.connections == 3
