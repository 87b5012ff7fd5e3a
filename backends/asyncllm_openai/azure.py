"""Azure OpenAI: the models that a resource has deployed, by key or by Entra token.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/reference, and the `openai` package for the variables:
`AZURE_OPENAI_API_KEY`, `AZURE_OPENAI_AD_TOKEN`, `AZURE_OPENAI_ENDPOINT`, `OPENAI_API_VERSION`.

The model of a call is the name of a deployment, or what `deployments` says for it. `api_version` chooses the surface: a
date, such as 2024-10-21, goes to `{endpoint}/openai/deployments/{deployment}/...?api-version={date}`, and `v1` to
`{endpoint}/openai/v1/...`, where the deployment is the model of the body. An address that ends in `/openai/v1` is of
the `v1` surface too.

Models of other makers (Mistral, Llama, DeepSeek) that a resource has deployed answer on the `v1` surface; an endpoint
of their own, with a key as a bearer token, is `openai` with a `base_url`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from asyncllm.backend import (
    About,
    Backend,
    Config,
    Context,
    DubRequest,
    EmbedRequest,
    HttpCall,
    ImageRequest,
    JobRequest,
    JobState,
    MediaEvents,
    MediaRequest,
    Secret,
    SpeechRequest,
    TranscribeRequest,
)
from asyncllm.dialect import Flavor
from asyncllm.errors import ConfigError, UnsupportedError
from asyncllm.exchange import Exchange
from asyncllm.media import Images, Speech, Transcript
from asyncllm.types import Embeddings, ModelInfo, PromptCheck, Request
from asyncllm_openai.backend import CHAT, Service
from asyncllm_openai.batches import OpenAIWithBatches
from asyncllm_openai.counting import Counter, counter
from asyncllm_openai.offered import offered
from asyncllm_openai.tokens import Authorized, Tokens

__all__ = ["Azure", "about", "connect"]

R = TypeVar("R", bound=Request | EmbedRequest | MediaRequest)

_VERSION = "2024-10-21"  # the last one with a date that is no preview
_RENAMED = "2024-09-01"  # from here on there are `max_completion_tokens` and `stream_options`
_OLD = Flavor(max_tokens="max_tokens", reasoning="", include_usage=False)
_NEW = Flavor(max_tokens="max_completion_tokens", reasoning="")
_RESPONSES = "2025-03-01"  # from here on there is the Responses API
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?")
_V1 = "/openai/v1"
_OF_DEPLOYMENTS = frozenset(
    {
        "/audio/speech", "/audio/transcriptions", "/audio/translations", "/chat/completions", "/completions",
        "/embeddings", "/images/edits", "/images/generations",
    }
)  # fmt: skip
_CALLS = (
    "chat", "complete", "embed", "list_models", "transcribe", "speak", "generate_image", "edit_image", "submit",
    "submit_video",
)  # fmt: skip
_OPTIONS = ("ad_token", "api", "api_version", "context_tokens", "deployments", "token_provider", "tokenizer")


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options: `api_version`; `deployments`, a mapping of the models that may be asked for to the names of their
    deployments; `ad_token`, or `token_provider`, a function that gives a token or `(token, expires_on)`, async or not;
    `tokenizer`, a function from a text to its tokens or their number, which `check_prompt` then counts by, and
    `context_tokens` for a model whose limit is not known; and those of `openai`, among them
    `api="responses"`, which goes to the `v1` surface where no version is set.
    """
    count = counter(config)
    if count is None:
        return offered(Azure(config, context), _CALLS, batches=True)
    return offered(_CountingAzure(config, context, count), (*_CALLS, "check_prompt"), batches=True)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="Azure OpenAI deployments",
        variables=("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"),
        calls=_CALLS,
    )


