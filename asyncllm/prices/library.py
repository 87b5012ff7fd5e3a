"""The data of a price library, and its rules of matching."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from asyncllm.types import Price

__all__ = ["Entry", "Library", "Model", "Provider"]

_COMPACT_DATE = re.compile(r"(?<=-)(20\d\d)(\d\d)(\d\d)(?=[-:]|$)")


class Entry(Struct, frozen=True, kw_only=True):
    """A price, and when it holds."""

    price: Price
    from_: dt.date | None = msgspec.field(name="from", default=None)
    hours: tuple[dt.time, dt.time] | None = None
    """Of each day, by UTC."""

    def holds(self, now: dt.datetime) -> bool:
        """Whether this is the price at `now`, unless a later entry says otherwise."""
        if self.from_ is not None:
            return now.date() >= self.from_
        if self.hours is None:
            return True
        start, end = self.hours
        time = now.time()
        return start <= time < end if start <= end else time >= start or time < end


class Model(Struct, frozen=True, kw_only=True):
    """What one model costs, and by which names it goes."""

    id: str
    match: dict[str, Any]
    prices: tuple[Entry, ...]

    def fixed(self) -> Price | None:
        """The price, where it is the same at any time."""
        return self.prices[0].price if len(self.prices) == 1 else None

    def price(self, now: dt.datetime) -> Price:
        """The price at `now`: the last entry that holds, or the first where none does."""
        return next((entry for entry in reversed(self.prices) if entry.holds(now)), self.prices[0]).price


class Provider(Struct, frozen=True, kw_only=True):
    """Who charges."""

    id: str
    url: str
    """Pattern of its addresses."""
    match: dict[str, Any] | None = None
    """Other names that it goes by."""
    also: tuple[str, ...] = ()
    """Providers whose models it serves at their prices."""
    models: msgspec.Raw
    """`list[Model]`, read when the provider is first asked for one."""


class Library(Struct, kw_only=True):
    """A release of the price library."""

    library: str
    source: str
    version: str
    date: str
    """The day on which the release was taken over."""
    licence: str
    providers: tuple[Provider, ...]
    _models: dict[str, list[Model]] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Decode the file at `path`."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def find(self, model: str, backend: str, url: str | None = None) -> Model | None:
        """What is known of `model` at the provider behind `url`, or else the one that `backend` names."""
        provider = self.provider(backend, url)
        if provider is None:
            return None
        name = model.lower()
        names = dict.fromkeys((name, _COMPACT_DATE.sub(r"\1-\2-\3", name)))
        return next((found for one in names if (found := self._find(provider, one)) is not None), None)

    def provider(self, backend: str, url: str | None = None) -> Provider | None:
        """Who charges for calls to `backend` at `url`."""
        if url is not None:
            for provider in self.providers:
                if re.match(provider.url, url):
                    return provider
        name = backend.lower().strip()
        by_id = next((one for one in self.providers if one.id == name), None)
        return by_id or next((one for one in self.providers if one.match and matches(one.match, name)), None)

    def _find(self, provider: Provider, name: str) -> Model | None:
        for charging in (provider, *(one for id_ in provider.also for one in self.providers if one.id == id_)):
            for model in self._of(charging):
                if matches(model.match, name):
                    return model
        return None

    def _of(self, provider: Provider) -> list[Model]:
        models = self._models.get(provider.id)
        if models is None:
            models = self._models[provider.id] = msgspec.json.decode(provider.models, type=list[Model])
        return models


def matches(rule: dict[str, Any], name: str) -> bool:
    """Whether a rule of the library is true of a name in lower case."""
    ((word, value),) = rule.items()
    match word:
        case "equals":
            return bool(name == value)
        case "starts_with":
            return name.startswith(value)
        case "ends_with":
            return name.endswith(value)
        case "contains":
            return value in name
        case "regex":
            return re.search(value, name) is not None
        case "or":
            return any(matches(one, name) for one in value)
        case _:
            return all(matches(one, name) for one in value)
