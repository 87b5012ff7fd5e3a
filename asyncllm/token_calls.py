"""Tokens of a text or a conversation, and back, as `Client` and `sync.Client` inherit these calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from asyncllm.backend import Tokenizer
from asyncllm.calls import CallOptions, Model, Prompt, chat_request, completion_request
from asyncllm.errors import InvalidRequestError
from asyncllm.place import Target, lacking
from asyncllm.trail import Kind
from asyncllm.types import Request, Timeouts, Tokens, Tool, are_token_ids
from asyncllm.waiting import Runner

__all__ = ["TokenCalls", "WaitingTokenCalls"]

T = TypeVar("T", Tokens, str)


class TokenCalls(ABC):
    """The model's own tokenizer, where the backend has it at hand: else `UnsupportedError`."""

    _timeouts: Timeouts

    async def tokenize(
        self,
        prompt: Prompt,
        *,
        model: Model | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """The tokens that `complete` makes of a text, or `chat` of a list of messages by the model's template.

        A text has the marks that the model wants before and after it, unless `extra` has `add_special_tokens` false.

        Raises `InvalidRequestError`, `UnsupportedError` if the backend cannot tell, and `APIError`.
        """
        options = cast("CallOptions", {} if extra is None else {"extra": extra})
        if isinstance(prompt, str):
            asked = completion_request(prompt, options, stream=False, timeouts=self._timeouts)
        else:
            options = cast("CallOptions", {**options, "tools": tools} if tools else options)
            asked = chat_request(prompt, options, stream=False, timeouts=self._timeouts)
        target, backend = self._tokenizer(model, "tokenize")
        request = msgspec.structs.replace(asked, model=target.model)
        return await self._once("tokenize", target, request, lambda: backend.tokenize(request))

    async def detokenize(self, ids: Sequence[int], *, model: Model | None = None) -> str:
        """The text that tokens stand for. Raises as `tokenize` does."""
        if not ids or not are_token_ids(ids):
            raise InvalidRequestError("detokenize takes token ids, at least one, from 0 on", field="ids")
        asked = completion_request(ids, {}, stream=False, timeouts=self._timeouts)
        target, backend = self._tokenizer(model, "detokenize")
        request = msgspec.structs.replace(asked, model=target.model)
        return await self._once("detokenize", target, request, lambda: backend.detokenize(request))

    def _tokenizer(self, model: Model | None, call: Kind) -> tuple[Target, Tokenizer]:
        target = self._target(model)
        backend = target.place.backend
        if not isinstance(backend, Tokenizer):
            raise lacking(target, call)
        return target, backend

    @abstractmethod
    def _target(self, model: Model | None) -> Target:
        """Where a call for `model` goes."""

    @abstractmethod
    async def _once(self, kind: Kind, target: Target, request: Request, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call in the layers of its place."""


class WaitingTokenCalls(ABC):
    """The same without an event loop."""

    def tokenize(
        self,
        prompt: Prompt,
        *,
        model: Model | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """The tokens of a text, or of a conversation by the model's template."""
        client, runner = self._over_there()
        return runner.run(lambda: client.tokenize(prompt, model=model, tools=tools, extra=extra))

    def detokenize(self, ids: Sequence[int], *, model: Model | None = None) -> str:
        """The text that tokens stand for."""
        client, runner = self._over_there()
        return runner.run(lambda: client.detokenize(ids, model=model))

    @abstractmethod
    def _over_there(self) -> tuple[TokenCalls, Runner]:
        """The asynchronous client, and what runs its calls."""
