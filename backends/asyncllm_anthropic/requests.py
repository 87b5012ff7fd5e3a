"""Nouns to the bodies of Anthropic's Messages API.

Source: https://platform.claude.com/docs/en/api/messages/create, with its pages on tool use, vision, PDF support,
extended thinking, prompt caching and structured outputs.

A turn is one role's: neighbours of one role become one turn, and the results of a round of tool calls one turn of the
user. System and developer messages, wherever they stand, make the one `system` text. Thinking goes back as it came, and
before the calls that it led to.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET, Struct

from asyncllm.dialect.requests import only_set
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import (
    AudioPart,
    ContentPart,
    FilePart,
    ImagePart,
    JsonSchema,
    Message,
    Request,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)
from asyncllm_anthropic.options import Options

__all__ = ["DIALECT", "counted", "write_messages"]

DIALECT = "anthropic"
"""Whose form the reasoning blocks of this API are, by either way to it."""

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_COUNTED = {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"}
_MARK = {"cache_control": {"type": "ephemeral"}}
_MARKED_TURNS = 2  # with the system text and the last tool four marks, which is the most that the API takes

_Block = dict[str, Any]


class _Turn(Struct):
    role: str
    blocks: list[_Block]

    def wire(self) -> dict[str, Any]:
        """A text alone goes out as one."""
        blocks = self.blocks
        if not blocks:
            return {"role": self.role, "content": ""}
        plain = len(blocks) == 1 and blocks[0].keys() == {"type", "text"}
        return {"role": self.role, "content": blocks[0]["text"] if plain else blocks}


def write_messages(request: Request, options: Options, head: dict[str, Any], *, backend: str) -> dict[str, Any]:
    """The body of a call, `head` first. Raises `InvalidRequestError` and `UnsupportedError`, naming the field."""
    system, turns = _conversation(request.messages, backend)
    if not turns:
        raise InvalidRequestError("a conversation has at least one message beside the system text", field="messages")
    sampling = request.sampling
    body = {**head, "max_tokens": options.max_tokens if sampling.max_tokens is UNSET else sampling.max_tokens}
    if system:
        body["system"] = system
    tools = [_tool(tool) for tool in request.tools]
    if options.cache:
        _mark(body, tools, turns)
    body["messages"] = [turn.wire() for turn in turns]
    if tools:
        body["tools"] = tools
    choice = _tool_choice(request)
    if choice:
        body["tool_choice"] = choice
    body |= _sampling(sampling)
    output = _output(request)
    if output:
        body["output_config"] = output
    return _with_extra(body, request.extra)


def counted(body: dict[str, Any]) -> dict[str, Any]:
    """What of a body is a prompt: the fields that `count_tokens` takes."""
    return {name: value for name, value in body.items() if name in _COUNTED}


# -- the conversation --------------------------------------------------------------------------------------------


def _conversation(messages: Sequence[Message], backend: str) -> tuple[str | list[_Block], list[_Turn]]:
    system: list[_Block] = []
    turns: list[_Turn] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if message.name is not None and message.role != "tool":
            raise UnsupportedError(
                f"the {backend!r} backend does not support name, of {place}; write it into the text",
                backend=backend,
                field="name",
            )
        if message.role in ("system", "developer"):
            system += _system(message, place)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, place, backend)
        if turns and turns[-1].role == role:
            turns[-1].blocks += blocks
        elif blocks or role == "user":  # an assistant that said nothing has no turn, and the API refuses an empty one
            turns.append(_Turn(role, blocks))
    return system[0]["text"] if len(system) == 1 else system, turns


def _system(message: Message, place: str) -> list[_Block]:
    if not isinstance(message.content, str) and not all(isinstance(part, TextPart) for part in message.content):
        raise InvalidRequestError(f"{place}: a {message.role} message is text alone", field=f"{place}.content")
    return [_text(text) for text in _texts(message.content) if text]


def _texts(content: str | Sequence[ContentPart]) -> list[str]:
    return [content] if isinstance(content, str) else [part.text for part in content if isinstance(part, TextPart)]


def _blocks(message: Message, place: str, backend: str) -> list[_Block]:
    if message.role == "tool":
        if not message.tool_call_id:
            raise InvalidRequestError(
                f"{place}: a tool message names the call that it answers", field=f"{place}.tool_call_id"
            )
        return [_tool_result(message, message.tool_call_id, backend)]
    thinking = [block.data for block in message.reasoning_blocks if block.dialect == DIALECT]
    calls = [_tool_use(call, f"{place}.tool_calls[{number}]") for number, call in enumerate(message.tool_calls)]
    said = _content(message.content, backend)
    if message.refusal and not said:
        said = [_text(message.refusal)]
    return [*thinking, *said, *calls]


def _content(content: str | Sequence[ContentPart], backend: str) -> list[_Block]:
    """Blocks of a message's content; the API refuses those without text, which say nothing."""
    if isinstance(content, str):
        return [_text(content)] if content else []
    return [_part(part, backend) for part in content if not isinstance(part, TextPart) or part.text]


def _text(text: str) -> _Block:
    return {"type": "text", "text": text}


