"""Whole OpenAI-shaped replies to events and nouns.

A reply is decoded straight into structs. Where a server departs from the types (numbers as text, NaN, half of a
character, a list for an object), the same document is read a second time, leniently: see `lenient`.
"""

from __future__ import annotations

from array import array
from typing import TypeVar

import msgspec
from msgspec import Struct

from asyncllm.dialect.lenient import decode
from asyncllm.dialect.wire import (
    ExtendedMessage,
    ExtendedReply,
    ExtendedUsage,
    InputDetails,
    OutputDetails,
    WireCall,
    WireChoice,
    WireChunk,
    WireFunction,
    WireLogprobs,
    WireReply,
    WireToken,
    WireTop,
    WireUsage,
)
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
from asyncllm.types import Embeddings, FinishReason, ModelInfo, ReasoningBlock, TokenLogprob, Usage

__all__ = ["read_embeddings", "read_models", "read_reply"]

T = TypeVar("T")

_FINISH: dict[str, FinishReason] = {
    "abort": "error",
    "content_filter": "content_filter",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "error": "error",
    "function_call": "tool_calls",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "stop": "stop",
    "stop_sequence": "stop",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
}


class _WireVector(Struct, gc=False):
    embedding: bytes | list[float]  # msgspec reads the base64 form into bytes
    index: int = 0


class _WireVectors(Struct, gc=False):
    data: list[_WireVector]
    model: str | None = None
    usage: WireUsage | None = None


class _WireModel(Struct, gc=False):
    id: str
    owned_by: str | None = None
    # The context has a name of its own with vLLM, OpenRouter and Together, Groq, and Mistral.
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None
    max_context_length: int | None = None

    @property
    def context_tokens(self) -> int | None:
        return self.max_model_len or self.context_length or self.context_window or self.max_context_length


class _WireModels(Struct, gc=False):
    data: list[_WireModel]


_reply = msgspec.json.Decoder(WireReply)
_extended: msgspec.json.Decoder[WireReply] = msgspec.json.Decoder(ExtendedReply)
_vectors = msgspec.json.Decoder(_WireVectors)
_models = msgspec.json.Decoder(_WireModels)


def read_reply(body: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = (), extended: bool = False) -> list[Event]:
    """Events of a whole chat or text completion; `extended` reads the fields that some services add, see `wire`.

    Raises `APIStatusError` for an error in a reply of status 200, `ResponseValidationError` for one that cannot be
    read. `sent` is the request's body and `secrets` are its keys, which no error text may repeat.
    """
    reply = _decode(body, _extended if extended else _reply, "a reply", sent, secrets)
    check_error(reply, body, sent, secrets)
    if reply.choices is None:
        raise ResponseValidationError("the reply has no `choices`", body=body[:65536])
    events: list[Event] = [Started(reply.model, reply.id, body)]
    if len(reply.choices) > 1 and len({choice.index for choice in reply.choices}) < len(reply.choices):
        # Two answers under one index would be read as one. Their order is what the index repeats.
        for index, choice in enumerate(reply.choices):
            choice.index = index
    for choice in reply.choices:
        _number_calls(choice)
        events += choice_events(choice)
    if reply.usage is not None:
        events.append(UsageReport(read_usage(reply.usage)))
    # A whole reply is complete however it names its end, so each choice gets its terminal event.
    events += [finished(choice.index, choice.finish_reason, choice.stop_reason) for choice in reply.choices]
    return events


def _decode(body: bytes, decoder: msgspec.json.Decoder[T], what: str, sent: bytes, secrets: tuple[str, ...]) -> T:
    """What `body` is. Raises what an error in its place means, which from Gemini comes in a list."""
    try:
        return decode(body, decoder, what)
    except ResponseValidationError as invalid:
        raise embedded_error(body, sent=sent, secrets=secrets) or invalid from None


def check_error(reply: WireChunk, document: bytes, sent: bytes, secrets: tuple[str, ...]) -> None:
    """Raise what an error document in place of a reply or chunk means. Beside choices, only a set `error` is one."""
    if not reply.choices or reply.error:
        error = embedded_error(document, sent=sent, secrets=secrets)
        if error is not None:
            raise error
        if reply.error:  # beside a choice
            raise broken_off(msgspec.json.encode({"error": reply.error}), sent=sent, secrets=secrets)


def _number_calls(choice: WireChoice) -> None:
    """Each call of a whole reply is one, though it may have the id or the index of another."""
    message = choice.delta or choice.message
    calls = message.tool_calls or () if message is not None else ()
    if len(calls) > 1:
        for position, call in enumerate(calls):
            call.index = position


