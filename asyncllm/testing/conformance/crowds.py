"""Checks of many calls at once: they neither mix nor disturb each other, whatever becomes of some of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError
from asyncllm.testing.conformance.harness import within
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import Request, Response

__all__ = ["CrowdChecks"]

_FEW_TOKENS = 2


class CrowdChecks(Subject):
    """`crowd` calls at once, every other one streamed."""

    @check
    async def test_a_crowd_of_calls_is_answered_each_with_its_own(self, backend: Backend) -> None:
        """Every call is complete, and where the right answer is known, it is that."""
        tasks = self._crowd(backend)
        await self._all_end(tasks, "a crowd of calls")
        for number, task in enumerate(tasks):
            self._is_right(number, task.result())

    @check
    async def test_cancelling_some_of_a_crowd_does_not_disturb_the_others(self, backend: Backend) -> None:
        """One of every three is cancelled, at different moments; the rest are answered."""
        tasks = self._crowd(backend)
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                await asyncio.sleep(0)
                task.cancel()
        await self._all_end(tasks, "a crowd of calls of which some are cancelled")
        for number, task in enumerate(tasks):
            if number % 3:
                assert not task.cancelled(), "a call is cancelled with another one"
                self._is_right(number, task.result())
            else:
                assert task.cancelled() or task.exception() is None, f"a cancelled call raises {task.exception()!r}"

    @check
    async def test_closing_under_load_ends_every_call(self, backend: Backend) -> None:
        """Each of a crowd is answered, or fails with an error of the tree; none hangs and none is cancelled."""
        tasks = [asyncio.create_task(self.events(backend, self.long_request())) for _ in range(self.crowd)]
        await asyncio.sleep(0.01)
        with within(self.patience_s, "aclose under load"):
            async with asyncio.timeout(self.patience_s):
                await backend.aclose()
        await self._all_end(tasks, "a crowd of calls whose backend was closed")
        for task in tasks:
            assert not task.cancelled(), "a call is cancelled because its backend was closed"
            error = task.exception()
            assert error is None or isinstance(error, AsyncLLMError), (
                f"a call whose backend was closed raises {error!r}"
            )

    @check
    async def test_one_request_serves_many_calls(self, backend: Backend) -> None:
        """The same object at once and again: a call keeps nothing in it."""
        request = self._member(0)
        for _ in range(2):
            tasks = [asyncio.create_task(self.answer(backend, request)) for _ in range(4)]
            await self._all_end(tasks, "calls with one request")
            for task in tasks:
                self._is_right(0, task.result())

    def _crowd(self, backend: Backend) -> list[asyncio.Task[Response]]:
        return [asyncio.create_task(self.answer(backend, self._member(number))) for number in range(self.crowd)]

    def _prompt(self, number: int) -> str:
        return f"{self.prompt} Number {number}."

    def _member(self, number: int) -> Request:
        # A model whose answers cannot be known need not say much.
        limit = None if self.max_tokens is None or self.expected(self.prompt) is not None else _FEW_TOKENS
        return self.request(self._prompt(number), stream=number % 2 == 0, max_tokens=limit)

    def _is_right(self, number: int, response: Response) -> None:
        expected = self.expected(self._prompt(number))
        assert expected is None or response.text == expected, f"call {number} is answered with {response.text!r}"

    async def _all_end(self, tasks: Sequence[asyncio.Task[Any]], what: str) -> None:
        _, late = await asyncio.wait(tasks, timeout=self.patience_s)
        for task in late:
            task.cancel()
        assert not late, f"{what}: {len(late)} did not end within {self.patience_s} seconds"
