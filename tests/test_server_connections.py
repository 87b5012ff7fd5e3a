"""Connections that are slow, half-open or hostile: none is held for nothing, and none is read in two ways."""

from __future__ import annotations

import asyncio
import socket
import stat
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from asyncllm.errors import ConfigError
from asyncllm.server import ServerSettings
from asyncllm.server.http import protocol
from asyncllm.server.http.connections import Gate
from asyncllm.server.running.unix import listen_unix
from served import listening

POST = b"POST /first HTTP/1.1\r\nHost: x\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


REFUSALS = (b"HTTP/1.1 400", b"HTTP/1.1 501", b"HTTP/1.1 505")


class Kept:
    """An application that says what it was asked, and stalls where it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.headers: list[Any] = []
        self.gone = 0
        self.waiting = asyncio.Event()
        self.reply = b"ok"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.seen.append((scope["method"], scope["path"], body))
        self.headers = scope["headers"]
        if scope["path"] == "/stall":
            self.waiting.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone += 1
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.reply})


@asynccontextmanager
async def kept(**settings: Any) -> AsyncGenerator[tuple[Kept, Raw]]:
    application = Kept()
    async with listening(application, ServerSettings(**settings)) as url:
        yield application, Raw(int(url.rpartition(":")[2]))


class Raw:
    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, *pieces: bytes, within_s: float = 10) -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(within_s):
                for piece in pieces:
                    if reader.at_eof() or reader.exception() or writer.is_closing():
                        break
                    writer.write(piece)
                    await asyncio.sleep(0)
                try:
                    return await reader.read()
                except ConnectionResetError:
                    return b""
        finally:
            writer.close()


REFUSED: dict[str, bytes] = {
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 37\r\n\r\n",
    "the same length twice": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": POST + b"Content-Length: 0, 37\r\n\r\n",
    "a signed length": POST + b"Content-Length: +0\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "a length of two numbers": POST + b"Content-Length: 0 37\r\n\r\n",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "a length past all integers": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a length that is hardly one": POST + b"Content-Length: 0000000000000000000\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 0\r\n\r\n",
    "a folded header": POST + b"X: a\r\n b\r\n\r\n",
    "a header folded with a tab": POST + b"X: a\r\n\tb\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded first line": b"POST /first HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n",
    "a bare CR in a header": POST + b"X: a\rContent-Length: 37\r\n\r\n",
    "a bare CR at the end of a header": POST + b"X: a\r\r\n\r\n",
    "a bare LF between headers": POST + b"X: a\nY: b\r\n\r\n",
    "a bare LF at the end of the head": POST + b"X: a\r\n\n",
    "bare LFs throughout": b"POST /first HTTP/1.1\nHost: x\n\n",
    "a NUL in a header": POST + b"X: a\0b\r\n\r\n",
    "a control character in a header": POST + b"X: a\x01b\r\n\r\n",
    "a DEL in a header": POST + b"X: a\x7fb\r\n\r\n",
    "a NUL in a name": POST + b"X\0Y: a\r\n\r\n",
    "a header without a name": POST + b": a\r\n\r\n",
    "a header without a colon": POST + b"X a\r\n\r\n",
    "a name of two words": POST + b"X Y: a\r\n\r\n",
    "a name with a letter of another script": POST + b"Transfer-Encod\xc4\xb1ng: chunked\r\n\r\n",
    "a name cut by a line": POST + b"Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n",
    "gzip within chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip alone": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunks within gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "identity and chunks": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "the same coding twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding that is hardly known": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding with a parameter": POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "a coding with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no coding": POST + b"Transfer-Encoding: \r\nContent-Length: 0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /first HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no host": b"POST /first HTTP/1.1\r\n\r\n",
    "two hosts": POST + b"Host: y\r\n\r\n",
    "a chunk with 0x": CHUNKED + b"0x4\r\nabcd\r\n0\r\n\r\n",
    "a chunk with a sign": CHUNKED + b"+4\r\nabcd\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n\r\n",
    "a chunk past all integers": CHUNKED + b"fffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
    "a chunk with a space": CHUNKED + b"4 \r\nabcd\r\n0\r\n\r\n",
    "a chunk ended by LF": CHUNKED + b"4\nabcd\r\n0\r\n\r\n",
    "a chunk ended by CR": CHUNKED + b"4\rabcd\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"4\r\nabcdef\r\n0\r\n\r\n",
    "a chunk without its end": CHUNKED + b"4\r\nabcd0\r\n\r\n",
    "no size of a chunk": CHUNKED + b"\r\nabcd\r\n0\r\n\r\n",
    "an extension with LF": CHUNKED + b"4;a\nb\r\nabcd\r\n0\r\n\r\n",
    "an end of chunks by LF": CHUNKED + b"0\n\n",
    "a folded trailer": CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n",
    "HTTP/0.9": b"GET /first\r\n\r\n",
    "HTTP/1.2": b"GET /first HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET /first HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/01.1": b"GET /first HTTP/01.1\r\nHost: x\r\n\r\n",
    "http/1.1": b"GET /first http/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40,
    "a method in small letters": b"get /first HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method nobody knows": b"FOO /first HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method with a control character": b"GE\x01T /first HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address with a space": b"GET /first /second HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address with a byte above ASCII": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address with a CR": b"GET /first\r HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT first:80 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("joined", [True, False], ids=["at once", "byte by byte"])
async def test_what_could_be_read_in_two_ways_is_refused_and_what_follows_is_not_read(joined: bool) -> None:
    async with kept() as (application, raw):
        wrong: dict[str, bytes] = {}
        for name, asked in REFUSED.items():
            whole = asked + NEXT
            told = await raw.ask(*([whole] if joined else [whole[at : at + 1] for at in range(len(whole))]))
            is_lost = not joined and not told  # whoever still writes as it is refused may lose the reply
            if not (is_lost or told.startswith(REFUSALS)) or told.count(b"HTTP/1.1 ") > 1:
                wrong[name] = told

    assert wrong == {}
    assert not application.seen


async def test_what_is_in_order_is_answered_in_order() -> None:
    fine = {
        "a length": POST + b"Content-Length: 4\r\n\r\nabcd",
        "a length with spaces": POST + b"Content-Length: \t4 \r\n\r\nabcd",
        "chunks": CHUNKED + b"4\r\nabcd\r\n0\r\n\r\n",
        "chunks in capitals": POST + b"TRANSFER-ENCODING: Chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        "an extension": CHUNKED + b"4;a=b\r\nabcd\r\n0\r\n\r\n",
        "lines before": b"\r\n\r\n" + POST + b"Content-Length: 4\r\n\r\nabcd",
        "a look-alike": POST + b"Transfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\nabcd",
    }
    async with kept() as (application, raw):
        for asked in fine.values():
            reader, writer = await asyncio.open_connection("127.0.0.1", raw.port)
            for _ in range(3):
                writer.write(asked)
                assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()

    assert application.seen == [("POST", "/first", b"abcd")] * 3 * len(fine)


async def test_a_trailer_is_no_header() -> None:
    async with kept() as (application, raw):
        asked = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"0\r\nAuthorization: Bearer x\r\n\r\n"
        assert b" 200 " in await raw.ask(asked)

    assert b"authorization" not in dict(application.headers)


@given(
    st.lists(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"0", b"4", b"abcd", b"Content-Length: 3", b"Transfer-Encoding: ",
                         b"chunked", b",", b" ", b"\t", b";", b"\0", POST, b"GET / HTTP/1.1", b"Host: x", NEXT]),
        max_size=14,
    )
)  # fmt: skip
def test_no_bytes_get_more_than_one_answer_to_a_request_that_is_refused(pieces: list[bytes]) -> None:
    """Whatever comes, a refusal is the last that is said."""

    async def ask() -> None:
        application = Kept()
        written: list[bytes] = []
        connection = connect(application, written)
        for piece in pieces:
            connection.data_received(piece)
            for _ in range(8):
                await asyncio.sleep(0)
        told = b"".join(written)
        statuses = [line.split()[1] for line in told.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        assert all(status == b"200" for status in statuses[:-1])
        connection.connection_lost(None)
        for _ in range(4):
            await asyncio.sleep(0)

    asyncio.run(ask())


def connect(application: Any, written: list[bytes]) -> Any:
    import uvicorn
    from uvicorn.server import ServerState

    class Wire(asyncio.Transport):
        is_over = False

        def write(self, data: Any) -> None:
            assert not self.is_over
            written.append(bytes(data))

        def close(self) -> None:
            self.is_over = True

        abort = close

        def is_closing(self) -> bool:
            return self.is_over

        def get_write_buffer_size(self) -> int:
            return 0

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def pause_reading(self) -> None:
            pass

        resume_reading = pause_reading

    config = uvicorn.Config(application, log_config=None, lifespan="off", ws="none")
    gate = Gate(ServerSettings())
    made: Any = protocol.protocol_of(gate)
    connection = made(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(Wire())
    return connection


async def test_a_request_before_its_turn_ends_the_connection_after_the_reply() -> None:
    async with kept() as (application, raw):
        told = await raw.ask(POST + b"\r\n" + NEXT + NEXT)

    assert told.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in told
    assert application.seen == [("POST", "/first", b"")]


@pytest.mark.parametrize("after", [b"", NEXT, b"\0\0\0", NEXT * 2000], ids=["nothing", "request", "rubbish", "much"])
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_client_that_goes_is_noticed_whatever_it_said_before_its_turn(after: bytes, is_reset: bool) -> None:
    async with kept() as (application, raw):
        _, writer = await asyncio.open_connection("127.0.0.1", raw.port)
        writer.write(POST.replace(b"/first", b"/stall") + b"\r\n" + after)
        await application.waiting.wait()
        await asyncio.sleep(0.01)
        if is_reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        async with asyncio.timeout(5):
            while not application.gone:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)

    assert [path for _, path, _ in application.seen] == ["/stall"]


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_protocol_that_is_not_spoken_here_is_not_changed_to_and_the_request_is_one_of_this(size: int) -> None:
    # As Java's HttpClient asks, which by itself prefers HTTP/2.
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
        b"X-Kept: yes\r\nContent-Length: 4\r\n\r\nabcd"
    )
    last = b"POST /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with kept() as (application, raw):
        reader, writer = await asyncio.open_connection("127.0.0.1", raw.port)
        for asked in (POST + upgrade, last):
            for at in range(0, len(asked), size):
                writer.write(asked[at : at + size])
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
            if asked != last:
                assert dict(application.headers)[b"x-kept"] == b"yes"
        writer.close()

    assert application.seen == [("POST", "/first", b"abcd"), ("POST", "/second", b"")]


async def test_a_head_that_does_not_come_is_waited_for_no_longer_than_its_deadline() -> None:
    async with kept(head_timeout_s=0.3) as (application, raw):
        nothing, begun, later = await asyncio.gather(
            raw.ask(b""), raw.ask(b"POST /first HT"), raw.ask(POST + b"\r\n", b"", b"GET /second HT")
        )

    assert nothing == b""
    assert begun.startswith(b"HTTP/1.1 408")
    assert later.startswith(b"HTTP/1.1 200")
    assert [path for _, path, _ in application.seen] == ["/first"]


async def test_a_head_that_trickles_is_not_waited_for_longer() -> None:
    async with kept(head_timeout_s=0.3) as (_, raw):
        reader, writer = await asyncio.open_connection("127.0.0.1", raw.port)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(10):
                for _ in range(1000):
                    writer.write(b"X")
                    await writer.drain()
                    await asyncio.sleep(0.02)
        writer.close()
        del reader


async def test_a_body_that_comes_too_slowly_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_GRACE_S", 0.2)
    async with kept(min_bytes_per_s=100) as (application, raw):
        told = await raw.ask(POST + b"Content-Length: 40\r\n\r\nabcd")

    assert told.startswith(b"HTTP/1.1 408")
    assert (application.gone, application.seen) == (1, [])


async def test_a_reply_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LOOK_S", 0.25)
    async with kept() as (application, raw):
        application.reply = b"x" * 8 * 2**20
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", raw.port))
            lazy.setblocking(False)
            lazy.sendall(POST + b"Connection: close\r\n\r\n")
            async with asyncio.timeout(10):
                taken = 0
                while True:
                    await asyncio.sleep(1)
                    try:
                        while data := lazy.recv(2**16):
                            taken += len(data)
                        break
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        break

    assert taken < len(application.reply)


@pytest.mark.parametrize(
    "asked",
    [
        POST + b"X: " + b"a" * 80_000,
        POST + b"a" * 80_000 + b": b",
        POST + b"X: a\r\n" * 101,
        b"GET /" + b"a" * 80_000,
        POST + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["value", "name", "many", "address", "whole"],
)
async def test_a_head_has_a_size(asked: bytes) -> None:
    async with kept() as (application, raw):
        told = await raw.ask(asked + b"\r\n\r\n")

    assert told.startswith(b"HTTP/1.1 431")
    assert not application.seen


@pytest.mark.parametrize(
    "rest", [b"0\r\nX: " + b"a" * 2**20, b"1;" + b"a" * 2**20, b"0\r\n" + b"X: a\r\n" * 2**17],
    ids=["trailer", "extension", "trailers"],
)  # fmt: skip
async def test_chunks_are_mostly_content(rest: bytes) -> None:
    async with kept() as (application, raw):
        told = await raw.ask(CHUNKED + rest)

    assert told[:12] in (b"HTTP/1.1 400", b"")  # or a reset, for all that has not been read
    assert not application.seen


class Guest:
    def __init__(self) -> None:
        self.is_dropped = False

    def drop(self) -> None:
        self.is_dropped = True


def test_where_there_is_no_room_the_oldest_goes_that_has_no_request() -> None:
    gate = Gate(ServerSettings(max_connections=3))
    first, second, third, fourth, fifth = (Guest() for _ in range(5))
    for guest in (first, second, third):
        assert gate.enter(guest, None) is None
    gate.has_request(first)

    assert gate.enter(fourth, None) is None
    assert [guest.is_dropped for guest in (first, second, third, fourth)] == [False, True, False, False]
    for guest in (third, fourth):
        gate.has_request(guest)
    assert gate.enter(fifth, None) == "too many connections"
    gate.await_request(first)
    assert gate.enter(fifth, None) is None
    assert first.is_dropped
    assert len(gate) == 3


def test_one_address_has_a_share_of_the_room_and_this_machine_all_of_it() -> None:
    gate = Gate(ServerSettings(max_connections_per_address=2))
    told = [
        gate.enter(Guest(), address)
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1",
                        "2001:db8::2", "2001:db8::ffff:0:0:3", "2001:db8:0:1::1", *["127.0.0.1", "::1", None] * 3)
    ]  # fmt: skip

    assert [bool(one) for one in told] == [False, False, False, True, True, False, False, True, False, *[False] * 9]


def test_connections_are_fewer_than_files() -> None:
    gate = Gate(ServerSettings(max_connections=5000), files=1024)

    for _ in range(448):
        gate.enter(Guest(), None)
    extra = Guest()
    gate.enter(extra, None)

    assert len(gate) == 448


async def test_there_is_no_more_room_than_there_is_and_those_who_ask_have_it() -> None:
    async with kept(max_connections=20) as (_, raw):
        open_ones = [await asyncio.open_connection("127.0.0.1", raw.port) for _ in range(60)]
        told = [await raw.ask(POST + b"Connection: close\r\n\r\n") for _ in range(5)]
        ended = await asyncio.gather(*[asyncio.wait_for(reader.read(), 5) for reader, _ in open_ones[:40]])
        for _, writer in open_ones:
            writer.close()

    assert all(one.startswith(b"HTTP/1.1 200") for one in told)
    assert ended == [b""] * 40


def test_a_socket_is_its_owner_s_alone_and_replaces_one_that_is_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen_unix(path, backlog=5):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match="a server listens on .* already"):
            listen_unix(path, backlog=5)
    with listen_unix(path, backlog=5), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for name, told in (("notes", "is no socket"), ("none/s", "cannot listen"), ("x" * 200, "cannot listen")):
        with pytest.raises(ConfigError, match=told):
            listen_unix(str(tmp_path / name), backlog=5)

    assert (tmp_path / "notes").read_text() == "mine"
