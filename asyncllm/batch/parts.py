"""What a service is to work off as batches of its own: parts, where they are written down, and how rows become them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from typing import Any, Protocol

from asyncllm.backend import Batches, BatchItem, BatchOutcome, BatchState
from asyncllm.errors import ConfigError, InvalidRequestError, ResponseValidationError, UnsupportedError
from asyncllm.types import Noun, Timeouts

__all__ = ["Ledger", "Part", "VendorSettings", "index_of", "item_id", "split"]

_PREFIX = "row-"


class Part(Noun, frozen=True, kw_only=True):
    """Items that go to the service as one batch."""

    token: str
    """What the batch is found by."""
    model: str
    items: Sequence[BatchItem]
    is_begun: bool = False
    """Whether it was written down before: then the batch may be there."""
    batch_id: str | None = None
    """What the service knows it by, once that was written down."""

    _private = frozenset({"items"})


class Ledger(Protocol):
    """Where a run writes down what must outlive it. Each method returns once that is durable."""

    async def intent(self, part: Part, /) -> None:
        """`part` is about to be made."""
        ...

    async def created(self, part: Part, batch_id: str, /) -> None:
        """The service has made `part`, and knows it by `batch_id`."""
        ...

    async def withdrawn(self, part: Part, /) -> None:
        """The service has refused `part`, and nothing was made: its items are in no part any more."""
        ...

    async def outcome(self, outcome: BatchOutcome, /) -> None:
        """What became of one item. After an interruption it may be told again: the first time counts."""
        ...

    async def done(self, part: Part, state: BatchState, /) -> None:
        """Every item of `part` has an outcome."""
        ...


class VendorSettings(Noun, frozen=True, kw_only=True):
    """How batches are made and waited for."""

    labels: Mapping[str, str] = {}
    priority: str | None = None
    max_runtime_s: int | None = None
    timeouts: Timeouts = Timeouts()
    extra: dict[str, Any] = {}
    output: str | None = None
    """Where a service that does not give outcomes writes its files of them, and they are fetched: a folder that both
    reach, as `s3://bucket/folder`, or a path from `/`."""
    part_items: int = 20_000
    """Items of one batch at the most, where the service does not want fewer."""
    in_flight: int = 2
    """How many batches are under way at once. The items of each are kept until it is over."""
    interval_s: float = 1.0
    """The first wait between two looks at a batch; the next ones grow."""
    longest_s: float = 60.0
    """What they grow to."""
    timeout_s: float | None = None
    """After how long a batch is not waited for any more. It goes on."""
    patience_s: float = 60.0
    """For how long a batch that may have been made is looked for, before it is held not to be there."""
    may_repeat: bool = False
    """Whether to make a batch again that may have been made, where the service cannot be asked for it."""

    _private = frozenset({"extra"})

    def __post_init__(self) -> None:
        if type(self.in_flight) is not int or self.in_flight < 1:
            raise InvalidRequestError("in_flight is a whole number from 1 up", field="in_flight")
        if not 0 < self.interval_s <= self.longest_s:
            raise InvalidRequestError("interval_s is above zero, and longest_s not below it", field="interval_s")
        if self.output is not None and not (self.output.startswith("/") or "://" in self.output):
            raise InvalidRequestError("output is a folder as s3://bucket/folder, or a path from /", field="output")


def item_id(index: int) -> str:
    """What the row `index` is called as an item."""
    return f"{_PREFIX}{index}"


def index_of(id_: str) -> int:
    """Which row an item is. Raises `ResponseValidationError` for the id of none."""
    digits = id_.removeprefix(_PREFIX)
    if digits == id_ or not digits.isascii() or not digits.isdigit():
        raise ResponseValidationError("the service names an item that was not sent")
    return int(digits)


async def split(
    batches: Batches,
    items: AsyncIterable[BatchItem],
    *,
    most: int | None = None,
    token: Callable[[], str] | None = None,
) -> AsyncGenerator[Part | BatchOutcome]:
    """Parts as large as `batch_limits` allow, and the outcomes of items that the service cannot take.

    A part has no more than `most` items. It is of one model, and of chats or of text completions; there is one open of
    each at a time.
    """
    limits = batches.batch_limits
    most = min((count for count in (limits.items, most) if count is not None), default=None)
    make_token = token or _new_token
    is_open: dict[tuple[str, bool], list[BatchItem]] = {}
    sizes: dict[tuple[str, bool], int] = {}
    async for item in items:
        kind = (item.request.model, item.request.is_chat)
        try:
            size = batches.batch_item_size(item)
            if limits.bytes is not None and size > limits.bytes:
                raise InvalidRequestError(
                    f"the item {item.id} is {size} bytes, and a batch of this service holds {limits.bytes}",
                    field="items",
                )
        except (ConfigError, UnsupportedError) as error:
            yield BatchOutcome(id=item.id, error=error)
            continue
        held = is_open.setdefault(kind, [])
        is_full = most is not None and len(held) >= most
        if held and (is_full or (limits.bytes is not None and sizes[kind] + size > limits.bytes)):
            yield Part(token=make_token(), model=kind[0], items=tuple(held))
            held = is_open[kind] = []
        sizes[kind] = size if not held else sizes[kind] + size
        held.append(item)
    for (model, _), held in is_open.items():
        yield Part(token=make_token(), model=model, items=tuple(held))


def _new_token() -> str:
    return f"asyncllm-{secrets.token_hex(16)}"
