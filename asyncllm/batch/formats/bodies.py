"""Bodies of OpenAI's API inside files: requests read by their endpoint, replies written for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.dialect.answers import write_chat_reply, write_completion_reply, write_embeddings_reply
from asyncllm.dialect.served import read_chat_request, read_completion_request, read_embeddings_request
from asyncllm.types import Embeddings

__all__ = ["CHAT", "COMPLETION", "EMBEDDINGS", "READERS", "row_fields", "write_reply"]

CHAT, COMPLETION, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

READERS: Mapping[str, Callable[[bytes, str], AnyAsk]] = {
    CHAT: read_chat_request,
    COMPLETION: read_completion_request,
    EMBEDDINGS: read_embeddings_request,
}
"""What reads a body, by the endpoint that it is for."""


def row_fields(endpoint: str, asked: AnyAsk) -> dict[str, Any]:
    """What the reply to a row has to repeat of it."""
    return {"url": endpoint, "model": asked.model}


def write_reply(answer: Answer, fields: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The body of the reply; `fields` are those of the row."""
    model = fields.get("model", "")
    if isinstance(answer, Embeddings):
        return write_embeddings_reply(answer, model=model)
    if fields.get("url") == COMPLETION:
        return write_completion_reply(answer, id_=f"cmpl-{index}", model=model)
    return write_chat_reply(answer, id_=f"chatcmpl-{index}", model=model)
