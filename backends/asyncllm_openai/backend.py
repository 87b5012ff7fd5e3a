"""The backend behind `asyncllm_openai.connect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

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
from asyncllm.types import Embeddings, ModelInfo, Noun, Request, Timeouts
from asyncllm_openai.jobs import OpenAIJobs
from asyncllm_openai.media import OpenAIMedia

__all__ = ["CHAT", "COMPATIBLE", "OpenAI", "Service"]

_HOST = "api.openai.com"
CHAT = frozenset(
    {
        "chat", "complete", "extra", "tools", "tool_choice", "parallel_tool_calls", "JsonSchema",
        "image parts", "audio parts", "file parts", "max_tokens", "temperature", "top_p", "stop", "seed",
        "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n", "logit_bias", "reasoning_effort",
    }
)  # fmt: skip
"""What OpenAI's own API has, by the names of `require_supported`."""
COMPATIBLE = CHAT | {
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "include_stop_str_in_output", "stop_token_ids"
}  # fmt: skip
"""The same with the sampling options that vLLM, llama.cpp and others share."""
_OPTIONS = ("headers", "on_bad_event")
_CHAT_OPTIONS = ("delta_mode", "include_usage", "max_tokens_field")  # of chats and completions alone
_LINES = frozenset(
    f"application/{name}" for name in ("jsonl", "jsonlines", "ndjson", "stream+json", "x-jsonlines", "x-ndjson")
)


class Service(Noun, frozen=True, kw_only=True):
    """Who is at the other end: its address, what opens it, and how it departs from OpenAI's API."""

    url: str
    headers: dict[str, str]
    """Of every call; the key is in one of them."""
    supported: frozenset[str]
    flavor: Flavor = Flavor()
    extended: bool = False
    """Whether replies may hold what some services add to OpenAI's form."""
    probe: str = "/models"
    """What is asked for to know whether it is alive, and takes the key."""
    schema_of_texts: bool = False
    """Whether text completions take the schema that chats do: OpenAI's do not, and others ignore it."""
    bare_transcripts: bool = False
    """See `OpenAIMedia`."""
    options: tuple[str, ...] = ()
    """Names of options beside those that every server of this dialect has; `api` is one for who has Responses."""

    _private = frozenset({"url", "headers"})


