"""What keys are allowed: calls and tokens a minute, calls at one time, and what they may cost.

A call is let in from the share that this process holds, and where that does not suffice the store is asked, once for
all that wait. What is used up is refused at once, with when to ask again: only the server's own room is waited for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from math import inf

from msgspec import Struct

from asyncllm.errors import AsyncLLMError, BudgetExceededError, RateLimitError
from asyncllm.workspace.books import Books
from asyncllm.workspace.keys import Grants, Key
from asyncllm.workspace.lease import now_s, this_process
from asyncllm.workspace.shares import LIFE_S, PART, SILENT_S, TICKS, Portion, Report

__all__ = ["Account", "Leave", "Quotas", "Rates"]

_TICK_S = 0.1
"""Between the end of a call and when the store hears of it, at the most."""
_BEAT_S = SILENT_S / 3
_REFUSED_S = 0.2
"""For which what was refused is refused again without asking."""
_AGAIN_S = 0.05
_PATIENCE_S = LIFE_S + 3 * _TICK_S
"""For what others hold and do not use to come back."""


class Rates(Struct, frozen=True, kw_only=True):
    """What a key's minute has; `None` is without a limit."""

    requests: int | None
    left_requests: int
    tokens: int | None
    left_tokens: int
    wait_s: float
    """Until there is more."""


class Leave(Struct, frozen=True, eq=False):
    """A call's leave to begin."""

    tick: int
    tokens: int


class _Waiter(Struct, eq=False):
    ready: asyncio.Future[Leave]
    tokens: int
    since: float
    is_asked: bool = False
    """Whether the share that comes is for this one too."""


class _Recent:
    """How many calls begin in the time that a share lasts, and their tokens."""

    def __init__(self) -> None:
        self._began = 0.0
        self._now = self._before = (0, 0)

    def add(self, now: float, tokens: int) -> None:
        self._turn(now)
        self._now = (self._now[0] + 1, self._now[1] + tokens)

    def counts(self, now: float) -> tuple[int, int]:
        self._turn(now)
        return max(self._now, self._before)

    def _turn(self, now: float) -> None:
        passed = now - self._began
        if passed >= LIFE_S:
            self._before = self._now if passed < 2 * LIFE_S else (0, 0)
            self._now = (0, 0)
            self._began = now


