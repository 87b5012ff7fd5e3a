"""Both ways to Claude pass the suite for backends, each against a server that speaks its wire format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from anthropic_batch_server import AnthropicBatchServer
from anthropic_server import AnthropicDialect, BedrockDialect, repeat
from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from asyncllm.testing.conformance import BatchService
from asyncllm_anthropic.options import SUPPORTED


class TestAnthropic(BackendConformance):
    """Against a server that repeats the prompt."""

    name = "anthropic"
    base_url = "http://127.0.0.1:9"
    max_tokens = 64
    supports = SUPPORTED
    dialect = AnthropicDialect()
    batch_service: type[BatchService] | None = AnthropicBatchServer

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return repeat(request)

        async with FaultyServer(answer) as server, self.connected(base_url=server.url) as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt


class TestBedrock(TestAnthropic):
    """The same by Amazon's framing, and with signatures."""

    name = "bedrock"
    batch_service = None
    model = "anthropic.claude-fake-v1:0"
    dialect = BedrockDialect()
    api_key = None
    options = {"region": "eu-west-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI-K7MDENG"}