def _part(part: ContentPart, backend: str) -> _Block:
    match part:
        case TextPart(text=text):
            return _text(text)
        case ImagePart():
            return {"type": "image", "source": _image(part, backend)}
        case FilePart():
            return {"type": "document", "source": _document(part), **only_set(title=part.filename)}
        case AudioPart():
            raise UnsupportedError(
                f"the {backend!r} backend does not support audio parts", backend=backend, field="audio parts"
            )


def _image(part: ImagePart, backend: str) -> dict[str, Any]:
    if part.detail is not UNSET:
        raise UnsupportedError(
            f"the {backend!r} backend does not support detail of an image; leave it out",
            backend=backend,
            field="detail",
        )
    if isinstance(part.data, bytes):
        media_type, data = part.media_type, base64.b64encode(part.data).decode()
    else:
        url = str(part.url)
        if not url.startswith("data:"):
            return {"type": "url", "url": url}
        head, comma, data = url.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidRequestError("a data: URL of an image is in base64", field="url")
        media_type = head[len("data:") : -len(";base64")]
    if media_type not in _IMAGES:
        raise InvalidRequestError(
            f"an image is one of {', '.join(_IMAGES)}, not {media_type[:40]!r}", field="media_type"
        )
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(part: FilePart) -> dict[str, Any]:
    if isinstance(part.file_id, str):
        return {"type": "file", "file_id": part.file_id}
    data = cast("bytes", part.data)  # the part has one of the two
    if part.media_type == "application/pdf":
        return {"type": "base64", "media_type": part.media_type, "data": base64.b64encode(data).decode()}
    if part.media_type == "text/plain":
        try:
            return {"type": "text", "media_type": part.media_type, "data": data.decode()}
        except UnicodeDecodeError:
            raise InvalidRequestError("a document of text is UTF-8", field="data") from None
    raise InvalidRequestError(
        f"a document is application/pdf or text/plain, not {part.media_type[:40]!r}", field="media_type"
    )


# -- tools -------------------------------------------------------------------------------------------------------


def _tool_use(call: ToolCall, place: str) -> _Block:
    try:
        arguments = call.parse_arguments()
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(
            f"{place}: the arguments of a call are a JSON object; the API takes nothing else back",
            field=f"{place}.arguments",
        )
    # As it was written: what is sent back differently is another prompt, to a cache as to the model.
    input_ = msgspec.Raw(call.arguments.encode() if call.arguments.strip() else b"{}")
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": input_}


def _tool_result(message: Message, call_id: str, backend: str) -> _Block:
    content = message.content if isinstance(message.content, str) else _content(message.content, backend)
    failed = {"is_error": True} if message.is_error else {}
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **failed}


def _tool(tool: Tool) -> dict[str, Any]:
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    schema = empty if tool.parameters is UNSET else tool.parameters
    return only_set(name=tool.name, description=tool.description, input_schema=schema, strict=tool.strict)


def _tool_choice(request: Request) -> dict[str, Any]:
    word, parallel = request.tool_choice, request.parallel_tool_calls
    choice: dict[str, Any] = {}
    if isinstance(word, str):
        choice = {"type": _CHOICES[word]} if word in _CHOICES else {"type": "tool", "name": word}
    if isinstance(parallel, bool) and word != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": not parallel}
    return choice


# -- options -----------------------------------------------------------------------------------------------------


def _sampling(sampling: Sampling) -> dict[str, Any]:
    if isinstance(sampling.temperature, int | float) and sampling.temperature > 1:
        raise InvalidRequestError(f"temperature goes from 0 to 1 here; got {sampling.temperature}", field="temperature")
    if isinstance(sampling.top_k, int) and sampling.top_k < 0:
        raise InvalidRequestError(f"top_k is a number from 0 up here; got {sampling.top_k}", field="top_k")
    stop = (sampling.stop,) if isinstance(sampling.stop, str) else sampling.stop
    return only_set(temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, stop_sequences=stop)


def _output(request: Request) -> dict[str, Any]:
    output: dict[str, Any] = {}
    effort = request.sampling.reasoning_effort
    if isinstance(effort, str):
        if effort not in _EFFORTS:
            raise InvalidRequestError(
                f"reasoning_effort is one of {', '.join(_EFFORTS)}, not {effort[:40]!r}", field="reasoning_effort"
            )
        output["effort"] = effort
    if isinstance(request.constraint, JsonSchema):
        output["format"] = {"type": "json_schema", "schema": request.constraint.schema}
    return output


def _with_extra(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`body` with what the caller adds: over its fields, but beside its tools and inside its output configuration."""
    for name, value in extra.items():
        if name == "output_config" and isinstance(value, dict):
            body[name] = {**body.get(name, {}), **value}
        elif name == "tools" and isinstance(value, list | tuple):
            body[name] = [*body.get(name, ()), *cast("list[Any]", value)]
        else:
            body[name] = value
    return body


def _mark(body: dict[str, Any], tools: list[dict[str, Any]], turns: Sequence[_Turn]) -> None:
    """Say where a prefix ends that a next call will repeat: the tools, the system text, the user's last turns."""
    if tools:
        tools[-1] |= _MARK
    if "system" in body:
        system = body["system"]
        blocks = [_text(system)] if isinstance(system, str) else system
        body["system"] = [*blocks[:-1], {**blocks[-1], **_MARK}]
    for turn in [turn for turn in turns if turn.role == "user" and turn.blocks][-_MARKED_TURNS:]:
        turn.blocks[-1] = {**turn.blocks[-1], **_MARK}
