"""`GET /server/usage`: what calls took, by key, model and hour."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from asyncllm.errors import InvalidRequestError
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Caller, Incoming
from asyncllm.server.replies import send_json
from asyncllm.workspace.usage import UsageRow
from asyncllm.workspace.usage_forms import csv_text, moment

__all__ = ["Usage"]

_ASKED = ("since", "until", "model", "key_id", "format")
_SINCE_S = 31 * 86400
_ROWS = 100_000
_CSV = (b"content-type", b"text/csv; charset=utf-8")


class Usage(Endpoint):
    """Rows of one hour each, oldest first: of the last 31 days, unless `since` says otherwise.

    A key sees its tenant's, one for `admin` and whoever needs none see everybody's.
    """

    takes_any_key = True

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        asked = _asked(incoming.scope["query_string"])
        form = asked.get("format", "json")
        if form not in ("json", "csv"):
            raise InvalidRequestError("format is json or csv", field="format")
        rows = await self.service.admission.usage.read(
            since=moment(asked["since"], "since") if "since" in asked else time.time() - _SINCE_S,
            until=moment(asked["until"], "until") if "until" in asked else float("inf"),
            tenant=_tenant(incoming.caller),
            key=asked.get("key_id"),
            model=asked.get("model"),
        )
        if len(rows) > _ROWS:
            raise InvalidRequestError(
                f"these are more than {_ROWS} rows: ask for less time, with since and until", field="since"
            )
        if form == "csv":
            await _send_csv(incoming, rows)
        else:
            await send_json(incoming.send, {"object": "list", "data": rows})


def _asked(query: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in _ASKED:
            raise InvalidRequestError(
                f"there is no {name[:40]!r} to ask for; there is {', '.join(_ASKED)}", field=name[:40]
            )
        found[name] = value
    return found


def _tenant(caller: Caller) -> str | None:
    return None if caller.key is None or "admin" in caller.key.grants.scopes else caller.tenant


async def _send_csv(incoming: Incoming, rows: Sequence[UsageRow]) -> None:
    names = UsageRow.__struct_fields__
    values: list[Sequence[Any]] = [msgspec.structs.astuple(row) for row in rows]
    body = csv_text(names, values).encode()
    head = [_CSV, (b"content-length", b"%d" % len(body)), (b"content-disposition", b"attachment; filename=usage.csv")]
    await incoming.send({"type": "http.response.start", "status": 200, "headers": head})
    await incoming.send({"type": "http.response.body", "body": body})
