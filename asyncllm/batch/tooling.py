"""A batch whose model has its code run: each of its rows is a transcript, made of as many calls as that takes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import msgspec

from asyncllm.batch.evaluator import ToolConfig, evaluate
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.batch.runner import Ask
from asyncllm.calls import converted
from asyncllm.errors import InvalidRequestError
from asyncllm.sandbox import Sandbox
from asyncllm.types import Request, Response

__all__ = ["check_evaluable", "evaluating", "tool_config_of"]


def tool_config_of(given: ToolConfig | Mapping[str, Any]) -> ToolConfig:
    """Raises `InvalidRequestError` naming the field that cannot be right."""
    if isinstance(given, ToolConfig):
        return given
    return converted(given, ToolConfig, "tool_config", within="tool_config.")


def check_evaluable(asked: AnyAsk) -> None:
    """Raise `InvalidRequestError` for a row that no code can be run in."""
    if not isinstance(asked, Request) or not isinstance(asked.prompt, str):
        raise InvalidRequestError("with tool_config, a row is a text completion: give it a prompt", field="prompt")
    if not isinstance(asked.sampling.max_tokens, int):
        raise InvalidRequestError("with tool_config, a row has max_tokens, which its code shares", field="max_tokens")


def evaluating(ask: Ask, config: ToolConfig, sandbox: Sandbox) -> Ask:
    """As `ask`, with code run on the way. Every call of a row has an idempotency key of its own."""

    async def asking(asked: AnyAsk, idempotency_key: str) -> Answer:
        assert isinstance(asked, Request)  # `check_evaluable` has let nothing else through
        assert isinstance(asked.prompt, str)
        assert isinstance(asked.sampling.max_tokens, int)
        given = asked.sampling.stop
        stop = (given,) if isinstance(given, str) else given if isinstance(given, tuple) else ()
        numbers = count()

        async def complete(prompt: str, /, *, stop: tuple[str, ...], max_tokens: int) -> Response:
            sampling = msgspec.structs.replace(asked.sampling, stop=stop, max_tokens=max_tokens)
            turn = msgspec.structs.replace(asked, prompt=prompt, sampling=sampling)
            reply = await ask(turn, f"{idempotency_key}-{next(numbers)}")
            assert isinstance(reply, Response)  # of a text completion
            return reply

        return await evaluate(
            asked.prompt,
            config=config,
            complete=complete,
            sandbox=sandbox,
            max_tokens=asked.sampling.max_tokens,
            stop=stop,
        )

    return asking
