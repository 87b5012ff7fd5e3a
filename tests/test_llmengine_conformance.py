"""LLM Engine passes the suite of every backend: its chats (V2), and its own completions (V1)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from asyncllm.testing.conformance import BatchService
from asyncllm.types import Usage
from llmengine_server import Jobs, V1Dialect, V2Dialect, gateway

CONSTRAINTS = frozenset({"JsonSchema", "Regex", "Choice", "Grammar"})
V1 = CONSTRAINTS | {
    "complete", "extra", "max_tokens", "temperature", "top_p", "top_k", "stop", "presence_penalty",
    "frequency_penalty", "logprobs", "include_stop_str_in_output",
}  # fmt: skip
V2 = CONSTRAINTS | {
    "chat", "extra", "tools", "tool_choice", "parallel_tool_calls", "image parts", "max_tokens", "temperature",
    "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n", "logit_bias",
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "include_stop_str_in_output", "stop_token_ids",
}  # fmt: skip


class Engine(BackendConformance):
    """A gateway that repeats the prompt."""

    name = "llmengine"
    base_url = "http://127.0.0.1:9/llm-engine/"
    max_tokens = 64
    batch_service: type[BatchService] | None = Jobs
    supports = V1 | V2  # a chat goes to V2 and a completion to V1, so the one or the other takes an option

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return gateway(request)

        async with FaultyServer(answer) as server, self.connected(base_url=server.url) as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt


class TestV2(Engine):
    dialect = V2Dialect()

    def test_a_stream_is_over_at_its_end(self) -> None:
        heard = self.hear_one(b"".join(self.answer_frames()))  # its end is where it is closed, so nothing can follow

        assert heard.error is None
        assert heard.is_complete


class TestV1(Engine):
    chat = False
    batch_service = None  # V1 has no form for an item that failed; what it has is seen in test_llmengine_vendor
    dialect = V1Dialect()
    # An image is no part of a text, and a request of the suite that has one is a chat.
    supports = V1 | {"chat", "image parts"}

    def test_usage_is_what_the_service_tells(self) -> None:
        counts = Usage(input_tokens=21, output_tokens=9)  # it counts no shares of them
        service = self.service
        frames = [service.start(), service.text("a"), service.usage(counts), service.end()]

        assert self.hear_whole(b"".join(frames)).usage == counts
        assert self.hear_whole(service.reply(["a"], usage=counts), self.request(stream=False)).usage == counts

    def test_usage_that_is_told_again_is_not_added_up(self) -> None:
        service = self.service
        early, late = Usage(input_tokens=21, output_tokens=1), Usage(output_tokens=9)
        frames = [service.start(), service.usage(early), service.text("b"), service.usage(late), service.end()]

        assert self.hear_whole(b"".join(frames)).usage == Usage(input_tokens=21, output_tokens=9)

    def test_an_answer_without_a_word_is_an_answer(self) -> None:
        none = Usage(output_tokens=0)  # it is by the count that the reason of an end is known
        service = self.service
        stream = b"".join([service.start(), service.usage(none), service.end()])

        for body, request in (
            (stream, self.request()),
            (service.reply([""], usage=none), self.request(stream=False)),
        ):
            response = self.hear_whole(body, request)
            assert (response.text, response.finish_reason) == ("", "stop")
