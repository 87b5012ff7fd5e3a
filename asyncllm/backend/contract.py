"""The contract itself: what a backend is, and what it is lent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from msgspec import Struct

from asyncllm.backend.config import Config
from asyncllm.backend.http import Transport
from asyncllm.events import Events
from asyncllm.types import Noun, Request

__all__ = ["About", "Backend", "Clock", "Connect", "Context"]


class About(Struct, frozen=True, kw_only=True):
    """What can be told of a backend without connecting it: a row of the table of backends."""

    summary: str
    """What it talks to, in a few words."""
    variables: tuple[str, ...] = ()
    """Environment variables that it reads, the key's first."""
    calls: tuple[str, ...] = ("chat",)
    """Methods of the client that it serves; those that stream go with those that do not."""


class Clock(Protocol):
    """Monotonic time, so that tests can bring their own."""

    def time(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Return after `seconds`."""
        ...


class Context(Noun, frozen=True, kw_only=True):
    """What every backend is lent at `connect`: the ways to the world outside."""

    transport: Transport
    clock: Clock
    env: Mapping[str, str]

    _private = frozenset({"env"})


class Backend(Protocol):
    """A place that answers requests. One instance serves many tasks at once, on one event loop."""

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        """Start one generation and lend its events for the length of the block.

        Entering returns once the backend has accepted the call, so a failure there is safe to retry. The events end
        with one `Finished` for each choice. Leaving, for whatever reason, frees the connection or the slot: the
        model stops.

        Raises, on entering: `UnsupportedError` for an option it cannot honour, `APIError`.
        Raises, while iterating: `APIError`; `StreamInterrupted` where the reply ends without its terminal event.
        """
        ...

    async def aclose(self) -> None:
        """Free what outlives a call: pools, processes, device memory. Idempotent."""
        ...


Connect: TypeAlias = Callable[[Config, Context], Backend]
"""What an entry point of the group `asyncllm.backends` names. May raise `ConfigError`; opens nothing."""
