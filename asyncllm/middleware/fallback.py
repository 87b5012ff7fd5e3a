"""Try an ordered list of models until one begins to answer.

The next one is asked only while nothing of an answer has arrived, and only after an error that another place could
do better at: a place that is down, overloaded, out of quota or without the model. An error that is the caller's own,
such as a bad request, is raised at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from asyncllm.errors import APIError, AsyncLLMError, NotFoundError, QuotaExceededError
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.types import Request

__all__ = ["Fallback"]


class Fallback:
    """One call over several candidates, each an `Open` with the request that suits it; `chosen` says who answered."""

    __slots__ = ("_candidates", "_inner", "chosen")

    def __init__(self, candidates: Sequence[tuple[Open, Request]]) -> None:
        self._candidates = candidates
        self._inner: AbstractAsyncContextManager[Events]
        self.chosen = 0
        """Position of the candidate that answers, or that failed last."""

    async def __aenter__(self) -> Events:
        errors: list[AsyncLLMError] = []
        for position, (open_, request) in enumerate(self._candidates):
            self.chosen = position
            self._inner = open_(request)
            try:
                return await self._inner.__aenter__()
            except APIError as error:
                errors += error.attempts or (error,)
                last = position == len(self._candidates) - 1
                if last or not (error.retryable or isinstance(error, NotFoundError | QuotaExceededError)):
                    error.attempts = tuple(errors) if len(errors) > 1 else ()
                    raise
        raise AssertionError("a call has at least one candidate")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)
