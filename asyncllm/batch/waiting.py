"""The same calls for code without an event loop, as `sync.Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from threading import Event
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

from asyncllm.batch.batch import (
    CONCURRENCY,
    Batch,
    BatchProgress,
    BatchResult,
    ItemResult,
    OnProgress,
    Order,
    Results,
)
from asyncllm.batch.calls import BatchCalls
from asyncllm.batch.fanout import Source
from asyncllm.batch.items import BatchInput
from asyncllm.batch.options import Location, RunOptions
from asyncllm.batch.report import BatchReport
from asyncllm.batch.template import Template
from asyncllm.calls import CallOptions, Prompt
from asyncllm.waiting import Runner, next_of

__all__ = ["WaitingBatch", "WaitingBatchCalls"]

R = TypeVar("R", bound=ItemResult[Any])


class WaitingBatchCalls(ABC):
    """Many requests at once, each as in `asyncllm.Client`.

    What a call reads its requests from, and whom it tells of its progress, is called on the thread of the background
    loop: it must not wait for long there, nor call this client.
    """

    def batch(
        self,
        requests: Source[BatchInput],
        *,
        concurrency: int = CONCURRENCY,
        order: Order = "input",
        drain_s: float = 0,
        progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> WaitingBatch[BatchResult]:
        """Ask many requests, `concurrency` at a time: `for result in client.batch(requests): ...`"""
        client, runner = self._over_there()

        async def make() -> Batch[BatchInput]:
            return client.batch(
                requests, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress, **options
            )

        return WaitingBatch(runner, runner.run(make))

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
    ) -> WaitingBatch[BatchResult]:
        """Ask the same of many rows: `for result in client.map("Translate: {text}", rows): ...`"""
        client, runner = self._over_there()

        async def make() -> Batch[Mapping[str, Any]]:
            return client.map(
                template, rows, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress, **options
            )

        return WaitingBatch(runner, runner.run(make))

    def run_batch(
        self, source: Location | Source[BatchInput], sink: Location, **options: Unpack[RunOptions]
    ) -> BatchReport:
        """Ask every row of `source` and write what became of each to `sink`; see `asyncllm.Client.run_batch`.

        Ctrl-C lets rows under way finish, and is raised then; a second one is raised at once.
        """
        client, runner = self._over_there()
        begun, ended = Event(), Event()

        async def run() -> BatchReport:
            begun.set()
            try:
                return await client.run_batch(source, sink, **options)
            finally:
                ended.set()

        try:
            return runner.run(run)
        except BaseException:
            if begun.is_set():
                ended.wait()
            raise

    @abstractmethod
    def _over_there(self) -> tuple[BatchCalls, Runner]:
        """The asynchronous client, and who awaits its calls."""


class WaitingBatch(Generic[R]):
    """Results of a batch: `for result in client.batch(requests): ...`; see `asyncllm.Batch` and `asyncllm.JobBatch`."""

    def __init__(self, runner: Runner, batch: Results[Any, R]) -> None:
        self._runner = runner
        self._batch = batch

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        result: R | None = self._runner.run(lambda: next_of(self._batch))
        if result is None:
            raise StopIteration
        return result

    @property
    def progress(self) -> BatchProgress:
        """How far it has come, counting what was read."""
        return self._batch.progress

    @property
    def unread(self) -> tuple[R, ...]:
        """After the end: what nobody has read."""
        return self._batch.unread

    def stop(self) -> None:
        """Begin no more calls. Iteration ends after those under way."""

        async def stop() -> None:
            self._batch.stop()

        self._runner.run(stop)

    def close(self) -> None:
        """End the calls under way, after giving them `drain_s` seconds. Idempotent."""
        if not self._runner.closed:  # otherwise closing the client has ended them
            self._runner.run(self._batch.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
