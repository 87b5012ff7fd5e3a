"""A bound on what the calls of a scope may cost together.

    async with asyncllm.budget(usd=0.50, tokens=200_000, seconds=60) as spent:
        await asyncio.gather(*(client.chat(...) for ...))
    spent.tokens, spent.usd

`with` does the same around the calls of `asyncllm.sync.Client`. A scope reaches into the tasks that are started inside
it. Before a call, what it may take is set aside; after it, what it did take is written down. So calls that run at once
cannot together go over a bound that each of them alone would keep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from msgspec import Struct

from asyncllm.backend import AnyRequest
from asyncllm.errors import BudgetExceededError, ConfigError
from asyncllm.estimate import estimated_input
from asyncllm.types import Price, Request, Usage

__all__ = ["Budget", "Reservation", "budget", "budgets_in_force", "reserve"]

_in_force: ContextVar[tuple[Budget, ...]] = ContextVar("asyncllm_budgets", default=())
_UNBOUNDED_OUTPUT = 256
"""Output tokens set aside for a call that sets no `max_tokens`, where as much is left."""


class Budget:
    """Bounds on US dollars, tokens and seconds; those not given do not bind.

    Enter it, to hold every call made inside to it, or give it to a client: `Client(budget=Budget(usd=5))`. Scopes nest,
    and a call must fit into all of them. `seconds` count from entering, or from the first call.

    A call that does not fit raises `BudgetExceededError` before anything is sent; one whose seconds run out is stopped.
    """

    def __init__(self, *, usd: float | None = None, tokens: int | None = None, seconds: float | None = None) -> None:
        for name, bound in (("usd", usd), ("tokens", tokens), ("seconds", seconds)):
            if bound is not None and not (type(bound) in (int, float) and 0 < bound < float("inf")):
                raise ConfigError(f"{name} is a number above zero, or None for no bound; got {bound!r}", field=name)
        if usd is tokens is seconds is None:
            raise ConfigError("a budget bounds at least one of usd, tokens and seconds", field="usd")
        self._usd_bound = usd
        self._token_bound = tokens
        self._seconds_bound = seconds
        self._ends_at: float | None = None
        self._reserved_usd = 0.0
        self._reserved_tokens = 0
        self.usd = 0.0
        """Spent so far, as far as prices are known."""
        self.tokens = 0
        """Spent so far, input and output together."""
        self.calls = 0
        """Calls that have ended."""

    @property
    def left_usd(self) -> float | None:
        """What is neither spent nor set aside."""
        return None if self._usd_bound is None else self._usd_bound - self.usd - self._reserved_usd

    @property
    def left_tokens(self) -> int | None:
        """What is neither spent nor set aside."""
        return None if self._token_bound is None else int(self._token_bound - self.tokens - self._reserved_tokens)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end."""
        if self._seconds_bound is None:
            return None
        return self._seconds_bound if self._ends_at is None else self._ends_at - time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        _in_force.set((*_in_force.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not by a token: one budget may be entered by several tasks at once, each of which leaves its own scope.
        _in_force.set(tuple(one for one in _in_force.get() if one is not self))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def start(self) -> None:
        """Seconds count from now, unless they do already."""
        if self._seconds_bound is not None and self._ends_at is None:
            self._ends_at = time.monotonic() + self._seconds_bound

    def check(self, claim: Reservation, price: Price | None) -> None:
        """Raise `BudgetExceededError` if `claim` does not fit, `ConfigError` if its price is not known."""
        left_s, left_tokens, left_usd = self.left_s, self.left_tokens, self.left_usd
        if left_s is not None and left_s <= 0:
            raise BudgetExceededError(f"the budget of seconds={self._seconds_bound} is over", field="seconds")
        if left_tokens is not None:
            _require(claim.least_tokens, left_tokens, self._token_bound, "tokens")
        if left_usd is not None:
            if price is None:
                raise ConfigError(
                    "a budget in usd needs to know what a call costs: give the price in asyncllm.toml or as "
                    "Client(prices={'backend:model': Price(input_usd=..., output_usd=...)})",
                    field="prices",
                )
            _require(claim.least_usd, left_usd, self._usd_bound, "usd")

    def set_aside(self, tokens: int, usd: float) -> None:
        """Hold back what a call that has begun may take."""
        self._reserved_tokens += tokens
        self._reserved_usd += usd

    def settle(self, claim: Reservation, tokens: int, usd: float) -> None:
        """A call has ended, and this is what it took."""
        self._reserved_tokens -= claim.tokens
        self._reserved_usd -= claim.usd
        self.tokens += tokens
        self.usd += usd
        self.calls += 1

    def __repr__(self) -> str:
        return f"<Budget {self.usd:.6f} usd, {self.tokens} tokens, {self.calls} calls>"


def budget(*, usd: float | None = None, tokens: int | None = None, seconds: float | None = None) -> Budget:
    """Bound what the calls inside `async with asyncllm.budget(...)` may take together; see `Budget`."""
    return Budget(usd=usd, tokens=tokens, seconds=seconds)


def budgets_in_force() -> tuple[Budget, ...]:
    """The scopes around the running code, outermost first."""
    return _in_force.get()


class Reservation(Struct):
    """What one call may take of every budget it must fit into."""

    budgets: tuple[Budget, ...]
    price: Price | None
    least_tokens: int
    """What the call takes at the least, or at the most where `max_tokens` bounds it."""
    least_usd: float
    tokens: int = 0
    usd: float = 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the first of the budgets ends."""
        return min((left for one in self.budgets if (left := one.left_s) is not None), default=None)

    def settle(self, usage: Usage | None, cost_usd: float | None, *, was_sent: bool) -> None:
        """The call is over: write down what it took, or what was set aside where nobody knows."""
        tokens, usd = (self.tokens, self.usd) if was_sent else (0, 0.0)
        if usage is not None and usage.total_tokens is not None:
            tokens = usage.total_tokens
            usd = self.price.cost_usd(usage) or 0.0 if self.price is not None else 0.0
        if cost_usd is not None:  # of the model that answered in the end
            usd = cost_usd
        for one in self.budgets:
            one.settle(self, tokens, usd)


def reserve(budgets: Sequence[Budget], request: AnyRequest, price: Price | None) -> Reservation:
    """Set aside what the call may take, in all of `budgets` or in none.

    Raises `BudgetExceededError`, `ConfigError`.
    """
    given = estimated_input(request)
    bounded = _bounded_output(request)
    output = 1 if bounded is None else bounded
    claim = Reservation(tuple(budgets), price, given + output, _usd(price, given, output))
    for one in budgets:
        one.start()
        one.check(claim, price)
    if bounded is None:
        left = min(
            (left for one in budgets if (left := one.left_tokens) is not None), default=given + _UNBOUNDED_OUTPUT
        )
        output = max(1, min(_UNBOUNDED_OUTPUT, left - given))
    claim.tokens, claim.usd = given + output, _usd(price, given, output)
    for one in budgets:
        one.set_aside(claim.tokens, claim.usd)
    return claim


def _bounded_output(request: AnyRequest) -> int | None:
    """Output tokens at the most, where that is known."""
    if not isinstance(request, Request):
        return 0
    limit, answers = request.sampling.max_tokens, request.sampling.n
    return limit * (answers if isinstance(answers, int) else 1) if isinstance(limit, int) else None


def _usd(price: Price | None, given: int, output: int) -> float:
    return 0.0 if price is None else price.cost_usd(Usage(input_tokens=given, output_tokens=output)) or 0.0


def _require(needed: float, left: float, bound: float | None, name: str) -> None:
    if needed > left:
        raise BudgetExceededError(
            f"the call may take {needed:.6g} {name} and the budget of {bound:.6g} has {max(left, 0):.6g} left",
            field=name,
        )
