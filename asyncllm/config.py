"""Where calls go by default: deployments, aliases and keys from a TOML file.

What is given as an argument wins over the file, and the file wins over the environment variables that the vendors'
own tools read, which each backend knows for itself. The file is the first of: the path given, `$ASYNCLLM_CONFIG`,
`./asyncllm.toml`, `asyncllm/asyncllm.toml` in the user's configuration directory.

    model = "fast"                      # for calls that name none

    [aliases]
    fast = ["eu", "openai:gpt-x"]       # one name for one model, or for several in order of preference

    [deployments.eu]                    # a place of its own: backend, model, address, key
    backend = "openai"
    model = "gpt-x"
    base_url = "https://eu.example/v1"
    api_key_env = "EU_KEY"

    limits = { concurrency = 8, requests_per_minute = 600 }
    price = { input_usd = 2.0, output_usd = 8.0 }            # for a million tokens

    [groups.spread]                     # one name for several places that share the work
    members = { eu = 3, "openai:gpt-x" = 1 }                 # by weight; or a list, which weighs all alike
    pick = "weighted"                                        # or "least-busy", or "prefix"

    [server]                            # of `asyncllm serve`, as in asyncllm.server.ServerSettings
    models = { chat = "fast" }

    [prices]                            # of models that have no deployment of their own
    "openai:gpt-x" = { input_usd = 2.0, output_usd = 8.0 }

    [backends.llamacpp]                 # settings for every model of a backend
    options = { n_parallel = 4 }

What a service knows a place by beside its address, such as a region, a project or an API version, are `options` of its
backend. `price_library = false` looks nothing up in `asyncllm.prices`.

The same can be said in `$ASYNCLLM_SETTINGS`, as JSON, for machines that are set up by variables alone; what the file
says of a name wins. In code it is `Client(config=Settings(deployments={"eu": Deployment(...)}))`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from asyncllm.backend import Config, Secret
from asyncllm.errors import ConfigError
from asyncllm.types import Limits, Noun, Price

__all__ = [
    "BackendSettings",
    "Deployment",
    "Group",
    "Settings",
    "check_arguments",
    "find_settings",
    "load_settings",
    "settings_of",
]

_FILE = "asyncllm.toml"
_VARIABLE = "ASYNCLLM_SETTINGS"


class BackendSettings(Noun, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach one backend. Give the key itself or, better, the name of the variable that holds it."""

    base_url: str | None = None
    api_key: str | None = None
    api_key_env: str | None = None
    options: dict[str, Any] = {}
    limits: Limits | None = None
    """What may be asked of it, over the client's own limits."""

    _private = frozenset({"base_url", "api_key", "options"})

    def __post_init__(self) -> None:
        if self.api_key and self.api_key_env:
            raise ConfigError("give api_key or api_key_env, not both: one of them would go unused", field="api_key_env")

    def config(self, backend: str, env: Mapping[str, str], where: str) -> Config:
        """The settings as a backend takes them. Raises `ConfigError` where the named variable is not set."""
        key = self.api_key
        if self.api_key_env is not None:
            key = env.get(self.api_key_env, "").strip()
            if not key:
                raise ConfigError(
                    f"{where} takes its key from the variable {self.api_key_env}, which is not set",
                    backend=backend,
                    field="api_key_env",
                )
        return Config(
            backend=backend,
            base_url=self.base_url,
            api_key=Secret(key) if key else None,
            options=self.options,
        )


