"""What models cost: the caller's own prices first, then a price library that comes along.

The library is the data of genai-prices (MIT), kept in `library.json` with its version, the day it was taken over and
its licence; `make prices` renews it. It is read when the first call wants to know a price, and never on import.
`version` and `date` of this module tell which one it is.

Matching follows the library's own rules. A provider is found by the address that the backend was configured with, else
by the backend's name; a model by exact names, beginnings, ends, parts and patterns, or the same at a provider whose
models this one serves too. Where the model that was asked for is not known, the one that the answer names is looked up.
Prices are those of the standard tier: what is billed beside tokens, sound, images, characters and calls is not known.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncllm.prices.library import Library, Model
from asyncllm.types import Price, Usage

__all__ = ["Prices", "Tariff", "library"]

if TYPE_CHECKING:
    version: str
    date: str

_log = logging.getLogger("asyncllm")

_NAMES = 32  # that the answers of one deployment have; a server may make up any number of them


@cache
def library() -> Library:
    """The price library, read on the first use."""
    return Library.read(Path(__file__).parent / "library.json")


def __getattr__(name: str) -> Any:
    if name in ("version", "date"):
        return getattr(library(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Prices:
    """The prices of one client."""

    def __init__(self, own: Mapping[str, Price], *, use_library: bool) -> None:
        self.own = own
        """By `backend:model`, or the name of a deployment."""
        self.use_library = use_library
        self._missed: set[tuple[str, str]] = set()

    def tariff(
        self, own: Price | None, model: str, *, label: str, backend: str | None = None, url: str | None = None
    ) -> Tariff | None:
        """What `model` costs at the place called `label`, or `None` where that is nobody's question.

        `backend` and `url` are what the library is asked by; without a backend it is not asked.
        """
        library_backend = backend if self.use_library else None
        if own is None and library_backend is None and not self.own:
            return None
        return Tariff(self, own, model, label=label, backend=library_backend, url=url)

    def miss(self, label: str, model: str) -> None:
        """Nobody knows a price: say so, once."""
        if (label, model) not in self._missed:
            self._missed.add((label, model))
            _log.warning(
                "no price is known for %s:%s, so cost_usd is None; give one as prices={...} or in asyncllm.toml",
                label,
                model,
            )


class Tariff:
    """What one model costs at one place. It is looked up once."""

    __slots__ = ("_answered", "_backend", "_entry", "_is_known", "_label", "_model", "_price", "_prices", "_url")

    def __init__(
        self, prices: Prices, own: Price | None, model: str, *, label: str, backend: str | None, url: str | None
    ) -> None:
        self._prices = prices
        self._price = own
        self._model = model
        self._label = label
        self._backend = backend
        self._url = url
        self._is_known = own is not None or backend is None
        self._entry: Model | None = None
        self._answered: dict[str, Model | None] = {}
        """Models that answers have named, and what is known of them."""

    def known(self) -> Price | None:
        """The price in force, as far as it is known before a call."""
        if not self._is_known:
            self._is_known = True
            self._entry = library().find(self._model, self._backend or "", self._url)
            self._price = self._entry.fixed() if self._entry is not None else None
        if self._price is not None or self._entry is None:
            return self._price
        return self._entry.price(dt.datetime.now(dt.UTC))

    def cost_usd(self, usage: Usage) -> float | None:
        """US dollars for `usage` by the price in force, or `None` where there is none, which is warned of."""
        price = self.price()
        return None if price is None else price.cost_usd(usage)

    def price(self, answered: str | None = None) -> Price | None:
        """The price in force, of the model asked or else of the one that `answered`. Warns where there is none."""
        price = self.known()
        if price is not None:
            return price
        if answered and self._backend is not None and answered != self._model:
            if answered not in self._answered:
                if len(self._answered) == _NAMES:
                    self._answered.clear()
                self._answered[answered] = library().find(answered, self._backend, self._url)
            entry = self._answered[answered]
            if entry is not None:
                return entry.price(dt.datetime.now(dt.UTC))
        self._prices.miss(self._label, self._model)
        return None
