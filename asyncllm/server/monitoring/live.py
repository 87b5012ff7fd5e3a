"""`GET /server/live`: the calls that are under way."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.limits.admission import Ticket
from asyncllm.server.replies import send_json

__all__ = ["Live"]


class _Call(Struct):
    """Until the backend says what was used, which most do at the end, input is estimated and events are counted."""

    id: str
    tenant: str
    key: str
    """Its id, empty for a call without one."""
    route: str
    model: str
    began_at: float
    """Unix time."""
    input_tokens: int
    output_tokens: int


class _Calls(Struct):
    object: Literal["list"]
    data: list[_Call]


class Live(Endpoint):
    """Those of the caller's tenant, oldest first; everybody's for an admin, and where no key was needed.

    It says who calls which model and since when, and nothing of what is asked and answered.
    """

    takes_any_key = True
    described = Described(reply=_Calls)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        caller = incoming.caller
        sees_all = caller.key is None or "admin" in caller.key.grants.scopes
        calls = [
            _written(ticket)
            for ticket in self.service.admission.live.values()
            if sees_all or ticket.tenant == caller.tenant
        ]
        await send_json(incoming.send, _Calls("list", calls))


def _written(ticket: Ticket) -> _Call:
    usage = ticket.usage
    return _Call(
        id=ticket.id,
        tenant=ticket.tenant,
        key=ticket.key,
        route=ticket.route,
        model=ticket.model,
        began_at=ticket.began_at,
        input_tokens=ticket.input_tokens if usage.input_tokens is None else usage.input_tokens,
        output_tokens=ticket.events if usage.output_tokens is None else usage.output_tokens,
    )
