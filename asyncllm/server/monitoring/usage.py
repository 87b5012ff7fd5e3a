"""`GET /server/usage`: what calls took, by key, model and hour."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from asyncllm.errors import InvalidRequestError
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.bounds import words
from asyncllm.server.http.queries import read_query
from asyncllm.server.incoming import Caller, Incoming
from asyncllm.server.replies import send_json
from asyncllm.workspace.usage import UsageRow
from asyncllm.workspace.usage_forms import csv_text, moment

__all__ = ["Usage"]

_SINCE_S = 31 * 86400
_ROWS = 100_000
_CSV = (b"content-type", b"text/csv; charset=utf-8")


class _Asked(Struct, forbid_unknown_fields=True):
    since: str | None = None
    """A Unix time, or a day or time such as 2026-11-22 or 2026-11-22T08:00Z."""
    until: str | None = None
    model: str | None = None
    key_id: str | None = None
    format: Annotated[str, words("json", "csv")] = "json"


class _Rows(Struct):
    object: Literal["list"]
    data: list[UsageRow]


class Usage(Endpoint):
    """Rows of one hour each, oldest first: of the last 31 days, unless `since` says otherwise.

    A key sees its tenant's, one for `admin` and whoever needs none see everybody's.
    """

    takes_any_key = True
    described = Described(query=_Asked, reply=_Rows, also=("text/csv",))

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        asked = read_query(incoming, _Asked)
        if asked.format not in ("json", "csv"):
            raise InvalidRequestError("format is json or csv", field="format")
        rows = await self.service.admission.usage.read(
            since=time.time() - _SINCE_S if asked.since is None else moment(asked.since, "since"),
            until=float("inf") if asked.until is None else moment(asked.until, "until"),
            tenant=_tenant(incoming.caller),
            key=asked.key_id,
            model=asked.model,
        )
        if len(rows) > _ROWS:
            raise InvalidRequestError(
                f"these are more than {_ROWS} rows: ask for less time, with since and until", field="since"
            )
        if asked.format == "csv":
            await _send_csv(incoming, rows)
        else:
            await send_json(incoming.send, {"object": "list", "data": rows})


def _tenant(caller: Caller) -> str | None:
    return None if caller.key is None or "admin" in caller.key.grants.scopes else caller.tenant


async def _send_csv(incoming: Incoming, rows: Sequence[UsageRow]) -> None:
    names = UsageRow.__struct_fields__
    values: list[Sequence[Any]] = [msgspec.structs.astuple(row) for row in rows]
    body = csv_text(names, values).encode()
    head = [_CSV, (b"content-length", b"%d" % len(body)), (b"content-disposition", b"attachment; filename=usage.csv")]
    await incoming.send({"type": "http.response.start", "status": 200, "headers": head})
    await incoming.send({"type": "http.response.body", "body": body})
