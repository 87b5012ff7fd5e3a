"""The vllm-server backend keeps every promise of a backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.testing.conformance.options import OPTIONS
from vllm_wire import vllm


class TestVLLMServer(BackendConformance):
    name = "vllm-server"
    base_url = "http://127.0.0.1:9"
    max_tokens = 64
    dialect = OpenAIDialect()
    supports = frozenset(OPTIONS) - {"file parts"}

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return vllm(request)

        async with FaultyServer(answer) as server, self.connected(base_url=server.url) as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt
