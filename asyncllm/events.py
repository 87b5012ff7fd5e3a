"""What a stream yields.

A backend yields any number of `Started`, deltas and `UsageReport`s, and one `Finished` for each choice that it
opened, after that choice's last delta. A stream that ends without them is interrupted, not complete.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeAlias, cast

from asyncllm.types import FinishReason, Noun, ReasoningBlock, Timings, TokenLogprob, Usage

# No event can be part of a reference cycle, so none needs to be tracked by the collector (`gc=False`): a stream makes
# one for each token. The tags tell events apart where they are written down, and show nowhere else.

__all__ = [
    "Event",
    "Events",
    "Finished",
    "LogprobsDelta",
    "Ready",
    "ReasoningBlockDelta",
    "ReasoningDelta",
    "RefusalDelta",
    "Skipped",
    "Started",
    "TextDelta",
    "ToolCallDelta",
    "UsageReport",
]


class Started(Noun, frozen=True, gc=False, tag="started"):
    """The backend accepted the call and says who answers."""

    model: str | None = None
    request_id: str | None = None
    body: bytes | None = None
    """The JSON body of a reply that came in one piece, as received."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the prompt's tokens but the first, where they were asked for."""

    _private = frozenset({"body", "prompt_logprobs"})


class TextDelta(Noun, frozen=True, gc=False, tag="text"):
    """The next piece of a choice's text."""

    text: str
    index: int = 0
    """Which choice, for calls with `n` above one."""

    _private = frozenset({"text"})


class ReasoningDelta(Noun, frozen=True, gc=False, tag="reasoning"):
    """The next piece of a choice's visible thinking."""

    text: str
    index: int = 0

    _private = frozenset({"text"})


class ReasoningBlockDelta(Noun, frozen=True, gc=False, tag="reasoning_block"):
    """A choice has gained a block that the provider wants to see again. Its text, if any, comes as `ReasoningDelta`."""

    block: ReasoningBlock
    index: int = 0


class RefusalDelta(Noun, frozen=True, gc=False, tag="refusal"):
    """The next piece of the model's own words for not answering."""

    text: str
    index: int = 0

    _private = frozenset({"text"})


class ToolCallDelta(Noun, frozen=True, gc=False, tag="tool_call"):
    """A piece of a tool call. Pieces with the same `position`, or else the same `id`, belong together."""

    position: int | None = None
    """Place of the call among the choice's calls, where the backend says it."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    """The next piece of the arguments' JSON text."""
    index: int = 0
    signature: str | None = None
    """What the provider wants to see again with the call."""

    _private = frozenset({"arguments", "signature"})


class LogprobsDelta(Noun, frozen=True, gc=False, tag="logprobs"):
    """Log probabilities of the tokens that a choice gained."""

    tokens: tuple[TokenLogprob, ...]
    index: int = 0

    _private = frozenset({"tokens"})


class UsageReport(Noun, frozen=True, gc=False, tag="usage"):
    """What the call has consumed so far; a later report replaces an earlier one, field by field."""

    usage: Usage
    timings: Timings | None = None
    """What the engine measured, where it is at hand."""


class Skipped(Noun, frozen=True, gc=False, tag="skipped"):
    """A part of the stream could not be read and was left out, as the backend had been told to do."""

    position: int
    """How many parts came before it."""


class Finished(Noun, frozen=True, gc=False, tag="finished"):
    """A choice is complete."""

    reason: FinishReason | None
    """Normalised; `None` where the backend ended the reply properly without saying why."""
    raw_reason: str | None = None
    """The backend's own word."""
    index: int = 0
    stop: str | None = None
    """The stop text that it ended at, where the backend says so."""

    _private = frozenset({"stop"})


Event: TypeAlias = (
    Started
    | TextDelta
    | ReasoningDelta
    | ReasoningBlockDelta
    | RefusalDelta
    | ToolCallDelta
    | LogprobsDelta
    | UsageReport
    | Skipped
    | Finished
)

Events: TypeAlias = AsyncIterator[Event]
"""What `Backend.open` lends. It owns nothing: resources belong to the context manager around it."""


class Ready:
    """Events by the batch: those that are here already, and an iterator of the batches still to come.

    Reading it costs a step an event only where somebody looks at single events; the layers between a backend and its
    caller pass batches on. A backend that has its whole answer in one piece lends `Ready(events)`, and nothing waits.
    To everybody else it is an iterator of events like any other.
    """

    __slots__ = ("_chain", "head", "rest")

    def __init__(self, head: Sequence[Event], rest: AsyncIterator[Sequence[Event]] | None = None) -> None:
        self.head = head
        self.rest = rest
        self._chain: AsyncGenerator[Event] | None = None

    @staticmethod
    def of(events: Events) -> Ready:
        """`events` by the batch, which for a plain iterator is each event by itself."""
        return events if type(events) is Ready else Ready((), _singly(events))

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        if self._chain is None:
            self._chain = self._all()
        return await anext(self._chain)

    async def aclose(self) -> None:
        """End the iterators, now rather than when they are collected. For whoever made this, on leaving."""
        for iterator in (self._chain, self.rest):
            if isinstance(iterator, AsyncGenerator):
                await end(cast("AsyncGenerator[object]", iterator))

    async def _all(self) -> AsyncGenerator[Event]:
        for event in self.head:
            yield event
        if self.rest is not None:
            async for batch in self.rest:
                for event in batch:
                    yield event


def has_content(events: Sequence[Event]) -> bool:
    """Whether anything of an answer is among `events`: more than who answers, at what cost, and what was left out."""
    for event in events:  # a generator expression costs more than the layer that asks
        kind = type(event)
        if kind is not Started and kind is not UsageReport and kind is not Skipped:
            return True
    return False


async def end(iterator: AsyncGenerator[object]) -> None:
    """Close a generator that owns nothing. One that another task is just waiting in ends by that wait."""
    try:
        await iterator.aclose()
    except RuntimeError:
        if not getattr(iterator, "ag_running", False):
            raise


async def _singly(events: Events) -> AsyncGenerator[Sequence[Event]]:
    async for event in events:
        yield (event,)
