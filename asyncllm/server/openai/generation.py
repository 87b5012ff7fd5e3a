"""`POST /v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import UNSET

from asyncllm.dialect.answers import write_chat_reply, write_completion_reply
from asyncllm.dialect.constraints import CONSTRAINT_FIELDS
from asyncllm.dialect.pieces import ChunkWriter
from asyncllm.dialect.served import StreamOptions, read_chat_request, read_completion_request
from asyncllm.server.described import Described
from asyncllm.server.generation import Generation
from asyncllm.server.openai import shapes
from asyncllm.types import Request, Response

__all__ = ["Chats", "Completions"]


class _Streamed(msgspec.Struct):
    stream_options: StreamOptions | None = None


_LEAVE = "leave it out"
_ONE_FORM = "give it as response_format, or as one json, regex, choice or grammar"
_CONSTRAINTS = dict.fromkeys(sorted(CONSTRAINT_FIELDS), _ONE_FORM)
_CHOICES = {"n": ("maximum", "max_choices")}
_LIMITS = {**_CHOICES, "messages": ("maxItems", "max_messages")}
_streamed = msgspec.json.Decoder(_Streamed)


class Chats(Generation):
    """Answers conversations."""

    described = Described(body=shapes.ChatBody, reply=shapes.Chat, streams=True, limits=_LIMITS, absent="model")
    unmet = {
        **_CONSTRAINTS, "audio": _LEAVE, "function_call": "give tool_choice", "functions": "give them as tools",
        "modalities": _LEAVE, "prompt_logprobs": _LEAVE, "web_search_options": _LEAVE,
    }  # fmt: skip
    moot = {"modalities": ["text"]}

    def read(self, body: bytes) -> Request:
        """See `Generation`."""
        return _meant(read_chat_request(body))

    def reply(self, body: bytes, response: Response, request_id: str, model: str) -> dict[str, Any]:
        """See `Generation`."""
        del body
        return write_chat_reply(response, id_=f"chatcmpl-{request_id}", model=model, created=int(time.time()))

    def writer(self, body: bytes, request_id: str, model: str) -> ChunkWriter:
        """See `Generation`."""
        return _writer(body, f"chatcmpl-{request_id}", model, is_chat=True)


class Completions(Generation):
    """Continues texts."""

    described = Described(
        body=shapes.CompletionBody, reply=shapes.Completion, streams=True, limits=_CHOICES, absent="model"
    )
    unmet = {**_CONSTRAINTS, "best_of": "ask for n", "echo": _LEAVE, "prompt_logprobs": _LEAVE, "suffix": _LEAVE}
    moot = {"best_of": 1}

    def read(self, body: bytes) -> Request:
        """See `Generation`."""
        return _meant(read_completion_request(body))

    def reply(self, body: bytes, response: Response, request_id: str, model: str) -> dict[str, Any]:
        """See `Generation`."""
        del body
        return write_completion_reply(response, id_=f"cmpl-{request_id}", model=model, created=int(time.time()))

    def writer(self, body: bytes, request_id: str, model: str) -> ChunkWriter:
        """See `Generation`."""
        return _writer(body, f"cmpl-{request_id}", model, is_chat=False)


def _meant(asked: Request) -> Request:
    """The same without lists that are empty: no stop text says no more than leaving the field out."""
    empty = {
        name: UNSET for name in ("stop", "stop_token_ids", "logit_bias") if getattr(asked.sampling, name) in ((), {})
    }
    if not empty:
        return asked
    return msgspec.structs.replace(asked, sampling=msgspec.structs.replace(asked.sampling, **empty))


def _writer(body: bytes, id_: str, model: str, *, is_chat: bool) -> ChunkWriter:
    options = _streamed.decode(body).stream_options or StreamOptions()
    return ChunkWriter(
        id_=id_,
        model=model,
        created=int(time.time()),
        is_chat=is_chat,
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
    )
