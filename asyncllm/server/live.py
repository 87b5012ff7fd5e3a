"""`GET /server/live`: the calls that are under way."""

from __future__ import annotations

from typing import Any

from asyncllm.server.admission import Ticket
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.replies import send_json

__all__ = ["Live"]


class Live(Endpoint):
    """Those of the caller's tenant, oldest first; everybody's for an admin, and where no key was needed.

    It says who calls which model and since when, and nothing of what is asked and answered.
    """

    takes_any_key = True

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        caller = incoming.caller
        sees_all = caller.key is None or "admin" in caller.key.grants.scopes
        calls = [
            _written(ticket)
            for ticket in self.service.admission.live.values()
            if sees_all or ticket.tenant == caller.tenant
        ]
        await send_json(incoming.send, {"object": "list", "data": calls})


def _written(ticket: Ticket) -> dict[str, Any]:
    """Until the backend says what was used, which most do at the end, input is estimated and events are counted."""
    usage = ticket.usage
    return {
        "id": ticket.id,
        "tenant": ticket.tenant,
        "key": ticket.key,
        "route": ticket.route,
        "model": ticket.model,
        "began_at": ticket.began_at,
        "input_tokens": ticket.input_tokens if usage.input_tokens is None else usage.input_tokens,
        "output_tokens": ticket.events if usage.output_tokens is None else usage.output_tokens,
    }
