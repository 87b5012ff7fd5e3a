"""Whole responses to events, and the items that responses and their streams have in common.

Of the kinds of items, messages, function calls and reasoning are read. What tools on OpenAI's side did (searches, code,
images) stays in `Response.raw`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from asyncllm.dialect.lenient import convert, decode
from asyncllm.dialect.replies import read_logprobs
from asyncllm.dialect.responses.requests import DIALECT
from asyncllm.dialect.wire import WireLogprobs, WireToken
from asyncllm.errors import ResponseValidationError
from asyncllm.events import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.rejection import broken_off, embedded_error
from asyncllm.types import FinishReason, ReasoningBlock, Usage

__all__ = ["read_response"]

_INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_ENDED = ("completed", "incomplete")


class InputDetails(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class WireUsage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class Incomplete(Struct, gc=False):
    reason: str | None = None


class WirePart(Struct, gc=False):
    """A part of a message (`output_text`, `refusal`) or of reasoning (`summary_text`, `reasoning_text`)."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    logprobs: list[WireToken] | None = None


class WireItem(Struct, gc=False):
    """One item of a response's output, whichever it is."""

    type: str | None = None
    id: str | None = None
    content: list[WirePart] | None = None
    summary: list[WirePart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class WireResponse(Struct, gc=False):
    """A response, whole or as far as it has come."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[dict[str, Any]] | None = None  # undecoded, as reasoning goes back the way it came
    usage: WireUsage | None = None
    error: Any = None
    incomplete_details: Incomplete | None = None


_response = msgspec.json.Decoder(WireResponse)


def read_response(body: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> list[Event]:
    """Events of a whole response.

    Raises `APIStatusError` for one that failed, `ResponseValidationError` for one that cannot be read or has not
    ended, as one that was asked for in the background has not. `sent` is the request's body and `secrets` are its
    keys, which no error text may repeat.
    """
    response = decode(body, _response, "a response")
    raise_failure(response, sent, secrets)
    if response.output is None:
        error = embedded_error(body, sent=sent, secrets=secrets)
        raise error or ResponseValidationError("the response has no `output`", body=body[:65536])
    if response.status is not None and response.status not in _ENDED:
        raise ResponseValidationError(
            f"the response has not ended: its status is {response.status[:40]!r}", body=body[:65536]
        )
    events: list[Event] = [Started(response.model, response.id, body), *read_output(response.output)]
    if response.usage is not None:
        events.append(UsageReport(read_usage(response.usage)))
    calls = any(isinstance(event, ToolCallDelta) for event in events)
    events.append(read_end(response, response.status or "completed", has_calls=calls))
    return events


def raise_failure(response: WireResponse, sent: bytes, secrets: tuple[str, ...]) -> None:
    """Raise what a response that failed gives as its reason."""
    if response.error or response.status == "failed":
        document = msgspec.json.encode({"error": response.error or {}})
        raise broken_off(document, sent=sent, secrets=secrets)


def read_output(output: list[dict[str, Any]]) -> list[Event]:
    """Everything that the items of a response say, in order."""
    events: list[Event] = []
    calls = 0
    reasons = Reasons()
    for document in output:
        item = read_item(document)
        if item.type == "message":
            reasons.pass_on()
            for part in item.content or ():
                events += part_events(part)
        elif item.type == "reasoning":
            texts = [part.text for part in (*(item.summary or ()), *(item.content or ())) if part.text]
            events += [ReasoningDelta(reasons.apart(text)) for text in texts]
            events.append(reasons.block(document, item))
        elif item.type == "function_call":
            arguments = item.arguments or ""
            events.append(ToolCallDelta(calls, call_id(item), item.name, arguments, signature=reasons.pass_on()))
            calls += 1
    return events


def part_events(part: WirePart) -> Iterator[Event]:
    """What one part of a message says."""
    if part.text:
        yield TextDelta(part.text)
    if part.refusal:
        yield RefusalDelta(part.refusal)
    tokens = read_tokens(part.logprobs)
    if tokens is not None:
        yield tokens


def read_tokens(tokens: list[WireToken] | None) -> LogprobsDelta | None:
    """Log probabilities, where there are any."""
    read = read_logprobs(WireLogprobs(content=tokens)) if tokens else ()
    return LogprobsDelta(read) if read else None


class Reasons:
    """Thinking as it is met: paragraphs, and which of it belongs to which call.

    The service takes an item of reasoning back only right before what followed from it. A message's blocks go before
    the rest of it, which is the right place for the first of them; a call that follows from a later one carries that
    one's id as its `signature`.
    """

    def __init__(self) -> None:
        self._paragraphs = 0
        self._blocks = 0
        self._last: str | None = None

    def apart(self, text: str) -> str:
        """`text` as a paragraph after those before it."""
        self._paragraphs += 1
        return f"\n\n{text}" if self._paragraphs > 1 else text

    def block(self, document: dict[str, Any], item: WireItem) -> ReasoningBlockDelta:
        """An item of reasoning that is whole."""
        self._blocks += 1
        self._last = item.id if self._blocks > 1 else None
        return ReasoningBlockDelta(ReasoningBlock(DIALECT, document))

    def pass_on(self) -> str | None:
        """The id of the reasoning that an item follows from, where that has to be said."""
        last, self._last = self._last, None
        return last


def read_item(document: dict[str, Any]) -> WireItem:
    """One item of a response's output. Raises `ResponseValidationError`."""
    kind = document.get("type")
    if kind not in ("message", "function_call", "reasoning"):
        return WireItem(kind if isinstance(kind, str) else None)
    if isinstance(document.get("arguments"), dict):  # some servers send them decoded
        arguments = cast("dict[str, Any]", document["arguments"])
        document = {**document, "arguments": msgspec.json.encode(arguments).decode()}
    return convert(document, WireItem, "an output item")


def call_id(item: WireItem) -> str | None:
    """The id by which a call is answered; servers without one mean the item's own."""
    return item.call_id or item.id or None


def read_usage(usage: WireUsage) -> Usage:
    """Counts as the server gave them: what it left out stays unknown."""
    inputs, outputs = usage.input_tokens_details or InputDetails(), usage.output_tokens_details or OutputDetails()
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=inputs.cached_tokens,
        cache_write_tokens=inputs.cache_write_tokens,
        reasoning_tokens=outputs.reasoning_tokens,
    )


def read_end(response: WireResponse, status: str, *, has_calls: bool) -> Finished:
    """The terminal event: the reason for an end too early, or that there was none."""
    if status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else None
        return Finished(_INCOMPLETE.get(reason or ""), reason or status)
    return Finished("tool_calls" if has_calls else "stop", status)
