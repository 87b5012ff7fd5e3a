"""Our own clients of both APIs pass the suite for backends against our own server, whatever stands behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

import anthropic_server
from asyncllm import Client
from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from asyncllm.testing.conformance.answers import AnswerChecks
from asyncllm.testing.conformance.calls import CallChecks
from asyncllm.testing.conformance.meaning import MeaningChecks
from asyncllm.testing.conformance.options import OptionChecks
from asyncllm.testing.conformance.subject import Subject
from asyncllm_anthropic.options import SUPPORTED
from served import served
from test_conformance import repeat


class _Behind(Subject):
    """A server of ours before one that repeats the prompt."""

    max_tokens = 64
    prefix = ""
    upstream = "openai:m"

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            upstream.requests.clear()  # what a server remembers is no leak of its client
            return self.answer_upstream(request)

        async with (
            FaultyServer(answer) as upstream,
            Client(model=self.upstream, base_url=f"{upstream.url}{self.prefix}", api_key="k", retry=None) as client,
            served(client, models={"some-model": self.upstream}) as url,
            self.connected(base_url=f"{url}{self.prefix}") as backend,
        ):
            yield backend

    def answer_upstream(self, request: SeenRequest) -> Sequence[Op]:
        return repeat(request)

    def expected(self, prompt: str, /) -> str | None:
        return prompt


class TestOpenAI(_Behind, BackendConformance):
    name = "openai"
    base_url = "http://127.0.0.1:9/v1"
    prefix = "/v1"
    embed_model = "some-model"


class _Claude(_Behind):
    name = "anthropic"
    base_url = "http://127.0.0.1:9"
    upstream = "anthropic:m"
    supports = SUPPORTED

    def answer_upstream(self, request: SeenRequest) -> Sequence[Op]:
        return anthropic_server.repeat(request)


class TestAnthropic(_Claude, AnswerChecks, CallChecks, OptionChecks):
    pass


@pytest.mark.slow
class TestAnthropicInAll(_Claude, BackendConformance):
    pass


class TestCrossed(_Behind, AnswerChecks, MeaningChecks, OptionChecks):
    """Anthropic's API in front, and OpenAI's behind."""

    name = "anthropic"
    base_url = "http://127.0.0.1:9"
    prefix = ""
