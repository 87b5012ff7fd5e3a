"""OpenAI request bodies to nouns: what a server of this API is sent, and what stands in files of requests.

The other way of `requests`: what that writes for a request is read here as the same request. A field that no noun has
a place for goes into `extra` untouched, and so does a `response_format` or a `structured_outputs` that is no schema,
expression, list of choices or grammar. A null says no more than leaving the field out.

Sources: https://platform.openai.com/docs/api-reference (chat, completions, embeddings), and what vLLM adds to it:
https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import fields

from asyncllm.backend import EmbedRequest
from asyncllm.dialect.constraints import CONSTRAINT_FIELDS, read_constraint
from asyncllm.dialect.messages import MessageWire, ToolWire, message_from_wire, tool_from_wire
from asyncllm.errors import InvalidRequestError
from asyncllm.types import Constraint, Request, Sampling, are_token_ids

__all__ = [
    "ChatWire",
    "CompletionWire",
    "EmbeddingsWire",
    "StreamOptions",
    "convert_document",
    "convert_texts",
    "read_chat_request",
    "read_completion_request",
    "read_document",
    "read_embeddings_request",
]

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

_SAMPLING = frozenset(Sampling.__struct_fields__)
_OF_EVERY_CALL = _SAMPLING | {"model", "stream", "stream_options", "max_completion_tokens"}
_NO_SAMPLING = Sampling()
_TOOL_WORDS = ("auto", "none", "required")
_PATH = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_REASON_LIMIT = 120


_WORDS = Meta(extra_json_schema={"enum": list(_TOOL_WORDS)})


class _Function(Struct):
    name: str


class _ToolChoice(Struct, tag_field="type", tag="function"):
    function: _Function


class StreamOptions(Struct):
    """How pieces come."""

    include_usage: bool | None = None
    """Whether a last chunk without a choice has the usage."""
    continuous_usage_stats: bool | None = None
    """Whether every chunk has the usage so far."""


class _Call(Struct, kw_only=True):
    """What the bodies of chats and completions have in common, sampling apart."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None  # no part of what is asked


class ChatWire(_Call, kw_only=True):
    """The body of a chat, sampling and constraint apart."""

    messages: Annotated[list[MessageWire], Meta(min_length=1)]
    tools: list[ToolWire] | None = None
    tool_choice: Annotated[str, _WORDS] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class CompletionWire(_Call, kw_only=True):
    """The body of a text completion, sampling and constraint apart."""

    prompt: str | list[Any]


class EmbeddingsWire(Struct, kw_only=True):
    """The body of a request for embeddings."""

    input: str | list[Any]
    model: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None  # how the reply is written; no part of what is asked


_CHAT = _OF_EVERY_CALL | set(ChatWire.__struct_fields__)
_COMPLETION = _OF_EVERY_CALL | set(CompletionWire.__struct_fields__)
_EMBEDDINGS = frozenset(EmbeddingsWire.__struct_fields__)


def read_chat_request(body: bytes | Mapping[str, Any], at: str = "") -> Request:
    """The request of a `POST /chat/completions`.

    Raises `InvalidRequestError` whose `field` names what is wrong, below `at` where that is given, as in
    `body.messages[2].content`. The model is empty where the body names none.
    """
    document = read_document(body, at)
    wire = convert_document(document, ChatWire, at)
    constraint, extra = _rest(document, _CHAT, at)
    return Request(
        model=wire.model or "",
        messages=tuple(
            message_from_wire(message, _below(at, f"messages[{position}]"))
            for position, message in enumerate(wire.messages)
        ),
        sampling=_sampling(document, at),
        tools=tuple(map(tool_from_wire, wire.tools)) if wire.tools else (),
        tool_choice=_tool_choice(wire.tool_choice, at),
        parallel_tool_calls=UNSET if wire.parallel_tool_calls is None else wire.parallel_tool_calls,
        constraint=constraint,
        stream=bool(wire.stream),
        extra=extra,
    )


def read_completion_request(body: bytes | Mapping[str, Any], at: str = "") -> Request:
    """The request of a `POST /completions`, which has one prompt: a text, its token ids, or a list of one of these.

    Raises `InvalidRequestError` as `read_chat_request` does.
    """
    document = read_document(body, at)
    wire = convert_document(document, CompletionWire, at)
    constraint, extra = _rest(document, _COMPLETION, at)
    return Request(
        model=wire.model or "",
        prompt=_prompt(wire.prompt, at),
        sampling=_completion_sampling(document, at),
        constraint=constraint,
        stream=bool(wire.stream),
        extra=extra,
    )


def read_embeddings_request(body: bytes | Mapping[str, Any], at: str = "") -> EmbedRequest:
    """The request of a `POST /embeddings`, whose input is a text or several.

    Raises `InvalidRequestError` as `read_chat_request` does.
    """
    document = read_document(body, at)
    wire = convert_document(document, EmbeddingsWire, at)
    texts = [wire.input] if isinstance(wire.input, str) else wire.input
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _invalid("a text or a list of at least one text; token ids are not taken", "input", at)
    return EmbedRequest(
        model=wire.model or "",
        texts=tuple(texts),
        dimensions=UNSET if wire.dimensions is None else wire.dimensions,
        extra={name: value for name, value in document.items() if name not in _EMBEDDINGS},
    )


