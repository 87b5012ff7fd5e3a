"""When a call may begin, which calls are under way, and what each came to."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec import Struct

from asyncllm.server.incoming import Incoming
from asyncllm.types import Usage

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
    usage: Usage = Usage()
    cost_usd: float | None = None
    has_failed: bool = True
    """Until it is known to have come to its end."""

    def count(self, response: Counted) -> None:
        """What an answer came to, whole or so far."""
        self.usage = response.usage
        self.cost_usd = response.cost_usd


class Admission:
    """Lets calls in."""

    def __init__(self) -> None:
        self.live: dict[int, Ticket] = {}
        """Calls under way, oldest first."""

    @asynccontextmanager
    async def admit(self, incoming: Incoming, model: str, tokens: int) -> AsyncGenerator[Ticket]:
        """The block is one call of `model`, which may take `tokens`, input and output together.

        Raises `RateLimitError`, `OverloadedError` and `BudgetExceededError`, each before anything is asked of a model.
        """
        del tokens
        caller = incoming.caller
        ticket = Ticket(incoming.id, caller.tenant, caller.key_id, incoming.scope["path"], model, time.time())
        self.live[id(ticket)] = ticket
        try:
            yield ticket
            ticket.has_failed = False
        finally:
            del self.live[id(ticket)]
