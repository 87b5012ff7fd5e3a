"""Fetching what strangers name, from the public network and from nowhere else.

Every address that a name has is looked at, and the connection goes to one of those that were, so that a name that means
something else a moment later gains nothing. Nothing of ours goes along: no key, no cookie, no proxy of the environment.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
import zlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from asyncllm.transport.addresses import Address, is_public, read_address
from asyncllm.transport.inflate import CODINGS, Inflater

__all__ = ["Budget", "FetchError", "Fetcher", "Resolve"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port to the addresses that the name has. Raises `OSError`."""

_REDIRECTS = 3
_LOOKUPS = 8
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_MOVED = (301, 302, 303, 307, 308)
_NOTHING = "nothing can be fetched from there"  # why tells what there is in a network that is not the asker's


class FetchError(Exception):
    """Nothing was fetched; the text says no more than whoever asked may know."""


class Budget:
    """Bytes that may still be fetched, by however many at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size

    def take(self, size: int) -> None:
        """Raises `FetchError` where so much is not left."""
        self._left -= size
        if self._left < 0:
            raise FetchError(f"what is to be fetched is more than {self.size} bytes")


class Fetcher:
    """Fetches by http and https. With `hosts`, from these alone; one with a dot before it means all below it.

    `resolve` and `is_allowed` are for whoever has names of its own: nothing that is asked for changes them.
    """

    def __init__(
        self,
        *,
        hosts: Collection[str] = (),
        timeout_s: float = 10,
        resolve: Resolve | None = None,
        is_allowed: Callable[[Address], bool] = is_public,
    ) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._timeout_s = timeout_s
        self._resolve = resolve or self._ask_system
        # Of its own, as a name that takes long to find is somebody else's to choose, and others ask for names too.
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="asyncllm-names")
        self._is_allowed = is_allowed

    async def fetch(self, address: str, budget: Budget) -> bytes:
        """What is at `address`, redirects followed, each looked at like the first. Raises `FetchError`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(self._read(address), budget)
        except TimeoutError:
            raise FetchError(f"nothing came from there within {self._timeout_s:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError, zlib.error):
            raise FetchError(_NOTHING) from None

    async def _fetch(self, url: URL, budget: Budget) -> bytes:
        for _ in range(_REDIRECTS + 1):
            found = await self._ask(url, budget)
            if isinstance(found, bytes):
                return found
            if url.scheme == "https" and found.scheme == "http":
                raise FetchError("a redirect leads from https to http, which is not followed")
            url = found
        raise FetchError(f"there are more than {_REDIRECTS} redirects in a row")

    def _read(self, address: str) -> URL:
        try:
            url = read_address(address)
        except ValueError as error:
            raise FetchError(f"this is not fetched: {error}") from None
        host = (url.raw_host or "").rstrip(".")
        if (
            self._hosts
            and host not in self._hosts
            and not any(one.startswith(".") and host.endswith(one) for one in self._hosts)
        ):
            raise FetchError("this server fetches from other hosts only")
        return url

    async def _ask(self, url: URL, budget: Budget) -> bytes | URL:
        """The body at `url`, or where it leads."""
        addresses = await self._addresses(url)
        connector = aiohttp.TCPConnector(
            resolver=_Known(addresses),
            use_dns_cache=False,
            force_close=True,
            socket_factory=functools.partial(_open_socket, addresses),
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={hdrs.USER_AGENT: "asyncllm", hdrs.ACCEPT_ENCODING: "gzip", hdrs.ACCEPT: "image/*"},
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status in _MOVED:
                return self._read(_target(url, response.headers.get(hdrs.LOCATION, "")))
            if response.status != 200:
                raise FetchError(f"the answer from there is status {response.status}")
            return await _read_body(response, budget)

    async def _ask_system(self, name: str, port: int) -> Sequence[str]:
        ask = functools.partial(socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)
        return [str(one[4][0]) for one in await asyncio.get_running_loop().run_in_executor(self._threads, ask)]

    async def _addresses(self, url: URL) -> list[Address]:
        """Every address that the host of `url` has. Raises `FetchError` where one of them is not allowed."""
        host, port = url.raw_host or "", url.port or 0
        try:
            found = [ipaddress.ip_address(host)]
        except ValueError:
            told = await self._resolve(host, port)
            found = [ipaddress.ip_address(one) for one in dict.fromkeys(told)]
        if not found or not all(self._is_allowed(one) and not _is_own(one, self._is_allowed) for one in found):
            raise FetchError(_NOTHING)
        return found


def _target(url: URL, told: str) -> str:
    """Where a redirect leads: an address like any other, one without its scheme, or a path of the same host."""
    if _SCHEME.match(told):
        return told
    if told.startswith("//"):
        return f"{url.scheme}:{told}"
    if not told.isascii() or "\\" in told:
        raise FetchError(_NOTHING)
    return str(url.join(URL(told, encoded=True)))


class _Known(AbstractResolver):
    """Says what is known already."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See `AbstractResolver`."""
        del family
        return [
            ResolveResult(
                hostname=host,
                host=str(one),
                port=port,
                family=socket.AF_INET if one.version == 4 else socket.AF_INET6,  # a version
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for one in self._addresses
        ]

    async def close(self) -> None:
        """See `AbstractResolver`."""


def _open_socket(addresses: Sequence[Address], info: Any) -> socket.socket:
    """A socket for a connection that is about to be made: the last look at where it goes."""
    family, kind, protocol, _, target = info
    if ipaddress.ip_address(target[0]) not in addresses:
        raise FetchError(_NOTHING)
    return socket.socket(family, kind, protocol)


def _is_own(address: Address, is_allowed: Callable[[Address], bool]) -> bool:
    """Whether a public address is one of this machine, whose services may be for itself alone."""
    if is_allowed is not is_public:
        return False
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((str(address), 9))  # sends nothing: the system says which way it would go
        except OSError:
            return False
        return ipaddress.ip_address(asking.getsockname()[0]) == address


async def _read_body(response: aiohttp.ClientResponse, budget: Budget) -> bytes:
    coding = response.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if coding != "identity" and coding not in CODINGS:
        raise FetchError("what comes from there is encoded in a way that was not asked for")
    if coding == "identity" and (response.content_length or 0) > budget.size:
        budget.take(response.content_length or 0)
    inflater = None if coding == "identity" else Inflater(coding)
    pieces: list[bytes] = []
    async for packed in response.content.iter_any():
        if inflater is None:
            budget.take(len(packed))
            pieces.append(packed)
            continue
        inflater.feed(packed)
        while data := inflater.take():
            budget.take(len(data))
            pieces.append(data)
    if inflater is not None and not inflater.is_complete:
        raise FetchError(_NOTHING)
    return b"".join(pieces)
