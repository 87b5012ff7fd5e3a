"""The openai backend passes the suite as well where it speaks the Responses API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asyncllm.backend import Backend
from asyncllm.dialect.responses import SUPPORTED
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from responses_server import ResponsesDialect, answering


class TestOpenAIResponses(BackendConformance):
    """Against a server that repeats the prompt."""

    name = "openai"
    base_url = "http://127.0.0.1:9/v1"
    max_tokens = 64
    options: Mapping[str, Any] = {"api": "responses"}
    supports = SUPPORTED
    dialect = ResponsesDialect()

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return answering(request)

        async with FaultyServer(answer) as server, self.connected(base_url=f"{server.url}/v1") as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt
