"""The backend behind `asyncllm_openai.vllm_server.connect`: an `OpenAI` at `/v1`, and the routes beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
from msgspec import Struct

from asyncllm.backend import (
    Config,
    Context,
    EmbedRequest,
    HttpCall,
    RerankRequest,
    TranscribeRequest,
    require_supported,
)
from asyncllm.dialect import write_chat, write_completion
from asyncllm.dialect.lenient import decode
from asyncllm.errors import ConfigError, NotFoundError
from asyncllm.events import Events
from asyncllm.exchange import Prepared, raise_embedded
from asyncllm.media import Ranking, Transcript
from asyncllm.types import Embeddings, ModelInfo, PromptCheck, Request, Timeouts, Tokens
from asyncllm_openai.backend import OpenAI
from asyncllm_openai.vllm_constraints import Spelling, constrained

__all__ = ["VLLMServer"]

_CHAT = frozenset(
    {
        "chat", "extra", "tools", "tool_choice", "parallel_tool_calls", "image parts", "audio parts", "max_tokens",
        "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs",
        "n", "logit_bias", "reasoning_effort", "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos",
        "include_stop_str_in_output", "stop_token_ids", "JsonSchema", "Regex", "Choice", "Grammar",
    }
)  # fmt: skip
_COMPLETION = (_CHAT - {"chat", "reasoning_effort"}) | {"complete"}
_TEMPLATE = frozenset(
    {
        "add_generation_prompt", "add_special_tokens", "chat_template", "chat_template_kwargs",
        "continue_final_message", "media_io_kwargs", "mm_processor_kwargs",
    }
)  # fmt: skip
"""Options in `extra` on which the length of a prompt depends, as `/tokenize` takes them."""
_SPELLINGS: Mapping[str, Spelling] = {"structured_outputs": "structured_outputs", "guided": "guided"}
_PROBE = Timeouts(connect_s=5, byte_idle_s=10)
_NAMES = 5  # of the models that an error names


class _Counted(Struct):
    """The reply to `POST /tokenize`."""

    count: int
    max_model_len: int | None = None
    tokens: list[int] = []


class _Text(Struct):
    """The reply to `POST /detokenize`."""

    prompt: str


_counted = msgspec.json.Decoder(_Counted)
_text = msgspec.json.Decoder(_Text)


class VLLMServer:
    """One server at one address."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options("headers", "structured_outputs", "verify_model")
        self._name = config.backend
        self._root = config.url(context.env, "VLLM_BASE_URL", "http://localhost:8000/v1").removesuffix("/v1")
        self._transport = context.transport
        self._spelling: Spelling = _spelling(config)
        self._verify = config.option("verify_model", bool, False)
        self._verified: set[str] = set()
        self._verifying = asyncio.Lock()
        key = config.key(context.env, "VLLM_API_KEY")
        headers = {name: value for name, value in config.options.items() if name == "headers"}
        # Without the environment, in which there may be a key of OpenAI's.
        self._server = OpenAI(
            msgspec.structs.replace(config, base_url=f"{self._root}/v1", api_key=key, options=headers),
            msgspec.structs.replace(context, env={}),
        )
        usual = {"Content-Type": "application/json"}
        if key is not None:
            usual["Authorization"] = f"Bearer {key.reveal()}"
        self._headers = config.headers(usual)

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        """Start one chat or completion; see `asyncllm.backend.Backend`."""
        require_supported(request, _CHAT if request.is_chat else _COMPLETION, backend=self._name)
        exchange = self._server.open(constrained(request, self._spelling))
        return Prepared(lambda: self._check_model(request.model), exchange) if self._verify else exchange

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """Embed texts in one call; see `asyncllm.backend.Embedder`. For a server that was started to embed."""
        if self._verify:
            await self._check_model(request.model)
        return await self._server.embed(request)

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        """See `asyncllm.backend.Transcriber`. For a server of a model that hears."""
        if self._verify:
            await self._check_model(request.model)
        return await self._server.transcribe(request)

    async def rerank(self, request: RerankRequest, /) -> Ranking:
        """See `asyncllm.backend.Reranker`. For a server of a model that scores."""
        if self._verify:
            await self._check_model(request.model)
        return await self._server.rerank(request)

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count by the server's tokenizer, chat template and tools included; see `asyncllm.backend.PromptChecker`."""
        require_supported(request, _CHAT if request.is_chat else _COMPLETION, backend=self._name)
        if self._verify:
            await self._check_model(request.model)
        room = request.sampling.max_tokens or 0
        if isinstance(request.prompt, tuple):
            limits = [model.context_tokens for model in await self.list_models() if model.id == request.model]
            return PromptCheck(tokens=len(request.prompt), limit=next(iter(limits), None), max_tokens=room)
        counted = await self._count(request)
        return PromptCheck(tokens=counted.count, limit=counted.max_model_len, max_tokens=room)

    async def tokenize(self, request: Request, /) -> Tokens:
        """By the server's tokenizer and template, tools included; see `asyncllm.backend.Tokenizer`."""
        require_supported(request, _CHAT if request.is_chat else _COMPLETION, backend=self._name)
        if self._verify:
            await self._check_model(request.model)
        counted = await self._count(request)
        return Tokens(ids=tuple(counted.tokens), limit=counted.max_model_len)

    async def detokenize(self, request: Request, /) -> str:
        """See `asyncllm.backend.Tokenizer`."""
        body = msgspec.json.encode({"model": request.model, "tokens": request.prompt})
        return decode(await self._told("detokenize", body, request), _text, "a text").prompt

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `GET /v1/models` lists, adapters included, each with the tokens that it takes."""
        return await self._server.list_models()

    async def is_alive(self) -> bool:
        """Whether `GET /health` says that the engine behind the server is well."""
        call = HttpCall(method="GET", url=f"{self._root}/health", headers=self._headers, timeouts=_PROBE)
        async with self._transport.open(call) as reply:
            await reply.read()
            return True

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""
        await self._server.aclose()

    async def _count(self, request: Request) -> _Counted:
        extra = {name: value for name, value in request.extra.items() if name in _TEMPLATE}
        bare = Request(
            model=request.model, messages=request.messages, prompt=request.prompt, tools=request.tools, extra=extra
        )
        body = write_chat(bare) if bare.is_chat else write_completion(bare)
        return decode(await self._told("tokenize", body, request), _counted, "a token count")

    async def _told(self, path: str, body: bytes, request: Request) -> bytes:
        url = f"{self._root}/{path}"  # which stands beside /v1, not in it
        call = HttpCall(url=url, body=body, headers=self._headers, timeouts=request.timeouts)
        async with self._transport.open(call) as reply:
            said = await reply.read()
        raise_embedded(call, said)
        return said

    async def _check_model(self, model: str) -> None:
        """Raise `NotFoundError` unless the server lists `model`; once known it is not asked again."""
        async with self._verifying:
            if model in self._verified:
                return
            served = [one.id for one in await self.list_models()]
            if model not in served:
                names = ", ".join(repr(name[:100]) for name in served[:_NAMES]) or "no model"
                more = f" and {len(served) - _NAMES} more" if len(served) > _NAMES else ""
                raise NotFoundError(
                    f"the server does not serve {model!r}; it serves {names}{more}",
                    backend=self._name,
                    model=model,
                    field="model",
                    code="model_not_found",
                )
            self._verified.add(model)


def _spelling(config: Config) -> Spelling:
    word = config.option("structured_outputs", str, "structured_outputs")
    if word not in _SPELLINGS:
        raise ConfigError(
            f"the option 'structured_outputs' of the {config.backend!r} backend is one of "
            f"{', '.join(map(repr, _SPELLINGS))}, not {word[:40]!r}",
            backend=config.backend,
            field="structured_outputs",
        )
    return _SPELLINGS[word]
