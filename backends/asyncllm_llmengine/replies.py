"""Replies of the completions API V1, whole and as they come, and lists of endpoints.

A reply does not say why it ended. It is `length` where all the tokens that were asked for have been made and `stop`
where fewer were; where they are not counted, nobody knows.

Terminal rule of a stream: a frame with `finished: true`. There is no `[DONE]`; where something on the way adds one, it
counts as an end. A frame with an `error` ends the stream by that error.
"""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec

from asyncllm.backend import HttpCall
from asyncllm.dialect.lenient import decode
from asyncllm.errors import APIStatusError, ResponseValidationError
from asyncllm.events import Event, Finished, LogprobsDelta, Started, TextDelta, UsageReport
from asyncllm.exchange import EventDecoder, raise_embedded
from asyncllm.rejection import broken_off
from asyncllm.sse import ServerSentEvent
from asyncllm.types import FinishReason, ModelInfo, TokenLogprob, Usage

__all__ = ["CompletionStream", "read_completion", "read_endpoint", "read_endpoints", "read_output"]

_BODY_LIMIT = 65536
_document = msgspec.json.Decoder(dict[str, Any])


def read_completion(body: bytes, *, model: str, limit: int | None, call: HttpCall) -> list[Event]:
    """Events of a whole completion.

    Raises `APIStatusError` for an error in a reply of status 200, `ResponseValidationError` for one that cannot be
    read.
    """
    document = decode(body, _document, "a reply")
    _check_error(document, body, call)
    output = _object(document.get("output"))
    text = output.get("text")
    if not isinstance(text, str):
        raise_embedded(call, body)
        raise ResponseValidationError("the reply has no `output` with a text", body=body[:_BODY_LIMIT])
    return [Started(model, _text(document.get("request_id")), body), *read_output(text, output, limit)]


def read_output(text: str, output: dict[str, Any], limit: int | None) -> list[Event]:
    """Events of a text that is whole, and of what stands beside it."""
    events: list[Event] = []
    if text:
        events.append(TextDelta(text))
    if tokens := _logprobs(output.get("tokens")):
        events.append(LogprobsDelta(tokens))
    usage = _usage(output)
    if usage != Usage():
        events.append(UsageReport(usage))
    return [*events, Finished(_reason(usage.output_tokens, limit))]


class CompletionStream(EventDecoder):
    """Reads one streamed completion."""

    def __init__(self, *, model: str, limit: int | None, call: HttpCall, ends_by_closing: bool = False) -> None:
        super().__init__()
        self._model = model
        self._limit = limit
        self._call = call
        self._ends_by_closing = ends_by_closing
        self._started = False
        self._usage = Usage()

    def read(self, event: ServerSentEvent, events: list[Event], /) -> None:
        """See `EventDecoder`."""
        data, call = event.data, self._call
        if event.type == "error":
            raise broken_off(data, sent=call.body, secrets=call.secrets)
        if event.type == "ping" or not data.strip():
            return
        if data.strip() == b"[DONE]":
            if not self._started:
                raise self.interrupted("with [DONE] and without any output")
            self._end(events)
            return
        document = decode(data, _document, "a frame")
        _check_error(document, data, call)
        output = document.get("output")
        if output is None:
            raise_embedded(call, data)
            return  # a frame without a result, as servers send them in between
        if not self._started:
            self._started = True
            events.append(Started(self._model, _text(document.get("request_id"))))
        self._add(_object(output), data, events)

    def at_end(self, events: list[Event], /) -> None:
        """See `EventDecoder`. TensorRT's endpoints never say that they have finished."""
        if not (self._ends_by_closing and self._started):
            super().at_end(events)
        self._end(events)

    def _add(self, output: dict[str, Any], data: bytes, events: list[Event]) -> None:
        text = output.get("text")
        if not isinstance(text, str):
            raise ResponseValidationError("a frame has an `output` without a text", body=data[:_BODY_LIMIT])
        if text:
            events.append(TextDelta(text))
        if tokens := _logprobs([output.get("token")]):
            events.append(LogprobsDelta(tokens))
        told = _usage(output)
        usage = Usage(
            input_tokens=self._usage.input_tokens if told.input_tokens is None else told.input_tokens,
            output_tokens=self._usage.output_tokens if told.output_tokens is None else told.output_tokens,
        )
        if usage != self._usage:
            self._usage = usage
            events.append(UsageReport(usage))
        if output.get("finished") is True:
            self._end(events)

    def _end(self, events: list[Event]) -> None:
        self.done = True
        events.append(Finished(_reason(self._usage.output_tokens, self._limit)))


def read_endpoints(body: bytes) -> list[ModelInfo]:
    """The reply to `GET /v1/llm/model-endpoints`; only the names are relied on."""
    items = decode(body, _document, "a model list").get("model_endpoints")
    if not isinstance(items, list):
        raise ResponseValidationError("the reply has no `model_endpoints`", body=body[:_BODY_LIMIT])
    found = (_endpoint(_object(item)) for item in cast("list[object]", items))
    return list({one.id: one for one in found if one is not None}.values())


def read_endpoint(body: bytes) -> ModelInfo:
    """The reply to `GET /v1/llm/model-endpoints/{name}`."""
    found = _endpoint(decode(body, _document, "a model"))
    if found is None:
        raise ResponseValidationError("the reply has no `name`", body=body[:_BODY_LIMIT])
    return found


def _endpoint(item: dict[str, Any]) -> ModelInfo | None:
    name = _text(item.get("name"))
    return ModelInfo(id=name, owned_by=_text(_object(item.get("spec")).get("created_by"))) if name else None


def _check_error(document: dict[str, Any], data: bytes, call: HttpCall) -> None:
    if document.get("error"):
        error: APIStatusError = broken_off(data, sent=call.body, secrets=call.secrets)
        raise error


def _reason(made: int | None, limit: int | None) -> FinishReason | None:
    if made is None or limit is None:
        return None
    return "length" if made >= limit else "stop"


def _usage(output: dict[str, Any]) -> Usage:
    return Usage(
        input_tokens=_count(output.get("num_prompt_tokens")), output_tokens=_count(output.get("num_completion_tokens"))
    )


def _logprobs(tokens: object) -> tuple[TokenLogprob, ...]:
    """Tokens with their probabilities; what is none of those stands beside the answer and is left out."""
    found: list[TokenLogprob] = []
    for item in cast("list[object]", tokens) if isinstance(tokens, list) else []:
        entry = _object(item)
        token, value = entry.get("token"), entry.get("log_prob")
        if isinstance(token, str) and isinstance(value, int | float) and math.isfinite(value):
            found.append(TokenLogprob(token, float(value)))
    return tuple(found)


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
