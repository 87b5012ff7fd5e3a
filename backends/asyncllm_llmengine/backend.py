"""The backend behind `asyncllm_llmengine.connect`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from asyncllm.backend import Config, Context, HttpCall, HttpReply, Secret, require_supported
from asyncllm.dialect import ReplyStream, read_reply, write_chat, write_completion
from asyncllm.errors import ConfigError, InvalidRequestError
from asyncllm.events import Event
from asyncllm.exchange import EVENT_STREAM, Exchange
from asyncllm.types import ModelInfo, Request, Timeouts
from asyncllm_llmengine.checks import FRAMEWORKS, TENSORRT, check_completion, check_guided, guided, is_between
from asyncllm_llmengine.replies import CompletionStream, read_completion, read_endpoint, read_endpoints
from asyncllm_llmengine.requests import Defaults, write_v1

__all__ = ["LLMEngine"]

_HOSTED = "https://api.spellbook.scale.com/llm-engine"
_CONSTRAINTS = frozenset({"JsonSchema", "Regex", "Choice", "Grammar"})
_V1 = _CONSTRAINTS | {
    "complete", "extra", "max_tokens", "temperature", "top_p", "top_k", "stop", "presence_penalty",
    "frequency_penalty", "logprobs", "include_stop_str_in_output",
}  # fmt: skip
_V2 = _CONSTRAINTS | {
    "chat", "complete", "extra", "tools", "tool_choice", "parallel_tool_calls", "image parts", "max_tokens",
    "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n",
    "logit_bias", "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "include_stop_str_in_output",
    "stop_token_ids",
}  # fmt: skip
_PROBE = Timeouts(connect_s=5, byte_idle_s=10)


class LLMEngine:
    """One gateway."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options(
            "auth", "completions", "framework", "headers", "health", "max_new_tokens", "structured_outputs",
            "temperature",
        )  # fmt: skip
        self._name = config.backend
        self._transport = context.transport
        # Put together here and not joined by the rules of links, which would drop the last segment of the path.
        self._url = config.url(context.env, "LLM_ENGINE_BASE_PATH", _HOSTED)
        key = config.require_key(context.env, "SCALE_API_KEY")
        auth = _one_of(config, "auth", "basic", "bearer")
        self._headers = config.headers({"Content-Type": "application/json", **_auth(key, auth)})
        self._stream_headers = {**self._headers, "Accept": EVENT_STREAM, "Cache-Control": "no-store"}
        self._is_v1 = _one_of(config, "completions", "v1", "v2") == "v1"
        self._framework = _one_of(config, "framework", "", *FRAMEWORKS)
        self._health = _one_of(config, "health", "healthz", "readyz", "healthcheck")
        self._structured = config.option("structured_outputs", bool, False)
        self._defaults = _defaults(config)

    def open(self, request: Request, /) -> Exchange:
        """Start one chat or completion; see `asyncllm.backend.Backend`."""
        if request.is_chat or not self._is_v1:
            return self._open_v2(request)
        require_supported(request, _V1, backend=self._name)
        check_completion(request, self._framework, temperature=self._defaults.temperature, backend=self._name)
        limit, body = write_v1(request, self._defaults)
        kind = "stream" if request.stream else "sync"
        call = self._post(
            f"/v1/llm/completions-{kind}?model_endpoint_name={quote(request.model, safe='')}", body, request
        )

        def whole(call: HttpCall, _: HttpReply, body: bytes) -> list[Event]:
            return read_completion(body, model=request.model, limit=limit, call=call)

        def stream(call: HttpCall, _: HttpReply, kind: str) -> CompletionStream | None:
            if kind not in (EVENT_STREAM, ""):
                return None
            closes = self._framework == TENSORRT
            return CompletionStream(model=request.model, limit=limit, call=call, ends_by_closing=closes)

        return Exchange(self._transport, call, whole=whole, stream=stream)

    async def list_models(self) -> Sequence[ModelInfo]:
        """The endpoints that `GET /v1/llm/model-endpoints` lists."""
        async with self._transport.open(self._get("v1/llm/model-endpoints")) as reply:
            return read_endpoints(await reply.read())

    async def get_model(self, id_or_name: str, /) -> ModelInfo:
        """One endpoint, by the name that requests take."""
        if id_or_name in ("", ".", ".."):
            raise InvalidRequestError("a model is the name of an endpoint", field="model", backend=self._name)
        async with self._transport.open(self._get(f"v1/llm/model-endpoints/{quote(id_or_name, safe='')}")) as reply:
            return read_endpoint(await reply.read())

    async def is_alive(self) -> bool:
        """Whether the gateway says that it is; whether an endpoint is up it does not say."""
        async with self._transport.open(self._get(self._health)) as reply:
            await reply.read()
            return True

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _open_v2(self, request: Request) -> Exchange:
        path, body = self._v2_body(request)
        return Exchange(self._transport, self._post(path, body, request), whole=_read, stream=_decoder)

    def _v2_body(self, request: Request) -> tuple[str, bytes]:
        """Where a call of V2 goes, and what is sent there. Raises `UnsupportedError`, `InvalidRequestError`."""
        require_supported(request, _V2, backend=self._name)
        check_guided(request)
        if request.constraint is not None:
            fields = guided(request.constraint, structured=self._structured)
            request = msgspec.structs.replace(request, constraint=None, extra={**fields, **request.extra})
        if request.is_chat:
            return "/v2/chat/completions", write_chat(request)
        return "/v2/completions", write_completion(request)

    def _post(self, path: str, body: bytes, request: Request) -> HttpCall:
        return HttpCall(
            url=self._url + path,
            body=body,
            headers=self._stream_headers if request.stream else self._headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )

    def _get(self, path: str) -> HttpCall:
        return HttpCall(method="GET", url=f"{self._url}/{path}", headers=self._headers, timeouts=_PROBE)


def _read(call: HttpCall, _: HttpReply, body: bytes) -> list[Event]:
    return read_reply(body, sent=call.body, secrets=call.secrets)


def _decoder(call: HttpCall, _: HttpReply, kind: str) -> ReplyStream | None:
    # `[DONE]` is filtered out on the way, so the rule of the dialect for a body that merely ends is the usual case.
    return ReplyStream(sent=call.body, secrets=call.secrets) if kind in (EVENT_STREAM, "") else None


def _auth(key: Secret, auth: str) -> dict[str, str]:
    value = key.reveal()
    words = f"Bearer {value}" if auth == "bearer" else f"Basic {b64encode(f'{value}:'.encode()).decode()}"
    return {"x-api-key": value, "Authorization": words}


def _one_of(config: Config, name: str, *words: str) -> str:
    """The option `name`, the first of `words` where it is not set. Raises `ConfigError` where it is none of them."""
    word = config.option(name, str, words[0])
    if word not in words:
        raise ConfigError(
            f"the option {name!r} of the {config.backend!r} backend is one of {', '.join(filter(None, words))}",
            backend=config.backend,
            field=name,
        )
    return word


def _defaults(config: Config) -> Defaults:
    limit = config.option("max_new_tokens", int, 20)
    temperature: Any = config.options.get("temperature", 0.2)
    if limit < 1:
        raise ConfigError("max_new_tokens is a whole number from 1 up", backend=config.backend, field="max_new_tokens")
    if not is_between(temperature, 0, 1):
        raise ConfigError("temperature is a number from 0 to 1", backend=config.backend, field="temperature")
    return Defaults(max_new_tokens=limit, temperature=temperature)
