"""The nouns of a batch: a row of the input, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from asyncllm.backend import EmbedRequest
from asyncllm.errors import AsyncLLMError
from asyncllm.types import Embeddings, Noun, Request, Response

__all__ = ["Answer", "AnyAsk", "Asked", "Outcome", "Row", "asked_of"]

AnyAsk: TypeAlias = Request | EmbedRequest
"""What a row may ask: a chat, a text completion or embeddings. Its `model` is one that a `Client` takes, or empty."""

Answer: TypeAlias = Response | Embeddings


Asked: TypeAlias = Literal["chat", "complete", "embed"]


def asked_of(request: AnyAsk) -> Asked:
    """Which call a row is."""
    if isinstance(request, Request):
        return "chat" if request.is_chat else "complete"
    return "embed"


class Row(Noun, frozen=True, kw_only=True):
    """One row of an input: exactly one of `request` and `error`."""

    index: int
    """Position in the input, from 0."""
    place: str
    """Where it stands, for people: `input.jsonl, line 17`."""
    id: str | None = None
    """The row's own name, where its format has one (`custom_id`)."""
    request: AnyAsk | None = None
    error: AsyncLLMError | None = None
    """Why the row cannot be asked. Its message begins with `place`."""
    fields: Mapping[str, Any] = {}
    """The row as it stood in the input, by column, for formats whose output repeats it."""

    _private = frozenset({"fields"})


class Outcome(Noun, frozen=True, kw_only=True):
    """What became of one row: exactly one of `answer` and `error`."""

    index: int
    id: str | None = None
    asked: Asked = "chat"
    """Which call was answered."""
    model: str = ""
    """The model that the row named, in the words of the row."""
    answer: Answer | None = None
    error: AsyncLLMError | None = None
    attempts: int = 1
    """How often the row was asked, in all runs; 0 for a row that could not be."""
