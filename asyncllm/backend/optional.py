"""What a backend may be asked beside `open`: each a method, found by `isinstance`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import UNSET, UnsetType

from asyncllm.errors import NotFoundError
from asyncllm.types import Embeddings, ModelInfo, Noun, PromptCheck, Request, Timeouts, Tokens

__all__ = ["EmbedRequest", "Embedder", "Health", "ModelGetter", "Models", "PromptChecker", "Tokenizer", "find_model"]


class EmbedRequest(Noun, frozen=True, kw_only=True):
    """Texts to embed in one call."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | UnsetType = UNSET
    """Width of the vectors; unset asks for the model's own."""
    timeouts: Timeouts = Timeouts()
    extra: dict[str, Any] = {}

    _private = frozenset({"texts", "extra"})


@runtime_checkable
class Embedder(Protocol):
    """A backend that embeds texts."""

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """One vector a text, in order. Raises `APIError`."""
        ...


@runtime_checkable
class PromptChecker(Protocol):
    """A backend that counts a prompt by the model's own tokenizer."""

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count the prompt, chat template included, against the model's limit. Raises `APIError`."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """A backend that tells the tokens themselves."""

    async def tokenize(self, request: Request, /) -> Tokens:
        """The tokens of a text, or of a conversation by the model's template. Raises `APIError`.

        Of a text, the marks that the model wants are among them, unless `extra` has `add_special_tokens` false.
        """
        ...

    async def detokenize(self, request: Request, /) -> str:
        """The text of the request's `prompt`, which is token ids. Raises `APIError`."""
        ...


@runtime_checkable
class Health(Protocol):
    """A backend that can be asked whether it would answer."""

    async def is_alive(self) -> bool:
        """Ask the service itself. May raise `APIError`, which the client reads as no."""
        ...


@runtime_checkable
class Models(Protocol):
    """A backend that lists what it offers."""

    async def list_models(self) -> Sequence[ModelInfo]:
        """Models by the names that requests take. Raises `APIError`."""
        ...


@runtime_checkable
class ModelGetter(Protocol):
    """A backend that tells of one model."""

    async def get_model(self, id_or_name: str, /) -> ModelInfo:
        """The one model of that id, or else of that name. Raises `NotFoundError`, `APIError`."""
        ...


async def find_model(backend: Models, id_: str) -> ModelInfo:
    """The model of that id among those that `backend` lists. Raises `NotFoundError`, `APIError`."""
    for model in await backend.list_models():
        if model.id == id_:
            return model
    raise NotFoundError(f"no model of the id {id_[:100]!r} is listed", status=404)