def choice_events(choice: WireChoice) -> list[Event]:
    """What one choice of a reply or of a chunk adds, its end apart."""
    events: list[Event] = []
    index = choice.index
    message = choice.delta or choice.message
    if message is not None:
        reasoning = message.reasoning_content or message.reasoning
        if reasoning:
            events.append(ReasoningDelta(reasoning, index))
        if message.content:
            events.append(TextDelta(message.content, index))
        if message.refusal:
            events.append(RefusalDelta(message.refusal, index))
        events.extend(_call_event(call, index) for call in message.tool_calls or ())
        if type(message) is ExtendedMessage:
            events += _blocks(message, index)
    if choice.text:
        events.append(TextDelta(choice.text, index))
    if choice.logprobs is not None:
        tokens = read_logprobs(choice.logprobs)
        if tokens:
            events.append(LogprobsDelta(tokens, index))
    return events


def _call_event(call: WireCall, index: int) -> ToolCallDelta:
    function = call.function or WireFunction()
    arguments = function.arguments
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    extra = call.extra_content
    signature = extra.google.thought_signature if extra is not None and extra.google is not None else None
    return ToolCallDelta(call.index, call.id or None, function.name or None, arguments or "", index, signature)


def _blocks(message: ExtendedMessage, index: int) -> list[Event]:
    """What the service wants to see again with the message."""
    blocks = [ReasoningBlock("openrouter", detail) for detail in message.reasoning_details or ()]
    if message.extra_content:
        blocks.append(ReasoningBlock("gemini-openai", message.extra_content))
    return [ReasoningBlockDelta(block, index) for block in blocks]


def finished(index: int, word: str | None, stop: int | str | None = None) -> Finished:
    """The terminal event for the backend's own word; some servers write the word `null` for null."""
    if not word or word == "null":
        return Finished(None, None, index)
    return Finished(_FINISH.get(word), word, index, stop if isinstance(stop, str) and stop else None)


def read_usage(usage: WireUsage) -> Usage:
    """Counts as the server gave them: what it left out stays unknown."""
    inputs, outputs = usage.prompt_tokens_details or InputDetails(), usage.completion_tokens_details or OutputDetails()
    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=inputs.cached_tokens,
        reasoning_tokens=outputs.reasoning_tokens,
        input_audio_tokens=inputs.audio_tokens,
        output_audio_tokens=outputs.audio_tokens,
        cost_usd=usage.cost if type(usage) is ExtendedUsage else None,
    )


def read_logprobs(logprobs: WireLogprobs) -> tuple[TokenLogprob, ...]:
    """Token probabilities from either form; a token without one (the first of an echo) is left out."""
    if logprobs.tokens is not None:
        values = logprobs.token_logprobs or []
        tops = logprobs.top_logprobs or [None] * len(values)
        return tuple(
            TokenLogprob(token, value, None, tuple(TokenLogprob(*item) for item in (top or {}).items()))
            for token, value, top in zip(logprobs.tokens, values, tops, strict=False)
            if value is not None
        )
    return tuple(
        TokenLogprob(token.token, token.logprob, _bytes(token), _tops(token))
        for token in [*(logprobs.content or ()), *(logprobs.refusal or ())]
        if token.logprob is not None
    )


def _tops(token: WireToken) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(top.token, top.logprob, _bytes(top)) for top in token.top_logprobs or () if top.logprob is not None
    )


def _bytes(token: WireTop) -> tuple[int, ...] | None:
    return None if token.bytes is None else tuple(token.bytes)


def read_embeddings(body: bytes, *, count: int, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> Embeddings:
    """Vectors in the order of the texts. Raises `ResponseValidationError` unless there is one for each of `count`.

    An error in a reply of status 200 is raised as what it means; `sent` and `secrets` are as in `read_reply`.
    """
    reply = _decode(body, _vectors, "an embeddings reply", sent, secrets)
    ordered = sorted(reply.data, key=lambda item: item.index)
    if len(ordered) != count:
        raise ResponseValidationError(f"{count} texts were sent and {len(ordered)} vectors came back")
    if len({item.index for item in ordered}) not in (1, count):  # all under one: it was left out
        raise ResponseValidationError(
            f"{count} texts were sent and two of the vectors are for the same", body=body[:65536]
        )
    return Embeddings(
        vectors=tuple(_vector(item.embedding, body) for item in ordered),
        usage=read_usage(reply.usage) if reply.usage else Usage(),
        model=reply.model,
    )


def _vector(wire: bytes | list[float], body: bytes) -> array[float]:
    vector = array("f")
    if not wire:
        raise ResponseValidationError("a vector has no numbers", body=body[:65536])
    if isinstance(wire, bytes):
        if len(wire) % vector.itemsize:
            raise ResponseValidationError(f"a vector of {len(wire)} bytes is no array of float32", body=body[:65536])
        vector.frombytes(wire)
    else:
        vector.extend(wire)
    return vector


def read_models(body: bytes, *, secrets: tuple[str, ...] = ()) -> list[ModelInfo]:
    """The reply to `GET /models`; Together sends the list without anything around it."""
    document = b'{"data":%b}' % body if body.lstrip()[:1] == b"[" else body
    try:
        reply = decode(document, _models, "a model list")
    except ResponseValidationError as invalid:
        raise embedded_error(body, secrets=secrets) or invalid from None
    return [
        ModelInfo(id=model.id, owned_by=model.owned_by, context_tokens=model.context_tokens) for model in reply.data
    ]
