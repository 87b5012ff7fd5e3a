"""`/v1/batches`: many calls from a file, for whoever can wait."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from asyncllm.dialect.served import convert_document, read_document
from asyncllm.errors import BadRequestError, ConflictError, InvalidRequestError
from asyncllm.server.batches.rows import ENDPOINTS
from asyncllm.server.described import Described
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.bounds import words
from asyncllm.server.http.queries import read_query
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import objects
from asyncllm.server.openai.files import ExpiresAfter, listed
from asyncllm.server.replies import send_json
from asyncllm.server.stored import BATCH, FILE, Stored, missing, place_after
from asyncllm.workspace.tenants import STATUSES_OVER, StoredBatch, is_id, new_id

__all__ = ["Batch", "BatchCancellation", "Batches", "NewBatches"]

_WINDOW = re.compile(r"([1-9][0-9]{0,2})([hd])")
_HOURS = {"h": 1, "d": 24}
_MAX_HOURS = 30 * 24


class _Asked(Struct):
    input_file_id: Annotated[str, Meta(extra_json_schema={"pattern": f"^{FILE}[0-9a-z]{{26}}$"})]
    endpoint: Annotated[str, words(*ENDPOINTS.values())]
    completion_window: Annotated[str, Meta(extra_json_schema={"pattern": f"^{_WINDOW.pattern}$"})]
    """24h, or from 1h to 30d."""
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class _Query(Struct):
    after: Annotated[str, Meta(extra_json_schema={"pattern": f"^{BATCH}[0-9a-z]{{26}}$"})] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class NewBatches(Stored):
    """Begins a batch."""

    described = Described(body=_Asked, reply=objects.BatchObject, absent="file")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        store, settings, caller = self.store, self.service.settings, incoming.caller
        if caller.key is not None and not {"calls", "admin"} & set(caller.key.grants.scopes):
            raise BadRequestError("this key is not for calls, which the rows of a batch are", status=403, code="scope")
        asked = _read(await read_body(incoming, settings))
        kept = asked.output_expires_after
        window_s = _seconds(asked.completion_window)
        file = await self.file_of(incoming, asked.input_file_id, "input_file_id")
        if file.purpose != "batch":
            raise InvalidRequestError('the purpose of the input is "batch"', field="input_file_id")
        now = time.time()
        batch = StoredBatch(
            tenant=caller.tenant,
            id=new_id(BATCH),
            key=caller.key_id,
            endpoint=asked.endpoint,
            input_file=file.id,
            digest=file.digest,
            size=file.size,
            window=asked.completion_window,
            metadata=asked.metadata,
            output_expires_s=None if kept is None else kept.seconds,
            created_at=now,
            expires_at=now + window_s,
        )
        await store.tenants.add_batch(batch, max_active=settings.max_active_batches)
        self.work.wake()
        await send_json(incoming.send, _written(batch))


class Batches(Stored):
    """Batches, the newest first."""

    described = Described(query=_Query, reply=objects.BatchPage)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        asked = read_query(incoming, _Query)
        after = place_after(BATCH, asked.after)
        found = await self.store.tenants.batches(incoming.caller.tenant, after=after, count=asked.limit + 1)
        self.work.start()
        await send_json(incoming.send, listed([_written(batch) for batch in found], asked.limit))


class Batch(Stored):
    """How far a batch has come."""

    described = Described(reply=objects.BatchObject, absent="batch")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        id_ = incoming.scope["path_params"]["id"]
        batch = await self.store.tenants.batch(incoming.caller.tenant, id_) if is_id(BATCH, id_) else None
        if batch is None:
            raise missing("batch", id_)
        self.work.start()
        await send_json(incoming.send, _written(batch))


class BatchCancellation(Stored):
    """Ends a batch: what is done of it is kept."""

    described = Described(reply=objects.BatchObject, absent="batch")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        id_ = incoming.scope["path_params"]["id"]
        batch = None
        if is_id(BATCH, id_):
            batch = await self.store.tenants.change_batch(incoming.caller.tenant, id_, _cancelled)
        if batch is None:
            raise missing("batch", id_)
        if batch.state.status not in ("cancelling", "cancelled"):
            raise ConflictError(f"this batch is {batch.state.status}: there is nothing to cancel", status=409)
        self.work.wake()
        await send_json(incoming.send, _written(batch))


def _cancelled(batch: StoredBatch) -> StoredBatch | None:
    return batch.having("cancelling") if batch.state.status in ("validating", "in_progress") else None


def _read(body: bytes) -> _Asked:
    asked = convert_document(read_document(body), _Asked)
    if asked.endpoint not in ENDPOINTS.values():
        raise InvalidRequestError(f"endpoint is one of {', '.join(ENDPOINTS.values())}", field="endpoint")
    return asked


def _seconds(window: str) -> float:
    told = _WINDOW.fullmatch(window)
    hours = int(told[1]) * _HOURS[told[2]] if told else 0
    if not 1 <= hours <= _MAX_HOURS:
        raise InvalidRequestError("completion_window is 24h, or from 1h to 30d", field="completion_window")
    return hours * 3600.0


def _written(batch: StoredBatch) -> dict[str, Any]:
    state = batch.state
    times = {f"{status}_at": int(at) for status, at in state.at.items()}
    faults = None
    if state.faults:
        data = [{"param": None, "line": None, **msgspec.to_builtins(fault)} for fault in state.faults]
        faults = {"object": "list", "data": data}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": faults,
        "input_file_id": batch.input_file,
        "completion_window": batch.window,
        "status": state.status,
        "output_file_id": state.output_file,
        "error_file_id": state.error_file,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **dict.fromkeys(_TIMES),
        **times,
        "request_counts": {"total": state.total, "completed": state.done, "failed": state.failed},
        **_used(state.usage),
        "metadata": batch.metadata,
    }


_TIMES = [f"{status}_at" for status in ("in_progress", "finalizing", "cancelling", *sorted(STATUSES_OVER))]


def _used(usage: Mapping[str, int] | None) -> dict[str, Any]:
    if usage is None:
        return {}
    told = {
        "input_tokens": usage["input_tokens"],
        "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        "output_tokens": usage["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["reasoning_tokens"]},
        "total_tokens": usage["input_tokens"] + usage["output_tokens"],
    }
    return {"usage": told}
