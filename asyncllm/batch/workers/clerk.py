"""What a worker does, wherever it runs: a client of its own, and rows asked through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncllm.batch.codec import encode_answer, encode_error
from asyncllm.batch.workers.recipe import Recipe
from asyncllm.batch.workers.wire import Question
from asyncllm.errors import AsyncLLMError, PluginError

__all__ = ["Clerk", "told"]


class Clerk:
    """A client made by a recipe. Making one raises `ConfigError`."""

    def __init__(self, recipe: Recipe) -> None:
        self._client: Any = recipe.make()

    async def answer(self, question: Question) -> bytes:
        """What became of the row, as `codec` writes it."""
        asked = question.asked
        try:
            answer = await self._client._ask_row(asked, question.model)  # noqa: SLF001  # as `Caller.ask` is
            return encode_answer(asked, answer)
        except Exception as error:  # it is raised where the row was asked for
            return told(error)

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


def told(error: Exception) -> bytes:
    """An error as bytes. Of one that is not ours, the kind and the place: its message may hold what a row holds."""
    if isinstance(error, AsyncLLMError):
        return encode_error(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return encode_error(PluginError(f"a worker has met a {type(error).__name__}{place}, which no backend may raise"))