def read_document(body: bytes | Mapping[str, Any], at: str = "") -> Mapping[str, Any]:
    """The object that a body is. Raises `InvalidRequestError`."""
    if isinstance(body, Mapping):
        return body
    try:
        document: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # whose texts may quote what they found
        raise InvalidRequestError(f"{at or 'the body'} is not JSON", field=at or "body") from None
    if not isinstance(document, dict):
        raise InvalidRequestError(f"{at or 'the body'} is not a JSON object", field=at or "body")
    return cast("dict[str, Any]", document)


def convert_document(document: Mapping[str, Any], kind: type[T], at: str = "") -> T:
    """`document` as `kind`. Raises `InvalidRequestError` naming the place, and quoting nothing of it."""
    return _convert(document, kind, at)


def convert_texts(texts: Mapping[str, str | list[str]], kind: type[S]) -> S:
    """The same of what comes as texts alone, as queries and forms do: a number is the text that writes it."""
    found = _convert(texts, kind, "", strict=False)
    for field in fields(kind):
        if field.encode_name in texts and getattr(found, field.name) is None:  # which is made of the text `null`
            raise _invalid("leave it out where it is nothing", field.encode_name, "")
    return found


def _convert(document: Mapping[str, Any], kind: type[T], at: str, *, strict: bool = True) -> T:
    try:
        return msgspec.convert(document, kind, strict=strict)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InvalidRequestError):
            raise _invalid(error.__cause__.message, error.__cause__.field or "", at) from None
        text = str(error)
        reason, path, missing = text.partition(" - at `")[0], _PATH.search(text), _MISSING.search(text)
        place = path[1].removesuffix("[...]") if path else ""  # some value of a map
        if not strict:
            reason = reason.removesuffix(", got `str`")  # as everything is
        if missing:
            place, reason = f"{place}.{missing[1]}".lstrip("."), "it is missing"
        elif reason.startswith("Invalid "):  # whose text quotes the value
            reason = "its value is none of those that are known here"
        raise _invalid(f"{reason[:1].lower()}{reason[1:_REASON_LIMIT]}", place, at) from None


def _below(at: str, place: str) -> str:
    return f"{at}.{place}" if at and place else at or place or "body"


def _invalid(reason: str, place: str, at: str) -> InvalidRequestError:
    field = _below(at, place)
    return InvalidRequestError(f"{field}: {reason}", field=field)


def _rest(document: Mapping[str, Any], known: frozenset[str], at: str) -> tuple[Constraint | None, dict[str, Any]]:
    """The constraint of a body, and all that no noun has a place for."""
    if document.keys() <= known:
        return None, {}
    extra = {name: value for name, value in document.items() if name not in known}
    if extra.keys().isdisjoint(CONSTRAINT_FIELDS):
        return None, extra
    try:
        constraint, taken = read_constraint(extra)
    except InvalidRequestError as error:
        raise _invalid(error.message, error.field or "", at) from None
    for name in taken:
        del extra[name]
    return constraint, extra


def _sampling(document: Mapping[str, Any], at: str, renamed: Mapping[str, str] = {}) -> Sampling:
    given = {name: value for name, value in document.items() if name in _SAMPLING and value is not None}
    limit = document.get("max_completion_tokens")
    if limit is not None:
        if given.setdefault("max_tokens", limit) != limit:
            raise _invalid("max_tokens says otherwise; give one of the two", "max_completion_tokens", at)
        if document.get("max_tokens") is None:
            renamed = {**renamed, "max_tokens": "max_completion_tokens"}
    if not given:
        return _NO_SAMPLING
    try:
        return convert_document(given, Sampling, "")
    except InvalidRequestError as error:
        field = error.field or ""
        raise _invalid(error.message.removeprefix(f"{field}: "), renamed.get(field, field), at) from None


def _completion_sampling(document: Mapping[str, Any], at: str) -> Sampling:
    """Completions count alternatives in the one field that chat has as a flag."""
    count = document.get("logprobs")
    if type(count) is not int:
        return _sampling(document, at)
    if document.get("top_logprobs") is not None:
        raise _invalid("logprobs counts the alternatives of a completion; leave this out", "top_logprobs", at)
    counted = {**document, "logprobs": True, "top_logprobs": count}
    return _sampling(counted, at, {"top_logprobs": "logprobs"})


def _tool_choice(choice: str | _ToolChoice | None, at: str) -> str | UnsetType:
    if choice is None:
        return UNSET
    if isinstance(choice, str):
        if choice not in _TOOL_WORDS:
            raise _invalid(
                'one of auto, none, required and {"type": "function", "function": {"name": ...}}', "tool_choice", at
            )
        return choice
    if choice.function.name in _TOOL_WORDS:
        raise _invalid("a tool that is named like a word of tool_choice cannot be chosen", "tool_choice", at)
    return choice.function.name


def _prompt(prompt: str | list[Any], at: str) -> str | tuple[int, ...]:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = cast("str | list[Any]", prompt[0])
    if isinstance(prompt, str):
        if not prompt:
            raise _invalid("the prompt is empty", "prompt", at)
        return prompt
    if prompt and are_token_ids(prompt):
        return tuple(prompt)
    raise _invalid("one prompt, a text or its token ids; several prompts are as many requests", "prompt", at)
