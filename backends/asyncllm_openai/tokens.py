"""Entra tokens: asked for once however many calls wait, kept until shortly before they expire, put into every call."""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import Struct

from asyncllm.backend import Clock, HttpCall, HttpReply, Secret, Transport
from asyncllm.errors import AsyncLLMError, AuthenticationError, ConfigError

__all__ = ["Authorized", "TokenProvider", "Tokens"]

TokenProvider: TypeAlias = Callable[[], Any]
"""Gives a token, or `(token, expires_on)` with the seconds since 1970 of its end; may be async, or block."""

_AHEAD_S = 300.0  # how long before its end a token is replaced


class _Claims(Struct):
    exp: float | None = None


class Tokens:
    """The token of one provider.

    A token that does not say when it ends (no pair, and no JWT with an `exp`) is asked for again with each call, as the
    provider is then the one who keeps it.
    """

    def __init__(self, provider: TokenProvider, clock: Clock, backend: str) -> None:
        self._provider = provider
        self._clock = clock
        self._backend = backend
        self._lock = asyncio.Lock()
        self._token = ""
        self._due = 0.0  # when the token is to be replaced, by the clock
        self._end = 0.0  # when it is no good any more
        self._count = 0  # tokens received

    @property
    def secrets(self) -> tuple[str, ...]:
        """The token in use, which no error text may repeat."""
        return (self._token,) if self._token else ()

    async def get(self) -> str:
        """A token that is good for a call. Raises `AuthenticationError` where the provider fails."""
        if self._clock.time() < self._due:
            return self._token
        count = self._count
        async with self._lock:
            # Whoever waited for the lock while another asked has the answer already.
            if self._count == count and self._clock.time() >= self._due:
                await self._replace()
            return self._token

    def forget(self, token: str) -> None:
        """The service refuses `token`: the next call asks for another."""
        if token == self._token:
            self._due = self._end = 0.0

    async def _replace(self) -> None:
        """Ask for another token; where nobody gives one, that in use stays in use for as long as it is good."""
        try:
            await self._ask()
        except AuthenticationError:
            if self._clock.time() >= self._end:
                raise

    async def _ask(self) -> None:
        try:
            told = await self._call()
        except AsyncLLMError:
            raise
        except Exception as error:
            raise AuthenticationError(
                f"the token provider of the {self._backend!r} backend failed: {type(error).__name__}",
                backend=self._backend,
            ) from error
        token, expires_on = _read(told)
        if token is None:
            raise ConfigError(
                f"the token provider of the {self._backend!r} backend gives a {type(told).__name__}, and not a token "
                "or a pair of a token and the time of its end",
                backend=self._backend,
                field="token_provider",
            )
        self._token = Secret(token).reveal()  # which checks it
        self._count += 1
        left_s = 0.0 if expires_on is None else expires_on - time.time()
        self._end = self._clock.time() + left_s
        self._due = self._end - min(_AHEAD_S, left_s / 2)

    async def _call(self) -> object:
        """What the provider says; one that is not async may block, and has a thread for it."""
        if inspect.iscoroutinefunction(self._provider):
            return await cast("Awaitable[object]", self._provider())
        told: object = await asyncio.to_thread(self._provider)
        return await told if inspect.isawaitable(told) else told


def _read(told: object) -> tuple[str | None, float | None]:
    """A token and when it ends, as far as it is known."""
    if isinstance(told, str) and told:
        return told, _end_of(told)
    pair = cast("tuple[object, ...]", told) if isinstance(told, tuple) else ()
    if len(pair) >= 2 and isinstance(pair[0], str) and pair[0] and isinstance(pair[1], int | float):
        return pair[0], float(pair[1])
    return None, None


def _end_of(token: str) -> float | None:
    """The `exp` of a JWT; not verified, because it only says when to ask again."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(claims, type=_Claims).exp
    except (binascii.Error, ValueError):
        return None


class Authorized:
    """A transport whose every call carries a token."""

    def __init__(self, transport: Transport, tokens: Tokens) -> None:
        self._transport = transport
        self._tokens = tokens

    def open(self, call: HttpCall, /) -> AbstractAsyncContextManager[HttpReply]:
        """See `Transport`."""
        return _Opening(self._transport, call, self._tokens)

    async def aclose(self) -> None:
        """Nothing: the transport belongs to the client."""


class _Opening:
    def __init__(self, transport: Transport, call: HttpCall, tokens: Tokens) -> None:
        self._transport = transport
        self._call = call
        self._tokens = tokens
        self._inner: AbstractAsyncContextManager[HttpReply] | None = None

    async def __aenter__(self) -> HttpReply:
        token = await self._tokens.get()
        headers = {**self._call.headers, "Authorization": f"Bearer {token}"}
        inner = self._transport.open(msgspec.structs.replace(self._call, headers=headers))
        try:
            reply = await inner.__aenter__()
        except AuthenticationError:
            self._tokens.forget(token)
            raise
        self._inner = inner
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None if self._inner is None else await self._inner.__aexit__(kind, error, trace)
