"""aiXplain passes the suite of every backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from aixplain_server import EXECUTE, RunDialect, service
from asyncllm import Message, Request
from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest


class TestAiXplain(BackendConformance):
    """Against a service that repeats the prompt."""

    name = "aixplain"
    base_url = f"http://127.0.0.1:9{EXECUTE}"
    max_tokens = 64
    job_request = Request(model="some-model", messages=(Message("user", "Name a colour."),))
    supports = frozenset({"chat", "extra", "max_tokens", "temperature", "top_p", "JsonSchema"})
    dialect = RunDialect()

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return service(request)

        async with FaultyServer(answer) as server:
            self.options = {"backend_url": server.url}
            async with self.connected(base_url=server.url + EXECUTE) as backend:
                yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt

    def test_the_model_and_the_id_of_a_reply_are_told(self) -> None:
        service = self.service  # which names neither: who was asked is who answers
        streamed = self.hear_whole(b"".join(self.answer_frames()))
        whole = self.hear_whole(service.reply(["a"]), self.request(stream=False))

        assert streamed.model == whole.model == self.model
        assert streamed.request_id is whole.request_id is None
