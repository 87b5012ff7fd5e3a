"""What a request names by an address: fetched from the public network, and never from where the server stands."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import Client, Finished, TextDelta
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.http.pictures import Pictures
from asyncllm.server.service import Service
from asyncllm.testing import FaultyServer, Op, Pause, ScriptedBackend, SeenRequest, Slice, Stall, Status
from asyncllm.transport.addresses import Address, is_public, read_address
from asyncllm.transport.fetch import Budget, Fetcher, FetchError
from asyncllm.types import ImagePart
from forbidden_addresses import FORBIDDEN
from served import listening

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20
OUTSIDE = "127.0.0.2"  # stands for the public network
MIB = 2**20

_targets: list[list[Any]] = []
"""Of each block that listens: where anything in this process has connected to."""


def _note(event: str, given: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _targets and given[0].type & 0xF == socket.SOCK_STREAM:
        for seen in _targets:
            seen.append(given[1])


sys.addaudithook(_note)


@contextmanager
def connections() -> Any:
    seen: list[Any] = []
    _targets.append(seen)
    try:
        yield seen
    finally:
        _targets.remove(seen)


class Names:
    """Names of a network of our own; what is no name is read as the system reads it."""

    def __init__(self, **known: Sequence[str] | list[Sequence[str]]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.asked.append(name)
        known: Any = self.known.get(name.rstrip(".").partition(".")[0])
        if known is None:
            return [str(one[4][0]) for one in socket.getaddrinfo(name, port, flags=socket.AI_NUMERICHOST)]
        if isinstance(known[0], str):
            return list(known)
        return list(known.pop(0) if len(known) > 1 else known[0])


def allowed(address: Address) -> bool:
    return str(address) == OUTSIDE or is_public(address)


@asynccontextmanager
async def canary() -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A service of this machine that nobody may reach, at every address that it has."""
    hits: list[bytes] = []

    async def hit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append(b"hit")
        writer.close()

    async with await asyncio.start_server(hit, "127.0.0.1", 0) as four:
        port = four.sockets[0].getsockname()[1]
        async with await asyncio.start_server(hit, "::1", port):
            yield port, hits


@asynccontextmanager
async def outside(*ops: Op) -> AsyncGenerator[tuple[int, list[str]]]:
    """A server of the public network, which leads on to what its paths are told to, or says `ops`."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        path = head.split()[1]
        target = path.partition("?to=")[2]
        if target:
            reply = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        else:
            reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nSet-Cookie: a=b\r\n\r\n" % len(PNG) + PNG
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(serve, OUTSIDE, 0) as server:
        yield server.sockets[0].getsockname()[1], seen


def names(**more: Any) -> Names:
    return Names(
        **{
            "ok": [OUTSIDE],
            "localhost": ["127.0.0.1", "::1"],
            "a": ["127.0.0.1"],
            "internal": ["127.0.0.1"],
            "six": ["::1"],
            "both": ["127.0.0.1", "::1"],
            "mixed": [OUTSIDE, "127.0.0.1"],
            "metadata": ["169.254.169.254"],
            **more,
        }
    )


async def test_nothing_of_this_machine_or_its_network_is_fetched_however_it_is_named() -> None:
    assert len(FORBIDDEN) > 200
    fetched: list[str] = []
    told: set[str] = set()
    async with canary() as (port, hits):
        fetcher = Fetcher(resolve=names(), is_allowed=allowed, timeout_s=2)
        with connections() as seen:
            for address in FORBIDDEN:
                try:
                    await fetcher.fetch(address.replace("P", str(port)), Budget(MIB))
                except FetchError as error:
                    told.add(str(error))
                    continue
                fetched.append(address)

    assert (fetched, seen, hits) == ([], [], [])
    assert len(told) < 8  # and nothing of what was found


async def test_no_redirect_leads_where_an_address_does_not() -> None:
    async with canary() as (port, hits), outside() as (open_port, asked):
        fetcher = Fetcher(resolve=names(), is_allowed=allowed, timeout_s=2)
        tried = [
            address.replace("P", str(port))
            for address in FORBIDDEN[::4] + FORBIDDEN[-60:]
            if address.strip() and address.isascii() and address.isprintable() and len(address) < 2000
        ]
        led: list[str] = []
        with connections() as seen:
            for hops in (0, 2):
                for address in tried:
                    target = address
                    for _ in range(hops):
                        target = f"/?to={target}"
                    try:
                        await fetcher.fetch(f"http://ok:{open_port}/?to={target}", Budget(MIB))
                    except FetchError:
                        continue
                    led.append(address)

    # What has no scheme is a path of the server that redirects.
    assert [one for one in led if "://" in one] == []
    assert {target[0] for target in seen} == {OUTSIDE}
    assert hits == []
    assert len(asked) >= 2 * len(tried) > 100


@pytest.mark.parametrize(
    "answers",
    [
        [[OUTSIDE], ["127.0.0.1"]],
        [[OUTSIDE], ["::1"]],
        [[OUTSIDE], [OUTSIDE, "127.0.0.1"]],
        [[OUTSIDE], ["169.254.169.254"]],
        [[OUTSIDE], [OUTSIDE], ["127.0.0.1"]],
        [[OUTSIDE], ["::ffff:127.0.0.1"]],
    ],
)
async def test_a_name_that_means_something_else_a_moment_later_gains_nothing(answers: list[Sequence[str]]) -> None:
    async with canary() as (port, hits), outside() as (open_port, _):
        flip = names(flip=[list(one) for one in answers])
        fetcher = Fetcher(resolve=flip, is_allowed=allowed, timeout_s=2)
        with connections() as seen:
            for path in ("/", f"/?to=http://flip:{port}/", f"/?to=http://flip:{open_port}/?to=http://flip:{port}/"):
                for _ in range(len(answers)):
                    try:
                        await fetcher.fetch(f"http://flip:{open_port}{path}", Budget(MIB))
                    except FetchError:
                        continue

    assert {target[0] for target in seen} == {OUTSIDE}
    assert hits == []


async def test_a_name_is_asked_for_once_a_connection() -> None:
    async with outside() as (port, _):
        known = names()
        assert await Fetcher(resolve=known, is_allowed=allowed).fetch(f"http://ok:{port}/a.png", Budget(MIB)) == PNG

    assert known.asked == ["ok"]


async def test_nothing_of_ours_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with outside() as (port, asked):
        fetcher = Fetcher(resolve=names(), is_allowed=allowed)
        await fetcher.fetch(f"http://ok:{port}/?to=/next", Budget(MIB))
        await fetcher.fetch(f"http://ok:{port}/", Budget(MIB))

    assert len(asked) == 3
    for head in asked:
        told = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:] if line}
        assert told == {"host", "user-agent", "accept", "accept-encoding", "connection"}


async def test_redirects_are_followed_three_times() -> None:
    async with outside() as (port, asked):
        fetcher = Fetcher(resolve=names(), is_allowed=allowed)
        assert await fetcher.fetch(f"http://ok:{port}/?to=/?to=/?to=/last", Budget(MIB)) == PNG
        with pytest.raises(FetchError, match="more than 3 redirects"):
            await fetcher.fetch(f"http://ok:{port}/?to=/?to=/?to=/?to=/last", Budget(MIB))

    assert len(asked) == 8


@asynccontextmanager
async def scripted(*ops: Op) -> AsyncGenerator[Any]:
    """What is fetched of a server that does `ops`."""
    async with FaultyServer(ops) as server:
        port = server.url.rpartition(":")[2]

        async def fetch(size: int = MIB, timeout_s: float = 5, **more: Any) -> bytes:
            fetcher = Fetcher(resolve=names(ok=["127.0.0.1"]), is_allowed=lambda _: True, timeout_s=timeout_s, **more)
            return await fetcher.fetch(f"http://ok:{port}/", Budget(size))

        yield fetch


@pytest.mark.parametrize(
    ("ops", "told"),
    [
        ([Status(body=b"x" * 2000)], "more than 1000 bytes"),
        ([Status(headers={"Transfer-Encoding": "chunked"}, body=None), Stall()], "within 0.3 seconds"),
        ([Status(body=gzip.compress(b"\0" * 10**6), headers={"Content-Encoding": "gzip"})], "more than 1000 bytes"),
        ([Status(body=gzip.compress(PNG)[:-4], headers={"Content-Encoding": "gzip"})], "nothing can be fetched"),
        ([Status(body=b"rubbish", headers={"Content-Encoding": "gzip"})], "nothing can be fetched"),
        ([Status(body=PNG, headers={"Content-Encoding": "br"})], "not asked for"),
        ([Status(body=PNG, headers={"Content-Encoding": "gzip, gzip"})], "not asked for"),
        ([Status(404, body=b"secret")], "status 404"),
        ([Status(206, body=PNG)], "status 206"),
        ([Stall()], "within 0.3 seconds"),
        ([Slice(1, wait_s=0.05), Status(body=PNG)], "within 0.3 seconds"),
        ([Pause(5), Status(body=PNG)], "within 0.3 seconds"),
    ],
)
async def test_what_is_fetched_has_a_size_and_a_time(ops: list[Op], told: str) -> None:
    async with scripted(*ops) as fetch:
        with pytest.raises(FetchError, match=told) as caught:
            await fetch(size=1000, timeout_s=0.3 if "within" in told else 5)

    assert "secret" not in str(caught.value)


async def test_what_comes_compressed_is_unfolded() -> None:
    async with scripted(Status(body=gzip.compress(PNG), headers={"Content-Encoding": "gzip"})) as fetch:
        assert await fetch() == PNG


async def test_hosts_can_be_listed() -> None:
    async with outside() as (port, _):
        for hosts, host, is_fetched in (
            ({"ok"}, "ok", True),
            ({"OK."}, "ok.", True),
            ({"other"}, "ok", False),
            ({".ok"}, "ok", False),
            ({".org"}, "ok.org", True),
            ({"org"}, "ok.org", False),
        ):
            fetcher = Fetcher(hosts=hosts, resolve=names(), is_allowed=allowed)
            try:
                found = await fetcher.fetch(f"http://{host}:{port}/", Budget(MIB)) == PNG
            except FetchError:
                found = False
            assert found == is_fetched, (hosts, host)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_an_address_is_as_public_however_it_is_held(address: Address) -> None:
    if isinstance(address, ipaddress.IPv4Address):
        for held in (f"::ffff:{address}", f"64:ff9b::{address}"):
            assert is_public(ipaddress.ip_address(held)) == is_public(address)
        for held in (
            f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::1",
            f"::{address}",
            f"2606::5efe:{address}",
        ):
            assert not is_public(ipaddress.ip_address(held))
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


def test_the_public_network_is_public() -> None:
    for address in (
        "8.8.8.8",
        "1.1.1.1",
        "93.184.216.34",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::200e",
    ):
        assert is_public(ipaddress.ip_address(address)), address


@given(st.text(max_size=30), st.sampled_from(["http://", "https://", "HTTP://", ""]))
def test_what_is_read_as_an_address_has_one_plain_host(text: str, scheme: str) -> None:
    try:
        url = read_address(scheme + text)
    except ValueError:
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host
    assert url.raw_user is None
    assert (scheme + text).lower().startswith((f"{url.scheme}://{url.raw_host}", f"{url.scheme}://["))


class Asked:
    """A server of ours, what its backend is asked, and a server of the public network."""

    def __init__(self, http: aiohttp.ClientSession, url: str, port: int, backend: ScriptedBackend) -> None:
        self.http, self.url, self.port, self.backend = http, url, port, backend

    async def chat(self, *addresses: str) -> tuple[int, Any]:
        parts = [{"type": "image_url", "image_url": {"url": one, "detail": "low"}} for one in addresses]
        asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, *parts]}]}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=asked) as reply:
            return reply.status, (await reply.json()).get("error")


@asynccontextmanager
async def looking(ops: Any, **settings: Any) -> AsyncGenerator[Asked]:
    backend = ScriptedBackend([[TextDelta("a cat"), Finished("stop")]])
    known = ServerSettings(models={"m": ""}, fetch_urls=True, **settings)
    async with Client(backend=backend) as client, FaultyServer(ops) as server:
        service = Service(client, known, None)
        service.pictures = Pictures(
            known, Fetcher(resolve=names(ok=["127.0.0.1"]), is_allowed=lambda one: str(one) == "127.0.0.1")
        )
        async with listening(application_of(service), known) as url, aiohttp.ClientSession() as http:
            yield Asked(http, url, int(server.url.rpartition(":")[2]), backend)


async def test_a_backend_is_given_the_picture_and_never_its_address() -> None:
    jpeg = b"\xff\xd8\xff\xe0" + b"j" * 30

    def ops(request: SeenRequest) -> Sequence[Op]:
        return [Status(headers={"Content-Type": "text/html"}, body=PNG if request.path == "/a" else jpeg)]

    async with looking(ops) as asked:
        await asked.chat(f"http://ok:{asked.port}/a", "data:image/png;base64,eA==", f"http://ok:{asked.port}/b")
        (request,) = asked.backend.requests

    parts = [part for part in request.messages[0].content if isinstance(part, ImagePart)]
    assert [(part.data, part.media_type, part.detail) for part in (parts[0], parts[2])] == [
        (PNG, "image/png", "low"),
        (jpeg, "image/jpeg", "low"),
    ]
    assert parts[1].url == "data:image/png;base64,eA=="


async def test_what_is_no_picture_or_too_much_is_refused_and_nothing_is_asked() -> None:
    def ops(request: SeenRequest) -> Sequence[Op]:
        return [Status(headers={"Content-Type": "image/png"}, body=b"<svg/>" if request.path == "/svg" else PNG)]

    async with looking(ops, max_fetches=3, max_fetch_bytes=70) as asked:
        at = f"http://ok:{asked.port}"
        told = [
            await asked.chat(f"{at}/svg"),
            await asked.chat(*[f"{at}/png"] * 3),
            await asked.chat(*[f"{at}/png"] * 4),
            await asked.chat("file:///etc/passwd"),
            await asked.chat("http://127.0.0.9:8080/"),
        ]

    assert [status for status, _ in told] == [400] * 5
    texts = [
        "no picture of",
        "more than 70 bytes",
        "at most 3 pictures",
        "this is not fetched",
        "nothing can be fetched",
    ]
    assert [text for text, (_, error) in zip(texts, told, strict=True) if text not in error["message"]] == []
    assert {error["param"] for _, error in told} == {"messages[0].content", "messages"}
    assert not asked.backend.requests


async def test_a_client_that_goes_ends_what_is_fetched_for_it() -> None:
    async with FaultyServer([Stall()]) as server, looking([Stall()]) as asked:
        task = asyncio.create_task(asked.chat(f"http://ok:{server.url.rpartition(':')[2]}/"))
        await server.received()
        task.cancel()
        await asyncio.wait([task])
        await server.aborted()
