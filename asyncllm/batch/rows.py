"""The nouns of a batch: a row of the input, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from asyncllm.backend import EmbedRequest
from asyncllm.errors import AsyncLLMError
from asyncllm.types import Embeddings, Noun, Request, Response

__all__ = ["Answer", "AnyAsk", "Outcome", "Row"]

AnyAsk: TypeAlias = Request | EmbedRequest
"""What a row may ask: a chat, a text completion or embeddings. Its `model` is one that a `Client` takes, or empty."""

Answer: TypeAlias = Response | Embeddings


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
    answer: Answer | None = None
    error: AsyncLLMError | None = None
    attempts: int = 1
    """How often the row was asked, in all runs; 0 for a row that could not be."""