class Account:
    """One key in this process."""

    def __init__(self, key: Key, quotas: Quotas) -> None:
        self.key = key
        self.in_flight = 0
        self._quotas = quotas
        self._now = quotas.now
        self._portion = Portion(tick=0, until=0)
        self._requests = self._tokens = self._calls = self._usd = 0.0  # what is left of it
        self._minute: dict[int, tuple[int, int]] = {}
        self._spent_usd = 0.0
        self._recent = _Recent()
        self._waiting: deque[_Waiter] = deque()
        self._task: asyncio.Task[None] | None = None
        self._refused: Portion | None = None  # what is refused without asking again, for a moment
        self._refused_until = 0.0
        self._is_ending = False

    @property
    def grants(self) -> Grants:
        """What the key is good for."""
        return self.key.grants

    def enter(self, tokens: int) -> Leave | None:
        """Let a call in, from what is held; `None` where the store has to be asked."""
        if self._task is not None:
            return None
        return self._take(self._counted(tokens))

    async def ask(self, tokens: int) -> Leave:
        """Let a call in to which `enter` gave no leave. Raises `RateLimitError`, `BudgetExceededError`."""
        now = self._now()
        if self._refused is not None and now < self._refused_until:
            raise self._refusal(self._refused, now)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), self._counted(tokens), now)
        self._waiting.append(waiter)
        self._begin()
        try:
            return await waiter.ready
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.ready.done() and not waiter.ready.cancelled() and waiter.ready.exception() is None:
                self.cancel(waiter.ready.result())
            raise

    def leave(self, leave: Leave, tokens: int | None, cost_usd: float | None) -> None:
        """The call is over. `tokens` are what it came to, where that is known."""
        self.in_flight -= 1
        if tokens is not None and self.grants.tokens_per_minute is not None:
            more = tokens - leave.tokens
            self._add(int(self._now() * TICKS) if more > 0 else leave.tick, 0, more)
        if cost_usd and self.grants.budget_usd is not None:
            self._spent_usd += cost_usd
            self._usd -= cost_usd
        self._end()

    def cancel(self, leave: Leave) -> None:
        """The call has not begun, and will not."""
        self.in_flight -= 1
        self._add(leave.tick, 0 if self.grants.requests_per_minute is None else -1, -leave.tokens)
        self._end()

    def rates(self) -> Rates | None:
        """What there is of the key's minute; `None` without limits to it."""
        grants, portion = self.grants, self._portion
        if grants.requests_per_minute is None and grants.tokens_per_minute is None:
            return None
        left_requests, left_tokens = (
            0 if left == inf else max(0, int(left))
            for left in (self._requests + portion.left_requests, self._tokens + portion.left_tokens)
        )
        wait_s = portion.wait_s if portion.refusal else 60.0
        return Rates(
            requests=grants.requests_per_minute,
            left_requests=left_requests,
            tokens=grants.tokens_per_minute,
            left_tokens=left_tokens,
            wait_s=wait_s,
        )

    def tick(self, now: float) -> bool:
        """Hand back what is over, and tell what is not told yet. Returns whether there is anything left to look at."""
        if self._task is None and (self._has_news() or now >= self._portion.until + _BEAT_S):
            self._begin()
        return self._task is not None or bool(self.in_flight) or self._holds()

    async def aclose(self) -> None:
        """Tell all of it, and hand back what no call needs."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self._is_ending = True
        if self._has_news() or self._holds():
            await asyncio.wait([self._begin()])

    def _has_news(self) -> bool:
        grants = self.grants
        is_over = self._now() >= self._portion.until - 1.5 * _TICK_S  # before the next look
        idle = grants.concurrency is not None and self._calls - self.in_flight > (
            0 if is_over else grants.concurrency // PART
        )
        rest = (grants.requests_per_minute is not None and self._requests > 0) or (
            grants.tokens_per_minute is not None and self._tokens > 0
        )
        wants = self._portion.refusal == "concurrency" and is_over  # nobody does any more
        money = grants.budget_usd is not None and self._usd > 0 and is_over and not self.in_flight
        return bool(self._spent_usd or idle or wants or ((rest or self._minute) and is_over) or money)

    def _holds(self) -> bool:
        grants = self.grants
        return (
            bool(self._minute)
            or self._portion.refusal == "concurrency"
            or any(
                limit is not None and left > 0
                for limit, left in (
                    (grants.requests_per_minute, self._requests),
                    (grants.tokens_per_minute, self._tokens),
                    (grants.concurrency, self._calls),
                    (grants.budget_usd, self._usd),
                )
            )
        )

    def _counted(self, tokens: int) -> int:
        limit = self.grants.tokens_per_minute
        # A call above the whole limit could never be made: it is let in where nothing else was.
        return 0 if limit is None else min(limit, tokens)

    def _take(self, tokens: int, *, is_new: bool = False) -> Leave | None:
        now = self._now()
        if (
            self._requests < 1
            or self._tokens < tokens
            or self._calls <= self.in_flight
            or self._usd <= 0
            or not (is_new or now < self._portion.until)  # a slow disk must not use up a share
        ):
            return None
        self._requests -= 1
        self._tokens -= tokens
        self.in_flight += 1
        self._recent.add(now, tokens)
        return Leave(self._portion.tick, tokens)

    def _add(self, tick: int, requests: int, tokens: int) -> None:
        if self.grants.requests_per_minute is None and self.grants.tokens_per_minute is None:
            return
        before = self._minute.get(tick, (0, 0))
        self._minute[tick] = (before[0] + requests, before[1] + tokens)

    def _end(self) -> None:
        self._refused = None
        self._quotas.watch(self)

    # -- with the store

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._exchange())
        return self._task

    async def _exchange(self) -> None:
        try:
            while True:
                batch = list(self._waiting)
                portion = await self._quotas.books.exchange(self._report(batch))
                self._portion = portion
                self._requests, self._tokens = portion.requests, portion.tokens
                self._calls, self._usd = portion.calls, portion.usd
                self._serve(portion)
                if not self._waiting:
                    return
                if portion.refusal is not None:
                    await asyncio.sleep(_AGAIN_S)
        except Exception as error:  # whoever waits has it
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.ready.done():
                    waiter.ready.set_exception(error)
        finally:
            for waiter in self._waiting:  # some only where this was cancelled, at the end of the loop
                waiter.ready.cancel()
            self._task = None
            self._quotas.watch(self)

    def _report(self, batch: list[_Waiter]) -> Report:
        grants, portion = self.grants, self._portion
        self._add(
            portion.tick,
            -int(self._requests) if grants.requests_per_minute is not None else 0,
            -int(self._tokens) if grants.tokens_per_minute is not None else 0,
        )
        self._requests = self._tokens = 0
        minute, self._minute = self._minute, {}
        spent_usd, self._spent_usd = self._spent_usd, 0.0
        recent, recent_tokens = self._recent.counts(self._now()) if not self._is_ending else (0, 0)
        for waiter in batch:
            waiter.is_asked = True
        return Report(
            key=self.key.id,
            worker=self._quotas.worker,
            grants=grants,
            minute={tick: counts for tick, counts in minute.items() if counts != (0, 0)},
            spent_usd=spent_usd,
            in_flight=self.in_flight,
            needed=len(batch),
            needed_tokens=sum(waiter.tokens for waiter in batch),
            least_tokens=batch[0].tokens if batch else 0,
            recent=recent,
            recent_tokens=recent_tokens,
        )

    def _serve(self, portion: Portion) -> None:
        now = self._now()
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.ready.done():  # or else it is being cancelled
                if portion.refusal is not None:
                    if not waiter.is_asked or (portion.others_hold and now < waiter.since + _PATIENCE_S):
                        return
                    self._refused = portion
                    self._refused_until = now + min(_REFUSED_S, portion.wait_s)
                    waiter.ready.set_exception(self._refusal(portion, now))
                else:
                    leave = self._take(waiter.tokens, is_new=True)
                    if leave is None:
                        return
                    waiter.ready.set_result(leave)
            self._waiting.popleft()

    def _refusal(self, portion: Portion, now: float) -> AsyncLLMError:
        limit, grants = portion.refusal or "", self.grants
        if limit == "budget_usd":
            period = {"day": " for today", "month": " for this month", "ever": ""}[grants.budget_per]
            return BudgetExceededError(f"this key's budget{period} is used up", code=limit, field=limit)
        wait_s = max(0.0, portion.until - LIFE_S + portion.wait_s - now)
        allowed = getattr(grants, limit)
        told = {
            "requests_per_minute": f"this key may make {allowed} requests a minute",
            "tokens_per_minute": f"this key may use {allowed} tokens a minute",
            "concurrency": f"this key may have {allowed} calls under way at one time",
        }[limit]
        return RateLimitError(told, status=429, code=limit, retry_after_s=wait_s)


class Quotas:
    """The keys that have limits and are in use."""

    def __init__(self, books: Books, now: Callable[[], float] = now_s) -> None:
        self.books = books
        self.now = now
        self.worker = f"{this_process()}/{secrets.token_hex(4)}"
        self._accounts: dict[str, Account] = {}
        self._watched: dict[str, Account] = {}
        self._timer: asyncio.TimerHandle | None = None

    def find(self, key: Key | None) -> Account | None:
        """The account of `key`, or `None` where nothing limits it."""
        if key is None or not _is_limited(key.grants):
            return None
        account = self._accounts.get(key.id)
        if account is None:
            account = self._accounts[key.id] = Account(key, self)
        account.key = key
        return account

    def watch(self, account: Account) -> None:
        """Look at `account` every now and then, until nothing is left of it."""
        self._watched[account.key.id] = account
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def aclose(self) -> None:
        """Hand back what is held. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for account in list(self._watched.values()):
            await account.aclose()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now = self.now()
        for id_, account in list(self._watched.items()):
            if not account.tick(now):
                del self._watched[id_]
                self._accounts.pop(id_, None)
                self.books.forget(id_)
        if self._watched:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)


def _is_limited(grants: Grants) -> bool:
    return (
        grants.requests_per_minute is not None
        or grants.tokens_per_minute is not None
        or grants.concurrency is not None
        or grants.budget_usd is not None
    )
