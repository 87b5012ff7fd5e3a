"""The data of a price library, and its rules of matching."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from asyncllm.types import Price

__all__ = ["Entry", "Library", "Line", "Model", "Provider", "matches"]

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
    """What one model costs."""

    id: str
    prices: tuple[Entry, ...]

    def fixed(self) -> Price | None:
        """The price, where it is the same at any time."""
        return self.prices[0].price if len(self.prices) == 1 else None

    def price(self, now: dt.datetime) -> Price:
        """The price at `now`: the last entry that holds, or the first where none does."""
        return next((entry for entry in reversed(self.prices) if entry.holds(now)), self.prices[0]).price


class Line(Struct, frozen=True, kw_only=True):
    """A model as it stands in the file: a provider has up to a thousand, of which a client asks for a few."""

    id: str
    match: dict[str, Any]
    """By which names it goes."""
    prices: msgspec.Raw

    def model(self) -> Model:
        """With its prices read."""
        return Model(id=self.id, prices=msgspec.json.decode(self.prices, type=tuple[Entry, ...]))


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
    """`list[Line]`, read when the provider is first asked for one."""


class Library(Struct, kw_only=True):
    """A release of the price library."""

    library: str
    source: str
    version: str
    date: str
    """The day on which the release was taken over."""
    licence: str
    providers: tuple[Provider, ...]
    _lines: dict[str, list[Line]] = {}

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

    def lines(self, provider: Provider) -> list[Line]:
        """The models of a provider."""
        lines = self._lines.get(provider.id)
        if lines is None:
            lines = self._lines[provider.id] = msgspec.json.decode(provider.models, type=list[Line])
        return lines

    def _find(self, provider: Provider, name: str) -> Model | None:
        charging = (provider, *(one for other in provider.also for one in self.providers if one.id == other))
        lines = (line for one in charging for line in self.lines(one) if matches(line.match, name))
        found = next(lines, None)
        return None if found is None else found.model()


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
