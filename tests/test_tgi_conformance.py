"""The tgi backend keeps every promise of a backend: texts by its own routes, chats by its OpenAI-like one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.types import Response, Usage
from tgi_server import TGIDialect, event, generated, tgi, token

BOTH = frozenset(
    {
        "max_tokens", "temperature", "top_p", "stop", "seed", "frequency_penalty", "logprobs", "top_logprobs",
        "include_stop_str_in_output", "JsonSchema", "Regex", "extra", "chat", "complete",
    }
)  # fmt: skip


class TGISubject(BackendConformance):
    name = "tgi"
    base_url = "http://127.0.0.1:9"
    max_tokens = 64

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return tgi(request)

        async with FaultyServer(answer) as server, self.connected(base_url=server.url) as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt


class TestTexts(TGISubject):
    chat = False
    # An image is no part of a text, and a request of the suite that has one is a chat.
    supports = BOTH | {"top_k", "repetition_penalty", "image parts"}
    dialect = TGIDialect()

    def test_usage_is_what_the_service_tells(self) -> None:
        counts = Usage(input_tokens=21, output_tokens=9)  # it counts no shares of them
        for response in self._told(counts):
            assert response.usage == counts

    def test_usage_that_the_service_does_not_tell_is_unknown(self) -> None:
        for told in (Usage(), Usage(input_tokens=3, output_tokens=0)):
            for response in self._told(told):
                assert response.usage == told

    def test_usage_that_is_told_again_is_not_added_up(self) -> None:
        frames = [
            event({"token": token("a")}),
            event(generated("a", count=9, length=21)),
        ]  # it is told at the end alone

        assert self.hear_whole(b"".join(frames)).usage == Usage(input_tokens=21, output_tokens=9)

    def test_the_model_and_the_id_of_a_reply_are_told(self) -> None:
        for response in self._told(Usage()):
            assert (response.model, response.request_id) == (None, None)  # by neither route of its own

    def _told(self, usage: Usage) -> list[Response]:
        """A streamed answer and a whole one, each with `usage`."""
        service = self.service
        stream = [service.start(), service.text("a"), service.usage(usage), service.finish(), service.end()]
        whole = self.hear_whole(service.reply(["a"], usage=usage), self.request(stream=False))
        return [self.hear_whole(b"".join(stream)), whole]


class TestChats(TGISubject):
    supports = BOTH | {"tools", "tool_choice", "image parts"}
    dialect = OpenAIDialect()
