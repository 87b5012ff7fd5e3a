"""What OpenAI's routes take and answer, as types: for the server's description, and read by nobody else.

Bodies are made of the types that read them, so that both say the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import fields

from asyncllm.dialect.served import ChatWire, CompletionWire, EmbeddingsWire
from asyncllm.types import Sampling

__all__ = [
    "Chat", "ChatBody", "Completion", "CompletionBody", "EmbeddingsBody", "Health", "ModelObject", "ModelPage",
    "Readiness", "Release", "Vectors",
]  # fmt: skip

_Text = Annotated[str, Meta(min_length=1)]
_Number: TypeAlias = Annotated[int, Meta(ge=0)]
_Ids = {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}, "minItems": 1}
_Words = {"type": "string", "minLength": 1}
_Prompt = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "anyOf": [_Words, _Ids, {"type": "array", "items": {"anyOf": [_Words, _Ids]}, "minItems": 1, "maxItems": 1}]
        }
    ),
]


class _Structured(Struct):
    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(min_length=1)] | None = None
    grammar: str | None = None


_Fields = list[tuple[str, Any, Any]]

_SAMPLING: dict[str, Any] = {field.name: field.type | None for field in fields(Sampling)}
_COMMON: _Fields = [
    *((name, kind, None) for name, kind in _SAMPLING.items()),
    ("max_completion_tokens", _SAMPLING["max_tokens"], None),
    ("response_format", dict[str, Any] | None, None),
    ("structured_outputs", _Structured | None, None),
    *((f"guided_{field.name}", field.type, None) for field in fields(_Structured)),
    ("grammar", str | None, None),
]


def _body(name: str, wire: type[Struct], *more: tuple[str, Any, Any]) -> type[Struct]:
    """The type of a body that is read as `wire`, and further."""
    own: dict[str, tuple[str, Any, Any]] = {
        field.name: (field.name, field.type, field.default) for field in fields(wire)
    }
    for one in (*_COMMON, *more):
        own[one[0]] = one
    return msgspec.defstruct(name, list(own.values()), kw_only=True, module=__name__)


ChatBody = _body("ChatBody", ChatWire)
CompletionBody = _body(
    "CompletionBody",
    CompletionWire,
    ("prompt", _Prompt, msgspec.NODEFAULT),
    ("logprobs", bool | _Number | None, None),
)


class EmbeddingsBody(EmbeddingsWire):
    """Texts to embed."""

    input: _Text | Annotated[list[_Text], Meta(min_length=1)]


class _InputShares(Struct):
    cached_tokens: int | UnsetType = UNSET
    audio_tokens: int | UnsetType = UNSET


class _OutputShares(Struct):
    reasoning_tokens: int | UnsetType = UNSET
    audio_tokens: int | UnsetType = UNSET


class _Usage(Struct):
    """A count that is not known is not there."""

    prompt_tokens: int | UnsetType = UNSET
    completion_tokens: int | UnsetType = UNSET
    total_tokens: int | UnsetType = UNSET
    prompt_tokens_details: _InputShares | UnsetType = UNSET
    completion_tokens_details: _OutputShares | UnsetType = UNSET


class _Called(Struct):
    name: str
    arguments: str


class _Call(Struct):
    id: str
    type: Literal["function"]
    function: _Called


class _Said(Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    """The same by its other name."""
    tool_calls: list[_Call] | UnsetType = UNSET


class _Top(Struct):
    token: str
    logprob: float | None
    bytes: list[int] | None


class _Token(_Top):
    top_logprobs: list[_Top]


class _Logprobs(Struct):
    content: list[_Token]
    refusal: None


class _Lists(Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None]]
    text_offset: list[int]


class _Choice(Struct):
    index: int
    message: _Said
    logprobs: _Logprobs | None
    finish_reason: str | None
    stop_reason: str | UnsetType = UNSET
    """The stop text that ended it, where that is known."""


class _Continuation(Struct):
    index: int
    text: str
    logprobs: _Lists | None
    finish_reason: str | None
    stop_reason: str | UnsetType = UNSET


class Chat(Struct):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage | None


class Completion(Struct):
    """Continuations of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[_Continuation]
    usage: _Usage | None


class _Vector(Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers, or float32 in base64."""


class Vectors(Struct):
    """Embeddings."""

    object: Literal["list"]
    data: list[_Vector]
    model: str
    usage: _Usage | None


class ModelObject(Struct):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelPage(Struct):
    """Models, the default first."""

    object: Literal["list"]
    data: list[ModelObject]


class Health(Struct):
    """That the server is there."""

    status: Literal["ok"]


class Readiness(Struct):
    """Which models are there."""

    status: Literal["ready", "down"]
    models: dict[str, bool]


class Release(Struct):
    """Which release this is."""

    version: _Text
