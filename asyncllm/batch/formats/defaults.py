"""Options of a whole batch, for the rows that do not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import UNSET

from asyncllm.backend import EmbedRequest
from asyncllm.batch.rows import AnyAsk
from asyncllm.calls import CallOptions, chat_request
from asyncllm.errors import InvalidRequestError
from asyncllm.types import Message, Request, Sampling, Timeouts

__all__ = ["Defaults"]

_NO_SAMPLING = Sampling()
_OF_CHATS = {"system", "tools", "tool_choice", "parallel_tool_calls", "repairs"}
_OF_EMBEDDINGS = {"model", "timeouts", "extra"}


class Defaults:
    """Fills in what a request leaves open. Raises `InvalidRequestError` for options that no call takes."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        if "idempotency_key" in options:
            raise InvalidRequestError("idempotency_key names one call, and a batch is many", field="idempotency_key")
        self._options = options
        model = options.get("model")
        self._model = model if isinstance(model, str) else ""  # of several, the one who asks chooses
        said = cast("CallOptions", {name: value for name, value in options.items() if name != "model"})
        self._request = chat_request("-", said, stream=False, timeouts=Timeouts())
        self._of_chats = next((name for name in options if name in _OF_CHATS), "")
        self._of_texts = next((name for name in options if name not in _OF_EMBEDDINGS), "")

    def fill(self, asked: AnyAsk) -> AnyAsk:
        """`asked` with the options that it does not have, and without a stream: a batch has none.

        Raises `InvalidRequestError` for an option that such a call does not take.
        """
        if isinstance(asked, EmbedRequest):
            return self._fill_embedding(asked) if self._options else asked
        if not self._options:
            return msgspec.structs.replace(asked, stream=False) if asked.stream else asked
        if not asked.is_chat and self._of_chats:
            raise InvalidRequestError(f"a text completion takes no {self._of_chats}", field=self._of_chats)
        default = self._request
        return Request(
            model=asked.model or self._model,
            messages=self._messages(asked.messages),
            prompt=asked.prompt,
            sampling=self._sampling(asked.sampling),
            tools=asked.tools or default.tools,
            tool_choice=default.tool_choice if asked.tool_choice is UNSET else asked.tool_choice,
            parallel_tool_calls=(
                default.parallel_tool_calls if asked.parallel_tool_calls is UNSET else asked.parallel_tool_calls
            ),
            constraint=asked.constraint or default.constraint,
            timeouts=default.timeouts,
            extra={**default.extra, **asked.extra},
        )

    def _fill_embedding(self, asked: EmbedRequest) -> EmbedRequest:
        if self._of_texts:
            raise InvalidRequestError(f"embeddings take no {self._of_texts}", field=self._of_texts)
        return msgspec.structs.replace(
            asked,
            model=asked.model or self._model,
            timeouts=self._request.timeouts,
            extra={**self._request.extra, **asked.extra},
        )

    def _messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        *system, _ = self._request.messages
        if not messages or messages[0].role in ("system", "developer"):
            return messages
        return (*system, *messages)

    def _sampling(self, sampling: Sampling) -> Sampling:
        default = self._request.sampling
        if sampling == _NO_SAMPLING:
            return default
        said: dict[str, Any] = {**msgspec.to_builtins(default), **msgspec.to_builtins(sampling)}
        return msgspec.convert(said, Sampling)
