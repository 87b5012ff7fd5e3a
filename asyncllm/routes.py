"""From a model string to the backend that serves it, connected on first use and wrapped in its layers once."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from asyncllm.backend import Backend, Config, Context, Secret, Transport
from asyncllm.calls import Model
from asyncllm.config import BackendSettings, Deployment, Settings
from asyncllm.errors import ConfigError
from asyncllm.identity import Noted, Origin
from asyncllm.middleware.limits import Limiter
from asyncllm.place import Means, Place, Target
from asyncllm.prices import Prices
from asyncllm.registry import Registry
from asyncllm.spread import Member, Spread
from asyncllm.types import Limits, Noun, Price, Request

__all__ = ["Arguments", "Routes"]

T = TypeVar("T")

_DEFAULT_BACKEND = "openai"
_log = logging.getLogger("asyncllm")


class Arguments(Noun, frozen=True, kw_only=True):
    """What the client was given for one backend, over what the configuration file says."""

    base_url: str | None = None
    api_key: Secret | None = None
    options: Mapping[str, Any] = {}

    _private = frozenset({"options"})


class _Location(Struct, frozen=True):
    """Where a model string points, before anything is connected. Two strings with one `key` share a backend."""

    key: str
    backend: str
    model: str
    settings: BackendSettings


class Routes:
    """Resolves model strings for one client, and holds the backends they lead to."""

    def __init__(
        self,
        *,
        settings: Settings,
        env: Mapping[str, str],
        model: Model | None,
        arguments: Arguments,
        means: Means,
        limits: Limits | Limiter,
        prices: Mapping[str, Price],
        price_library: bool | None,
        backend: Backend | None,
        transport: Transport | None,
    ) -> None:
        self.registry = Registry()
        self._settings = settings
        self._env = env
        self._default = model or settings.model
        self._arguments = arguments
        self._means = means
        self._limits = limits
        self._prices = Prices(
            {**settings.prices, **prices},
            use_library=settings.price_library if price_library is None else price_library,
        )
        self._transport = transport
        self._owned: Transport | None = None  # one that was made here, and so is closed here
        self._places: dict[str, Place] = {}
        self._before: Routes | None = None  # whose places are taken over just now
        self._lent: set[str] = set()  # keys of places whose backends somebody else closes by now
        self.probe_s = settings.probe_s
        """How often to ask places that stand beside others, as configured."""
        self.is_probed = False
        """Whether somebody does."""
        self._targets: dict[str, list[Target]] = {}
        self._spreads: dict[str, Spread] = {}
        self._missing: dict[str, ConfigError] = {}
        self._only = None
        if backend is not None:
            name = type(backend).__name__
            # Nobody else knows what this object is like: what it answers is kept for this client alone.
            limiter = self._limiter(BackendSettings())
            origin = Origin(secrets.token_hex(), ())
            self._only = Place(backend, name=name, label=name, limiter=limiter, means=means, origin=origin)

    def resolve(self, model: Model | None = None, request: Request | None = None) -> list[Target]:
        """The places to try, in order, for a call of `request`. Connects what is not connected yet.

        Of several, those that are not there are passed over: unknown, not installed, or lacking a setting or a key.

        Raises `ConfigError`: no model, or none that is there.
        """
        wanted = self._default if model is None or model == "" else model
        known = self._targets.get(wanted) if isinstance(wanted, str) else None
        if known is not None:
            return known
        names = self._names(model)
        if len(names) == 1:
            return self._resolve(names[0], request)
        seen: dict[tuple[int, str], Target] = {}  # a place that two of the names lead to is asked once
        for target in self._present(names, lambda name: self._resolve(name, request)):
            seen.setdefault((id(target.place), target.model), target)
        return list(seen.values())

    def resolve_name(self, model: Model | None = None) -> str:
        """The deployment, group or `backend:model` that a call would go to first. Connects and imports nothing.

        Raises `ConfigError` where none of them is there, as far as can be known without connecting it.
        """
        names = self._names(model)
        if self._only is not None:
            return names[0]
        expanded = [one for name in names for one in self._settings.expand(name)]
        if len(expanded) == 1:
            return self._checked(expanded[0])[0]
        return self._present(expanded, self._checked)[0]

    def _checked(self, name: str) -> list[str]:
        """`name` itself, if a backend for it, or for a member of it, is installed and its settings are complete."""
        group = self._settings.groups.get(name)
        if group is not None:
            self._present([one for member in group.weights for one in self._settings.expand(member)], self._checked)
            return [name]
        location = self._locate(name)
        if location.backend not in self.registry:
            self.registry.load(location.backend)  # which says so
        self._config(location)
        return [name]

    def _present(self, names: Sequence[str], find: Callable[[str], list[T]]) -> list[T]:
        """What `find` finds of those names that are there. Of the others it is told once. Raises if there is none."""
        found: list[T] = []
        missing: dict[str, ConfigError] = {}
        for name in names:
            if name not in self._missing:
                try:
                    found += find(name)
                except ConfigError as lacking:
                    missing[name] = lacking
        if not found:
            return find(names[0])  # which says why not, unless it has come meanwhile
        for name, error in missing.items():
            _log.warning("the model %r is passed over: %s", name, error)
        self._missing |= missing
        return found

    def place(self, backend: str | None = None) -> Place:
        """The place of a backend or deployment by its name, or of the default model."""
        if self._only is not None or backend is None:
            return self.resolve()[0].place
        if backend in self._settings.deployments:
            return self._connect(self._locate(backend))
        return self._connect(_Location(backend, backend, "", self._backend_settings(backend)))

    def again(self, label: str, model: str) -> Target:
        """The place called `label`, and the model there that a call was sent to; without one, the place alone.

        Raises `ConfigError`.
        """
        if self._only is not None:
            return self._resolve(model)[0]
        if label in self._settings.deployments:
            return self._target(label)
        return self._target(f"{label}:{model}") if model else Target(self.place(label), "")

    def alternatives(self) -> list[Place]:
        """Places that stand beside others: of groups, and of names for several models. Connects them."""
        settings = self._settings
        names = [*settings.groups, *settings.aliases, *([] if self._default is None else [self._default])]
        found: dict[Place, None] = {}
        for name in [] if self._only else names:
            try:
                places = dict.fromkeys(target.place for target in self.resolve(name))
            except ConfigError:  # no call gets there either
                continue
            if len(places) > 1:
                found |= places
        return list(found)

    def take_over(self, other: Routes, models: Sequence[Model]) -> None:
        """Connect `models`, with the backends and the transport of `other` where the settings are the same.

        Raises `ConfigError`; then nothing was taken over.
        """
        is_given = self._transport is not None and self._transport is not other._transport
        self._before = None if is_given or self._only or other._only else other
        own, taken = self._transport, self._before is not None and self._transport is None
        if taken:
            self._transport = other._transport
        known = set(self._places)
        try:
            for model in models:
                self.resolve(model)
        except ConfigError:
            for key in self._taken(other) - known:
                del self._places[key]
            self._targets.clear()
            self._spreads.clear()
            self._transport = own
            raise
        finally:
            self._before = None
        other._lent |= self._taken(other)
        if taken and self._owned is None:
            self._owned, other._owned = other._owned, None

    def _taken(self, other: Routes) -> set[str]:
        theirs = other._places
        return {key for key, place in self._places.items() if key in theirs and place.backend is theirs[key].backend}

    async def aclose(self) -> None:
        """Close every backend, then the transport unless it was given; one that fails keeps no other open."""
        places = [place for key, place in self._places.items() if key not in self._lent]
        places += [self._only] if self._only else []
        self._places.clear()
        self._targets.clear()
        self._means.dog.close()
        errors: list[Exception] = []
        for close in [
            *(place.backend.aclose for place in places),
            *([self._owned.aclose] if self._owned else []),
        ]:
            try:
                await close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _names(self, model: Model | None) -> list[str]:
        model = self._default if model is None or model == "" else model
        if not model:
            if self._only is not None:
                return [""]
            raise ConfigError(
                "no model: pass model='backend:model', or set `model` in asyncllm.toml; "
                f"installed backends are {', '.join(self.registry.names())}",
                field="model",
            )
        names = [model] if isinstance(model, str) else list(model) if isinstance(model, Sequence) else []
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError("model is a text such as 'openai:gpt-x', or a list of them", field="model")
        return names

    def _resolve(self, name: str, request: Request | None = None) -> list[Target]:
        targets = self._targets.get(name)
        if targets is not None:
            return targets
        if self._only is not None:
            own = self._prices.own.get(name)
            targets = [Target(self._only, name, self._prices.tariff(own, name, label=self._only.label))]
        else:
            expanded = self._settings.expand(name)
            if any(one in self._settings.groups for one in expanded):
                return [target for one in expanded for target in self._spread(one, request)]
            targets = (
                [self._target(name) for name in expanded]
                if len(expanded) == 1
                else self._present(expanded, lambda one: [self._target(one)])
            )
        self._targets[name] = targets
        return targets

    def _spread(self, name: str, request: Request | None) -> list[Target]:
        """The targets of a group, in an order that differs from call to call; of anything else, its own."""
        group = self._settings.groups.get(name)
        if group is None:
            return self._resolve(name)
        spread = self._spreads.get(name)
        if spread is None:
            weights = group.weights
            members = self._present(
                list(weights), lambda member: [Member(member, self._resolve(member), weights[member])]
            )
            spread = self._spreads[name] = Spread(group, members)
        return spread.order(request)

    def _target(self, name: str) -> Target:
        location = self._locate(name)
        own = location.settings.price if isinstance(location.settings, Deployment) else None
        own = own or self._prices.own.get(name) or self._prices.own.get(f"{location.backend}:{location.model}")
        place = self._connect(location)
        if own is None and self.is_local(place):
            return Target(place, location.model)  # nobody charges for it
        tariff = self._prices.tariff(own, location.model, label=place.label, backend=location.backend, url=place.url)
        return Target(place, location.model, tariff)

    def is_local(self, place: Place) -> bool:
        """Whether it takes neither key nor address."""
        about = self.registry.beside(place.name, "about")
        return about is not None and not about(place.name).variables

    def _locate(self, name: str) -> _Location:
        deployment = self._settings.deployments.get(name)
        if deployment is not None:
            return _Location(f"deployment {name}", deployment.backend, deployment.model, deployment)
        backend, colon, model = name.partition(":")
        if not colon or backend not in self.registry:
            # A model's own name may hold slashes, so a slash separates only after the name of a backend.
            head, slash, tail = name.partition("/")
            if slash and head in self.registry:
                backend, colon, model = head, slash, tail
        if not colon:
            raise ConfigError(
                f"the model {name!r} names no backend and is no alias: write backend:model, as in openai:{name}",
                field="model",
            )
        if not model:
            raise ConfigError(f"{name!r} names the backend {backend!r} and no model", field="model")
        return _Location(backend, backend, model, self._backend_settings(backend))

    def _backend_settings(self, backend: str) -> BackendSettings:
        return self._settings.backends.get(backend, BackendSettings())

    def _connect(self, location: _Location) -> Place:
        place = self._places.get(location.key)
        if place is not None:
            return place
        connect = self.registry.load(location.backend)
        config = self._config(location)
        if location.key == self._argument_key():
            arguments = self._arguments
            config = msgspec.structs.replace(
                config,
                base_url=arguments.base_url or config.base_url,
                api_key=arguments.api_key or config.api_key,
                options={**config.options, **arguments.options},
            )
        if self._transport is None:
            # Imported here: aiohttp costs several times what all of this package does.
            from asyncllm.transport import AiohttpTransport

            self._transport = self._owned = AiohttpTransport()
        env = Noted(self._env)
        twin = None if self._before is None else self._before.twin(location.key, config, env)
        if twin is None:
            backend = connect(config, Context(transport=self._transport, clock=self._means.clock, env=env))
        else:
            backend = twin.backend
        origin = Origin.of(config, env)
        place = self._places[location.key] = Place(
            backend,
            name=location.backend,
            label=location.key.removeprefix("deployment "),
            limiter=self._limiter(location.settings, twin),
            means=self._means,
            origin=origin,
        )
        place.url = config.base_url or next((value for value in env.read.values() if value and "://" in value), None)
        if twin is not None:
            place.resemble(twin)
        return place

    def twin(self, key: str, config: Config, env: Noted) -> Place | None:
        """The place of that name, if `config` and `env` would connect it as it is."""
        place = None if key in self._lent else self._places.get(key)
        return place if place is not None and place.origin.fits(config, env) else None

    def _config(self, location: _Location) -> Config:
        """The settings of a place. A key that was given as an argument needs no variable."""
        settings = location.settings
        if self._arguments.api_key is not None and location.key == self._argument_key():
            settings = msgspec.structs.replace(settings, api_key_env=None)
        return settings.config(location.backend, self._env, location.key)

    def _argument_key(self) -> str:
        """The one place that the client's own arguments are for: a key must not travel to any other."""
        if not self._default:
            return _DEFAULT_BACKEND
        first = self._default if isinstance(self._default, str) else self._default[0]
        name = self._settings.expand(first)[0]
        group = self._settings.groups.get(name)
        if group is not None:
            name = self._settings.expand(next(iter(group.weights)))[0]
        try:
            return self._locate(name).key
        except ConfigError:  # the first of several is not there, and what was meant for it goes to no other
            return ""

    def _limiter(self, settings: BackendSettings, twin: Place | None = None) -> Limiter:
        limits = settings.limits or self._limits
        if isinstance(limits, Limiter):
            return limits
        if twin is not None and twin.limiter.limits == limits:
            return twin.limiter  # calls of both are under way at once
        return Limiter(limits, self._means.clock)
