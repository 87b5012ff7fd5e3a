"""The backends of OpenAI's family pass the suite that every backend passes, each with what its service adds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from asyncllm.backend import Backend
from asyncllm.testing import BackendConformance, FaultyServer, Op, SeenRequest
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.testing.conformance.answers import AnswerChecks
from asyncllm.testing.conformance.options import OptionChecks
from asyncllm.testing.conformance.subject import Subject
from asyncllm.testing.wire import sse_event
from test_conformance import repeat


class AzureDialect(OpenAIDialect):
    """Before the first piece comes what Azure's filters say of the prompt, in a chunk without choices."""

    prefix = ""

    def start(self) -> bytes:
        verdict = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
        return sse_event(msgspec.json.encode(verdict)) + super().start()


class OpenRouterDialect(OpenAIDialect):
    """Every chunk has its reasoning, mostly none, and names the provider; a comment keeps the connection alive."""

    def keep_alive(self) -> bytes:
        return b": OPENROUTER PROCESSING\n\n"

    def error(self, message: str) -> bytes:
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        error = {"code": "server_error", "message": message}
        return sse_event(msgspec.json.encode({**self._head(), "provider": "P", "error": error, "choices": [choice]}))

    def text(self, text: str, index: int = 0) -> bytes:
        return self._chunk({"role": "assistant", "content": text, "reasoning": None, "reasoning_details": []}, index)


class MistralDialect(OpenAIDialect):
    """Content in parts."""

    def text(self, text: str, index: int = 0) -> bytes:
        return self._chunk({"content": [{"type": "text", "text": text}]}, index)


class GeminiDialect(OpenAIDialect):
    """Errors come in a list."""

    def error(self, message: str) -> bytes:
        return sse_event(msgspec.json.encode([{"error": {"code": 500, "message": message, "status": "INTERNAL"}}]))


class Repeated(Subject):
    """Against a server that repeats the prompt, and takes calls under the family's other names for them."""

    max_tokens = 64
    prefix = "/v1"

    @asynccontextmanager
    async def make_backend(self) -> AsyncGenerator[Backend]:
        def answer(request: SeenRequest) -> Sequence[Op]:
            server.requests.clear()  # what a server remembers is no leak of its client
            return repeat(as_openai(request))

        async with FaultyServer(answer) as server, self.connected(base_url=f"{server.url}{self.prefix}") as backend:
            yield backend

    def expected(self, prompt: str, /) -> str | None:
        return prompt


NAMES = {"max_completion_tokens": "max_tokens", "random_seed": "seed"}


def as_openai(request: SeenRequest) -> SeenRequest:
    """The request as OpenAI's own API would have it."""
    path = request.path.partition("?")[0].replace("/key", "/models")  # each is what tells that it is alive
    call = next((call for call in ("/models", "/embeddings") if path.endswith(call)), "/chat/completions")
    body = request.body
    if body:
        document: dict[str, Any] = msgspec.json.decode(body)
        body = msgspec.json.encode({NAMES.get(name, name): value for name, value in document.items()})
    return msgspec.structs.replace(request, path=f"/v1{call}", body=body)


class TestAzure(Repeated, BackendConformance):
    name = "azure"
    base_url = "http://127.0.0.1:9"
    prefix = ""
    dialect = AzureDialect()


class TestOpenRouter(Repeated, BackendConformance):
    name = "openrouter"
    base_url = "http://127.0.0.1:9/v1"
    dialect = OpenRouterDialect()


class TestMistral(Repeated, BackendConformance):
    name = "mistral"
    base_url = "http://127.0.0.1:9/v1"
    dialect = MistralDialect()


class TestGemini(Repeated, BackendConformance):
    name = "gemini"
    base_url = "http://127.0.0.1:9/v1"
    dialect = GeminiDialect()


class TestScaleway(Repeated, BackendConformance):
    name = "scaleway"
    base_url = "http://127.0.0.1:9/v1"
    dialect = OpenAIDialect()


class TestOllama(Repeated, BackendConformance):
    """One for all rows of the table that add nothing to OpenAI's form."""

    name = "ollama"
    base_url = "http://127.0.0.1:9/v1"
    dialect = OpenAIDialect()


class TestAzureToken(Repeated, AnswerChecks, OptionChecks):
    """With a provider of tokens, which every call has to wait for."""

    name = "azure"
    base_url = "http://127.0.0.1:9"
    prefix = ""
    api_key = None

    @staticmethod
    async def _token() -> str:
        return "a.b.c"

    options = {"token_provider": _token}
