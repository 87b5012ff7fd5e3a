"""aiXplain's catalogue of models: what a model is, and which there are.

Source: the public client, https://github.com/aixplain/aiXplain. Its key travels in a header of its own, and it is
another host than the one that runs the models.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec
from msgspec import Struct

from asyncllm.backend import HttpCall, Transport
from asyncllm.dialect.lenient import decode
from asyncllm.errors import (
    BadRequestError,
    ConfigError,
    InvalidRequestError,
    NotFoundError,
    ResponseValidationError,
    UnprocessableEntityError,
)
from asyncllm.types import ModelInfo, Timeouts

__all__ = ["Asset", "Catalog"]

_TEXT_GENERATION = "text-generation"
_PAGE = 100
_PROBE = Timeouts(connect_s=5, byte_idle_s=30)
_document = msgspec.json.Decoder(dict[str, Any])


class Asset(Struct, frozen=True):
    """A model, as the catalogue describes it."""

    info: ModelInfo
    function: str | None
    """What it does, such as `text-generation`; `None` where the catalogue does not say."""
    streams: bool | None
    temperature: float | None
    """Its own default."""

    @property
    def generates_text(self) -> bool:
        """Whether it does, or nothing is known of it."""
        return self.function in (None, _TEXT_GENERATION)


class Catalog:
    """The catalogue at one address, which need not be known until it is asked."""

    def __init__(self, transport: Transport, url: str | None, headers: Mapping[str, str], *, backend: str) -> None:
        self._transport = transport
        self._url = url
        self._headers = headers
        self._backend = backend
        self._assets: dict[str, Asset] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def is_known(self) -> bool:
        """Whether there is an address."""
        return self._url is not None

    def require(self) -> str:
        """The address. Raises `ConfigError` where there is none."""
        if self._url is None:
            raise ConfigError(
                f"the {self._backend!r} backend knows the catalogue of aiXplain's own address alone: set BACKEND_URL "
                "or the option backend_url",
                backend=self._backend,
                field="backend_url",
            )
        return self._url

    async def asset(self, model: str) -> Asset:
        """The model of that id, asked for once."""
        async with self._locks.setdefault(model, asyncio.Lock()):
            if model not in self._assets:
                self._assets[model] = await self._fetch(f"sdk/models/{quote(model, safe='')}")
            return self._assets[model]

    async def get_model(self, id_or_name: str) -> ModelInfo:
        """The model of that id, else the one of that name. Raises `NotFoundError`."""
        self.require()
        if id_or_name in ("", ".", ".."):
            raise InvalidRequestError("a model is an id or a name", field="model", backend=self._backend)
        word = quote(id_or_name, safe="")
        try:
            return (await self._fetch(f"sdk/models/{word}")).info
        except (NotFoundError, BadRequestError, UnprocessableEntityError):
            pass  # no id, or none in the form of one
        return (await self._fetch(f"sdk/models/by-name/{word}")).info

    async def list_models(self) -> Sequence[ModelInfo]:
        """Every model that generates text, page by page until one brings nothing new."""
        found: dict[str, ModelInfo] = {}
        seen, page = 0, 0
        while True:
            items, total = await self._page(page, _PAGE)
            assets = [asset.info for item in items if (asset := _asset(item)) is not None]
            fresh = {info.id: info for info in assets if info.id not in found}
            found |= fresh
            seen, page = seen + len(items), page + 1
            if not fresh or (total is not None and seen >= total):
                return list(found.values())

    async def is_alive(self) -> bool:
        """Whether it answers and takes the key."""
        await self._page(0, 1)
        return True

    async def _page(self, number: int, size: int) -> tuple[list[Any], int | None]:
        asked = {"q": "", "pageNumber": number, "pageSize": size, "functions": [_TEXT_GENERATION]}
        document, body = await self._ask("POST", "sdk/models/paginate", msgspec.json.encode(asked))
        items, total = document.get("items"), document.get("total")
        if not isinstance(items, list):
            raise ResponseValidationError("the page of the catalogue has no `items`", body=body[:65536])
        return cast("list[Any]", items), total if type(total) is int else None

    async def _fetch(self, path: str) -> Asset:
        document, body = await self._ask("GET", path)
        asset = _asset(document)
        if asset is None:
            raise ResponseValidationError("the model of the catalogue has no `id`", body=body[:65536])
        return asset

    async def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        url = f"{self.require()}/{path}"
        call = HttpCall(method=method, url=url, body=body, headers=self._headers, timeouts=_PROBE)
        async with self._transport.open(call) as reply:
            told = await reply.read()
        return decode(told, _document, "a reply of the catalogue"), told


def _asset(item: object) -> Asset | None:
    if not isinstance(item, dict):
        return None
    document = cast("dict[str, Any]", item)
    name = _word(document.get("id"))
    if name is None:
        return None
    streams = document.get("supportsStreaming")
    supplier = document.get("supplier")
    return Asset(
        info=ModelInfo(
            id=name,
            name=_word(document.get("name")),
            owned_by=_word(supplier) or _word(_field(supplier, "name")) or _word(_field(supplier, "code")),
        ),
        function=_word(_field(document.get("function"), "id")),
        streams=streams if isinstance(streams, bool) else None,
        temperature=_temperature(document.get("params")),
    )


def _temperature(params: object) -> float | None:
    """The default of the parameter of that name, which may be written as a text."""
    for param in cast("list[object]", params) if isinstance(params, list) else []:
        defaults = _field(param, "defaultValues")
        if _field(param, "name") == "temperature" and isinstance(defaults, list) and defaults:
            try:
                value = float(str(_field(cast("list[object]", defaults)[0], "value")))
            except ValueError:
                return None
            return value if math.isfinite(value) else None
    return None


def _field(value: object, name: str) -> object:
    return cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
