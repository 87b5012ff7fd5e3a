"""Events to the typed events of OpenAI's Responses API, framed as server-sent events.

Items are told apart by their place in the output, so that calls whose pieces come by turns stay open side by side; a
message, or thinking, ends where something else begins. A call is told of once its name and its id are known.

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from asyncllm.collect import OpenCall, add_call, in_order, merged_usage
from asyncllm.dialect.faults import write_error
from asyncllm.dialect.pieces import safe
from asyncllm.dialect.responses.requests import DIALECT
from asyncllm.errors import AsyncLLMError
from asyncllm.events import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.server.responses.answers import (
    MADE,
    call_item,
    message_item,
    reasoning_item,
    refusal_part,
    sealed_item,
    text_part,
    write_end,
    write_failure,
    write_tokens,
    write_usage,
)
from asyncllm.types import FinishReason, ReasoningBlock, TokenLogprob, Usage

__all__ = ["ResponseWriter"]

_encode = msgspec.json.Encoder().encode


class _Part(Struct):
    """A part of an item, under way."""

    kind: Literal["output_text", "refusal", "reasoning_text"]
    pieces: list[str] = []
    tokens: list[TokenLogprob] = []

    def document(self) -> dict[str, Any]:
        text = "".join(self.pieces)
        if self.kind == "output_text":
            return text_part(text, self.tokens)
        return refusal_part(text) if self.kind == "refusal" else {"type": self.kind, "text": text}


class _Item(Struct):
    """A message, thinking, or a call, under way."""

    index: int
    id: str
    parts: list[_Part] = []
    is_thinking: bool = False
    call: OpenCall | None = None
    call_id: str = ""

    def document(self, status: str) -> dict[str, Any]:
        if self.call is not None:
            return call_item(self.id, self.call_id, self.call.name or "", "".join(self.call.arguments), status)
        parts = [part.document() for part in self.parts]
        if self.is_thinking:
            return {**reasoning_item(self.id, None, status), "content": parts}
        return message_item(self.id, parts, status)


class ResponseWriter:
    """Writes one response: `head` is what is known of it beforehand, and `id_` is in the ids of its items."""

    def __init__(self, head: dict[str, Any], *, id_: str) -> None:
        self._head = head
        self._id = id_
        self._number = 0
        self._usage = Usage()
        self._reason: FinishReason | None = None
        self._open: _Item | None = None  # the message or the thinking that is being written
        self._items = 0
        self._done: dict[int, dict[str, Any]] = {}  # items that are whole, by their place
        self._calls: list[OpenCall] = []
        self._told: dict[int, _Item] = {}  # by the identity of the call
        self._last: Event | None = None
        self._written: list[bytes] = []

    def write(self, events: Sequence[Event]) -> bytes:
        """The events of this API that `events` come to; other choices than the first have no place in it."""
        for event in events:
            if getattr(event, "index", 0) == 0:
                self._one(event)
                self._last = event
        return self._taken()

    def end(self) -> bytes:
        """What comes after the last event."""
        self._begin()
        end = write_end(self._reason)
        status = "completed" if end["status"] == "completed" else "incomplete"
        self._close(status)
        for number, call in enumerate(in_order(self._calls)):
            if id(call) not in self._told:
                self._announce(call, call.id or f"call_{number}")
        for item in self._told.values():
            arguments = "".join(item.call.arguments) if item.call is not None else ""
            self._tell("response.function_call_arguments.done", item, arguments=arguments)
            self._finish(item, status)
        output = [self._done[at] for at in sorted(self._done)]
        self._event(f"response.{end['status']}", response={**self._response(end), "output": output})
        return self._taken()

    def fail(self, error: AsyncLLMError) -> bytes:
        """What comes in place of the rest: the response as far as it came, and an error for whoever reads no such."""
        self._begin()
        begun = ([] if self._open is None else [self._open]) + list(self._told.values())
        partial = {item.index: item.document("incomplete") for item in begun} | self._done
        failed = {"status": "failed", "error": write_failure(error), "incomplete_details": None}
        output = [partial[at] for at in sorted(partial)]
        self._event("response.failed", response={**self._response(failed), "output": output})
        told = write_error(error)["error"]
        self._event("error", code=told["code"], message=told["message"], param=told["param"], error=told)
        return self._taken()

    def keep_alive(self) -> bytes:
        """That it is under way, which every reader knows; comments and types of another name are less known."""
        self._begin()
        self._event("response.in_progress", response=self._begun())
        return self._taken()

    # -- events ------------------------------------------------------------------------------------------------------

    def _one(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._say("output_text", event.text)
            case RefusalDelta():
                self._say("refusal", event.text)
            case ReasoningDelta():
                self._say("reasoning_text", event.text)
            case ReasoningBlockDelta():
                self._block(event.block)
            case ToolCallDelta():
                self._piece(event)
            case LogprobsDelta():
                self._probabilities(event)
            case UsageReport():
                self._usage = merged_usage(self._usage, event.usage)
            case Finished():
                self._reason = event.reason
            case _:
                self._begin()

    def _say(self, kind: Literal["output_text", "refusal", "reasoning_text"], text: str) -> None:
        if not text:
            return
        item, at = self._place(kind)
        item.parts[at].pieces.append(text)
        place = {"content_index": at, "delta": text}
        self._tell(f"response.{kind}.delta", item, **place, **({"logprobs": []} if kind == "output_text" else {}))

    def _probabilities(self, event: LogprobsDelta) -> None:
        """Of a text: those of thinking and of calls have no place in this API."""
        item = self._open
        if item is None or item.is_thinking or not isinstance(self._last, TextDelta | LogprobsDelta):
            return
        part = item.parts[-1]
        if part.kind == "output_text":
            part.tokens.extend(event.tokens)
            logprobs = write_tokens(event.tokens)
            place = len(item.parts) - 1
            self._tell("response.output_text.delta", item, content_index=place, delta="", logprobs=logprobs)

    def _block(self, block: ReasoningBlock) -> None:
        """Thinking that goes back to its service as it came: an item of its own, which says again what was shown."""
        if block.dialect != DIALECT:
            return
        shown = self._open
        self._close("completed")
        if shown is not None and shown.is_thinking:
            del self._done[shown.index]
        item = self._added(f"{MADE}{self._id}_{self._items}", is_thinking=True)
        document = sealed_item(block, item.id)
        self._event("response.output_item.added", output_index=item.index, item=document)
        self._event("response.output_item.done", output_index=item.index, item=document)
        self._done[item.index] = document

    def _piece(self, event: ToolCallDelta) -> None:
        call = add_call(self._calls, event)
        item = self._told.get(id(call))
        if item is not None:
            if event.arguments:
                self._tell("response.function_call_arguments.delta", item, delta=event.arguments)
        elif call.id and call.name:
            self._announce(call, call.id)

    # -- items -------------------------------------------------------------------------------------------------------

    def _place(self, kind: Literal["output_text", "refusal", "reasoning_text"]) -> tuple[_Item, int]:
        """The item and the part of it where the next piece of that kind stands."""
        is_thinking = kind == "reasoning_text"
        item = self._open
        if item is None or item.is_thinking is not is_thinking:
            self._close("completed")
            prefix = MADE if is_thinking else "msg_"
            item = self._open = self._added(f"{prefix}{self._id}_{self._items}", is_thinking=is_thinking)
            self._event("response.output_item.added", output_index=item.index, item=item.document("in_progress"))
        if not item.parts or item.parts[-1].kind != kind:
            self._end_part(item)
            part = _Part(kind)
            item.parts.append(part)
            self._tell("response.content_part.added", item, content_index=len(item.parts) - 1, part=part.document())
        return item, len(item.parts) - 1

    def _announce(self, call: OpenCall, call_id: str) -> None:
        self._close("completed")
        item = self._added(f"fc_{self._id}_{self._items}")
        item.call, item.call_id = call, self._fresh(call_id)
        begun = call_item(item.id, item.call_id, call.name or "", "", "in_progress")
        self._event("response.output_item.added", output_index=item.index, item=begun)
        self._told[id(call)] = item
        arguments = "".join(call.arguments)
        if arguments:
            self._tell("response.function_call_arguments.delta", item, delta=arguments)

    def _fresh(self, call_id: str) -> str:
        """The id, or one that no other call has: results go by them."""
        taken = {item.call_id for item in self._told.values()}
        fresh, number = call_id, 1
        while fresh in taken:
            number += 1
            fresh = f"{call_id}_{number}"
        return fresh

    def _added(self, id_: str, *, is_thinking: bool = False) -> _Item:
        self._begin()
        item = _Item(self._items, id_, is_thinking=is_thinking)
        self._items += 1
        return item

    def _close(self, status: str) -> None:
        """The message or the thinking that is being written is whole."""
        item, self._open = self._open, None
        if item is not None:
            self._end_part(item)
            self._finish(item, status)

    def _end_part(self, item: _Item) -> None:
        if not item.parts:
            return
        place = {"content_index": len(item.parts) - 1}
        document = item.parts[-1].document()
        kind = document["type"]
        if kind == "refusal":
            self._tell("response.refusal.done", item, **place, refusal=document["refusal"])
        elif kind == "reasoning_text":
            self._tell("response.reasoning_text.done", item, **place, text=document["text"])
        else:
            logprobs = document["logprobs"]
            self._tell("response.output_text.done", item, **place, text=document["text"], logprobs=logprobs)
        self._tell("response.content_part.done", item, **place, part=document)

    def _finish(self, item: _Item, status: str) -> None:
        document = self._done[item.index] = item.document(status)
        self._event("response.output_item.done", output_index=item.index, item=document)

    # -- the response ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._number == 0:
            self._event("response.created", response=self._begun())
            self._event("response.in_progress", response=self._begun())

    def _begun(self) -> dict[str, Any]:
        begun = {"status": "in_progress", "error": None, "incomplete_details": None}
        return {**self._response(begun), "output": [], "usage": None}

    def _response(self, end: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, **end, "usage": write_usage(self._usage)}

    def _tell(self, name: str, item: _Item, **data: Any) -> None:
        self._event(name, item_id=item.id, output_index=item.index, **data)

    def _event(self, name: str, **data: Any) -> None:
        document = {"type": name, "sequence_number": self._number, **data}
        self._number += 1
        self._written.append(b"event: %b\ndata: %b\n\n" % (name.encode(), safe(_encode(document))))

    def _taken(self) -> bytes:
        written, self._written = b"".join(self._written), []
        return written
