"""HTTP as backends see it: a call, a reply that is lent, and who carries them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from asyncllm.types import Noun, Timeouts

__all__ = ["HttpCall", "HttpReply", "Transport"]

# Headers that hold no secret. Any other may: gateways have names of their own for a key.
_PLAIN = (
    "Accept", "Cache-Control", "Content-Type", "OpenAI-Organization", "OpenAI-Project", "User-Agent", "anthropic-beta",
    "anthropic-version",
)  # fmt: skip
_PLAIN_HEADERS = frozenset((*_PLAIN, *(name.lower() for name in _PLAIN)))
_SECRET_LENGTH = 6  # a shorter value is a flag or a number, and would be blanked out of every text


class HttpCall(Noun, frozen=True, kw_only=True, gc=False):
    """One HTTP request, complete: nothing below adds to it but what HTTP itself needs."""

    url: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    method: str = "POST"
    stream: bool = False
    """Whether the body is read as it comes. A streamed body that breaks off raises `StreamInterrupted`."""
    timeouts: Timeouts = Timeouts()
    once: bool = False
    """Whether it must not arrive twice: it is sent over a connection of its own, and never again when that is lost."""

    _private = frozenset({"url", "body", "headers"})

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the headers carry that no error text may repeat."""
        found: list[str] = []
        for name, value in self.headers.items():  # in every call, so the usual headers are the quick ones
            if name in _PLAIN_HEADERS:
                continue
            if value.startswith("Bearer "):
                found.append(value.removeprefix("Bearer "))
            elif name == "Idempotency-Key":
                found.append(value)
            elif name.lower() not in _PLAIN_HEADERS:
                found += _secrets(value)
        return tuple(found)


def _secrets(value: str) -> Iterator[str]:
    """A header's value, and its parts without what names them, as in `session=...; theme=...`.

    Of AWS's `Credential=<key id>/<date>/...,` the id counts too.
    """
    words = value.split()
    named = [word.partition("=")[2].rstrip(";,") for word in words]
    for part in {value, *words, *named, *(word.partition("/")[0] for word in named)}:
        if len(part) >= _SECRET_LENGTH:
            yield part


class HttpReply(Protocol):
    """A reply with a good status, lent for the length of the block that opened it."""

    status: int
    headers: Mapping[str, str]
    """Names are case-insensitive."""

    async def receive(self) -> bytes:
        """The next piece of the body, as the network brings it; empty at its end."""
        ...

    async def read(self) -> bytes:
        """The whole body."""
        ...

    async def drain(self) -> None:
        """Read a little past the part of the body that mattered, so that the connection can serve again."""
        ...


class Transport(Protocol):
    """The HTTP client that all backends of a client share."""

    def open(self, call: HttpCall, /) -> AbstractAsyncContextManager[HttpReply]:
        """Send `call` and lend the reply for the length of the block.

        Entering returns with a status of 2xx. Leaving hands the connection back if the body was read to its end,
        and cuts it otherwise.

        Raises, on entering: `APIStatusError` for any other status, `APIConnectionError`.
        Raises, while reading: `StreamInterrupted` or `APIConnectionError`.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        ...
