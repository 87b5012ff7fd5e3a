"""When a call may begin, which calls are under way, and what each came to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec import Struct

from asyncllm.errors import AsyncLLMError
from asyncllm.estimate import estimated_message
from asyncllm.server.http.departure import Watched
from asyncllm.server.incoming import Incoming
from asyncllm.server.limits.line import Line
from asyncllm.server.limits.quota import Leave, Quotas, Rates
from asyncllm.server.monitoring.figures import Figures
from asyncllm.server.monitoring.telling import Telling
from asyncllm.server.settings import ServerSettings
from asyncllm.types import Response, Usage
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.usage import UsageBook

__all__ = ["Admission", "Counted", "Ticket"]


class Counted(Protocol):
    """What a call came to, whatever it was for."""

    @property
    def usage(self) -> Usage:
        """As the backend told it."""
        ...

    @property
    def cost_usd(self) -> float | None:
        """US dollars, or `None` where no price is known."""
        ...


class Ticket(Struct, eq=False):
    """A call's leave to be under way, and its account."""

    id: str
    """Of the request."""
    tenant: str
    key: str
    """Its id, empty without one."""
    route: str
    model: str
    """By the name that the request used."""
    began_at: float
    """Unix time."""
    came_at: float
    """Event-loop time at which it asked to be let in."""
    input_tokens: int
    """Estimated."""
    rates: Rates | None = None
    """What its key's minute has left."""
    usage: Usage = Usage()
    cost_usd: float | None = None
    has_failed: bool = True
    """Until it is known to have come to its end."""
    has_answer: bool = False
    """Whether anything of an answer came."""
    error: AsyncLLMError | None = None
    first_s: float | None = None
    """From `came_at` to the first of the answer."""
    events: int = 0
    """Of the answer, where it is streamed."""

    def begin(self) -> None:
        """The first of the answer is there."""
        self.first_s = asyncio.get_running_loop().time() - self.came_at
        self.has_answer = True

    def count(self, response: Counted) -> None:
        """What an answer came to, whole or so far. Tokens that nobody told, of one that was left, are estimated."""
        self.has_answer = True
        self.cost_usd = response.cost_usd
        usage = response.usage
        if isinstance(response, Response) and usage.output_tokens is None and self.input_tokens:
            said = sum(estimated_message(choice.message) for choice in response.choices)
            self.usage = Usage(input_tokens=usage.input_tokens or self.input_tokens, output_tokens=said)
        else:
            self.usage = usage

    def fail(self, error: AsyncLLMError) -> None:
        """Its answer broke off, which its client has been told of in the answer itself."""
        self.error = error


class Admission:
    """Lets calls in, in their turn, and keeps the accounts."""

    def __init__(self, settings: ServerSettings, store: ServerStore | None, figures: Figures) -> None:
        self.live: dict[int, Ticket] = {}
        """Calls under way, oldest first."""
        self.line = Line(settings.max_in_flight, settings.max_queued, settings.queue_timeout_s)
        self.usage = UsageBook() if store is None else store.usage
        self._figures = figures
        self._quotas = None if store is None else Quotas(store.books)
        if store is None or self._quotas is None:
            self.telling = Telling(figures, self._refresh, None, "")
        else:
            self.telling = Telling(figures, self._refresh, store.board, self._quotas.worker)
            store.closing += (self._quotas.aclose, self.telling.aclose)

    @asynccontextmanager
    async def admit(
        self, incoming: Incoming, model: str, tokens: int, input_tokens: int | None = None
    ) -> AsyncGenerator[Ticket]:
        """The block is one call of `model`, which may take `tokens`, input and output together.

        One that takes none only looks: it is held to the limits, and stands in no account.

        Where it has to wait, it waits as long as its client does: the body of the request has been read to its end.

        Raises `RateLimitError` and `BudgetExceededError`, each before anything is asked of a model, and `ClientGone`.
        """
        caller = incoming.caller
        came_at = asyncio.get_running_loop().time()
        ticket = Ticket(
            incoming.id,
            caller.tenant,
            caller.key_id,
            incoming.scope["path"],
            model,
            time.time(),
            came_at,
            tokens if input_tokens is None else input_tokens,
        )
        account = None if self._quotas is None else self._quotas.find(caller.key)
        leave: Leave | None = None
        has_room = False
        try:
            if account is not None:
                leave = account.enter(tokens)
                if leave is None:
                    async with Watched(incoming.receive):
                        leave = await account.ask(tokens)
            has_room = self.line.enter()
            if not has_room:
                async with Watched(incoming.receive):
                    await self.line.wait(caller.key_id)
                    has_room = True
        except BaseException as error:
            if has_room:
                self.line.leave()
            if account is not None and leave is not None:
                account.cancel(leave)
            if isinstance(error, AsyncLLMError):
                self._figures.refused(error)
            raise
        finally:
            if account is not None:
                ticket.rates = account.rates()
                incoming.rates = ticket.rates
        self.live[id(ticket)] = ticket
        try:
            yield ticket
            ticket.has_failed = ticket.error is not None
        except AsyncLLMError as error:
            ticket.error = error
            raise
        finally:
            del self.live[id(ticket)]
            self.line.leave()
            cost_usd = _cost_usd(ticket)
            if account is not None and leave is not None:
                account.leave(leave, _tokens(ticket), cost_usd)
            if tokens:
                self._record(ticket, cost_usd)

    def _refresh(self) -> None:
        figures, usage = self._figures, self.usage
        figures.set("asyncllm_requests_running", to=self.line.in_flight)
        figures.set("asyncllm_requests_waiting", to=self.line.waiting)
        figures.set("asyncllm_usage_rows_waiting", to=usage.pending)
        figures.set("asyncllm_usage_lost_total", to=usage.lost)
        figures.set("asyncllm_store_failures_total", "usage", to=usage.failures)
        if self._quotas is not None:
            figures.set("asyncllm_store_failures_total", "limits", to=self._quotas.books.failures)

    def _record(self, ticket: Ticket, cost_usd: float | None) -> None:
        self.telling.plan()
        usage = ticket.usage
        self.usage.add(
            tenant=ticket.tenant,
            key=ticket.key,
            model=ticket.model,
            has_failed=ticket.has_failed,
            input_tokens=usage.input_tokens or 0,
            output_tokens=usage.output_tokens or 0,
            cost_usd=cost_usd,
        )
        self._figures.ended(
            model=ticket.model,
            seconds=asyncio.get_running_loop().time() - ticket.came_at,
            first_s=ticket.first_s,
            input_tokens=usage.input_tokens or 0,
            output_tokens=usage.output_tokens or 0,
            events=ticket.events,
            error=ticket.error,
        )


def _tokens(ticket: Ticket) -> int | None:
    """What the call came to; `None` where nobody knows, and what was estimated stands."""
    usage = ticket.usage
    if usage.input_tokens is None and usage.output_tokens is None:
        return 0 if ticket.has_failed and not _may_be_billed(ticket) else None
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


def _cost_usd(ticket: Ticket) -> float | None:
    """What the call cost; `None` where nobody knows."""
    if ticket.cost_usd is None and ticket.has_failed and not _may_be_billed(ticket):
        return 0.0
    return ticket.cost_usd


def _may_be_billed(ticket: Ticket) -> bool:
    return ticket.has_answer or ticket.error is None or ticket.error.maybe_billed
