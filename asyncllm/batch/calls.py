"""The calls over many requests, as `Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Unpack, cast, overload

import msgspec

from asyncllm.backend import Batches, Clock, EmbedRequest
from asyncllm.batch.batch import CONCURRENCY, Batch, OnProgress, Order
from asyncllm.batch.fanout import Source
from asyncllm.batch.items import BatchInput, parted
from asyncllm.batch.options import Location, RunOptions
from asyncllm.batch.report import BatchReport
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.batch.template import Template
from asyncllm.batch.workers.recipe import Recipes
from asyncllm.calls import CallOptions, Model, Prompt
from asyncllm.errors import InvalidRequestError
from asyncllm.types import Embeddings, Request, Response, Timeouts

__all__ = ["BatchCalls"]


class BatchCalls(ABC):
    """Many requests at once, over what a client has for one."""

    _timeouts: Timeouts
    _recipes: Recipes

    def batch(
        self,
        requests: Source[BatchInput],
        *,
        concurrency: int = CONCURRENCY,
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
        given = cast("CallOptions", {"timeouts": self._patient, **options})

        def ask(item: BatchInput) -> Awaitable[Response]:
            return self._of_item(item, given)

        return Batch(requests, ask, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress)

    def map(
        self,
        template: Prompt | Template,
        rows: Source[Mapping[str, Any]],
        *,
        concurrency: int = CONCURRENCY,
        order: Order = "input",
        drain_s: float = 0,
        progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> Batch[Mapping[str, Any]]:
        """Ask the same of many rows: `template` is a prompt with the names of columns in braces, a row a dict of them.

            async for result in client.map("Translate into French: {text}", [{"text": "a cat"}, {"text": "a dog"}]):
                result.item, result.response, result.error

        All else is as in `batch`. A row without a column that the template takes is that row's `error`.

        Raises `InvalidRequestError` for a template that cannot be read, and as `batch` does.
        """
        made = template if isinstance(template, Template) else Template(template)
        given = cast("CallOptions", {"timeouts": self._patient, **options})

        async def ask(row: Mapping[str, Any]) -> Response:
            if not isinstance(row, Mapping):
                raise InvalidRequestError(f"a row is a dict of its columns, not a {type(row).__name__}", field="rows")
            return await self.chat(made.fill(row), **given)

        return Batch(rows, ask, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress)

    async def run_batch(
        self, source: Location | Source[BatchInput], sink: Location, **options: Unpack[RunOptions]
    ) -> BatchReport:
        """Ask every row of `source` and write what became of each to `sink`, so that nothing is lost or asked in vain.

            report = await client.run_batch("input.jsonl", "output.jsonl", model="openai:gpt-x")

        `source` is a file, as `RunOptions` says, or an iterable of requests as `batch` takes them. Outcomes are kept in
        a store as they come; called again after an end of whatever kind, with the same arguments, it goes on where that
        was. The output is there when the last row has come to its end. Cancelled, it lets rows under way finish.

        Needs `asyncllm[batch]`. Raises, before anything is asked: `InputError` for what is wrong with the input,
        `OutputExistsError`, `ConfigError`, and `StoreError` where the store cannot be used or is that of another batch.
        Raises, after: what no row can be asked with, such as `AuthenticationError`; `BatchLostError`; `WriteError`.
        A row that fails is an outcome.
        """
        from asyncllm.batch.run import Caller, run_batch  # what it takes is more than `chat` should load

        caller = Caller(self.resolve_model, self._ask_row, self._service, self._recipes)
        return await run_batch(caller, source, sink, options)

    def _be_known(self, **given: Any) -> None:
        """Keep what this client is made from, for the workers of `run_batch`."""
        self._recipes = Recipes(**given)

    @property
    def _patient(self) -> Timeouts:
        """Deadlines of calls that stand in line for as long as it takes, where nobody says how long."""
        return msgspec.structs.replace(self._timeouts, pool_s=None)

    def _of_item(self, item: BatchInput, options: CallOptions) -> Awaitable[Response]:
        # No coroutine of its own: each is one more object that the collector looks at, times the calls under way.
        if isinstance(item, Request):
            beside = options.keys() - {"model", "timeouts"}
            if beside:
                raise InvalidRequestError(
                    f"a Request says itself how it is to be answered; {min(beside)} goes into it", field="requests"
                )
            if item.timeouts == Timeouts():
                item = msgspec.structs.replace(item, timeouts=options.get("timeouts", item.timeouts))
            return self._ask_row(item, item.model or options.get("model"))
        if not isinstance(item, Mapping):
            return self.chat(item, **options)
        is_chat, prompt, own = parted(item)
        merged = cast("CallOptions", {**options, **own})
        return self.chat(prompt, **merged) if is_chat else self.complete(prompt, **merged)

    @overload
    async def _ask_row(self, asked: Request, model: Model | None) -> Response: ...

    @overload
    async def _ask_row(self, asked: AnyAsk, model: Model | None) -> Answer: ...

    async def _ask_row(self, asked: AnyAsk, model: Model | None) -> Answer:
        """Ask what a row asks. It stands in line for as long as it takes, unless it says how long."""
        timeouts = self._patient if asked.timeouts == Timeouts() else asked.timeouts
        model = model or asked.model or None
        if isinstance(asked, Request):
            return await self._ask(msgspec.structs.replace(asked, stream=False, timeouts=timeouts), model)
        return await self._embed(msgspec.structs.replace(asked, timeouts=timeouts), model)

    @abstractmethod
    async def chat(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Response:
        """See `Client.chat`."""

    @abstractmethod
    async def complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Response:
        """See `Client.complete`."""

    @abstractmethod
    async def _ask(self, request: Request, model: Model | None) -> Response: ...

    @abstractmethod
    async def _embed(self, asked: EmbedRequest, model: Model | None) -> Embeddings: ...

    @abstractmethod
    def _service(self, model: Model | None) -> tuple[Batches, str, Clock]: ...

    @abstractmethod
    def resolve_model(self, model: Model | None = None) -> str:
        """See `Client.resolve_model`."""
