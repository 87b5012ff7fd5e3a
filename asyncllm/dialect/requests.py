"""Nouns to OpenAI request bodies.

Bodies are built as plain dicts and encoded once: what is unset is never put in, so it cannot become a null.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import EmbedRequest
from asyncllm.errors import InvalidRequestError
from asyncllm.types import (
    AudioPart,
    Choice,
    Constraint,
    ContentPart,
    FilePart,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Request,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)

__all__ = ["Flavor", "encode", "only_set", "write_chat", "write_completion", "write_embeddings"]

_NO_SAMPLING = Sampling()
_OF_CHATS = "max_completion_tokens"  # which no text completion knows, whoever serves it
_encoder = msgspec.json.Encoder()


class Flavor(Struct, frozen=True, kw_only=True):
    """How one kind of server departs from the common form."""

    max_tokens: str = "max_tokens"
    """Name of the output limit; OpenAI's own chat API takes `max_completion_tokens`."""
    include_usage: bool = True
    """Ask for usage at the end of a stream; servers older than the option refuse it."""
    reasoning: Literal["reasoning_content", "reasoning", "thinking", ""] = "reasoning_content"
    """The field that takes an assistant's reasoning back, or `thinking` for a part of its content; OpenAI's own API
    has none."""
    blocks: Literal["openrouter", "gemini-openai", ""] = ""
    """The dialect of the reasoning blocks that are sent back, and of the signatures of tool calls."""
    names: Mapping[str, str] = {}
    """Options that it knows under another name than OpenAI."""
    required: str = "required"
    """Its word for the tool choice `required`."""
    effort: Literal["reasoning_effort", "reasoning"] = "reasoning_effort"
    """The field of the reasoning effort; `reasoning` is an object that holds it."""
    no_content: str | None = None
    """The content of a message that has tool calls and no text."""
    base64_vectors: bool = True
    """Ask for vectors in base64."""
    always: Mapping[str, Any] = {}
    """Fields that each body has."""


