"""The calls over many requests, as `Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

import msgspec

from asyncllm.batch.batch import Batch, OnProgress, Order
from asyncllm.batch.fanout import Source
from asyncllm.calls import CallOptions, Model, Prompt
from asyncllm.errors import InvalidRequestError
from asyncllm.types import Message, Request, Response, Timeouts

__all__ = ["BatchCalls", "BatchInput"]

BatchInput = str | Sequence[Message | Mapping[str, Any]] | Mapping[str, Any] | Request
"""A user's text or a conversation, as `chat` takes them; a dict with `messages` (a chat) or `prompt` (a completion) and
options of that call; or a `Request`, whose `model` is one that the client takes, or empty."""

_CONCURRENCY = 64


class BatchCalls(ABC):
    """Many requests at once, over what a client has for one."""

    _timeouts: Timeouts

    def batch(
        self,
        requests: Source[BatchInput],
        *,
        concurrency: int = _CONCURRENCY,
        order: Order = "input",
        drain_s: float = 0,
        progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> Batch[BatchInput]:
        """Ask many requests, `concurrency` at a time, and read what becomes of each.

            async for result in client.batch(requests):
                result.index, result.response, result.error

        `requests` is any iterable or async iterable, which is read as far as it is worked on: at the most twice
        `concurrency` are taken and not yet handed out. `options` are those of `chat` and `complete`, for requests that
        do not say otherwise. The client's limits, budget and retries hold as for single calls, but calls stand in line
        for as long as it takes, unless `timeouts` says how long. What one request raises is the `error` of its result.
        Leaving early ends the calls under way, after `drain_s` seconds in which they may finish; what they bring is
        in `unread`. `progress` is told after each result.

        Raises `InvalidRequestError` for arguments of the batch, and what `requests` raises, after the results of all
        that it gave before.
        """
        given = cast("CallOptions", {"timeouts": msgspec.structs.replace(self._timeouts, pool_s=None), **options})

        def ask(item: BatchInput) -> Any:
            return self._of_item(item, given)

        return Batch(requests, ask, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress)

    async def _of_item(self, item: BatchInput, options: CallOptions) -> Response:
        if isinstance(item, Request):
            return await self._of_request(item, options)
        if not isinstance(item, Mapping):
            return await self.chat(item, **options)
        own = dict(cast("Mapping[str, Any]", item))
        if ("messages" in own) == ("prompt" in own):
            raise InvalidRequestError(
                "a request that is a dict has either messages, for a chat, or prompt, for a completion",
                field="messages",
            )
        call, prompt = (self.chat, own.pop("messages")) if "messages" in own else (self.complete, own.pop("prompt"))
        return await call(prompt, **{**options, **own})

    async def _of_request(self, request: Request, options: CallOptions) -> Response:
        beside = options.keys() - {"model", "timeouts"}
        if beside:
            raise InvalidRequestError(
                f"a Request says itself how it is to be answered; {min(beside)} goes into it", field="requests"
            )
        timeouts = options["timeouts"] if request.timeouts == Timeouts() else request.timeouts
        asked = msgspec.structs.replace(request, stream=False, timeouts=timeouts)
        return await self._ask(asked, request.model or options.get("model"))

    @abstractmethod
    async def chat(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Response:
        """See `Client.chat`."""

    @abstractmethod
    async def complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Response:
        """See `Client.complete`."""

    @abstractmethod
    async def _ask(self, request: Request, model: Model | None) -> Response: ...
