"""Typed events of a streamed response to events, without I/O.

Terminal rule: `response.completed` or `response.incomplete`; `response.failed` and `error` raise. Anything else that
ends the body is `StreamInterrupted`, `[DONE]` included. Events of a type that is not read are passed over.

The service says everything several times: piece by piece, at the end of a part, of an item and of the response. Each
of these whole texts is held against the pieces. What the pieces lack at their end is added, and whole texts that say
something else than the pieces did end the call: a piece was lost, and nobody could tell which.

Sequence numbers: an event whose number does not go on from those before it is a repeat, and is dropped. A number that
is left out is no error, as relays leave out events; lost text is found by what is said above.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from asyncllm.dialect.lenient import decode
from asyncllm.dialect.responses.replies import (
    Reasons,
    WireItem,
    WirePart,
    WireResponse,
    call_id,
    raise_failure,
    read_end,
    read_item,
    read_output,
    read_tokens,
    read_usage,
)
from asyncllm.dialect.streams import is_keep_alive
from asyncllm.dialect.wire import WireToken
from asyncllm.errors import ResponseValidationError
from asyncllm.events import (
    Event,
    LogprobsDelta,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    Skipped,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.exchange import EventDecoder
from asyncllm.rejection import broken_off, embedded_error
from asyncllm.sse import ServerSentEvent

__all__ = ["ResponseStream"]

_Place: TypeAlias = tuple[str, int, int]
"""What a piece continues: its kind, the item, and the part of that."""


class _WireEvent(Struct, gc=False):
    """Any event: each type has some of these."""

    type: str | None = None
    sequence_number: int | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    logprobs: list[WireToken] | None = None
    part: WirePart | None = None
    item: dict[str, Any] | None = None
    response: WireResponse | None = None


class _Call(Struct):
    """A function call under way."""

    position: int
    id: str | None = None
    is_announced: bool = False


class _Kind(Struct, gc=False):
    """What tells whether an event is read at all."""

    type: str | None = None


_event = msgspec.json.Decoder(_WireEvent)
_kind = msgspec.json.Decoder(_Kind)
_READ = frozenset(
    f"response.{kind}"
    for kind in (
        "completed", "content_part.done", "created", "failed", "function_call_arguments.delta",
        "function_call_arguments.done", "in_progress", "incomplete", "output_item.added", "output_item.done",
        "output_text.delta", "output_text.done", "queued", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_text.delta", "reasoning_text.done", "refusal.delta", "refusal.done",
    )
)  # fmt: skip


class ResponseStream(EventDecoder):
    """Reads one streamed response.

    `skip_bad`: an event that cannot be read does not end the stream, and a `Skipped` stands in its place. `sent` is
    the request's body and `secrets` are its keys, which no error text may repeat.
    """

    def __init__(self, *, sent: bytes = b"", secrets: tuple[str, ...] = (), skip_bad: bool = False) -> None:
        super().__init__()
        self._sent = sent
        self._secrets = secrets
        self._skip_bad = skip_bad
        self._started = False
        self._number: int | None = None
        self._ascending = False
        self._pieces: dict[_Place, list[str]] = {}
        self._ids: dict[int, str] = {}  # of the items, by their index
        self._calls: dict[int, _Call] = {}
        self._count = 0  # of the calls
        self._blocks: set[str | None] = set()  # ids of the reasoning that has come whole
        self._reasons = Reasons()
        self._paragraph: _Place | None = None
        self._said: list[Event] = []
        self._has_logprobs = False

    def read(self, event: ServerSentEvent, events: list[Event], /) -> None:
        """See `EventDecoder`."""
        if event.type == "error":
            raise broken_off(event.data, sent=self._sent, secrets=self._secrets)
        try:
            wire = _event.decode(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            odd = self._read_odd(event, events)
            if odd is None:
                return
            wire = odd
        if self._is_repeat(wire.sequence_number):
            return
        kind = wire.type or event.type
        if kind == "response.output_text.delta":  # one a token
            if wire.delta:
                self._add(("text", wire.output_index, wire.content_index), wire.delta, events)
            if wire.logprobs and (tokens := read_tokens(wire.logprobs)) is not None:
                self._has_logprobs = True
                events.append(tokens)
        elif kind.startswith("response."):
            try:
                self._read_other(kind, wire, events)
            except ResponseValidationError as error:
                raise ResponseValidationError(error.message, body=event.data[:65536], maybe_billed=True) from None
        elif kind == "error" or wire.type is None:
            told = embedded_error(event.data, sent=self._sent, secrets=self._secrets)
            if told is not None:
                raise told

    def _read_odd(self, event: ServerSentEvent, events: list[Event]) -> _WireEvent | None:
        """What cannot be decoded at once: the word of the other dialect, a keep-alive, or something odd."""
        if event.data.strip() == b"[DONE]":
            raise self.interrupted("with [DONE] and without its terminal event")
        if is_keep_alive(event):
            return None
        try:
            return decode(event.data, _event, f"event {self._position}")
        except ResponseValidationError as error:
            if _is_passed_over(event):
                return None
            if not self._skip_bad:
                raise ResponseValidationError(error.message, body=error.body, maybe_billed=True) from None
            events.append(Skipped(self._position))
            return None

    def _is_repeat(self, number: int | None) -> bool:
        """Whether `number` was there before, by a server that counts: some send one number with everything."""
        if number is None:
            return False
        if self._number is not None and number <= self._number:
            return self._ascending
        self._ascending = self._number is not None
        self._number = number
        return False

    def _read_other(self, kind: str, wire: _WireEvent, events: list[Event]) -> None:
        match kind.removeprefix("response."):
            case "output_text.done":
                self._settle(("text", wire.output_index, wire.content_index), wire.text, events)
            case "refusal.delta":
                self._add(("refusal", wire.output_index, wire.content_index), wire.delta, events)
            case "refusal.done":
                self._settle(("refusal", wire.output_index, wire.content_index), wire.refusal, events)
            case "function_call_arguments.delta":
                self._add(("arguments", wire.output_index, 0), wire.delta, events)
            case "function_call_arguments.done":
                self._settle(("arguments", wire.output_index, 0), wire.arguments, events)
            case "reasoning_summary_text.delta":
                self._add(("summary", wire.output_index, wire.summary_index), wire.delta, events)
            case "reasoning_summary_text.done":
                self._settle(("summary", wire.output_index, wire.summary_index), wire.text, events)
            case "reasoning_text.delta":
                self._add(("reasoning", wire.output_index, wire.content_index), wire.delta, events)
            case "reasoning_text.done":
                self._settle(("reasoning", wire.output_index, wire.content_index), wire.text, events)
            case "content_part.done" if wire.part is not None:
                self._settle_part(wire.output_index, wire.content_index, wire.part, events)
            case "output_item.added" | "output_item.done" if wire.item is not None:
                is_done = kind.endswith("done")
                self._read_item(wire.output_index, wire.item, events, is_done=is_done)
            case "created" | "queued" | "in_progress" | "completed" | "incomplete" | "failed" as state:
                self._read_response(state, wire.response or WireResponse(), events)
            case _:
                pass

    # -- pieces and wholes -------------------------------------------------------------------------------------------

    def _add(self, place: _Place, piece: str | None, events: list[Event]) -> None:
        """The next piece of what stands at `place`."""
        if not piece:
            return
        pieces = self._pieces.get(place)
        if pieces is None:
            pieces = self._pieces[place] = []
        pieces.append(piece)
        kind, index, _ = place
        event: Event
        if kind == "text":
            event = TextDelta(piece)
        elif kind == "refusal":
            event = RefusalDelta(piece)
        elif kind == "arguments":
            call = self._call(index)
            event = ToolCallDelta(call.position, call.id, arguments=piece)
        else:
            event = ReasoningDelta(piece if place == self._paragraph else self._reasons.apart(piece))
            self._paragraph = place
        self._say(event, events)

    def _settle(self, place: _Place, whole: str | None, events: list[Event]) -> None:
        """`whole` is all of what stands at `place`: add what the pieces lack of it."""
        if whole:
            self._add(place, _rest("".join(self._pieces.get(place, ())), whole), events)

    def _settle_part(self, index: int, position: int, part: WirePart, events: list[Event]) -> None:
        kind = "reasoning" if part.type == "reasoning_text" else "text"
        self._settle((kind, index, position), part.text, events)
        self._settle(("refusal", index, position), part.refusal, events)

    def _say(self, event: Event, events: list[Event]) -> None:
        self._said.append(event)
        events.append(event)

    # -- items -------------------------------------------------------------------------------------------------------

    def _read_item(self, index: int, document: dict[str, Any], events: list[Event], *, is_done: bool) -> None:
        """An item that begins or is whole. One that begins under the index of another takes its place."""
        item = read_item(document)
        if item.id and not is_done:
            if self._ids.get(index, item.id) != item.id:
                self._calls.pop(index, None)
                self._pieces = {place: pieces for place, pieces in self._pieces.items() if place[1] != index}
            self._ids[index] = item.id
        if item.type == "function_call":
            self._begin_call(index, item, events)
            self._settle(("arguments", index, 0), item.arguments, events)
        elif item.type == "message":
            self._reasons.pass_on()
            for position, part in enumerate(item.content or ()):
                self._settle_part(index, position, part, events)
        elif item.type == "reasoning" and is_done:
            for position, part in enumerate(item.summary or ()):
                self._settle(("summary", index, position), part.text, events)
            for position, part in enumerate(item.content or ()):
                self._settle(("reasoning", index, position), part.text, events)
            self._keep(document, item, events)

    def _begin_call(self, index: int, item: WireItem, events: list[Event]) -> None:
        call = self._call(index)
        if not call.is_announced:
            call.id, call.is_announced = call_id(item), True
            self._say(ToolCallDelta(call.position, call.id, item.name, signature=self._reasons.pass_on()), events)

    def _call(self, index: int) -> _Call:
        """The call at `index`, whose pieces may come before it is announced."""
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _Call(self._count)
            self._count += 1
        return call

    def _keep(self, document: dict[str, Any], item: WireItem, events: list[Event]) -> None:
        """A whole item of reasoning, once."""
        if item.id is None or item.id not in self._blocks:
            self._blocks.add(item.id)
            self._say(self._reasons.block(document, item), events)

    # -- the response ------------------------------------------------------------------------------------------------

    def _read_response(self, state: str, response: WireResponse, events: list[Event]) -> None:
        if not self._started:
            self._started = True
            events.append(Started(response.model, response.id))
        if response.usage is not None:
            events.append(UsageReport(read_usage(response.usage)))
        if state == "failed":
            response.status = "failed"
        raise_failure(response, self._sent, self._secrets)
        if state in ("completed", "incomplete"):
            self._settle_all(read_output(response.output or []), events)
            calls = any(isinstance(event, ToolCallDelta) for event in self._said)
            events.append(read_end(response, state, has_calls=calls))
            self.done = True

    def _settle_all(self, whole: list[Event], events: list[Event]) -> None:
        """Hold the output of the response that has ended against all that was said.

        Totals are compared and not items: relays number and name the same items in ways of their own.
        """
        for kind in (TextDelta, RefusalDelta):
            said = "".join(event.text for event in self._said if isinstance(event, kind))
            rest = _rest(said, "".join(event.text for event in whole if isinstance(event, kind)))
            if rest:
                events.append(kind(rest))
        if not any(isinstance(event, ReasoningDelta) for event in self._said):
            events += [event for event in whole if isinstance(event, ReasoningDelta)]
        if not self._blocks:
            events += [event for event in whole if isinstance(event, ReasoningBlockDelta)]
        if not self._has_logprobs:
            events += [event for event in whole if isinstance(event, LogprobsDelta)]
        self._settle_calls([event for event in whole if isinstance(event, ToolCallDelta)], events)

    def _settle_calls(self, whole: list[ToolCallDelta], events: list[Event]) -> None:
        """The calls of the response, in order: those that nothing was said of, and what lacks of the others."""
        said = [event for event in self._said if isinstance(event, ToolCallDelta)]
        for number, call in enumerate(whole):
            ids = {event.position for event in said if event.id is not None and event.id == call.id}
            position = next(iter(ids), number)
            pieces = [event for event in said if event.position == position]
            rest = _rest("".join(event.arguments for event in pieces), call.arguments)
            known = any(event.name for event in pieces)
            if rest or not known:
                delta = msgspec.structs.replace(call, position=position, arguments=rest)
                self._say(delta if not known else ToolCallDelta(position, call.id, arguments=rest), events)


def _is_passed_over(event: ServerSentEvent) -> bool:
    """Whether an event is of a known form and of a type that is not read, whose fields may be of any type."""
    try:
        kind = _kind.decode(event.data).type or event.type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return kind.startswith("response.") and kind not in _READ


def _rest(said: str, whole: str) -> str:
    """What `whole` has after `said`. Raises `ResponseValidationError` where it is another text."""
    if whole.startswith(said):
        return whole[len(said) :]
    # Servers trim what they repeat, and half of a character that was cut in two is not what it was.
    if not whole or said.strip() == whole.strip() or "\ufffd" in said:
        return ""
    raise ResponseValidationError(
        f"the pieces of an answer ({len(said)} characters) are not what its end says that it is ({len(whole)}): a "
        "part of the stream was lost"
    )
