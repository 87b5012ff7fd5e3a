"""Nouns to OpenAI's responses: the whole of one, its items, and what it repeats of the request.

Source: https://platform.openai.com/docs/api-reference/responses/object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from asyncllm.dialect.faults import status_of, write_error
from asyncllm.dialect.responses.requests import DIALECT
from asyncllm.errors import AsyncLLMError
from asyncllm.types import FinishReason, ReasoningBlock, Response, TokenLogprob, Usage

__all__ = [
    "MADE",
    "call_item",
    "message_item",
    "reasoning_item",
    "refusal_part",
    "sealed_item",
    "text_part",
    "write_end",
    "write_failure",
    "write_head",
    "write_reply",
    "write_tokens",
    "write_usage",
]

MADE = "rs_made_"
"""What the ids of thinking begin with that is no item of a service, and that no service wants to see again as one."""

_REPEATED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "temperature", "text",
    "tool_choice", "tools", "top_p",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "metadata": {}, "parallel_tool_calls": True, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
    "tools": [],
}  # fmt: skip
_INCOMPLETE: dict[FinishReason | None, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def write_head(body: bytes, *, id_: str, model: str, created: int) -> dict[str, Any]:
    """What is known of a response before any of it is there: who answers, and what was asked.

    `body` is one that was read without fault. `created` is in seconds since 1970.
    """
    asked = cast("dict[str, Any]", msgspec.json.decode(body))
    given = {name: value for name in _REPEATED if (value := asked.get(name)) is not None}
    if "text" in given:
        given["text"] = {"format": given["text"].get("format") or {"type": "text"}}
    if "reasoning" in given:
        given["reasoning"] = {"effort": given["reasoning"].get("effort"), "summary": None}
    return {
        "id": id_,
        "object": "response",
        "created_at": created,
        "model": model,
        **dict.fromkeys(_REPEATED),
        **_DEFAULTS,
        **given,
        "background": False,
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
    }


def write_reply(head: dict[str, Any], response: Response, *, id_: str) -> dict[str, Any]:
    """The body that answers a request, with its first choice: this API has no other.

    `id_` is in the ids of its items.
    """
    choice = response.choices[0]
    message = choice.message
    end = write_end(choice.finish_reason)
    status = "completed" if end["status"] == "completed" else "incomplete"
    sealed = [block for block in message.reasoning_blocks if block.dialect == DIALECT]
    output = [sealed_item(block, f"{MADE}{id_}_{at}") for at, block in enumerate(sealed)]
    if message.reasoning and not sealed:
        output.append(reasoning_item(f"{MADE}{id_}", message.reasoning, status))
    parts = [text_part(message.text, choice.logprobs or ())] if message.text else []
    parts += [refusal_part(message.refusal)] if message.refusal else []
    if parts:
        output.append(message_item(f"msg_{id_}", parts, status))
    output += [
        call_item(f"fc_{id_}_{at}", call.id, call.name, call.arguments, status)
        for at, call in enumerate(message.tool_calls)
    ]
    return {**head, **end, "output": output, "usage": write_usage(response.usage)}


def write_end(reason: FinishReason | None) -> dict[str, Any]:
    """How an answer has ended."""
    if reason == "error":
        failed = {"code": "server_error", "message": "the model failed"}
        return {"status": "failed", "error": failed, "incomplete_details": None}
    cut = _INCOMPLETE.get(reason)
    return {
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": cut} if cut else None,
    }


def write_failure(error: AsyncLLMError) -> dict[str, Any]:
    """The error of a response that failed, in one of this API's few words."""
    status = status_of(error)
    code = "rate_limit_exceeded" if status == 429 else "invalid_prompt" if 400 <= status < 500 else "server_error"
    return {"code": code, "message": write_error(error)["error"]["message"]}


def message_item(id_: str, parts: Sequence[dict[str, Any]], status: str) -> dict[str, Any]:
    """What is said."""
    return {"type": "message", "id": id_, "role": "assistant", "status": status, "content": list(parts)}


def text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": write_tokens(logprobs)}


def refusal_part(text: str) -> dict[str, Any]:
    """A part of a message that says why there is no other."""
    return {"type": "refusal", "refusal": text}


def call_item(id_: str, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    """A function that is to be called; `call_id` is what its result goes by."""
    return {
        "type": "function_call",
        "id": id_,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def reasoning_item(id_: str, text: str | None, status: str) -> dict[str, Any]:
    """What is thought, as far as it can be seen."""
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": id_, "summary": [], "content": content, "status": status}


def sealed_item(block: ReasoningBlock, id_: str) -> dict[str, Any]:
    """What is thought, as the service behind the model wants to see it again. `id_` stands in where it has none."""
    return {"type": "reasoning", "id": id_, "summary": [], **block.data}


def write_tokens(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log probabilities of a text."""
    return [{**_token(token), "top_logprobs": [_token(top) for top in token.top]} for token in tokens]


def write_usage(usage: Usage) -> dict[str, Any] | None:
    """All counts where any is known, as readers take them for granted; one that nobody knows is zero."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": given + made,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    bytes_ = list(token.token.encode()) if token.bytes is None else token.bytes
    return {"token": token.token, "logprob": token.logprob, "bytes": bytes_}