class Azure(OpenAIWithBatches):
    """The deployments of one resource."""

    def __init__(self, config: Config, context: Context) -> None:
        endpoint, self._version = _surface(config, context.env)
        self._deployments = _deployments(config)
        headers, provider = _credentials(config, context.env)
        self._tokens = None if provider is None else Tokens(provider, context.clock, config.backend)
        if self._tokens is not None:
            context = msgspec.structs.replace(context, transport=Authorized(context.transport, self._tokens))
        service = Service(
            url=endpoint,
            headers=config.headers({"Content-Type": "application/json", **headers}),
            supported=CHAT,
            flavor=_OLD if self._version is not None and self._version < _RENAMED else _NEW,
            options=_OPTIONS,
        )
        super().__init__(config, context, service)
        self._batch_root = "/v1" if self._version is None else ""

    def open(self, request: Request, /) -> Exchange:
        """Start one chat or completion. Raises `ConfigError` for a model that `deployments` does not name."""
        return super().open(self._named(request))

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """Embed texts in one call. Raises `ConfigError` for a model that `deployments` does not name."""
        return await super().embed(self._named(request))

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        """See `OpenAI`; this and the calls below go to the deployment of their model, whose name tells no whisper."""
        named = self._named(request)
        if request.verbose is UNSET and "whisper" in request.model.lower():
            named = msgspec.structs.replace(named, verbose=True)
        return await super().transcribe(named)

    async def speak(self, request: SpeechRequest, /) -> Speech:
        """See `OpenAI`."""
        return await super().speak(self._named(request))

    def open_speech(self, request: SpeechRequest, /) -> MediaEvents:
        """See `OpenAI`."""
        return super().open_speech(self._named(request))

    async def generate_image(self, request: ImageRequest, /) -> Images:
        """See `OpenAI`."""
        return await super().generate_image(self._named(request))

    async def edit_image(self, request: ImageRequest, /) -> Images:
        """See `OpenAI`."""
        return await super().edit_image(self._named(request))

    def open_image(self, request: ImageRequest, /) -> MediaEvents:
        """See `OpenAI`."""
        return super().open_image(self._named(request))

    async def submit(self, request: JobRequest, /) -> JobState:
        """See `OpenAI`: films on the `v1` surface, responses on any that has them."""
        if isinstance(request, DubRequest):
            return await super().submit(request)
        since = _RESPONSES if isinstance(request, Request) else None
        if self._version is not None and (since is None or self._version < since):
            raise UnsupportedError(
                f"jobs need api_version='v1'{'' if since is None else f', or a date from {since}-preview on'}, and not "
                f"{self._version}",
                backend=self._name,
                field="submit" if since else "submit_video",
            )
        return await super().submit(msgspec.structs.replace(request, model=self._deployment(request.model)))

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `deployments` names; without it, the models that the service says the resource could use."""
        if self._deployments is None:
            return await super().list_models()
        return [ModelInfo(id=name) for name in self._deployments]

    def _address(self, path: str, model: str = "") -> str:
        if self._version is None:
            return f"{self._url}{path}"
        place = f"/deployments/{quote(self._deployment(model), safe='')}" if path in _OF_DEPLOYMENTS else ""
        return f"{self._url}{place}{path}?api-version={self._version}"

    def _named(self, request: R) -> R:
        """`request` with the name of its deployment where the body has to tell it."""
        deployment = self._deployment(request.model)
        told = self._version is not None and not self._responses
        return request if told else msgspec.structs.replace(request, model=deployment)

    def _deployment(self, model: str) -> str:
        deployment = model if self._deployments is None else self._deployments.get(model)
        if not deployment:
            known = ", ".join(sorted(self._deployments or ()))
            raise ConfigError(
                f"the {self._name!r} backend has no deployment of the model {model[:100]!r}"
                + (f"; the option 'deployments' names {known}" if known else ": a call names one as its model"),
                backend=self._name,
                field="model",
            )
        return deployment

    def _batch_model(self, model: str) -> str:
        return self._deployment(model)

    def _carrying(self, call: HttpCall) -> HttpCall:
        return call if self._tokens is None else _TokenCall(**msgspec.structs.asdict(call), tokens=self._tokens)

    def _secrets(self, call: HttpCall) -> tuple[str, ...]:
        return super()._secrets(call) + (() if self._tokens is None else self._tokens.secrets)


class _TokenCall(HttpCall, frozen=True, kw_only=True):
    """A call whose token is put into it on the way."""

    tokens: Tokens

    _private = frozenset({"url", "body", "headers", "tokens"})

    @property
    def secrets(self) -> tuple[str, ...]:
        """See `HttpCall`."""
        return super().secrets + self.tokens.secrets


class _CountingAzure(Azure):
    """One that was given a tokenizer."""

    def __init__(self, config: Config, context: Context, count: Counter) -> None:
        super().__init__(config, context)
        self._count = count

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count a conversation by the tokenizer that the configuration brought; nothing is sent."""
        self._deployment(request.model)
        return self._count(request)


