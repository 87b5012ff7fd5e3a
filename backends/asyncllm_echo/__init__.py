"""Answers with your own words: the backend to copy, and one that tests can count on. No network, no model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from asyncllm.backend import About, Backend, Config, Context, require_supported
from asyncllm.events import Event, Events, Finished, Started, TextDelta, UsageReport
from asyncllm.types import PromptCheck, Request, Usage

__all__ = ["about", "connect"]

_SUPPORTED = frozenset({"chat", "complete", "max_tokens"})


def connect(config: Config, _: Context, /) -> Backend:
    """Make the backend. It has no options and needs nothing of the world outside."""
    config.check_options()
    return Echo(config.backend)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(summary="your own words, for tests and as an example", calls=("chat", "complete", "check_prompt"))


class Echo:
    """Repeats the last message, word by word, up to `max_tokens` words."""

    def __init__(self, name: str) -> None:
        self._name = name

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Lend the words of the prompt as events."""
        require_supported(request, _SUPPORTED, backend=self._name)
        yield self._events(request)

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """A word is a token, and there is no limit."""
        return PromptCheck(tokens=len(_prompt(request).split()), limit=None)

    async def aclose(self) -> None:
        """Nothing outlives a call."""

    async def _events(self, request: Request) -> AsyncGenerator[Event]:
        words = _prompt(request).split()
        limit = request.sampling.max_tokens
        said = words[:limit] if isinstance(limit, int) else words
        yield Started(request.model)
        for position, word in enumerate(said):
            yield TextDelta(word if position == 0 else f" {word}")
        yield UsageReport(Usage(input_tokens=len(words), output_tokens=len(said)))
        yield Finished("stop" if len(said) == len(words) else "length")


def _prompt(request: Request) -> str:
    return request.messages[-1].text if request.is_chat else str(request.prompt)
