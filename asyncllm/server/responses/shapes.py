"""What `POST /v1/responses` takes and answers, as types: for the server's description, and read by nobody else.

Items are written as JSON schema: their type may be left out of a message, for which msgspec has no union.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from asyncllm.server.http.bounds import No, words
from asyncllm.server.responses.served import ResponsesWire
from asyncllm.types import Sampling

__all__ = ["ResponseObject", "ResponsesBody"]

_Schema = dict[str, Any]

_TEXT: _Schema = {"type": "string"}
_NOTHING: _Schema = {"type": "null"}


def _object(kind: str | None, *needed: str, **properties: _Schema) -> _Schema:
    """An object of that type."""
    tag: _Schema = {} if kind is None else {"type": {"const": kind}}
    required = [*tag, *needed]
    return {"type": "object", "properties": {**tag, **properties}, "required": required}


def _list(*kinds: _Schema) -> _Schema:
    return {"type": "array", "items": {"anyOf": list(kinds)}}


def _said(*parts: _Schema) -> _Schema:
    return {"anyOf": [_TEXT, _list(*parts)]}


_PARTS = (
    _object("input_text", "text", text=_TEXT),
    _object("output_text", "text", text=_TEXT),
    _object("input_image", "image_url", image_url=_TEXT, file_id=_NOTHING),
    _object("input_file", "file_data", file_data=_TEXT, file_id=_NOTHING, file_url=_NOTHING),
    _object("input_audio", "input_audio", input_audio=_object(None, "data", "format", data=_TEXT, format=_TEXT)),
)
_REFUSAL = _object("refusal", "refusal", refusal=_TEXT)
_MESSAGE = {"enum": ["message", None]}
_ITEMS = (
    _object(
        None,
        "role",
        "content",
        type=_MESSAGE,
        role={"enum": ["system", "developer", "user"]},
        content=_said(*_PARTS),
    ),
    _object(None, "role", "content", type=_MESSAGE, role={"const": "assistant"}, content=_said(*_PARTS, _REFUSAL)),
    _object("function_call", "call_id", "name", "arguments", call_id=_TEXT, name=_TEXT, arguments=_TEXT),
    _object("function_call_output", "call_id", "output", call_id=_TEXT, output=_said(*_PARTS)),
    _object("reasoning", content={"anyOf": [_NOTHING, _list(_object(None, "text", text=_TEXT))]}),
)
_Item = Annotated[dict[str, Any], Meta(extra_json_schema={"anyOf": list(_ITEMS)})]
_Name = Annotated[str, Meta(min_length=1)]
_Word: Any = Annotated[str, words("auto", "none", "required")]
_No: Any = No


class _Tool(Struct):
    type: Literal["function"]
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Choice(Struct):
    type: Literal["function"]
    name: _Name


class _Plain(Struct, tag_field="type", tag="text"):
    pass


class _Object(Struct, tag_field="type", tag="json_object"):
    pass


class _Formed(Struct, tag_field="type", tag="json_schema"):
    schema: dict[str, Any]
    name: str = "answer"
    strict: bool | None = None


class _Text(Struct):
    format: _Plain | _Object | _Formed | None = None


def _body() -> type[Struct]:
    own: dict[str, tuple[str, Any, Any]] = {
        field.name: (field.name, field.type, field.default) for field in fields(ResponsesWire)
    }
    sampling = {field.name: field.type for field in fields(Sampling)}
    for name, told in (("max_tokens", "max_output_tokens"), *((one, one) for one in _SAME)):
        own[told] = (told, sampling[name] | None, None)
    own["input"] = ("input", _Name | Annotated[list[_Item], Meta(min_length=1)], msgspec.NODEFAULT)
    own["tools"] = ("tools", list[_Tool] | None, None)
    own["tool_choice"] = ("tool_choice", _Word | _Choice | None, None)
    own["text"] = ("text", _Text | None, None)
    own["background"] = ("background", _No | None, None)
    own |= {name: (name, None, None) for name in _KEPT}
    return msgspec.defstruct("ResponsesBody", list(own.values()), kw_only=True, module=__name__)


_SAME = ("temperature", "top_p", "top_logprobs")
_KEPT = ("previous_response_id", "conversation", "prompt")
ResponsesBody = _body()


class _Error(Struct):
    code: str
    message: str


class _Cut(Struct):
    reason: str


class _Cached(Struct):
    cached_tokens: int
    cache_write_tokens: int


class _Thought(Struct):
    reasoning_tokens: int


class _Usage(Struct):
    input_tokens: int
    input_tokens_details: _Cached
    output_tokens: int
    output_tokens_details: _Thought
    total_tokens: int


class ResponseObject(Struct):
    """An answer, and what it repeats of what was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete", "failed"]
    output: list[dict[str, Any]]
    """Items: `message`, `reasoning` and `function_call`."""
    error: _Error | None
    incomplete_details: _Cut | None
    usage: _Usage | None
    store: Literal[False]
    metadata: dict[str, str]
    tools: list[dict[str, Any]]
    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    parallel_tool_calls: bool
