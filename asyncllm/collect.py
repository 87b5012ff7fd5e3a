"""Folds events into a `Response`; nowhere else is a response assembled.

The fold is linear: pieces are kept in lists and joined once. It never drops a tool call: a fragment without an index
or an id joins the call it continues, and one that starts a call opens it even when the index is a repeated one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from asyncllm.events import (
    Event,
    Finished,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    Skipped,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.types import Message, ReasoningBlock, Response, ResponseChoice, Timings, TokenLogprob, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Collector", "OpenCall", "add_call", "collect", "in_order", "merged_usage"]


_NO_USAGE = Usage()


class OpenCall(Struct):
    """A tool call under way."""

    position: int | None
    id: str | None
    name: str | None
    arguments: list[str]
    signature: str | None = None

    def __repr__(self) -> str:
        return f"OpenCall(position={self.position!r}, id={self.id!r}, name={self.name!r})"  # arguments are private

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("position", self.position), ("id", self.id), ("name", self.name)]


class _OpenChoice(Struct):
    """A choice under way."""

    text: list[str] = []
    # Made when they are needed, which in most calls is never.
    reasoning: list[str] | None = None
    blocks: list[ReasoningBlock] | None = None
    refusal: list[str] | None = None
    calls: list[OpenCall] | None = None
    logprobs: list[TokenLogprob] | None = None
    finished: Finished | None = None


class Collector:
    """Takes events as they come; `response()` gives what they amount to, at any moment."""

    __slots__ = (
        "_body", "_choices", "_model", "_prompt_logprobs", "_request_id", "_skipped", "_timings", "_usage", "count"
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0
        """Events taken so far."""
        self._choices: dict[int, _OpenChoice] = {}
        self._usage = _NO_USAGE
        self._model: str | None = None
        self._request_id: str | None = None
        self._body: bytes | None = None
        self._skipped = 0
        self._timings: Timings | None = None
        self._prompt_logprobs: tuple[TokenLogprob, ...] | None = None

    def add(self, events: Iterable[Event]) -> None:
        """Take the next events."""
        count = 0
        for event in events:
            count += 1
            # First the kind that comes once a token; a class test, because event classes have no subclasses.
            if type(event) is TextDelta:
                choice = self._choices.get(event.index) or self._open(event.index)
                choice.text.append(event.text)
            else:
                self._add_other(event)
        self.count += count

    def _add_other(self, event: Event) -> None:
        # Plain tests, the common kinds first: a match statement takes several times as long, in every call.
        if isinstance(event, Finished):
            self._open(event.index).finished = event
        elif isinstance(event, UsageReport):
            self._usage = event.usage if self._usage is _NO_USAGE else merged_usage(self._usage, event.usage)
            self._timings = event.timings or self._timings
        elif isinstance(event, Started):
            self._model = event.model or self._model
            self._request_id = event.request_id or self._request_id
            self._body = event.body or self._body
            self._prompt_logprobs = event.prompt_logprobs or self._prompt_logprobs
        elif isinstance(event, TextDelta):
            self._open(event.index).text.append(event.text)
        elif isinstance(event, ReasoningDelta):
            choice = self._open(event.index)
            choice.reasoning = choice.reasoning or []
            choice.reasoning.append(event.text)
        elif isinstance(event, ToolCallDelta):
            choice = self._open(event.index)
            choice.calls = choice.calls or []
            add_call(choice.calls, event)
        elif isinstance(event, ReasoningBlockDelta):
            choice = self._open(event.index)
            choice.blocks = choice.blocks or []
            choice.blocks.append(event.block)
        elif isinstance(event, RefusalDelta):
            choice = self._open(event.index)
            choice.refusal = choice.refusal or []
            choice.refusal.append(event.text)
        elif isinstance(event, Skipped):
            self._skipped += 1
        else:
            choice = self._open(event.index)
            if choice.logprobs is None:
                choice.logprobs = []
            choice.logprobs.extend(event.tokens)

    @property
    def is_complete(self) -> bool:
        """Whether every choice that was opened, and at least one, has its terminal event."""
        for choice in self._choices.values():
            if choice.finished is None:
                return False
        return bool(self._choices)

    @property
    def has_content(self) -> bool:
        """Whether anything of an answer has arrived, so that the call cannot be repeated unseen."""
        return bool(self._choices)

    @property
    def usage(self) -> Usage:
        """What the call has consumed, as far as it was reported."""
        return self._usage

    @property
    def pieces(self) -> Sequence[str]:
        """The text of choice 0, as it came."""
        choice = self._choices.get(0)
        return choice.text if choice is not None else ()

    def response(self, backend: str | None = None) -> Response:
        """What has arrived so far from `backend`; a choice without a terminal event has no finish reason."""
        return Response(
            choices=tuple(_close(index, self._choices[index]) for index in sorted(self._choices)),
            usage=self._usage,
            model=self._model,
            backend=backend,
            request_id=self._request_id,
            skipped=self._skipped,
            timings=self._timings,
            prompt_logprobs=self._prompt_logprobs,
            body=self._body,
        )

    def _open(self, index: int) -> _OpenChoice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _OpenChoice()
        return choice


def collect(events: Iterable[Event]) -> Response:
    """Fold events that are all here into the response they amount to."""
    collector = Collector()
    collector.add(events)
    return collector.response()


def add_call(calls: list[OpenCall], delta: ToolCallDelta) -> OpenCall:
    """The call that `delta` continues, which has it from then on; where there is none, one is opened."""
    call = _continued(calls, delta)
    if call is None:
        call = OpenCall(delta.position, delta.id, delta.name, [delta.arguments], delta.signature)
        calls.append(call)
        return call
    call.id = call.id or delta.id
    call.name = call.name or delta.name
    call.arguments.append(delta.arguments)
    call.signature = call.signature or delta.signature
    return call


def _continued(calls: list[OpenCall], delta: ToolCallDelta) -> OpenCall | None:
    """The call under way that `delta` belongs to.

    Seen in the wild: no index at all, index 0 for every call, the id repeated on each piece or given only on the
    first, the name repeated. An id that is new always opens a call; a position alone continues the newest call
    there; a piece with neither continues the last call, unless it names a function while that call is under way.
    """
    if delta.id:
        for call in reversed(calls):
            if call.id == delta.id and (delta.position is None or call.position in (None, delta.position)):
                return call
        # The first piece of a call may come without the id that a later piece brings.
        for call in reversed(calls):
            if call.position == delta.position and call.id is None and delta.position is not None:
                return call
        return None
    if delta.position is not None:
        for call in reversed(calls):
            if call.position == delta.position:
                return call
        return None
    if not calls or (delta.name and any(calls[-1].arguments)):
        return None
    return calls[-1]


def _close(index: int, choice: _OpenChoice) -> ResponseChoice:
    finished = choice.finished
    message = Message(
        "assistant",
        "".join(choice.text),
        tuple(_tool_call(number, call) for number, call in enumerate(in_order(choice.calls))) if choice.calls else (),
        reasoning="".join(choice.reasoning) if choice.reasoning else None,
        refusal="".join(choice.refusal) if choice.refusal else None,
        reasoning_blocks=tuple(choice.blocks) if choice.blocks else (),
    )
    return ResponseChoice(
        index,
        message,
        finished.reason if finished else None,
        finished.raw_reason if finished else None,
        tuple(choice.logprobs) if choice.logprobs is not None else None,
        finished.stop if finished else None,
    )


def in_order(calls: list[OpenCall]) -> list[OpenCall]:
    """By position where every call has one of its own, else as they came."""
    positions = [call.position for call in calls if call.position is not None]
    if len(set(positions)) < len(calls):
        return calls
    return sorted(calls, key=lambda call: call.position or 0)


def _tool_call(number: int, call: OpenCall) -> ToolCall:
    # Servers that leave out the id expect one all the same when the result is sent back.
    return ToolCall(call.id or f"call_{number}", call.name or "", "".join(call.arguments), call.signature)


def merged_usage(old: Usage, new: Usage) -> Usage:
    """`new` over `old`: a field that the later report leaves out keeps its earlier value."""
    known = {name: value for name in new.__struct_fields__ if (value := getattr(new, name)) is not None}
    return msgspec.structs.replace(old, **known)
