"""`client.batch`: requests fanned out in memory, each with a result of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

from asyncllm.batch.fanout import FanOut, Source
from asyncllm.errors import AsyncLLMError, InvalidRequestError
from asyncllm.types import Noun, Response, Usage

__all__ = [
    "Batch",
    "BatchProgress",
    "BatchResult",
    "CONCURRENCY",
    "ItemResult",
    "OnProgress",
    "Order",
    "Results",
    "Tally",
    "check_concurrency",
]

T = TypeVar("T")
V = TypeVar("V")

Order: TypeAlias = Literal["input", "completion"]

CONCURRENCY = 64
"""Calls at once, where nobody says how many."""


class ItemResult(Noun, Generic[V], frozen=True, kw_only=True):
    """What became of one item of a batch: an error, or what was made."""

    index: int
    """Position among the items, from 0."""
    item: Any
    """The item as it was given."""
    error: AsyncLLMError | None = None

    _private = frozenset({"item"})

    def unwrap(self) -> V:
        """What was made. Raises the `error` if there is one."""
        if self.error is not None:
            raise self.error
        return self._made()

    def _made(self) -> V:
        raise NotImplementedError


R = TypeVar("R", bound=ItemResult[Any])


class BatchResult(ItemResult[Response], frozen=True, kw_only=True):
    """What became of one request of a batch: exactly one of `response` and `error`."""

    response: Response | None = None

    def _made(self) -> Response:
        assert self.response is not None  # one of the two is always there
        return self.response


class BatchProgress(Noun, frozen=True, kw_only=True):
    """How far a batch has come."""

    done: int = 0
    """Requests that were answered, or jobs that have succeeded."""
    failed: int = 0
    in_flight: int = 0
    """Requests or jobs under way."""
    input_tokens: int = 0
    """Of the answers that told it."""
    output_tokens: int = 0
    cost_usd: float = 0
    """Of the answers whose cost is known."""
    errors: dict[str, int] = {}
    """Failures by the name of their class."""


OnProgress: TypeAlias = Callable[[BatchProgress], None]


class Results(Generic[T, R]):
    """Results of `work(index, item)` for each item of a source, as they are read."""

    def __init__(
        self,
        source: Source[T],
        work: Callable[[int, T], Awaitable[R]],
        *,
        concurrency: int,
        order: Order,
        drain_s: float,
        progress: OnProgress | None,
    ) -> None:
        if order not in ("input", "completion"):
            raise InvalidRequestError("order is 'input' or 'completion'", field="order")
        if type(drain_s) not in (int, float) or not 0 <= drain_s < float("inf"):
            raise InvalidRequestError("drain_s is a number of seconds from 0 up", field="drain_s")
        check_concurrency(concurrency)
        self._drain_s = drain_s
        self._tally = Tally()
        self._tell = progress
        self._fan_out: FanOut[T, R] = FanOut(
            source, work, concurrency=concurrency, window=2 * concurrency, ordered=order == "input"
        )
        self.unread: tuple[R, ...] = ()
        """After the end: results of calls that were left to finish, which nobody has read."""

    @property
    def progress(self) -> BatchProgress:
        """How far it has come, counting what was read."""
        tally = self._tally
        return BatchProgress(
            done=tally.done,
            failed=tally.failed,
            in_flight=self._fan_out.in_flight,
            input_tokens=tally.input_tokens,
            output_tokens=tally.output_tokens,
            cost_usd=tally.cost_usd,
            errors=dict(tally.errors),
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        result = await anext(self._fan_out)
        self._tally.add(None if result.error is not None else result.unwrap(), result.error)
        if self._tell is not None:
            self._tell(self.progress)
        return result

    def stop(self) -> None:
        """Begin no more calls. Iteration ends after those under way."""
        self._fan_out.stop()

    async def aclose(self) -> None:
        """End the calls under way, after giving them `drain_s` seconds. Idempotent."""
        try:
            await self._fan_out.aclose(self._drain_s)
        finally:  # also where this was cancelled
            self.unread += tuple(self._fan_out.rest())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Batch(Results[T, BatchResult]):
    """Results of a batch: `async for result in client.batch(requests): ...`

    The calls begin with the first result that is asked for, and end with the last one, with `aclose`, or when the loop
    is left and nothing holds this object any more. `async with` ends them at a place of your choosing.
    """

    def __init__(
        self,
        source: Source[T],
        ask: Callable[[T], Awaitable[Response]],
        *,
        concurrency: int,
        order: Order,
        drain_s: float,
        progress: OnProgress | None,
    ) -> None:
        super().__init__(source, _Work(ask), concurrency=concurrency, order=order, drain_s=drain_s, progress=progress)


class _Work(Generic[T]):
    """Makes one call and turns its failure into a result."""

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[T], Awaitable[Response]]) -> None:
        self._ask = ask

    async def __call__(self, index: int, item: T) -> BatchResult:
        try:
            return BatchResult(index=index, item=item, response=await self._ask(item))
        except AsyncLLMError as error:
            return BatchResult(index=index, item=item, error=error)


class Tally:
    """Counts what has become of rows."""

    def __init__(self) -> None:
        self.done = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd = 0.0
        self.errors: Counter[str] = Counter()
        """Failures by the name of their class."""

    @property
    def failed(self) -> int:
        """Rows that have failed."""
        return self.errors.total()

    def add(self, answer: Any, error: AsyncLLMError | None) -> None:
        """One more has ended. What a job has made may be without usage or cost."""
        if error is not None:
            self.errors[type(error).__name__] += 1
        elif answer is not None:
            self.done += 1
            usage: Usage | None = getattr(answer, "usage", None)
            if usage is not None:
                self.input_tokens += usage.input_tokens or 0
                self.output_tokens += usage.output_tokens or 0
            self.cost_usd += getattr(answer, "cost_usd", None) or 0


def check_concurrency(concurrency: int) -> None:
    """Raise `InvalidRequestError` for what is no number of calls."""
    if type(concurrency) is not int or concurrency < 1:
        raise InvalidRequestError("concurrency is a whole number from 1 up", field="concurrency")
