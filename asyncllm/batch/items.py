"""What a program may put into a batch, and what that asks. `Client` loads this, and no file format or store with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from asyncllm.calls import CallOptions, chat_request, completion_request
from asyncllm.errors import InvalidRequestError
from asyncllm.types import Message, Request, Timeouts

__all__ = ["BatchInput", "parted", "request_of"]

BatchInput: TypeAlias = str | Sequence[Message | Mapping[str, Any]] | Mapping[str, Any] | Request
"""A user's text or a conversation, as `chat` takes them; a dict with `messages` (a chat) or `prompt` (a completion) and
options of that call; or a `Request`, whose `model` is one that the client takes, or empty."""


def parted(item: Mapping[str, Any]) -> tuple[bool, Any, dict[str, Any]]:
    """Of a request that is a dict: whether it is a chat, its prompt, its options. Raises `InvalidRequestError`."""
    own = dict(item)
    if ("messages" in own) == ("prompt" in own):
        raise InvalidRequestError(
            "a request that is a dict has either messages, for a chat, or prompt, for a completion", field="messages"
        )
    is_chat = "messages" in own
    return is_chat, own.pop("messages" if is_chat else "prompt"), own


def request_of(item: BatchInput, options: CallOptions) -> Request:
    """What an item asks, where it does not say otherwise by `options`. Raises `InvalidRequestError`."""
    if isinstance(item, Request):
        return item
    if not isinstance(item, Mapping):
        return chat_request(item, options, stream=False, timeouts=Timeouts())
    is_chat, prompt, own = parted(item)
    merged = cast("CallOptions", {**options, **own})
    make = chat_request if is_chat else completion_request
    asked = make(prompt, merged, stream=False, timeouts=Timeouts())
    model = own.get("model", "")
    if not isinstance(model, str):
        raise InvalidRequestError("the model of a row is one text", field="model")
    return msgspec.structs.replace(asked, model=model)