def write_chat(request: Request, flavor: Flavor = Flavor()) -> bytes:
    """The body of `POST /chat/completions`."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message, flavor) for message in request.messages],
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if isinstance(request.tool_choice, str):
        word = request.tool_choice
        named = {"type": "function", "function": {"name": word}}
        words = {"auto": "auto", "none": "none", "required": flavor.required}
        body["tool_choice"] = words.get(word, named)
    if request.parallel_tool_calls is not UNSET:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.constraint is not None:
        body |= _constraint(request.constraint)
    return _finish(body, request, flavor)


def write_completion(request: Request, flavor: Flavor = Flavor()) -> bytes:
    """The body of `POST /completions`."""
    body: dict[str, Any] = {"model": request.model, "prompt": request.prompt}
    if request.constraint is not None:
        body |= _constraint(request.constraint)
    return _finish(body, request, flavor)


def write_embeddings(request: EmbedRequest, flavor: Flavor = Flavor()) -> bytes:
    """The body of `POST /embeddings`; base64 is a quarter of the size of decimals and decodes without parsing."""
    body: dict[str, Any] = {"model": request.model, "input": request.texts}
    if flavor.base64_vectors:
        body["encoding_format"] = "base64"
    if request.dimensions is not UNSET:
        body[flavor.names.get("dimensions", "dimensions")] = request.dimensions
    return encode(body | request.extra)


def _finish(body: dict[str, Any], request: Request, flavor: Flavor) -> bytes:
    sampling = request.sampling
    if sampling != _NO_SAMPLING:
        body |= msgspec.to_builtins(sampling)  # leaves out what is unset
        limit = flavor.max_tokens
        if "max_tokens" in body and limit != "max_tokens" and (request.is_chat or limit != _OF_CHATS):
            body[limit] = body.pop("max_tokens")
        if "top_logprobs" in body:
            body.setdefault("logprobs", True)
        if not request.is_chat and "logprobs" in body:
            # Completions count alternatives in the one field that chat has as a flag.
            count = body.pop("top_logprobs", 1)
            if body.pop("logprobs"):
                body["logprobs"] = count
        for ours, theirs in flavor.names.items():
            if ours in body:
                body[theirs] = body.pop(ours)
        if flavor.effort == "reasoning" and "reasoning_effort" in body:
            body["reasoning"] = {"effort": body.pop("reasoning_effort")}
    if request.stream:
        body["stream"] = True
        if flavor.include_usage:
            body["stream_options"] = {"include_usage": True}
    if flavor.always:
        body |= flavor.always
    if request.extra:
        body |= request.extra
    return encode(body)


def _message(message: Message, flavor: Flavor) -> dict[str, Any]:
    content = message.content
    if message.role == "user" and isinstance(content, str) and message.name is None:
        return {"role": "user", "content": content}
    wire: dict[str, Any] = {"role": message.role}
    wire["content"] = content if isinstance(content, str) else [_part(part) for part in content]
    if message.tool_calls:
        wire["tool_calls"] = [_call(call, flavor) for call in message.tool_calls]
        wire["content"] = wire["content"] or flavor.no_content
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        wire["name"] = message.name
    if message.refusal is not None:
        wire["refusal"] = message.refusal
    if message.reasoning is not None or message.reasoning_blocks:
        _add_reasoning(wire, message, flavor)
    return wire


def _call(call: ToolCall, flavor: Flavor) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature is not None and flavor.blocks == "gemini-openai":
        wire["extra_content"] = {"google": {"thought_signature": call.signature}}
    return wire


def _add_reasoning(wire: dict[str, Any], message: Message, flavor: Flavor) -> None:
    """Give the service back what it has thought, in its own form where there is one."""
    blocks = [block.data for block in message.reasoning_blocks if block.dialect == flavor.blocks]
    if blocks and flavor.blocks == "openrouter":
        wire["reasoning_details"] = blocks
        return
    if blocks:
        wire["extra_content"] = blocks[-1]
    if message.reasoning and flavor.reasoning == "thinking":
        content = wire["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": message.reasoning}]}
        wire["content"] = [thought, *parts]
    elif message.reasoning is not None and flavor.reasoning:
        wire[flavor.reasoning] = message.reasoning


def _part(part: ContentPart) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ImagePart(detail=detail):
            return {"type": "image_url", "image_url": only_set(url=part.as_url, detail=detail)}
        case AudioPart(data=data, format=format_):
            return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": format_}}
        case FilePart(file_id=str(file_id)):
            return {"type": "file", "file": {"file_id": file_id}}
        case FilePart(filename=filename):
            return {"type": "file", "file": only_set(file_data=part.as_url, filename=filename)}


def _tool(tool: Tool) -> dict[str, Any]:
    function = only_set(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
    return {"type": "function", "function": function}


def _constraint(constraint: Constraint) -> dict[str, Any]:
    """The constraint as body fields. OpenAI's API has only the schema; the rest are llama.cpp's and vLLM's names."""
    match constraint:
        case JsonSchema(schema=schema, name=name, strict=strict):
            form = only_set(name=name, schema=schema, strict=strict)
            return {"response_format": {"type": "json_schema", "json_schema": form}}
        case Grammar(grammar=grammar):
            return {"grammar": grammar}
        case Regex(pattern=pattern):
            return {"structured_outputs": {"regex": pattern}}
        case Choice(options=options):
            return {"structured_outputs": {"choice": list(options)}}


def encode(body: dict[str, Any]) -> bytes:
    """`body` as JSON. Raises `InvalidRequestError` for what has none."""
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "the prompt or an option holds half of a surrogate pair, which is no character and has no UTF-8: "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') mends it",
            field="prompt",
        ) from None
    except TypeError as error:
        raise InvalidRequestError(f"an option is not JSON: {error}", field="extra") from None


def only_set(**fields: Any) -> dict[str, Any]:
    """The fields that are not `UNSET`."""
    return {name: value for name, value in fields.items() if value is not UNSET}