class OpenAI(OpenAIMedia, OpenAIJobs):
    """One server at one address: OpenAI's own, or the one that `base_url` names, where no `service` is given."""

    def __init__(self, config: Config, context: Context, service: Service | None = None) -> None:
        service = service or _from_config(config, context.env)
        self._responses = "api" in service.options and _choice(config, "api", "chat", "responses")
        config.check_options(*_OPTIONS, *service.options, *(() if self._responses else _CHAT_OPTIONS))
        flavor = service.flavor
        self._name = config.backend
        self._transport = context.transport
        self._url = service.url
        self._own = _is_own(self._url)
        self._headers = service.headers
        self._stream_headers = {**self._headers, "Accept": "text/event-stream", "Cache-Control": "no-store"}
        self._flavor = msgspec.structs.replace(
            flavor,
            max_tokens=config.option("max_tokens_field", str, flavor.max_tokens),
            include_usage=config.option("include_usage", bool, flavor.include_usage),
        )
        self._cumulative = _choice(config, "delta_mode", "incremental", "cumulative")
        self._skip_bad = _choice(config, "on_bad_event", "raise", "skip")
        self._supported = RESPONSES if self._responses else service.supported
        self._of_texts = self._supported if service.schema_of_texts else self._supported - {"JsonSchema"}
        self._extended = service.extended
        self._probe = service.probe
        self._bare_transcripts = service.bare_transcripts
        self.job_calls = frozenset({"submit", "submit_video"})

    def open(self, request: Request, /) -> Exchange:
        """Start one chat or completion; see `asyncllm.backend.Backend`."""
        path, body = self._body(request)
        headers = self._stream_headers if request.stream else self._headers
        if request.idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": request.idempotency_key}
        call = HttpCall(
            url=self._address(path, request.model),
            body=body,
            headers=headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )
        return Exchange(self._transport, call, whole=self._read, stream=self._decoder)

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """Embed texts in one call; see `asyncllm.backend.Embedder`."""
        body = write_embeddings(request, self._flavor)
        url = self._address("/embeddings", request.model)
        call = HttpCall(url=url, body=body, headers=self._headers, timeouts=request.timeouts)
        async with self._transport.open(call) as reply:
            document = await reply.read()
            return read_embeddings(document, count=len(request.texts), sent=body, secrets=self._secrets(call))

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `GET /models` lists."""
        call = self._get("/models")
        async with self._transport.open(call) as reply:
            return read_models(await reply.read(), secrets=self._secrets(call))

    async def is_alive(self) -> bool:
        """Whether the list of models is answered: a server that is up, and a key that it takes."""
        async with self._transport.open(self._get(self._probe)) as reply:
            return bool(await reply.read())

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _body(self, request: Request) -> tuple[str, bytes]:
        """Where a chat or a completion goes, and what is sent there. Raises `UnsupportedError`."""
        require_supported(request, self._supported if request.is_chat else self._of_texts, backend=self._name)
        if self._responses:
            return "/responses", write_response(request)
        if request.is_chat:
            return "/chat/completions", write_chat(request, self._flavor)
        return "/completions", write_completion(request, self._flavor)

    def _media_call(self, path: str, request: MediaRequest, body: bytes, kind: str, *, stream: bool) -> HttpCall:
        call = HttpCall(
            url=self._address(path, request.model),
            body=body,
            headers={**self._headers, "Content-Type": kind},
            stream=stream,
            timeouts=request.timeouts,
        )
        return self._carrying(call)

    def _carrying(self, call: HttpCall) -> HttpCall:
        """`call`, which a subclass may tell of what else opens the service."""
        return call

    def _address(self, path: str, model: str = "") -> str:
        """Where a call goes; a subclass may put `model` or a query into it."""
        del model
        return self._url + path

    def _secrets(self, call: HttpCall) -> tuple[str, ...]:
        """What no error text of `call` may repeat."""
        return call.secrets

    def _read(self, call: HttpCall, _: HttpReply, body: bytes) -> list[Event]:
        return self._read_body(body, call.body, self._secrets(call))

    def _read_body(self, body: bytes, sent: bytes, secrets: tuple[str, ...]) -> list[Event]:
        if self._responses:
            return read_response(body, sent=sent, secrets=secrets)
        return read_reply(body, sent=sent, secrets=secrets, extended=self._extended)

    def _decoder(self, call: HttpCall, _: HttpReply, kind: str) -> StreamDecoder | None:
        if self._responses:
            decoder = ResponseStream(sent=call.body, secrets=self._secrets(call), skip_bad=self._skip_bad)
            return decoder if kind in (EVENT_STREAM, "") else None
        lines = kind in _LINES
        if not lines and kind not in (EVENT_STREAM, ""):
            return None
        return ReplyStream(
            sent=call.body,
            secrets=self._secrets(call),
            lines=lines,
            cumulative=self._cumulative,
            skip_bad=self._skip_bad,
            extended=self._extended,
        )

    def _get(self, path: str) -> HttpCall:
        return HttpCall(method="GET", url=self._address(path), headers=self._headers, timeouts=_PROBE)


_PROBE = Timeouts(connect_s=5, byte_idle_s=10)


def _from_config(config: Config, env: Mapping[str, str]) -> Service:
    """OpenAI itself, which needs a key, or whoever else the configuration names, who may not."""
    url = config.url(env, "OPENAI_BASE_URL", f"https://{_HOST}/v1")
    own = _is_own(url)
    find_key = config.require_key if own else config.key
    return Service(
        url=url,
        headers=_headers(config, env, find_key(env, "OPENAI_API_KEY")),
        supported=CHAT if own else COMPATIBLE,
        schema_of_texts=not own,
        flavor=Flavor(max_tokens="max_completion_tokens", reasoning="") if own else Flavor(),
        options=("api", "organization", "project"),
    )


def _is_own(url: str) -> bool:
    """Whether an address is OpenAI's own, or that of one of its regions, such as eu.api.openai.com."""
    host = urlsplit(url).hostname or ""
    return host == _HOST or host.endswith(f".{_HOST}")


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
