"""Checks of what goes wrong: always an error of the one tree, which says nothing private."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError, UnsupportedError
from asyncllm.testing.conformance.failing import CANARY, Failing
from asyncllm.testing.conformance.options import OPTIONS
from asyncllm.testing.conformance.subject import check

__all__ = ["FailureChecks"]


class FailureChecks(Failing):
    """An error is typed, travels between processes, and keeps prompts and keys to itself."""

    @check
    async def test_a_model_that_cannot_answer_is_a_typed_error(self, backend: Backend) -> None:
        """Each of `bad_models` fails, and the backend still answers afterwards."""
        for model in self.bad_models:
            request = msgspec.structs.replace(self.request(f"{CANARY} {self.prompt}"), model=model)
            try:
                await self.answer(backend, request)
            except AsyncLLMError as error:
                self.is_proper(error)
            else:
                raise AssertionError(f"the bad model {model!r} answers")
        await self.answer(backend)

    @check
    async def test_a_refused_option_is_an_error_that_travels_and_says_nothing_private(self, backend: Backend) -> None:
        """Whatever option the backend refuses, its error pickles, copies and does not repeat the prompt."""
        for use in OPTIONS.values():
            try:
                async with backend.open(use(self.request(f"{CANARY} {self.prompt}"))):
                    pass
            except UnsupportedError as error:
                self.is_proper(error)
            except AsyncLLMError:
                pass  # accepted by the backend and refused by the model

    @check
    async def test_a_backend_does_not_show_its_key(self, backend: Backend) -> None:
        """Neither `repr` nor `str` has it."""
        assert self.api_key is None or self.api_key not in f"{backend!r} {backend!s}", "the backend's repr has the key"

    @check
    async def test_nothing_private_is_logged(self, backend: Backend) -> None:
        """No record of any logger has the key, the prompt or the answer, of a good call and of a refused one."""
        with _records() as records:
            await self.answer(backend, self.request(f"{CANARY} {self.prompt}"))
            for model in self.bad_models:
                request = msgspec.structs.replace(self.request(f"{CANARY} {self.prompt}"), model=model)
                try:
                    await self.answer(backend, request)
                except AsyncLLMError:
                    pass
            await asyncio.sleep(0)
        logged = "\n".join(records)
        assert CANARY not in logged, "the prompt or the answer is logged"
        assert not self.api_key or self.api_key not in logged, "the key is logged"


@contextmanager
def _records() -> Generator[list[str]]:
    """The text of all that is logged, at any level."""
    records: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(f"{record.getMessage()} {record.exc_info} {record.__dict__}")

    root, handler = logging.getLogger(), Handler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