def _surface(config: Config, env: Mapping[str, str]) -> tuple[str, str | None]:
    """Where paths begin, and the version that each call names, or `None` where it names none."""
    endpoint = config.url(env, "AZURE_OPENAI_ENDPOINT")
    told = config.option("api_version", str, "") or env.get("OPENAI_API_VERSION", "").strip()
    responses = config.options.get("api") == "responses"
    version = told or ("v1" if responses or endpoint.endswith(_V1) else _VERSION)
    if version != "v1" and _DATED.fullmatch(version) is None:
        raise ConfigError(
            f"api_version is a date such as {_VERSION} or 2025-04-01-preview, or 'v1', not {version[:40]!r}",
            backend=config.backend,
            field="api_version",
        )
    if version == "v1":
        return f"{endpoint.removesuffix(_V1)}{_V1}", None
    if responses and version < _RESPONSES:
        raise ConfigError(
            f"api='responses' needs api_version='v1', or a date from {_RESPONSES}-preview on, and not {version}",
            backend=config.backend,
            field="api_version",
        )
    if endpoint.endswith(_V1):
        raise ConfigError(
            f"an address that ends in {_V1} takes api_version='v1' and no {version}; leave the end out, or the version",
            backend=config.backend,
            field="api_version",
        )
    return f"{endpoint}/openai", version


def _deployments(config: Config) -> dict[str, str] | None:
    """The option `deployments`, or `None` where models go by the names of their deployments."""
    if "deployments" not in config.options:
        return None
    named: dict[Any, Any] = config.option("deployments", dict, {})
    for model, name in named.items():
        if not (isinstance(model, str) and isinstance(name, str) and model and name):
            raise ConfigError(
                "deployments is a mapping of model names to the names of their deployments, none of them empty",
                backend=config.backend,
                field="deployments",
            )
    return named


def _credentials(config: Config, env: Mapping[str, str]) -> tuple[dict[str, str], Any]:
    """The header that opens the service, or the provider of tokens for it: exactly one of the ways.

    What is configured wins over the environment, and there a token over a key, as with the `openai` package.
    """
    token, provider = config.option("ad_token", str, ""), config.options.get("token_provider")
    given = [
        name
        for name, value in (("api_key", config.api_key), ("ad_token", token), ("token_provider", provider))
        if value
    ]
    if len(given) > 1:
        raise ConfigError(
            f"{' and '.join(given)} exclude each other: a call carries one of them",
            backend=config.backend,
            field=given[1],
        )
    if provider is not None:
        if not callable(provider):
            raise ConfigError(
                "token_provider is a function without arguments", backend=config.backend, field="token_provider"
            )
        return {}, provider
    if not given:
        token = env.get("AZURE_OPENAI_AD_TOKEN", "").strip()
    if token:
        return {"Authorization": f"Bearer {Secret(token).reveal()}"}, None
    key = config.key(env, "AZURE_OPENAI_API_KEY")
    if key is None:
        raise ConfigError(
            f"the {config.backend!r} backend needs a key or a token: set AZURE_OPENAI_API_KEY or "
            "AZURE_OPENAI_AD_TOKEN, or pass api_key= or the option 'token_provider'",
            backend=config.backend,
            field="api_key",
        )
    return {"api-key": key.reveal()}, None
