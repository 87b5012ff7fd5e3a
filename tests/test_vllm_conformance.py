"""The vLLM backend passes the suite that every backend passes, with the tiny random model and with a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance
from asyncllm.testing.conformance.answers import AnswerChecks
from asyncllm.testing.conformance.calls import CallChecks
from asyncllm.testing.conformance.meaning import MeaningChecks
from asyncllm.testing.conformance.options import OptionChecks
from asyncllm.testing.conformance.subject import Subject
from asyncllm_vllm.engine import Engine
from vllm_engines import QUICK, held, small, tiny

pytest_plugins = ["vllm_fixtures"]

SUPPORTED = frozenset(
    {
        "chat", "complete", "max_tokens", "temperature", "top_p", "stop", "seed", "presence_penalty",
        "frequency_penalty", "logprobs", "top_logprobs", "n", "logit_bias", "reasoning_effort", "top_k", "min_p",
        "repetition_penalty", "min_tokens", "ignore_eos", "include_stop_str_in_output", "stop_token_ids", "JsonSchema",
        "Regex", "Choice", "Grammar", "extra", "image parts", "audio parts",
    }
)  # fmt: skip
"""Images and audio are for the model to refuse; tools need a parser, of which these engines are not told."""


class OnVLLM(Subject):
    """Every check has a client and an event loop of its own, and all find the one engine running."""

    name = "vllm"
    api_key = None  # it runs in this process and takes none
    speaks_http = False
    supports = SUPPORTED
    options: Mapping[str, Any] = QUICK
    engine: ClassVar[Engine]

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        """The engine, which outlives the check, is at work on its event loop from before the check until after it."""
        await self.engine.ready()
        await asyncio.sleep(0)
        try:
            async with self.connected() as backend:
                yield backend
        finally:
            core: Any = self.engine.core._engine
            core.output_handler.cancel()
            core.engine_core.resources.output_queue_task.cancel()

    def held(self, _: Backend, /) -> int:
        return self.engine.core.unfinished


class TestTinyModel(OnVLLM, BackendConformance):
    bad_models = ("/no/such/model",)
    # Half of what it says are halves of characters, which have no text that tokens could spell.
    test_log_probabilities_belong_to_the_text = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def running(cls, tiny_engine: Engine) -> None:
        cls.engine, cls.model = tiny_engine, tiny()


class OnSmolLM2(OnVLLM):
    """Answers are nearly the same each time, so that none ends in half a character today and not tomorrow."""

    options: Mapping[str, Any] = {**QUICK, "override_generation_config": {"temperature": 0.01}}
    max_tokens = 8
    long_max_tokens = 64
    many = 10
    crowd = 12
    rounds = 3

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def running(cls) -> Iterator[None]:
        cls.model = small()
        with held(cls.model, cls.options) as cls.engine:
            yield


class TestRealModel(OnSmolLM2, AnswerChecks, MeaningChecks, OptionChecks, CallChecks):
    """The checks in which it matters what a model says."""


@pytest.mark.slow
class TestRealModelAtLength(OnSmolLM2, BackendConformance):
    """All of them."""
