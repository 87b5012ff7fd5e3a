"""What a client is made from, so that one like it can be made in another process.

It holds keys. It goes to a worker over a pipe (or, asked for, over Ray) and nowhere else: not into the arguments or the
environment of a process, and not into the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, cast

import msgspec

from asyncllm.backend import Secret
from asyncllm.budgets import budgets_in_force
from asyncllm.config import BackendSettings, Settings
from asyncllm.errors import ConfigError
from asyncllm.middleware.hedge import Hedge
from asyncllm.middleware.retry import Retry
from asyncllm.types import Limits, Noun, Price, Timeouts

__all__ = ["Recipe", "Recipes", "no_recipes"]

_CLIENT = "asyncllm.client:Client"
"""By its name, as whoever makes one from a recipe is in another process, where nothing of it is loaded yet."""
_STAYS = ("budget", "cache", "hooks", "backend", "transport", "clock")
"""Arguments of a client that are objects of this process."""


class Recipe(Noun, frozen=True, kw_only=True):
    """The arguments of one worker's client, as data."""

    model: str | list[str] | None = None
    base_url: str | None = None
    api_key: str | None = None
    options: dict[str, Any] = {}
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    limits: Limits = Limits()
    """The share of this worker."""
    hedge: Hedge | None = None
    prices: dict[str, Price] = {}
    price_library: bool | None = None
    settings: Settings = Settings()
    env: dict[str, str] | None = None
    """The variables that the client was given, in place of those of the process."""

    _private = frozenset({"base_url", "api_key", "options", "settings", "env"})

    def make(self) -> Any:
        """A client of this kind. Raises `ConfigError`."""
        told = {name: getattr(self, name) for name in self.__struct_fields__ if name != "settings"}
        return resolve_name(_CLIENT)(config=self.settings, **told)


def no_recipes(_: int) -> list[Recipe]:
    """Of a caller that is no client. Raises `ConfigError`."""
    raise ConfigError("whoever asks these rows cannot be made in another process", field="data_parallelism")


class Recipes:
    """What one client was made from, for as many like it as are asked for. It shows none of it."""

    def __init__(self, **given: Any) -> None:
        self._given = given

    def __call__(self, count: int) -> list[Recipe]:
        """What `count` workers make their clients from, so that together they keep the limits that one was given.

        Raises `ConfigError` naming the argument that no other process can have, or that cannot be divided by `count`.
        """
        given = self._given
        for name in _STAYS:
            if given[name] or (name == "budget" and budgets_in_force()):
                raise ConfigError(
                    f"{name} is an object of this process, and the workers of data_parallelism have none of it; make "
                    "the client of this batch without it",
                    field=name,
                )
        limits, settings = given["limits"], given["settings"]
        if not isinstance(limits, Limits):
            raise ConfigError(
                "a Limiter is an object of this process; give limits=Limits(...) to be divided", field="limits"
            )
        whole = self._whole({name: given[name] for name in given.keys() - {*_STAYS, "limits"}})
        return [
            msgspec.structs.replace(
                whole, limits=_share(limits, count, number, "limits"), settings=_settings(settings, count, number)
            )
            for number in range(count)
        ]

    def _whole(self, given: dict[str, Any]) -> Recipe:
        model, key, env = given["model"], given["api_key"], given["env"]
        told = {
            **given,
            "model": model if model is None or isinstance(model, str) else list(model),
            "api_key": (key.reveal() if isinstance(key, Secret) else key) or None,
            "options": dict(given["options"] or {}),
            "prices": dict(given["prices"] or {}),
            "env": None if env is None else dict(env),
        }
        try:
            return msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Recipe)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"options holds what is no data, and cannot be told to another process: {error}", field="options"
            ) from None


def _settings(settings: Settings, count: int, number: int) -> Settings:
    """Settings with the limits of one worker. Names, keys and prices are those of all."""

    def shared(places: Mapping[str, BackendSettings], kind: str) -> Any:
        return {
            name: place
            if place.limits is None
            else msgspec.structs.replace(place, limits=_share(place.limits, count, number, f"{kind}.{name}.limits"))
            for name, place in places.items()
        }

    return msgspec.structs.replace(
        settings,
        backends=shared(settings.backends, "backends"),
        deployments=shared(cast("Mapping[str, BackendSettings]", settings.deployments), "deployments"),
    )


def _share(limits: Limits, count: int, number: int, field: str) -> Limits:
    """What one of `count` workers may ask: an equal part, and one more for the first few where it does not come out."""
    told: dict[str, int] = {}
    for name in limits.__struct_fields__:
        limit = getattr(limits, name)
        if limit is None:
            continue
        if limit < count:
            raise ConfigError(
                f"{field}.{name} is {limit}, and each of {count} workers needs at least one of it; give a smaller "
                "data_parallelism",
                field="data_parallelism",
            )
        told[name] = limit // count + (number < limit % count)
    return Limits(**told)
