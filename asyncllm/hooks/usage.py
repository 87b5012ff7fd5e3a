"""What calls cost, told to a function of yours after each, and asked of one before.

    hooks=[AfterCall(cost=increment_usage), Gate(is_allowed), totals := Totals()]

Those who come from llmax: `increment_usage(price, model)` is `AfterCall(cost=increment_usage)`; its longer form, with
operation, duration, time to first token and so on, is `AfterCall(record=...)`, which is given all of it as one
`CallRecord`. `get_usage` is `Gate(get_usage)` where it returns whether calls are allowed, and
`Gate(get_usage, limit=...)` where it returns what has been used. `total_usage` and `usages` are `Totals.cost_usd` and
`Totals.records`.

A call counts once, when it has been answered or when its stream has been left; then with what the backend had reported
by that time. A call that failed is not told, nor one that consumes nothing, such as a list of models; what a failed
call is known to have cost, such as an answer that was not of the `output_type`, `Totals` adds up all the same.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from msgspec import Struct

from asyncllm.errors import BudgetExceededError, ConfigError
from asyncllm.trail import Trail
from asyncllm.types import Response, Usage

__all__ = ["AfterCall", "CallRecord", "Gate", "Totals"]


class CallRecord(Struct, frozen=True, kw_only=True):
    """One call that was answered. It holds no content."""

    id: str
    operation: str
    """The method of the client that was called, such as `chat`."""
    model: str
    """In the backend's own naming."""
    backend: str
    """Whose model it is: the registered name of the backend."""
    deployment: str
    """The deployment's name in the configuration, or the backend's."""
    usage: Usage
    cost_usd: float | None
    """`None` where no price is known."""
    duration_s: float
    first_content_s: float | None
    """Seconds to the first piece of the answer."""
    queue_s: float
    """Seconds spent waiting for a slot."""
    attempts: int
    """How often the call was made; 0 where a cache answered."""
    stream: bool
    is_complete: bool
    """Whether the answer came to its proper end, or was left before."""
    cached: bool
    """Whether a cache answered, and no model."""
    request_id: str | None


_Cost: TypeAlias = Callable[[float | None, str], Awaitable[Any] | Any]
_Record: TypeAlias = Callable[[CallRecord], Awaitable[Any] | Any]


class AfterCall:
    """A hook that calls `cost(cost_usd, model)`, `record(call_record)`, or both, each of them sync or async.

    `cost_usd` is `None` where no price is known. What the functions raise is logged by the hook's name alone, and
    changes nothing about the call.
    """

    def __init__(self, cost: _Cost | None = None, *, record: _Record | None = None) -> None:
        if not (callable(cost) or callable(record)):
            raise ConfigError("AfterCall takes a function as cost= or as record=", field="hooks")
        self._cost = cost
        self._record = record

    async def after(self, call: Trail, response: Response | None) -> None:
        """Tell of a call that was answered, or left early."""
        told = _record(call, response)
        if told is None:
            return
        if self._cost is not None:
            await _settled(self._cost(told.cost_usd, told.model))
        if self._record is not None:
            await _settled(self._record(told))


class Gate:
    """A hook that asks `allowed()`, sync or async, before each call, and lets it through or refuses it.

    Without `limit`, the answer is whether calls are allowed. With it, the answer is a number, such as what a user has
    spent, and calls are allowed while it is below `limit`. A call that is refused raises `BudgetExceededError`, and
    nothing is sent for it. What `allowed` raises is raised to the caller, for who cannot be asked has not allowed it.
    """

    strict = True

    def __init__(self, allowed: Callable[[], Any], *, limit: float | None = None) -> None:
        if not callable(allowed):
            raise ConfigError("Gate takes a function that is asked before each call", field="hooks")
        self._allowed = allowed
        self._limit = limit

    async def before(self, call: Trail) -> None:
        """Ask. Raises `BudgetExceededError`."""
        answer = await _settled(self._allowed())
        if answer is None or (not answer if self._limit is None else answer >= self._limit):
            raise BudgetExceededError(
                "the gate of this client has refused the call"
                if self._limit is None
                else f"the gate of this client has refused the call: its limit of {self._limit:g} is reached",
                backend=call.backend,
                model=call.model or None,
                field="hooks",
            )


class Totals:
    """A hook that adds up what calls consume, and keeps the records of the latest `keep`.

    Clients of one event loop may share it.
    """

    def __init__(self, *, keep: int = 1000) -> None:
        if type(keep) is not int or keep < 0:
            raise ConfigError(f"keep is a whole number from 0 up; got {keep!r}", field="keep")
        self.calls = 0
        """Calls that were answered, or left after their answer had begun."""
        self.failures = 0
        """Calls that failed or were cancelled."""
        self.cost_usd = 0.0
        """US dollars, as far as prices are known, failures included."""
        self.unpriced = 0
        """Calls of which the cost is not known."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_by_model: dict[str, float] = {}
        """US dollars by `deployment:model`."""
        self.records: deque[CallRecord] = deque(maxlen=keep)

    def after(self, call: Trail, response: Response | None) -> None:
        """Count a call that was answered, or left early."""
        told = _record(call, response)
        if told is None:
            return
        self.calls += 1
        self.unpriced += told.cost_usd is None
        self._spend(call, told.usage, told.cost_usd)
        self.records.append(told)

    def on_error(self, call: Trail, _error: BaseException) -> None:
        """Count a call that failed, with what is known of its cost."""
        self.failures += 1
        self._spend(call, call.usage, call.cost_usd)

    def _spend(self, call: Trail, usage: Usage | None, cost_usd: float | None) -> None:
        self.cost_usd += cost_usd or 0.0
        if usage is not None and not call.cached:
            self.input_tokens += usage.input_tokens or 0
            self.output_tokens += usage.output_tokens or 0
        if usage is not None or cost_usd is not None:
            name = f"{call.place}:{call.model}"
            self.cost_by_model[name] = self.cost_by_model.get(name, 0.0) + (cost_usd or 0.0)

    def __repr__(self) -> str:
        return f"<Totals {self.cost_usd:.6f} usd, {self.calls} calls, {self.failures} failures>"


def _record(call: Trail, response: Response | None) -> CallRecord | None:
    """What there is to say of a call, or `None` where it consumes nothing."""
    usage = response.usage if response is not None else call.usage
    if usage is None:
        return None
    return CallRecord(
        id=call.id,
        operation=call.kind,
        model=call.model,
        backend=call.backend,
        deployment=call.place,
        usage=usage,
        cost_usd=call.cost_usd,
        duration_s=call.ended_s or 0.0,
        first_content_s=call.first_content_s,
        queue_s=call.queue_s,
        attempts=0 if call.cached else len(call.failures) + 1,
        stream=call.stream,
        is_complete=call.is_complete,
        cached=call.cached,
        request_id=None if response is None else response.request_id,
    )


async def _settled(told: Any) -> Any:
    return await told if inspect.isawaitable(told) else told
