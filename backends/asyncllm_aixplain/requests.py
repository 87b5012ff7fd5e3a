"""Requests to nouns of the service: the body of a run."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import UNSET

from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import JsonSchema, Message, Request

__all__ = ["write_run"]

_encoder = msgspec.json.Encoder()
_SAME = ("temperature", "max_tokens", "top_p")


def write_run(request: Request, temperature: float | None, *, backend: str) -> bytes:
    """The body of a run. `temperature` is the model's own, for a call that has none.

    Raises `InvalidRequestError` for a conversation that does not end with a user's turn, and for what is no JSON;
    `UnsupportedError` for what a turn says that the service has no place for.
    """
    body = _conversation(request.messages, backend)
    if temperature is not None:
        body["temperature"] = temperature
    sampling = request.sampling
    body |= {name: value for name in _SAME if (value := getattr(sampling, name)) is not UNSET}
    if isinstance(request.constraint, JsonSchema):
        constraint = request.constraint
        form: dict[str, Any] = {"name": constraint.name, "schema": constraint.schema}
        if constraint.strict is not UNSET:
            form["strict"] = constraint.strict
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    body |= request.extra
    _say_how(body, stream=request.stream)
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError:
        raise InvalidRequestError("the prompt or an option holds half of a surrogate pair", field="prompt") from None
    except TypeError as error:
        raise InvalidRequestError(f"an option is not JSON: {error}", field="extra") from None


def _conversation(messages: tuple[Message, ...], backend: str) -> dict[str, Any]:
    for message in messages:
        field = "tools" if message.tool_calls or message.role == "tool" else "name" if message.name else None
        if field is not None:
            raise UnsupportedError(
                f"the {backend!r} backend does not support {field} in a message", backend=backend, field=field
            )
    if not messages or messages[-1].role != "user":
        raise InvalidRequestError("the last message of a run is a user's", field="messages", backend=backend)
    turns = messages[:-1]
    count = next((at for at, turn in enumerate(turns) if turn.role not in ("system", "developer")), len(turns))
    body: dict[str, Any] = {"data": messages[-1].text}
    if count:
        body["context"] = "\n\n".join(turn.text for turn in turns[:count])
    if turns[count:]:
        body["history"] = [{"role": turn.role, "content": turn.text or turn.refusal or ""} for turn in turns[count:]]
    return body


def _say_how(body: dict[str, Any], *, stream: bool) -> None:
    """Ask for a stream, or see that none is asked for where nobody would read it."""
    options: object = body.get("options")
    if options is None and not stream:
        return
    if not isinstance(options, dict | None):
        raise InvalidRequestError("options is a dict of the model's options", field="options")
    told = cast("dict[str, Any]", options or {})
    if bool(told.get("stream", stream)) is not stream:
        raise InvalidRequestError("options.stream is decided by the call: use chat or stream", field="options")
    body["options"] = {**told, "stream": True} if stream else told
