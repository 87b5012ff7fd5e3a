"""The backend behind `asyncllm_tgi.connect`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.backend import Config, Context, HttpCall
from asyncllm.dialect.lenient import decode
from asyncllm.errors import NotFoundError
from asyncllm.events import Events
from asyncllm.exchange import Exchange, Prepared
from asyncllm.types import ModelInfo, PromptCheck, Request, Timeouts
from asyncllm_tgi.chat import Chat
from asyncllm_tgi.generation import Generation
from asyncllm_tgi.requests import check, write_chat_count, write_count

__all__ = ["TGI"]

_DEFAULT = "http://localhost:8080"
_PROBE = Timeouts(connect_s=5, byte_idle_s=10)


class _Info(Struct, frozen=True):
    """The reply to `GET /info`."""

    model_id: str
    max_input_tokens: int | None = None
    max_input_length: int | None = None
    """What releases before 2.0 call `max_input_tokens`."""
    max_total_tokens: int | None = None


class _Templated(Struct):
    """The reply to `POST /chat_tokenize`."""

    tokenize_response: list[Any]


_info = msgspec.json.Decoder(_Info)
_tokens = msgspec.json.Decoder(list[Any])
_templated = msgspec.json.Decoder(_Templated)


class TGI:
    """One server at one address, which serves one model."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options("headers", "verify_model")
        self._name = config.backend
        self._transport = context.transport
        self._root = config.url(context.env, "TGI_BASE_URL", _DEFAULT).removesuffix("/v1")
        self._verify = config.option("verify_model", bool, False)
        self._known: _Info | None = None
        self._asking = asyncio.Lock()
        is_named = bool(config.base_url or context.env.get("TGI_BASE_URL", "").strip())
        key = config.key(context.env, "HF_TOKEN") if is_named else config.api_key
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.reveal()}"
        self._headers = config.headers(headers)
        self._stream_headers = {**self._headers, "Accept": "text/event-stream", "Cache-Control": "no-store"}

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        """Start one chat or completion; see `asyncllm.backend.Backend`."""
        check(request, backend=self._name)
        way = Chat(request) if request.is_chat else Generation(request)
        call = HttpCall(
            url=self._root + way.path,
            body=way.body,
            headers=self._stream_headers if request.stream else self._headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )
        exchange = Exchange(self._transport, call, whole=way.whole, stream=way.decoder)
        return Prepared(lambda: self._check_model(request.model), exchange) if self._verify else exchange

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count by the server's tokenizer, chat template and tools included; see `asyncllm.backend.PromptChecker`.

        TGI has two limits, for the prompt and for prompt and answer together: `limit` is the one that decides.
        """
        check(request, backend=self._name)
        if self._verify:
            await self._check_model(request.model)
        info = await self._info()
        if request.is_chat:
            body = await self._post("/chat_tokenize", write_chat_count(request), request.timeouts)
            tokens = len(decode(body, _templated, "a token list").tokenize_response)
        else:
            body = await self._post("/tokenize", write_count(request), request.timeouts)
            tokens = len(decode(body, _tokens, "a token list"))
        longest = info.max_input_tokens or info.max_input_length
        is_too_long = longest is not None and tokens > longest
        limit = longest if is_too_long else info.max_total_tokens or longest
        return PromptCheck(tokens=tokens, limit=limit, max_tokens=request.sampling.max_tokens or 0)

    async def list_models(self) -> Sequence[ModelInfo]:
        """The one model that `GET /info` names."""
        info = await self._info(afresh=True)
        return [ModelInfo(id=info.model_id, context_tokens=info.max_total_tokens)]

    async def is_alive(self) -> bool:
        """Whether `GET /health` says that the model behind the server is well."""
        await self._get("/health")
        return True

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    async def _check_model(self, model: str) -> None:
        """Raise `NotFoundError` unless the server serves `model`; one that it serves is not asked for again."""
        info = await self._info()
        if info.model_id == model:
            return
        self._known = None  # the server may come back with another model
        raise NotFoundError(
            f"the server does not serve {model!r}; it serves {info.model_id[:200]!r}",
            backend=self._name,
            model=model,
            field="model",
            code="model_not_found",
        )

    async def _info(self, *, afresh: bool = False) -> _Info:
        """What the server was started with, which it is asked once."""
        async with self._asking:
            if self._known is None or afresh:
                self._known = decode(await self._get("/info"), _info, "the server's /info")
            return self._known

    async def _get(self, path: str) -> bytes:
        call = HttpCall(method="GET", url=self._root + path, headers=self._headers, timeouts=_PROBE)
        async with self._transport.open(call) as reply:
            return await reply.read()

    async def _post(self, path: str, body: bytes, timeouts: Timeouts) -> bytes:
        call = HttpCall(url=self._root + path, body=body, headers=self._headers, timeouts=timeouts)
        async with self._transport.open(call) as reply:
            return await reply.read()
