"""Tokens of a prompt, by a tokenizer that the caller brings, against the limit of a model.

Azure has no call that counts. The rule for what a chat adds around its texts is OpenAI's own
(https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken): three tokens a message, one a name, three for
the start of the answer. What no tokenizer can count (images, sound, files, tools) is refused, not guessed at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from asyncllm.backend import Config
from asyncllm.errors import ConfigError, UnsupportedError
from asyncllm.types import PromptCheck, Request, TextPart

__all__ = ["CONTEXT_TOKENS", "Counter", "counter"]

CONTEXT_TOKENS = {
    "gpt-35-turbo": 16_385,
    "gpt-35-turbo-0613": 4_096,
    "gpt-35-turbo-16k": 16_384,
    "gpt-35-turbo-16k-0613": 16_384,
    "gpt-4": 8_192,
    "gpt-4-32k": 32_768,
    "gpt-4-turbo": 128_000,
    "gpt-4.1": 1_047_576,
    "gpt-4.1-mini": 1_047_576,
    "gpt-4.1-nano": 1_047_576,
    "gpt-4o": 128_000,
    "gpt-4o-mini": 128_000,
    "gpt-5": 400_000,
    "gpt-5-mini": 400_000,
    "gpt-5-nano": 400_000,
    "o1": 200_000,
    "o3": 200_000,
    "o3-mini": 200_000,
    "o4-mini": 200_000,
}
"""Prompt and answer together, as https://learn.microsoft.com/azure/ai-foundry/openai/concepts/models lists them."""

_A_MESSAGE, _A_NAME, _THE_ANSWER = 3, 1, 3


def counter(config: Config) -> Counter | None:
    """What counts by the options `tokenizer` and `context_tokens`; without a tokenizer nothing does."""
    tokenizer = config.options.get("tokenizer")
    limit = config.option("context_tokens", int, 0)
    if limit < 0:
        raise ConfigError("context_tokens is a number of tokens", backend=config.backend, field="context_tokens")
    if tokenizer is None:
        return None
    if not callable(tokenizer):
        raise ConfigError(
            "tokenizer is a function from a text to its tokens, or to their number",
            backend=config.backend,
            field="tokenizer",
        )
    return Counter(tokenizer, limit, config.backend)


class Counter:
    """Counts prompts by one tokenizer."""

    def __init__(self, tokenizer: Callable[[str], Any], limit: int, backend: str) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._backend = backend

    def __call__(self, request: Request) -> PromptCheck:
        """Raises `ConfigError` for a model whose limit is not known, `UnsupportedError` for what is not text."""
        limit = self._limit or CONTEXT_TOKENS.get(request.model)
        if limit is None:
            raise ConfigError(
                f"the limit of the model {request.model[:100]!r} is not known: pass the option 'context_tokens'; known "
                f"are {', '.join(CONTEXT_TOKENS)}",
                backend=self._backend,
                field="context_tokens",
            )
        room = request.sampling.max_tokens
        return PromptCheck(tokens=self._tokens(request), limit=limit, max_tokens=0 if room is UNSET else room)

    def _tokens(self, request: Request) -> int:
        if request.tools:
            raise self._uncounted("tools", request)
        total = _THE_ANSWER
        for message in request.messages:
            if message.tool_calls:
                raise self._uncounted("tool calls", request)
            if not isinstance(message.content, str):
                for part in message.content:
                    if not isinstance(part, TextPart):
                        raise self._uncounted("parts that are not text", request)
            total += _A_MESSAGE + self._count(message.role) + self._count(message.text)
            if message.name is not None:
                total += _A_NAME + self._count(message.name)
        return total

    def _count(self, text: str) -> int:
        tokens = self._tokenizer(text)
        return tokens if isinstance(tokens, int) else len(tokens)

    def _uncounted(self, what: str, request: Request) -> UnsupportedError:
        return UnsupportedError(
            f"the {self._backend!r} backend cannot count {what}: only the service knows how many tokens they take",
            backend=self._backend,
            model=request.model,
            field="check_prompt",
        )
