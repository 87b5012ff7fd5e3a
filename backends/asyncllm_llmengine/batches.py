"""Batches of LLM Engine: a job of its own, which reads its items from the request or a file and writes a file.

Source: https://github.com/scaleapi/llm-engine (`batch_completion.py` of the server's request types).

The service gives no outcomes and keeps no name of the caller's own: it writes outcomes to the file that is the batch's
`output`, see `outcomes`. V1 takes text completions that share their options; V2 takes chats, or completions, each with
options of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from msgspec import Raw

from asyncllm.backend import (
    BatchItem,
    BatchLimits,
    BatchOutcome,
    BatchRequest,
    BatchState,
    HttpCall,
    JobStatus,
    require_supported,
)
from asyncllm.batch_http import (
    LOOK,
    check_batch,
    check_id,
    create_once,
    fetch,
    path_of,
    read_document,
    response_of,
    unsupported,
)
from asyncllm.dialect.requests import encode
from asyncllm.errors import AsyncLLMError, InvalidRequestError, JobFailedError, ResponseValidationError
from asyncllm.types import Request
from asyncllm_llmengine.backend import LLMEngine
from asyncllm_llmengine.checks import check_completion
from asyncllm_llmengine.outcomes import read_item, read_items
from asyncllm_llmengine.requests import write_v1

__all__ = ["LLMEngineWithBatches"]

_V1 = frozenset(
    {
        "complete", "extra", "max_tokens", "temperature", "top_p", "top_k", "stop", "presence_penalty",
        "frequency_penalty", "logprobs",
    }
)  # fmt: skip
_TOOL = "code_evaluator"
_WORKERS, _RUNTIME_S = 64, 2 * 24 * 3600
_STATUS: dict[str, JobStatus] = {
    "queued": "queued",
    "running": "running",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}  # `unknown` is no end
_document = msgspec.json.Decoder(dict[str, Any])


class LLMEngineWithBatches(LLMEngine):
    """One gateway, which works off batches too; see `asyncllm.backend.FiledBatches`."""

    batch_limits = BatchLimits()

    def batch_item_size(self, item: BatchItem, /) -> int:
        """See `Batches`: the length of its request, or of its prompt where options are shared."""
        check_id(item)
        request = msgspec.structs.replace(item.request, stream=False)
        if request.is_chat or not self._is_v1:
            return len(self._v2_body(request)[1])
        return len(encode({"prompt": self._v1_body(request)["prompt"]}))

    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        """Start a job; see `Batches`. Its `result` is what the service tells of it.

        `extra` has `input_data_path` for items that are in a file, `items` being empty then; and `data_parallelism`,
        `model_config`, `tool_config`, `cpus` and the like. The key `api` says `"v1"` or `"v2"`, which is otherwise V2
        for chats and what `completions` says for the rest.
        """
        is_v1, body = self._job(batch)
        path = "v1/llm/batch-completions" if is_v1 else "v2/batch-completions"
        call = self._batch_call("POST", path, encode(body))
        call = msgspec.structs.replace(call, timeouts=batch.timeouts)
        return _state(read_document(call, await create_once(self._transport, call), _document, "a job"))

    async def find_batch(self, token: str, /) -> BatchState | None:
        """Refused: the service keeps no name of the caller's own with a job, and lists none."""
        del token
        raise unsupported("find_batch", "the service lists no jobs", backend=self._name)

    async def get_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`. `result` is what the service tells of the job, by its own names."""
        call = self._batch_call("GET", f"v2/batch-completions/{path_of(batch_id)}")
        document = read_document(call, await fetch(self._transport, call), _document, "a job")
        job = document.get("job", document)
        if not isinstance(job, dict):
            raise ResponseValidationError("the reply has no `job`")
        return _state(cast("dict[str, Any]", job), batch_id)

    async def cancel_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`. Raises `JobFailedError` where the service does not cancel, and does not say why."""
        call = self._batch_call("POST", f"v2/batch-completions/{path_of(batch_id)}/actions/cancel")
        told = read_document(call, await fetch(self._transport, call), _document, "a cancellation")
        if told.get("success") is not True:
            raise JobFailedError("the service did not cancel the job: it is over, or there is none of this id")
        return BatchState(id=batch_id, status="cancelled")

    @asynccontextmanager
    async def batch_outcomes(
        self, batch_id: str, requests: Mapping[str, Request] = {}, /
    ) -> AsyncGenerator[AsyncIterator[BatchOutcome]]:
        """Refused: they are in the file that is the batch's `output`."""
        del batch_id, requests
        raise unsupported("batch_outcomes", "the service writes them to the output of the batch", backend=self._name)
        yield  # a generator, to be entered like any other

    def read_outcomes(self, content: bytes, requests: Mapping[str, Request], /) -> Iterator[BatchOutcome]:
        """See `FiledBatches`. A file of either version tells itself which it is of."""
        items = read_items(content, len(requests))
        return (
            self._outcome(id_, asked, bytes(item)) for (id_, asked), item in zip(requests.items(), items, strict=True)
        )

    def _outcome(self, id_: str, asked: Request, item: bytes) -> BatchOutcome:
        try:
            limit, sent = (None, self._v2_body(asked)[1]) if asked.is_chat else write_v1(asked, self._defaults)
            events = read_item(item, model=asked.model, sent=sent, limit=limit)
            return BatchOutcome(id=id_, response=response_of(events, self._name))
        except AsyncLLMError as error:
            return BatchOutcome(id=id_, error=error)

    def _job(self, batch: BatchRequest) -> tuple[bool, dict[str, Any]]:
        """Whether a job is one of V1, and its body. Raises `InvalidRequestError`, `UnsupportedError`."""
        extra = dict(batch.extra)
        is_v1 = self._is_batch_v1(batch, extra.pop("api", None))
        config = extra.pop("model_config", {})
        _check_paths(batch, extra)
        _check_numbers(batch, extra)
        if not isinstance(config, dict):
            raise InvalidRequestError("model_config is a mapping", field="model_config")
        self._check_version(extra, is_v1=is_v1)
        model_config: dict[str, Any] = {"model": batch.model, **cast("dict[str, Any]", config)}
        labels = {**model_config.pop("labels", {}), **batch.labels}
        body: dict[str, Any] = {"model_config": model_config, "output_data_path": batch.output, **extra}
        if batch.items:
            body["content"] = self._content(batch, is_v1=is_v1)
        if labels:
            (model_config if is_v1 else body)["labels"] = labels
        if batch.max_runtime_s is not None:
            body["max_runtime_sec"] = batch.max_runtime_s
        if batch.priority is not None:
            body["priority"] = batch.priority
        return is_v1, body

    def _is_batch_v1(self, batch: BatchRequest, api: object) -> bool:
        chats = any(item.request.is_chat for item in batch.items)
        if api not in (None, "v1", "v2"):
            raise InvalidRequestError("api is 'v1' or 'v2'", field="api")
        if api == "v1" and chats:
            raise InvalidRequestError("V1 has no chats: leave api out, or say 'v2'", field="api")
        return api == "v1" or (api is None and self._is_v1 and not chats)

    def _check_version(self, extra: dict[str, Any], *, is_v1: bool) -> None:
        """What one of the two has no place for: the service refuses the first and drops the second in silence."""
        if is_v1 and extra.get("data_parallelism", 1) != 1:
            raise unsupported("data_parallelism", "only V2 splits a job; say api='v2'", backend=self._name)
        if not is_v1 and extra.get("tool_config") is not None:
            raise unsupported("tool_config", "only V1 runs a tool; say api='v1'", backend=self._name)

    def _content(self, batch: BatchRequest, *, is_v1: bool) -> Any:
        requests = [item.request for item in check_batch(batch, self.batch_limits, is_filed=True)]
        if not is_v1:
            return [Raw(self._v2_body(request)[1]) for request in requests]
        bodies = [self._v1_body(request) for request in requests]
        prompts = [body.pop("prompt") for body in bodies]
        if any(body != bodies[0] for body in bodies):
            raise unsupported("options of single items", "V1 has one for all; say api='v2'", backend=self._name)
        return {"prompts": prompts, **bodies[0]}

    def _v1_body(self, request: Request) -> dict[str, Any]:
        require_supported(request, _V1, backend=self._name)
        check_completion(request, self._framework, temperature=self._defaults.temperature, backend=self._name)
        return _document.decode(write_v1(request, self._defaults)[1])

    def _batch_call(self, method: str, path: str, body: bytes = b"") -> HttpCall:
        return HttpCall(method=method, url=f"{self._url}/{path}", body=body, headers=self._headers, timeouts=LOOK)


