"""The backend behind `asyncllm_anthropic.connect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from asyncllm.backend import Config, Context, HttpCall, HttpReply, require_supported
from asyncllm.dialect.requests import encode
from asyncllm.events import Event
from asyncllm.exchange import EVENT_STREAM, Exchange
from asyncllm.types import ModelInfo, PromptCheck, Request, Timeouts
from asyncllm_anthropic.options import SHARED, Options
from asyncllm_anthropic.replies import read_count, read_message, read_models
from asyncllm_anthropic.requests import counted, write_messages
from asyncllm_anthropic.streams import MessageStream

__all__ = ["Anthropic"]

_HOST = "api.anthropic.com"
_VERSION = "2023-06-01"
_PAGE = 1000  # the most that a page of the list of models may have
_PROBE = Timeouts(connect_s=5, byte_idle_s=10)


class Anthropic:
    """One server at one address."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options("bearer", *SHARED)
        self._name = config.backend
        self._transport = context.transport
        # Addresses of this API are told without the version in its paths, and written with it all the same.
        self._url = config.url(context.env, "ANTHROPIC_BASE_URL", f"https://{_HOST}").removesuffix("/v1")
        self._options = Options.of(config, version=_VERSION)
        self._headers = config.headers(self._usual_headers(config, context.env))
        self._stream_headers = {**self._headers, "Accept": EVENT_STREAM, "Cache-Control": "no-store"}

    def open(self, request: Request, /) -> Exchange:
        """Start one chat; see `asyncllm.backend.Backend`."""
        head = {"model": request.model, "stream": True} if request.stream else {"model": request.model}
        call = HttpCall(
            url=f"{self._url}/v1/messages",
            body=encode(self._body(request, head)),
            headers=self._stream_headers if request.stream else self._headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )
        return Exchange(self._transport, call, whole=_read, stream=_decoder)

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """What `POST /v1/messages/count_tokens` counts; the service does not say how many tokens a model takes."""
        body = self._body(request, {"model": request.model})
        call = HttpCall(
            url=f"{self._url}/v1/messages/count_tokens",
            body=encode(counted(body)),
            headers=self._headers,
            timeouts=request.timeouts,
        )
        async with self._transport.open(call) as reply:
            tokens = read_count(await reply.read())
        room = request.sampling.max_tokens
        return PromptCheck(tokens=tokens, limit=None, max_tokens=room if isinstance(room, int) else 0)

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `GET /v1/models` lists, page after page."""
        models: dict[str, ModelInfo] = {}
        after = ""
        while True:
            async with self._transport.open(self._get(f"/v1/models?limit={_PAGE}{after}")) as reply:
                page, last = read_models(await reply.read())
            fresh = {model.id: model for model in page if model.id not in models}
            models |= fresh
            if last is None or not fresh:
                return list(models.values())
            after = f"&after_id={quote(last, safe='')}"

    async def is_alive(self) -> bool:
        """Whether `GET /v1/models` is answered: a server that is up, and a key that it takes."""
        async with self._transport.open(self._get("/v1/models?limit=1")) as reply:
            return bool(await reply.read())

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _body(self, request: Request, head: dict[str, Any]) -> dict[str, Any]:
        """What is sent for a chat, `head` and all. Raises `UnsupportedError`."""
        require_supported(request, self._options.supported, backend=self._name)
        return write_messages(request, self._options, head, backend=self._name)

    def _usual_headers(self, config: Config, env: Mapping[str, str]) -> dict[str, str]:
        """Headers of every call. A server of one's own may do without a key."""
        headers = {"Content-Type": "application/json", "anthropic-version": self._options.version}
        if self._options.beta:
            headers["anthropic-beta"] = ",".join(self._options.beta)
        key, bearer = config.key(env, "ANTHROPIC_API_KEY"), config.option("bearer", bool, False)
        if key is None:
            key, bearer = config.key(env, "ANTHROPIC_AUTH_TOKEN"), True
        if key is None:
            if urlsplit(self._url).hostname == _HOST:
                config.require_key(env, "ANTHROPIC_API_KEY")
        elif bearer:
            headers["Authorization"] = f"Bearer {key.reveal()}"
        else:
            headers["x-api-key"] = key.reveal()
        return headers

    def _get(self, path: str) -> HttpCall:
        return HttpCall(method="GET", url=self._url + path, headers=self._headers, timeouts=_PROBE)


def _read(call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]:
    request_id = reply.headers.get("request-id")
    return read_message(body, request_id=request_id, sent=call.body, secrets=call.secrets)


def _decoder(call: HttpCall, reply: HttpReply, kind: str) -> MessageStream | None:
    if kind not in (EVENT_STREAM, ""):
        return None
    return MessageStream(request_id=reply.headers.get("request-id"), sent=call.body, secrets=call.secrets)
