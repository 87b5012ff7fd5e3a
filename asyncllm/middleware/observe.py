"""What is done once around each call for those who pay and those who watch: budgets and hooks.

It is outermost, so that it sees the call the way its caller does, and knows each end: answered, failed, cancelled or
left early.
"""

from __future__ import annotations

from msgspec.structs import replace

from asyncllm.budgets import Budget, Reservation, budgets_in_force, reserve
from asyncllm.errors import BudgetExceededError, TotalTimeoutError
from asyncllm.hooks import Hooks
from asyncllm.prices import Tariff
from asyncllm.trail import Trail
from asyncllm.types import Request, Response, Usage

__all__ = ["Observation", "Observer"]


class Observer:
    """The budget and the hooks of a client."""

    __slots__ = ("_budgets", "_hooks")

    def __init__(self, hooks: Hooks, budget: Budget | None) -> None:
        self._hooks = hooks
        self._budgets = () if budget is None else (budget,)

    def observe(self, trail: Trail, tariff: Tariff | None) -> Observation | None:
        """What to do around the call of `trail`, if there is anything.

        Raises `BudgetExceededError`, `ConfigError`.
        """
        budgets = budgets_in_force()
        if self._budgets:
            budgets = (*self._budgets, *(one for one in budgets if one not in self._budgets))
        if not budgets and not self._hooks:
            return None
        claim = None
        if budgets:
            claim = reserve(budgets, trail.request, None if tariff is None else tariff.known())
        return Observation(self._hooks, claim, trail)

    def resume(self, trail: Trail, claim: Reservation | None) -> Observation:
        """The same for what a job has made, which no budget refuses: it is paid for. `claim` is what `keep` gave.

        Where there is none, as in another process, the budgets learn of the job now.
        """
        if claim is None:
            budgets = (*self._budgets, *(one for one in budgets_in_force() if one not in self._budgets))
            for one in budgets:
                one.start()
            claim = Reservation(budgets, None, 0, 0.0)
        return Observation(self._hooks, claim, trail)


class Observation:
    """One call: `begin` it, then `end` it once, whichever way it ends."""

    __slots__ = ("_claim", "_hooks", "_is_over", "_trail")

    def __init__(self, hooks: Hooks, claim: Reservation | None, trail: Trail) -> None:
        self._hooks = hooks
        self._claim = claim
        self._trail = trail
        self._is_over = False

    def bounded(self, request: Request) -> Request:
        """`request` with no more time than the budgets leave."""
        left_s = None if self._claim is None else self._claim.left_s
        timeouts = request.timeouts
        if left_s is None or (timeouts.total_s is not None and timeouts.total_s <= left_s):
            return request
        return replace(request, timeouts=replace(timeouts, total_s=max(left_s, 0.001)))

    async def begin(self) -> None:
        """The call is about to be made. A hook that refuses it ends it, and the others are told."""
        try:
            await self._hooks.before(self._trail)
        except BaseException as error:
            self._is_over = True
            self._settle(None, was_sent=False)
            self._trail.end()
            await self._hooks.on_error(self._trail, error)
            raise

    def explain(self, error: BaseException) -> BudgetExceededError | None:
        """What `error` really means, where a budget of seconds has stopped the call."""
        left_s = None if self._claim is None else self._claim.left_s
        if left_s is None or left_s > 0 or not isinstance(error, TotalTimeoutError):
            return None
        return BudgetExceededError(
            "the budget of seconds is over, and the call with it",
            field="seconds",
            elapsed_s=error.elapsed_s,
            events=error.events,
            attempts=error.attempts,
            maybe_billed=error.maybe_billed,
            partial=error.partial,
        )

    def keep(self) -> Reservation | None:
        """What was set aside for the call, which stays so after its end: what it takes is known later."""
        claim, self._claim = self._claim, None
        return claim

    async def end(self, response: Response | None, usage: Usage | None, error: BaseException | None) -> None:
        """The call is over: answered if there is no `error`. What comes after the first time is not told."""
        if self._is_over:
            return
        self._is_over = True
        was_sent = error is None or self._trail.first_content_s is not None or _maybe_billed(error)
        self._settle(Usage() if self._trail.cached else usage, was_sent=was_sent and not self._trail.cached)
        if error is None:
            await self._hooks.after(self._trail, response)
        else:
            await self._hooks.on_error(self._trail, error)

    def _settle(self, usage: Usage | None, *, was_sent: bool) -> None:
        if self._claim is not None:
            self._claim.settle(usage, self._trail.cost_usd, was_sent=was_sent)
            self._claim = None


def _maybe_billed(error: BaseException) -> bool:
    """Whether the model may have worked for a call that ended with `error`; of a cancelled one nobody knows."""
    return getattr(error, "maybe_billed", True)