class Deployment(BackendSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model at a place of its own."""

    backend: str
    model: str
    price: Price | None = None


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Places that share the work of one name."""

    members: list[str] | dict[str, float]
    """Deployments, aliases or `backend:model` strings, with their weights where these differ."""
    pick: Literal["weighted", "least-busy", "prefix"] = "weighted"
    """`weighted` draws lots; `least-busy` takes the one with the fewest calls under way for its weight; `prefix` sends
    prompts that begin alike to the same one, unless that has far more to do than the others, for engines that keep what
    they have read. The others follow in case it fails. Members that are not there are passed over."""
    prefix_chars: int = 4096
    """How much of a prompt tells its beginning, for `prefix`: of tools, system text and the first turn of a user."""

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("a group needs at least one member", field="members")
        if self.prefix_chars < 1:
            raise ConfigError(f"prefix_chars is at least 1; got {self.prefix_chars}", field="prefix_chars")
        for name, weight in self.weights.items():
            if not (type(weight) in (int, float) and 0 < weight < float("inf")):
                raise ConfigError(f"the weight of {name!r} is a number above zero; got {weight!r}", field="members")

    @property
    def weights(self) -> dict[str, float]:
        """Every member with its weight."""
        return self.members if isinstance(self.members, dict) else dict.fromkeys(self.members, 1.0)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the configuration file can say."""

    model: str | list[str] | None = None
    """For calls that name no model."""
    aliases: dict[str, str | list[str]] = {}
    deployments: dict[str, Deployment] = {}
    groups: dict[str, Group] = {}
    prices: dict[str, Price] = {}
    """Of `backend:model` strings."""
    price_library: bool = True
    """Whether what has no price here is looked up in the library that comes along, see `asyncllm.prices`."""
    backends: dict[str, BackendSettings] = {}
    cool_down_s: Annotated[float, Meta(ge=0)] = 10
    """For how long others are asked first, where there are others, after a place could not answer."""
    probe_s: Annotated[float, Meta(gt=0)] | None = None
    """How often places that stand beside others are asked whether they would answer, while a server runs. One that has
    not said so twice is left out until it does."""
    server: dict[str, Any] = {}
    """Settings of `asyncllm serve`, by the names of `asyncllm.server.ServerSettings`; nobody else looks at them."""

    def __post_init__(self) -> None:
        for field, kind in _KINDS.items():  # in code, nobody has looked yet
            told: object = getattr(self, field)
            if not isinstance(told, dict):
                raise ConfigError(f"{field} is a dict by name", field=field)
            for name, one in cast("dict[object, object]", told).items():
                if not isinstance(name, str) or not isinstance(one, kind):
                    raise ConfigError(f"{field}[{name!r}] is {_told(kind)}, not a {type(one).__name__}", field=field)
        for name, group in self.groups.items():
            for member in group.weights:
                if any(one in self.groups for one in self.expand(member)):
                    raise ConfigError(f"the group {name!r} has a group for a member: {member!r}", field="groups")

    def expand(self, name: str) -> list[str]:
        """Follow aliases down to deployments, groups and `backend:model` strings, in order of preference.

        Raises `ConfigError` for an alias that leads back to itself.
        """
        return self._expand(name, ())

    def _expand(self, name: str, seen: tuple[str, ...]) -> list[str]:
        target = self.aliases.get(name)
        if target is None:
            return [name]
        if name in seen:
            raise ConfigError(f"the alias {name!r} leads back to itself: {' > '.join((*seen, name))}", field="aliases")
        targets = [target] if isinstance(target, str) else target
        if not targets:
            raise ConfigError(f"the alias {name!r} stands for no model", field=f"aliases.{name}")
        return [model for one in targets for model in self._expand(one, (*seen, name))]


_KINDS: dict[str, Any] = {
    "aliases": (str, list),
    "deployments": Deployment,
    "groups": Group,
    "prices": Price,
    "backends": BackendSettings,
}


def _told(kind: Any) -> str:
    return f"a {kind.__name__}" if isinstance(kind, type) else "a text or a list of texts"


def find_settings(env: Mapping[str, str]) -> Path | None:
    """The configuration file in force, or `None`.

    Raises `ConfigError` if `$ASYNCLLM_CONFIG` names a file that is not there.
    """
    named = env.get("ASYNCLLM_CONFIG", "").strip()
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"ASYNCLLM_CONFIG names {named}, which is not a file", field="ASYNCLLM_CONFIG")
        return path
    home = env.get("XDG_CONFIG_HOME", "").strip() or (f"{env['HOME']}/.config" if env.get("HOME") else "")
    places = [Path(_FILE), *([Path(home) / "asyncllm" / _FILE] if home else [])]
    return next((path for path in places if path.is_file()), None)


def load_settings(path: Path | None, env: Mapping[str, str] | None = None) -> Settings:
    """Read a configuration file, and `$ASYNCLLM_SETTINGS` of `env` under it; neither means no settings.

    Raises `ConfigError` naming the line of a syntax error, or the place of a value that cannot be right.
    """
    given = (env or {}).get(_VARIABLE, "").strip()
    under = _from_variable(given) if given else {}
    document = {} if path is None else _from_file(path)
    for name, value in under.items():
        told = document.setdefault(name, value)
        if isinstance(told, dict) and isinstance(value, dict):
            document[name] = cast("dict[str, object]", value) | cast("dict[str, object]", told)
    settings = _converted(document, str(path))
    for name in settings.aliases:
        settings.expand(name)
    return settings


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}", field=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", field=str(path)) from None
    _converted(document, str(path))  # an error in the file names the file
    return document


def _from_variable(text: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{_VARIABLE} is not valid JSON: {error}", field=_VARIABLE) from None
    _converted(document, _VARIABLE)
    return document


def _converted(document: dict[str, Any], where: str) -> Settings:
    try:
        return msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}", field=where) from None


def check_arguments(base_url: object, api_key: object, options: object, prices: object) -> None:
    """Raise `ConfigError` for an argument of a client that is of no use for its backend."""
    if base_url is not None and not isinstance(base_url, str):
        raise ConfigError("base_url is a text", field="base_url")
    if api_key is not None and not isinstance(api_key, str | Secret):
        raise ConfigError("api_key is a text or a Secret", field="api_key")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError("options is a dict of what only the backend knows", field="options")
    if prices is not None and not isinstance(prices, Mapping):
        raise ConfigError("prices is a dict by backend:model or deployment", field="prices")
    for name, price in cast("Mapping[object, object]", prices or {}).items():
        if not isinstance(price, Price):
            raise ConfigError(f"prices[{name!r}] is not a Price", field="prices")


def settings_of(config: Settings | str | Path | None, env: Mapping[str, str]) -> Settings:
    """What a client's `config` means. Raises `ConfigError`."""
    if isinstance(config, Settings):
        return config
    if config is not None and not isinstance(config, str | Path):
        raise ConfigError("config is the path of a TOML file, or Settings", field="config")
    return load_settings(find_settings(env) if config is None else Path(config), env)
