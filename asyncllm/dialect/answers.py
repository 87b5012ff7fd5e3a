"""Nouns to OpenAI reply bodies: what a server of this API answers, and what stands in files of results.

The other way of `replies`: what is written here for a response is read there as the same response, as far as this API
has a place for it. Timings, costs and reasoning blocks have none.

Source: https://platform.openai.com/docs/api-reference (the chat completion, completion and embeddings objects), with
reasoning under both its names, and the `stop_reason` of a choice as vLLM has it.
"""

from __future__ import annotations

import base64
from array import array
from itertools import accumulate
from typing import Any

from asyncllm.types import Embeddings, Message, Response, ResponseChoice, TokenLogprob, Usage

__all__ = [
    "write_chat_reply",
    "write_completion_reply",
    "write_embeddings_reply",
    "write_end",
    "write_logprobs",
    "write_reasoning",
    "write_text_logprobs",
    "write_usage",
]


def write_chat_reply(response: Response, *, id_: str = "", model: str = "", created: int = 0) -> dict[str, Any]:
    """The body that answers a chat. `id_` and `model` stand in where the response has none of its own.

    `created` is in seconds since 1970.
    """
    return {
        "id": response.request_id or id_,
        "object": "chat.completion",
        "created": created,
        "model": response.model or model,
        "choices": [_chat_choice(choice) for choice in response.choices],
        "usage": write_usage(response.usage),
    }


def write_completion_reply(response: Response, *, id_: str = "", model: str = "", created: int = 0) -> dict[str, Any]:
    """The body that answers a text completion, as `write_chat_reply`."""
    return {
        "id": response.request_id or id_,
        "object": "text_completion",
        "created": created,
        "model": response.model or model,
        "choices": [
            {
                "index": choice.index,
                "text": choice.message.text,
                "logprobs": None if choice.logprobs is None else write_text_logprobs(choice.logprobs),
                **write_end(_finish_reason(choice), choice.stop),
            }
            for choice in response.choices
        ],
        "usage": write_usage(response.usage),
    }


def write_embeddings_reply(embeddings: Embeddings, *, model: str = "", in_base64: bool = False) -> dict[str, Any]:
    """The body that answers a request for embeddings, vectors as lists of numbers or as float32 in base64."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if in_base64 else list(vector)}
            for index, vector in enumerate(embeddings.vectors)
        ],
        "model": embeddings.model or model,
        "usage": write_usage(embeddings.usage),
    }


def _chat_choice(choice: ResponseChoice) -> dict[str, Any]:
    logprobs = choice.logprobs
    return {
        "index": choice.index,
        "message": _message(choice.message),
        "logprobs": None if logprobs is None else write_logprobs(logprobs),
        **write_end(_finish_reason(choice), choice.stop),
    }


def _message(message: Message) -> dict[str, Any]:
    text = message.text
    wire: dict[str, Any] = {"role": "assistant", "content": text, "refusal": message.refusal}
    if message.reasoning is not None:
        wire |= write_reasoning(message.reasoning)
    if message.tool_calls:
        wire["content"] = text or None
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return wire


def write_reasoning(text: str) -> dict[str, Any]:
    """Reasoning by the names that it goes by: DeepSeek's, which vLLM had too, and OpenRouter's, which vLLM has now.

    Readers of either are about, and those that know both take one.
    """
    return {"reasoning_content": text, "reasoning": text}


def _finish_reason(choice: ResponseChoice) -> str | None:
    return choice.finish_reason or choice.finish_reason_raw


def write_end(reason: str | None, stop: str | None) -> dict[str, Any]:
    """Why a choice ended, and the stop text that it ended at, where that is known."""
    return {"finish_reason": reason} if stop is None else {"finish_reason": reason, "stop_reason": stop}


def write_logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat."""
    return {"content": [_token(token) for token in tokens], "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {**_top(token), "top_logprobs": [_top(top) for top in token.top]}


def _top(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}


def write_text_logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """The `logprobs` of a choice of a text completion."""
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top} for token in tokens],
        "text_offset": list(accumulate((len(token.token) for token in tokens[:-1]), initial=0)) if tokens else [],
    }


def write_usage(usage: Usage) -> dict[str, Any] | None:
    """What is known of it; a count that is not known is left out, because it is not zero."""
    inputs = {"cached_tokens": usage.cached_tokens, "audio_tokens": usage.input_audio_tokens}
    outputs = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.output_audio_tokens}
    wire = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": _known(inputs),
        "completion_tokens_details": _known(outputs),
    }
    return _known(wire)


def _known(fields: dict[str, Any]) -> dict[str, Any] | None:
    return {name: value for name, value in fields.items() if value is not None} or None


def _packed(vector: Any) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
