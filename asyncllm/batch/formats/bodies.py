"""Bodies of OpenAI's API inside files: requests read by their endpoint, replies written for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncllm.batch.rows import Answer, AnyAsk, Outcome
from asyncllm.dialect.answers import write_chat_reply, write_completion_reply, write_embeddings_reply
from asyncllm.dialect.served import read_chat_request, read_completion_request, read_embeddings_request
from asyncllm.types import Embeddings

__all__ = ["CHAT", "COMPLETION", "EMBEDDINGS", "READERS", "write_reply"]

CHAT, COMPLETION, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

READERS: Mapping[str, Callable[[bytes, str], AnyAsk]] = {
    CHAT: read_chat_request,
    COMPLETION: read_completion_request,
    EMBEDDINGS: read_embeddings_request,
}
"""What reads a body, by the endpoint that it is for."""


def write_reply(outcome: Outcome, answer: Answer) -> dict[str, Any]:
    """The body of the reply to the row of `outcome`."""
    if isinstance(answer, Embeddings):
        return write_embeddings_reply(answer, model=outcome.model)
    if outcome.asked == "complete":
        return write_completion_reply(answer, id_=f"cmpl-{outcome.index}", model=outcome.model)
    return write_chat_reply(answer, id_=f"chatcmpl-{outcome.index}", model=outcome.model)
