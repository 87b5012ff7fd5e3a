"""Replies in OpenAI's wire format, to be sent by a scripted server or transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncllm.types import Usage

__all__ = ["openai_chunks", "openai_reply", "openai_stream", "sse_event"]

_MODEL = "fake-model"
_ID = "chatcmpl-fake"


def sse_event(data: bytes | str) -> bytes:
    """One server-sent event of one data line."""
    return b"data: " + (data.encode() if isinstance(data, str) else data) + b"\n\n"


def openai_chunks(
    texts: Sequence[str],
    *,
    finish: str | None = "stop",
    usage: Usage | None = None,
    model: str = _MODEL,
    index: int = 0,
) -> list[bytes]:
    """The JSON documents of a streamed chat: the role, each of `texts`, the finish reason, the usage.

    `finish=None` and `usage=None` leave those chunks out.
    """
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    choices: list[dict[str, Any]] = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish is not None:
        choices.append({"index": index, "delta": {}, "finish_reason": finish})
    head = {"id": _ID, "object": "chat.completion.chunk", "created": 0, "model": model}
    documents: list[dict[str, Any]] = [{**head, "choices": [choice]} for choice in choices]
    if usage is not None:
        documents.append({**head, "choices": [], "usage": _usage(usage)})
    return [msgspec.json.encode(document) for document in documents]


def openai_stream(
    texts: Sequence[str],
    *,
    finish: str | None = "stop",
    usage: Usage | None = None,
    model: str = _MODEL,
    done: bool = True,
) -> bytes:
    """A whole streamed chat as the bytes of its body; `done=False` leaves out the terminal event."""
    chunks = openai_chunks(texts, finish=finish, usage=usage, model=model)
    return b"".join(sse_event(data) for data in [*chunks, *([b"[DONE]"] if done else [])])


def openai_reply(
    text: str | Sequence[str], *, finish: str = "stop", usage: Usage | None = None, model: str = _MODEL
) -> bytes:
    """A whole chat in one JSON document, with one choice for each of `text`."""
    texts = [text] if isinstance(text, str) else text
    document: dict[str, Any] = {
        "id": _ID,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": one}, "finish_reason": finish}
            for index, one in enumerate(texts)
        ],
    }
    if usage is not None:
        document["usage"] = _usage(usage)
    return msgspec.json.encode(document)


def _usage(usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return counts
