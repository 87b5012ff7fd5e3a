"""The backend behind `asyncllm_openai.connect`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from urllib.parse import urlsplit

from asyncllm.backend import Config, Context, EmbedRequest, HttpCall, HttpReply, Secret, require_supported
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
from asyncllm.errors import ConfigError, ProtocolError
from asyncllm.events import Event, Events, Ready
from asyncllm.rejection import excerpt
from asyncllm.types import Embeddings, ModelInfo, Request, Timeouts

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
_LINES = frozenset(
    f"application/{name}" for name in ("jsonl", "jsonlines", "ndjson", "stream+json", "x-jsonlines", "x-ndjson")
)
_PAGE_BYTES = 4096  # enough of a page to tell whose it is


class OpenAI:
    """One server at one address."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options(
            "delta_mode", "headers", "include_usage", "max_tokens_field", "on_bad_event", "organization", "project"
        )
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
        self._supported = _OPENAI if self._own else _COMPATIBLE

    def open(self, request: Request, /) -> _Exchange:
        """Start one chat or completion; see `asyncllm.backend.Backend`."""
        require_supported(request, self._supported, backend=self._name)
        if request.is_chat:
            path, body = "/chat/completions", write_chat(request, self._flavor)
        else:
            path, body = "/completions", write_completion(request, self._flavor)
        call = HttpCall(
            url=self._url + path,
            body=body,
            headers=self._stream_headers if request.stream else self._headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )
        return _Exchange(self._transport.open(call), call, cumulative=self._cumulative, skip_bad=self._skip_bad)

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

    def _get(self, path: str) -> HttpCall:
        return HttpCall(method="GET", url=self._url + path, headers=self._headers, timeouts=_PROBE)


_PROBE = Timeouts(connect_s=5, byte_idle_s=10)


class _Exchange:
    """One call under way. A class and not a decorated generator: this is the path that every call takes."""

    __slots__ = ("_call", "_cumulative", "_events", "_exchange", "_skip_bad")

    def __init__(
        self, exchange: AbstractAsyncContextManager[HttpReply], call: HttpCall, *, cumulative: bool, skip_bad: bool
    ) -> None:
        self._exchange = exchange
        self._call = call
        self._cumulative = cumulative
        self._skip_bad = skip_bad
        self._events: Ready | None = None

    async def __aenter__(self) -> Events:
        reply = await self._exchange.__aenter__()
        call = self._call
        if call.stream:
            self._events = Ready((), self._stream(reply, call))
            return self._events
        try:
            return Ready(read_reply(await reply.read(), sent=call.body, secrets=call.secrets))
        except BaseException as error:
            await self._exchange.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._events is not None:
            await self._events.aclose()
        return await self._exchange.__aexit__(kind, error, trace)

    async def _stream(self, reply: HttpReply, call: HttpCall) -> AsyncGenerator[list[Event]]:
        """The events of each network read together."""
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        lines = kind in _LINES
        if not lines and (kind == "application/json" or kind.endswith("+json")):
            # The server does not stream, or answers with an error under a status of 200: either way, in one piece.
            yield read_reply(await reply.read(), sent=call.body, secrets=call.secrets)
            return
        if not lines and kind not in ("text/event-stream", ""):
            raise await _not_a_stream(reply, kind, call)
        stream = ReplyStream(
            sent=call.body,
            secrets=call.secrets,
            lines=lines,
            cumulative=self._cumulative,
            skip_bad=self._skip_bad,
        )
        while data := await reply.receive():
            if events := stream.feed(data):
                yield events
            if stream.error is not None:
                raise stream.error
            if stream.done:
                # Stopping at the terminal event would cost a new connection a call: its body has an end of its own.
                await reply.drain()
                return
        yield stream.close()


async def _not_a_stream(reply: HttpReply, kind: str, call: HttpCall) -> ProtocolError:
    """The error for a reply of another kind, most often a page of something in between."""
    page = b""
    while len(page) < _PAGE_BYTES and (data := await reply.receive()):
        page += data
    told = excerpt(page, sent=call.body, secrets=call.secrets) if kind.startswith("text/") else ""
    return ProtocolError(
        f"a stream was asked for and the server answers with {kind[:60]}{f' ({told[:200]})' if told else ''}: "
        "check base_url",
        status=reply.status,
        body=page,
    )


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
    headers |= config.option("headers", dict, {})
    for name, value in headers.items():
        if (
            not isinstance(value, str)
            or not value.isprintable()
            or not name.replace("-", "").replace("_", "").isalnum()
        ):
            raise ConfigError(
                f"the header {name[:40]!r} is not a name with a value on one line",
                backend=config.backend,
                field="headers",
            )
    return headers
