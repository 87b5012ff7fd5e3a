"""A place that calls go to: a connected backend within its layers, and how it has been doing."""

from __future__ import annotations

import asyncio
import logging

from msgspec import Struct

from asyncllm.backend import Backend, Clock, Health
from asyncllm.cache import Guarded
from asyncllm.errors import APIError, UnsupportedError
from asyncllm.identity import Origin
from asyncllm.middleware import Open, bottom
from asyncllm.middleware.cached import cached
from asyncllm.middleware.deadlines import deadlines
from asyncllm.middleware.gate import gate
from asyncllm.middleware.hedge import Hedge, hedge
from asyncllm.middleware.instructed import instructed
from asyncllm.middleware.limits import Limiter, limits
from asyncllm.middleware.retry import Retry, RetryQuota, retry
from asyncllm.prices import Tariff
from asyncllm.watchdog import Watchdog

__all__ = ["Means", "Place", "Target", "lacking"]

_log = logging.getLogger("asyncllm")
_ALIVE_S = 10
_LONGEST_COOLING_S = 300.0
_SILENT_PROBES = 2
"""In a row, after which a place is down."""


class Means(Struct, frozen=True, kw_only=True):
    """What the layers of a client's places work with and by."""

    clock: Clock
    dog: Watchdog
    retry: Retry
    hedge: Hedge | None = None
    cache: Guarded | None = None
    cool_down_s: float = 10


class Place:
    """One deployment, or all models of a backend that share its settings."""

    def __init__(
        self, backend: Backend, *, name: str, label: str, limiter: Limiter, means: Means, origin: Origin
    ) -> None:
        self.backend = backend
        self.name = name
        """The backend's registered name."""
        self.label = label
        """The deployment's name in the configuration, or the backend's."""
        self.url: str | None = None
        """The address that it was configured with, if it was."""
        self.origin = origin
        self.limiter = limiter
        self.clock = means.clock
        self._means = means
        self._quota = RetryQuota(means.retry)
        self._strikes = 0
        self.cooling_until = 0.0
        """Event-loop time until which others are asked first."""
        self.is_down = False
        """Whether it has not answered when it was probed. It is asked where no other place is left."""
        self._silent = 0
        open_ = self._tried(gate(deadlines(bottom(backend), means.dog)))
        if means.hedge is not None:
            open_ = hedge(open_, means.hedge)
        self.open: Open = instructed(open_ if means.cache is None else cached(open_, means.cache, origin.identity))
        """`backend.open` within its layers."""

    def within(self, open_: Open) -> Open:
        """`open_` within the layers of every call to this place that has no stream."""
        return self._tried(deadlines(open_, self._means.dog))

    def fail(self, error: APIError, now: float) -> None:
        """A call could not be answered here: ask others first for a while, for longer each time in a row."""
        self._strikes += 1
        cool_s = min(_LONGEST_COOLING_S, self._means.cool_down_s * 2.0 ** (self._strikes - 1))
        self.cooling_until = now + max(cool_s, error.retry_after_s or 0)

    def recover(self) -> None:
        """A call was answered here."""
        self._strikes = 0
        self.cooling_until = 0.0
        self._hear(is_alive=True)

    def resemble(self, other: Place) -> None:
        """Begin with what is known of `other`, which is the same place to another client."""
        self._strikes = other._strikes
        self.cooling_until = other.cooling_until
        self.is_down = other.is_down
        self._silent = other._silent

    def is_away(self, now: float) -> bool:
        """Whether others are asked first."""
        return self.is_down or self.cooling_until > now

    async def is_alive(self) -> bool:
        """Whether the backend would answer now, which it has ten seconds to say. Never raises, except when cancelled.

        A backend that can be asked is asked; of any other, being connected is all that can be known.
        """
        if not isinstance(self.backend, Health):
            return True
        try:
            async with asyncio.timeout(_ALIVE_S):
                return await self.backend.is_alive()
        except Exception:
            return False

    async def probe(self) -> bool:
        """Ask whether it is alive, and bear it in mind."""
        is_alive = await self.is_alive()
        self._hear(is_alive=is_alive)
        return is_alive

    def _hear(self, *, is_alive: bool) -> None:
        was_down = self.is_down
        self._silent = 0 if is_alive else self._silent + 1
        self.is_down = self._silent >= _SILENT_PROBES
        if self.is_down != was_down:
            how = "does not answer, and is left out until it does" if self.is_down else "answers again"
            _log.warning("%s %s", self.label, how)

    def _tried(self, open_: Open) -> Open:
        policy = self._means.retry
        open_ = limits(open_, self.limiter, policy.pause_s)
        if policy.attempts > 1:
            open_ = retry(open_, policy, self._means.clock, self.limiter, self._quota)
        return open_


class Target(Struct, frozen=True):
    """A model at its place."""

    place: Place
    model: str
    tariff: Tariff | None = None
    """What it costs there; `None` where nobody asks."""


def lacking(target: Target, call: str) -> UnsupportedError:
    """The error for a backend without `call`."""
    return UnsupportedError(f"the {target.place.name!r} backend has no {call}", backend=target.place.name, field=call)
