"""Bodies of OpenAI's Responses API to nouns.

A conversation is a list of items. What a model has said, thought and called, one right after another, is one turn of
the assistant. Thinking goes back as it came, in blocks, to a backend that speaks this API itself. Whatever needs
something kept here from an earlier call is refused by name, as are tools that OpenAI runs itself.

Source: https://platform.openai.com/docs/api-reference/responses/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from asyncllm.dialect.responses.requests import DIALECT
from asyncllm.dialect.served import convert_document, read_document
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.server.responses.items import read_items
from asyncllm.server.settings import ServerSettings
from asyncllm.types import Constraint, JsonSchema, Message, Request, Sampling, Tool, ToolChoice

__all__ = ["ResponsesWire", "read_responses_request"]

_LOGPROBS = "message.output_text.logprobs"
_KEPT = {
    "previous_response_id": "send the whole conversation as input",
    "conversation": "send the whole conversation as input",
    "prompt": "send the prompt itself as input",
}
"""Fields that name what an earlier call has left, and what to do in their place."""
_RENAMED = {"max_tokens": "max_output_tokens", "reasoning_effort": "reasoning.effort", "logprobs": "include"}


class _Format(Struct):
    type: str
    name: str = "answer"
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _Text(Struct):
    format: _Format | None = None


class _Reasoning(Struct):
    effort: str | None = None


class _Tool(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Choice(Struct):
    type: str
    name: str | None = None


class ResponsesWire(Struct):
    """The body of a request for a response."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    store: bool | None = None  # nothing is ever kept, and the reply says so
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None


_FIELDS = frozenset(ResponsesWire.__struct_fields__)


def read_responses_request(body: bytes, settings: ServerSettings) -> Request:
    """The request of a `POST /v1/responses`.

    Raises `InvalidRequestError` and `UnsupportedError` whose `field` names what is wrong, as in `input[2].content[0]`.
    """
    document = read_document(body)
    wire = _refused(document)
    format_ = None if wire.text is None else wire.text.format
    extra = {name: value for name, value in document.items() if name not in _FIELDS}
    if format_ is not None and format_.type == "json_object":
        extra["response_format"] = {"type": "json_object"}  # as it stands in a chat, whose name for it is let through
    return Request(
        model=wire.model or "",
        messages=(*_instructions(wire), *_input(wire, settings)),
        sampling=_sampling(wire),
        tools=tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(wire.tools or ())),
        tool_choice=_tool_choice(wire.tool_choice),
        parallel_tool_calls=UNSET if wire.parallel_tool_calls is None else wire.parallel_tool_calls,
        constraint=_constraint(format_),
        stream=bool(wire.stream),
        extra=extra,
    )


def _refused(document: Mapping[str, Any]) -> ResponsesWire:
    """The body, unless it asks for what cannot be had."""
    for name, advice in _KEPT.items():
        if document.get(name) is not None:
            raise UnsupportedError(f"{name}: nothing of earlier calls is kept here: {advice}", field=name)
    wire = convert_document(document, ResponsesWire)
    if wire.background:
        raise UnsupportedError("background: an answer is given to the call that asks for it", field="background")
    return wire


def _instructions(wire: ResponsesWire) -> list[Message]:
    return [Message("system", wire.instructions)] if wire.instructions else []


def _input(wire: ResponsesWire, settings: ServerSettings) -> list[Message]:
    if not wire.input:
        raise InvalidRequestError("input: a text or at least one item is needed", field="input")
    if isinstance(wire.input, str):
        return [Message("user", wire.input)]
    messages = read_items(wire.input, settings, dialect=DIALECT)
    if not messages:
        raise InvalidRequestError("input: there is nothing in it to answer", field="input")
    return messages


def _tool(tool: _Tool, place: str) -> Tool:
    if tool.type != "function":
        raise UnsupportedError(
            f"{place}: tools of the type {tool.type[:40]!r} are run by OpenAI, and not here: give functions",
            field=f"{place}.type",
        )
    if not tool.name:
        raise InvalidRequestError(f"{place}.name: a function has a name", field=f"{place}.name")
    return Tool(tool.name, _given(tool.description), _given(tool.parameters), _given(tool.strict))


def _tool_choice(choice: str | _Choice | None) -> ToolChoice | UnsetType:
    words = ("auto", "none", "required")
    if choice is None:
        return UNSET
    if isinstance(choice, str):
        if choice not in words:
            raise InvalidRequestError(
                'tool_choice is one of auto, none, required and {"type": "function", "name": ...}', field="tool_choice"
            )
        return choice
    if choice.type != "function":
        raise UnsupportedError(
            f"tool_choice of the type {choice.type[:40]!r} is not known here: give a word or a function, and as tools "
            "those alone that may be called",
            field="tool_choice.type",
        )
    if not choice.name or choice.name in words:
        raise InvalidRequestError(
            "tool_choice.name is that of a function, which is none of the words", field="tool_choice.name"
        )
    return choice.name


def _constraint(format_: _Format | None) -> Constraint | None:
    if format_ is None or format_.type in ("text", "json_object"):
        return None
    if format_.type != "json_schema":
        raise InvalidRequestError("text.format is text, json_object or json_schema", field="text.format.type")
    if format_.schema is None:
        raise InvalidRequestError("text.format: a json_schema has its schema", field="text.format.schema")
    return JsonSchema(format_.schema, format_.name, _given(format_.strict))


def _sampling(wire: ResponsesWire) -> Sampling:
    named = {
        "max_tokens": wire.max_output_tokens,
        "temperature": wire.temperature,
        "top_p": wire.top_p,
        "top_logprobs": wire.top_logprobs,
        "logprobs": True if _LOGPROBS in (wire.include or ()) else None,
        "reasoning_effort": None if wire.reasoning is None else wire.reasoning.effort,
    }
    try:
        return convert_document({name: value for name, value in named.items() if value is not None}, Sampling)
    except InvalidRequestError as error:
        field = error.field or ""
        told = _RENAMED.get(field, field)
        raise InvalidRequestError(f"{told}: {error.message.removeprefix(f'{field}: ')}", field=told) from None


def _given(value: Any) -> Any:
    return UNSET if value is None else value
