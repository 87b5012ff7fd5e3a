"""The backend behind `asyncllm_aixplain.connect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET

from asyncllm.backend import Config, Context, HttpCall, Secret, require_supported
from asyncllm.errors import ConfigError, InvalidRequestError, UnsupportedError
from asyncllm.exchange import EVENT_STREAM
from asyncllm.trusted import Trusted, trusted_hosts
from asyncllm.types import ModelInfo, Request
from asyncllm_aixplain.catalog import Catalog
from asyncllm_aixplain.jobs import RunJobs
from asyncllm_aixplain.polling import Poller
from asyncllm_aixplain.requests import write_run
from asyncllm_aixplain.run import Run

__all__ = ["AiXplain"]

_EXECUTE = "https://models.aixplain.com/api/v2/execute"
_CATALOG = "https://platform-api.aixplain.com"
_OWN = ".aixplain.com"
_SUPPORTED = frozenset({"chat", "extra", "max_tokens", "temperature", "top_p", "JsonSchema"})


class AiXplain(RunJobs):
    """The models that one key may run."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options("backend_url", "catalog", "headers", "trusted_hosts", "wait_time")
        self._name = config.backend
        self._transport = context.transport
        self._clock = context.clock
        self._url = _execute_url(config, context.env)
        key = _key(config, context.env).reveal()
        self._headers = config.headers({"Content-Type": "application/json", "x-api-key": key})
        self._stream_headers = {**self._headers, "Accept": EVENT_STREAM, "Cache-Control": "no-store"}
        catalog_headers = config.headers({"Content-Type": "application/json", "Authorization": f"Token {key}"})
        self._catalog = Catalog(
            context.transport, _catalog_url(config, context.env, self._url), catalog_headers, backend=self._name
        )
        self._asks_catalog = config.option("catalog", bool, False)
        if self._asks_catalog:
            self._catalog.require()
        self._trusted = Trusted(self._url, trusted_hosts(config))
        self._poller = Poller(
            context.transport, context.clock, self._headers, trusted=self._trusted, wait_s=_wait_s(config)
        )

    def open(self, request: Request, /) -> Run:
        """Start one run; see `asyncllm.backend.Backend`."""
        self._check(request)
        return Run(self._transport, self._clock, self._poller, request, self._call)

    async def list_models(self) -> Sequence[ModelInfo]:
        """Every model of the catalogue that generates text."""
        return await self._catalog.list_models()

    async def get_model(self, id_or_name: str, /) -> ModelInfo:
        """The model of that id, else the one of that name."""
        return await self._catalog.get_model(id_or_name)

    async def is_alive(self) -> bool:
        """Whether the catalogue takes the key; without an address of one, nothing can be asked that costs nothing."""
        return not self._catalog.is_known or await self._catalog.is_alive()

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _check(self, request: Request) -> None:
        require_supported(request, _SUPPORTED, backend=self._name)
        if request.model in (".", ".."):  # which an address would take for something else
            raise InvalidRequestError("a model is the id of one", field="model", backend=self._name)

    async def _call(self, request: Request) -> HttpCall:
        """The call that runs `request`, once the catalogue has nothing against it."""
        temperature = None
        if self._asks_catalog:
            asset = await self._catalog.asset(request.model)
            if not asset.generates_text:
                raise self._unfit(request, "chat", f"whose function is {asset.function!r} and not text-generation")
            if request.stream and asset.streams is False:
                raise self._unfit(request, "stream", "which cannot stream; use chat")
            if request.sampling.temperature is UNSET:
                temperature = asset.temperature
        return HttpCall(
            url=f"{self._url}/{quote(request.model, safe='')}",
            body=write_run(request, temperature, backend=self._name),
            headers=self._stream_headers if request.stream else self._headers,
            stream=request.stream,
            timeouts=request.timeouts,
        )

    def _unfit(self, request: Request, field: str, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"the {self._name!r} backend does not support {field} with a model {why}",
            backend=self._name,
            model=request.model,
            field=field,
        )


def _execute_url(config: Config, env: Mapping[str, str]) -> str:
    url = config.url(env, "MODELS_RUN_URL", _EXECUTE)
    # The variable names V1 in most environments, whose every reply is an address to poll: the vendor's swap.
    return url.removesuffix("/api/v1/execute") + "/api/v2/execute" if url.endswith("/api/v1/execute") else url


def _catalog_url(config: Config, env: Mapping[str, str], execute: str) -> str | None:
    """The address of the catalogue; a key for somebody else's address is not taken to aiXplain's."""
    own = (urlsplit(execute).hostname or "").endswith(_OWN)
    url = config.option("backend_url", str, "") or env.get("BACKEND_URL", "").strip() or (_CATALOG if own else "")
    return msgspec.structs.replace(config, base_url=url).url({}, "BACKEND_URL") if url else None


def _key(config: Config, env: Mapping[str, str]) -> Secret:
    """The configured key, else that of the environment, under either of its names."""
    team, other = (config.key(env, name) for name in ("TEAM_API_KEY", "AIXPLAIN_API_KEY"))
    if team is not None and other is not None and team != other:
        raise ConfigError(
            "TEAM_API_KEY and AIXPLAIN_API_KEY hold different keys: unset one of them, or pass api_key=",
            backend=config.backend,
            field="api_key",
        )
    return team or other or config.require_key(env, "TEAM_API_KEY")


def _wait_s(config: Config) -> float:
    seconds: Any = config.options.get("wait_time", 0.5)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < float("inf"):
        raise ConfigError("wait_time is a number of seconds from 0 up", backend=config.backend, field="wait_time")
    return float(seconds)
