"""A place that calls go to: a connected backend within its layers, and how it has been doing."""

from __future__ import annotations

from msgspec import Struct

from asyncllm.backend import Backend, Clock
from asyncllm.cache import Guarded
from asyncllm.errors import APIError, UnsupportedError
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

_LONGEST_COOLING_S = 300.0


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
        self, backend: Backend, *, name: str, label: str, limiter: Limiter, means: Means, identity: str
    ) -> None:
        self.backend = backend
        self.name = name
        """The backend's registered name."""
        self.label = label
        """The deployment's name in the configuration, or the backend's."""
        self.url: str | None = None
        """The address that it was configured with, if it was."""
        self.limiter = limiter
        self.clock = means.clock
        self._means = means
        self._quota = RetryQuota(means.retry)
        self._strikes = 0
        self.cooling_until = 0.0
        """Event-loop time until which others are asked first."""
        open_ = self._tried(gate(deadlines(bottom(backend), means.dog)))
        if means.hedge is not None:
            open_ = hedge(open_, means.hedge)
        self.open: Open = instructed(open_ if means.cache is None else cached(open_, means.cache, identity))
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
