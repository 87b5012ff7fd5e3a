"""Count a conversation, and shorten it to a number of tokens.

    short = await asyncllm.tokens.truncate(messages, 8_000, client=client)
    reply = await client.chat(short.messages)

A client whose backend has a tokenizer is asked to count; any other count is the estimate of `asyncllm.estimate`: four
characters a token, and a thousand for a part that is no text. A turn is a user's message with all that follows it up to
the next, so that a tool's result is never parted from the call that asked for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from asyncllm.calls import CallOptions, Model, Prompt, chat_request
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.estimate import estimated_input
from asyncllm.types import Message, Timeouts

if TYPE_CHECKING:
    from asyncllm.client import Client

__all__ = ["Count", "Truncated", "count", "estimate", "truncate"]

_INSTRUCTIONS = ("system", "developer")


class Count(Struct, frozen=True, kw_only=True):
    """How many tokens a conversation has."""

    tokens: int
    is_exact: bool
    """Whether the model's own tokenizer has counted, and not the estimate."""


class Truncated(Struct, frozen=True, kw_only=True):
    """A conversation that fits, and what was left out of it."""

    messages: tuple[Message, ...]
    dropped: tuple[Message, ...]
    """What was left out, oldest first."""
    tokens: int
    """Of `messages`."""
    is_exact: bool
    """Whether the model's own tokenizer has counted, and not the estimate."""

    def __repr__(self) -> str:
        return f"<Truncated to {self.tokens} tokens: {len(self.messages)} messages, {len(self.dropped)} dropped>"


def estimate(prompt: Prompt, *, system: str | None = None) -> int:
    """Tokens of a conversation by the rule of thumb, without asking anybody. Raises `InvalidRequestError`."""
    return estimated_input(chat_request(prompt, _options(system), stream=False, timeouts=Timeouts()))


async def count(
    prompt: Prompt, *, client: Client | None = None, model: Model | None = None, system: str | None = None
) -> Count:
    """Tokens of a conversation: by the tokenizer of `model` where `client` reaches one, else by the estimate.

    Raises `InvalidRequestError`, and what `Client.check_prompt` raises where the backend cannot be reached.
    """
    if client is not None:
        options = _options(system)
        if model is not None:
            options["model"] = model
        try:
            return Count(tokens=(await client.check_prompt(prompt, **options)).tokens, is_exact=True)
        except UnsupportedError:
            pass  # the backend has no tokenizer
    return Count(tokens=estimate(prompt, system=system), is_exact=False)


async def truncate(
    prompt: Prompt, max_tokens: int, *, client: Client | None = None, model: Model | None = None
) -> Truncated:
    """Leave out as many of the oldest turns as it takes to have at most `max_tokens`; `prompt` is not changed.

    Instructions, which are messages of the roles `system` and `developer`, stay, and so does the last turn.

    Raises `InvalidRequestError` if these alone do not fit, and as `count` does.
    """
    if type(max_tokens) is not int or max_tokens < 1:
        raise InvalidRequestError("max_tokens is a whole number from 1 up", field="max_tokens")
    messages = chat_request(prompt, {}, stream=False, timeouts=Timeouts()).messages
    starts = _turns(messages)

    async def without(turns: int) -> Truncated:
        kept = [at >= starts[turns] or one.role in _INSTRUCTIONS for at, one in enumerate(messages)]
        rest = tuple(itertools.compress(messages, kept))
        counted = await count(rest, client=client, model=model)
        dropped = tuple(one for one, stays in zip(messages, kept, strict=True) if not stays)
        return Truncated(messages=rest, dropped=dropped, tokens=counted.tokens, is_exact=counted.is_exact)

    whole = await without(0)
    if whole.tokens <= max_tokens:
        return whole
    few, many = 0, len(starts) - 1  # turns to leave out: so few are not enough, and so many are all there are
    best = await without(many)
    if best.tokens > max_tokens:
        raise InvalidRequestError(
            f"the last turn and the instructions have {best.tokens} tokens, which is more than max_tokens={max_tokens}",
            field="max_tokens",
        )
    while many - few > 1:
        middle = (few + many) // 2
        shorter = await without(middle)
        if shorter.tokens <= max_tokens:
            best, many = shorter, middle
        else:
            few = middle
    return best


def _turns(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: at a user's message, and at the start where something else than instructions stands."""
    users = [at for at, message in enumerate(messages) if message.role == "user"]
    opening = messages[: users[0]] if users else messages
    return users if users and all(one.role in _INSTRUCTIONS for one in opening) else [0, *users]


def _options(system: str | None) -> CallOptions:
    return {} if system is None else {"system": system}