def _check_paths(batch: BatchRequest, extra: dict[str, Any]) -> None:
    source = extra.get("input_data_path")
    for name, address in (("output", batch.output), ("input_data_path", source)):
        if address is not None and (not isinstance(address, str) or not address):
            raise InvalidRequestError(f"{name} is an address such as s3://bucket/name.json", field=name)
    if batch.output is None:
        raise InvalidRequestError("LLM Engine writes outcomes to a file: say where, as s3://...", field="output")
    if "output_data_path" in extra:
        raise InvalidRequestError("where outcomes are written is the batch's output", field="output_data_path")
    if bool(batch.items) == (source is not None):
        raise InvalidRequestError(
            "items are either given or in the file at input_data_path: exactly one of the two", field="input_data_path"
        )


def _check_numbers(batch: BatchRequest, extra: dict[str, Any]) -> None:
    if "data_parallelism" in extra and not _is_whole(extra["data_parallelism"], _WORKERS):
        raise InvalidRequestError(f"data_parallelism is a whole number from 1 to {_WORKERS}", field="data_parallelism")
    if batch.max_runtime_s is not None and not _is_whole(batch.max_runtime_s, _RUNTIME_S):
        raise InvalidRequestError(f"max_runtime_s is a whole number from 1 to {_RUNTIME_S}", field="max_runtime_s")
    if "max_runtime_sec" in extra:
        raise InvalidRequestError("the limit of time is max_runtime_s of the batch", field="max_runtime_sec")
    tool: Any = extra.get("tool_config")
    if tool is not None and (not isinstance(tool, dict) or cast("dict[str, Any]", tool).get("name") != _TOOL):
        raise InvalidRequestError(f"tool_config names the one tool that there is, {_TOOL}", field="tool_config")


def _is_whole(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _state(job: dict[str, Any], batch_id: str | None = None) -> BatchState:
    """What the service says of a job. Its id and its status alone are relied on; V1 tells the id of a new job only."""
    name = job.get("job_id", batch_id)
    if not isinstance(name, str) or not name:
        raise ResponseValidationError("the reply has no `job_id`")
    told = job.get("status")
    word = told.lower() if isinstance(told, str) else None
    status = "queued" if word is None else _STATUS.get(word, "running")
    error = JobFailedError("the job failed, and the service does not say why") if status == "failed" else None
    return BatchState(id=name, status=status, status_raw=word, result=job, error=error)
