"""The backend behind `asyncllm_openai.connect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from asyncllm.backend import Config, Context, EmbedRequest, HttpCall, HttpReply, MediaRequest, Secret, require_supported
from asyncllm.dialect import (
    Flavor,
    ReplyStream,
    read_embeddings,
    read_models,
    read_reply,
    write_chat,
    write_completion,
    write_embeddings,
)
from asyncllm.dialect.responses import SUPPORTED as RESPONSES
from asyncllm.dialect.responses import ResponseStream, read_response, write_response
from asyncllm.errors import ConfigError
from asyncllm.events import Event
from asyncllm.exchange import EVENT_STREAM, Exchange, StreamDecoder
from asyncllm.types import Embeddings, ModelInfo, Request, Timeouts
from asyncllm_openai.media import OpenAIMedia

__all__ = ["OpenAI"]

_HOST = "api.openai.com"
_OPENAI = frozenset(
    {
        "chat", "complete", "extra", "tools", "tool_choice", "parallel_tool_calls", "JsonSchema",
        "image parts", "audio parts", "file parts", "max_tokens", "temperature", "top_p", "stop", "seed",
        "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n", "logit_bias", "reasoning_effort",
    }
)  # fmt: skip
_COMPATIBLE = _OPENAI | {
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "include_stop_str_in_output", "stop_token_ids"
}  # fmt: skip
_OPTIONS = ("api", "headers", "on_bad_event", "organization", "project")
_CHAT_OPTIONS = ("delta_mode", "include_usage", "max_tokens_field")  # of chats and completions alone
_LINES = frozenset(
    f"application/{name}" for name in ("jsonl", "jsonlines", "ndjson", "stream+json", "x-jsonlines", "x-ndjson")
)


class OpenAI(OpenAIMedia):
    """One server at one address."""

    def __init__(self, config: Config, context: Context) -> None:
        self._responses = _choice(config, "api", "chat", "responses")
        config.check_options(*_OPTIONS, *(() if self._responses else _CHAT_OPTIONS))
        self._name = config.backend
        self._transport = context.transport
        self._url = config.url(context.env, "OPENAI_BASE_URL", f"https://{_HOST}/v1")
        self._own = urlsplit(self._url).hostname == _HOST
        find_key = config.require_key if self._own else config.key
        self._headers = _headers(config, context.env, find_key(context.env, "OPENAI_API_KEY"))
        self._stream_headers = {**self._headers, "Accept": "text/event-stream", "Cache-Control": "no-store"}
        limit = "max_completion_tokens" if self._own else "max_tokens"
        self._flavor = Flavor(
            max_tokens=config.option("max_tokens_field", str, limit),
            include_usage=config.option("include_usage", bool, True),
            reasoning_content=not self._own,
        )
        self._cumulative = _choice(config, "delta_mode", "incremental", "cumulative")
        self._skip_bad = _choice(config, "on_bad_event", "raise", "skip")
        self._supported = RESPONSES if self._responses else _OPENAI if self._own else _COMPATIBLE

    def open(self, request: Request, /) -> Exchange:
        """Start one chat or completion; see `asyncllm.backend.Backend`."""
        require_supported(request, self._supported, backend=self._name)
        if self._responses:
            path, body = "/responses", write_response(request)
        elif request.is_chat:
            path, body = "/chat/completions", write_chat(request, self._flavor)
        else:
            path, body = "/completions", write_completion(request, self._flavor)
        headers = self._stream_headers if request.stream else self._headers
        if request.idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": request.idempotency_key}
        call = HttpCall(
            url=self._url + path,
            body=body,
            headers=headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )
        return Exchange(self._transport, call, whole=self._read, stream=self._decoder)

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """Embed texts in one call; see `asyncllm.backend.Embedder`."""
        body = write_embeddings(request)
        call = HttpCall(url=f"{self._url}/embeddings", body=body, headers=self._headers, timeouts=request.timeouts)
        async with self._transport.open(call) as reply:
            return read_embeddings(await reply.read(), count=len(request.texts))

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `GET /models` lists."""
        async with self._transport.open(self._get("/models")) as reply:
            return read_models(await reply.read())

    async def is_alive(self) -> bool:
        """Whether `GET /models` is answered: a server that is up, and a key that it takes."""
        async with self._transport.open(self._get("/models")) as reply:
            return bool(await reply.read())

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _media_call(self, path: str, request: MediaRequest, body: bytes, kind: str, *, stream: bool) -> HttpCall:
        return HttpCall(
            url=self._url + path,
            body=body,
            headers={**self._headers, "Content-Type": kind},
            stream=stream,
            timeouts=request.timeouts,
        )

    def _read(self, call: HttpCall, _: HttpReply, body: bytes) -> list[Event]:
        read = read_response if self._responses else read_reply
        return read(body, sent=call.body, secrets=call.secrets)

    def _decoder(self, call: HttpCall, _: HttpReply, kind: str) -> StreamDecoder | None:
        if self._responses:
            decoder = ResponseStream(sent=call.body, secrets=call.secrets, skip_bad=self._skip_bad)
            return decoder if kind in (EVENT_STREAM, "") else None
        lines = kind in _LINES
        if not lines and kind not in (EVENT_STREAM, ""):
            return None
        return ReplyStream(
            sent=call.body, secrets=call.secrets, lines=lines, cumulative=self._cumulative, skip_bad=self._skip_bad
        )

    def _get(self, path: str) -> HttpCall:
        return HttpCall(method="GET", url=self._url + path, headers=self._headers, timeouts=_PROBE)


_PROBE = Timeouts(connect_s=5, byte_idle_s=10)


def _choice(config: Config, name: str, usual: str, other: str) -> bool:
    """Whether the option `name` says `other`. Raises `ConfigError` where it says neither."""
    word = config.option(name, str, usual)
    if word not in (usual, other):
        raise ConfigError(
            f"the option {name!r} of the {config.backend!r} backend is {usual!r} or {other!r}, not {word[:40]!r}",
            backend=config.backend,
            field=name,
        )
    return word == other


def _headers(config: Config, env: Mapping[str, str], key: Secret | None) -> dict[str, str]:
    """Headers of every call, checked here so that a bad one is found before anything is sent."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    for name, option, variable in (
        ("OpenAI-Organization", "organization", "OPENAI_ORG_ID"),
        ("OpenAI-Project", "project", "OPENAI_PROJECT_ID"),
    ):
        value = config.option(option, str, "") or env.get(variable, "").strip()
        if value:
            headers[name] = value
    return config.headers(headers)
