"""What a backend is configured with: address, key, options, headers, each checked where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import SplitResult, urlsplit

from asyncllm.errors import ConfigError
from asyncllm.types import Noun

__all__ = ["Config", "Secret"]

T = TypeVar("T")


class Secret:
    """A key. It shows in no repr, text, log record or pickle; `reveal` is the one way to its value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value or value != value.strip() or not value.isprintable() or not value.isascii():
            raise ConfigError(
                "a key is printable ASCII without spaces around it; check for a line break from copying",
                field="api_key",
            )
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the header that carries it and nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied to another process; read it from the environment there")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


class Config(Noun, frozen=True, kw_only=True):
    """What one backend is configured with. Which of it comes from where is the client's business."""

    backend: str
    """The name the backend is registered under."""
    base_url: str | None = None
    api_key: Secret | None = None
    options: dict[str, Any] = {}
    """Settings that only this backend knows."""

    _private = frozenset({"base_url", "options"})

    def url(self, env: Mapping[str, str], variable: str, default: str | None = None) -> str:
        """The base URL without a slash at its end: the configured one, else `env[variable]`, else `default`.

        Raises `ConfigError` where there is none, or where it is not an http(s) address.
        """
        url = self.base_url or env.get(variable, "").strip() or default
        if not url:
            raise ConfigError(
                f"the {self.backend!r} backend needs an address: set {variable} or pass base_url=",
                backend=self.backend,
                field="base_url",
            )
        parts = _split(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "base_url must start with http:// or https:// and name a host, as in http://localhost:8000/v1",
                backend=self.backend,
                field="base_url",
            )
        if parts.query or parts.fragment:
            raise ConfigError(
                "base_url must not carry a query; the path of each call is added at its end, and a key belongs into a "
                "header",
                backend=self.backend,
                field="base_url",
            )
        if parts.username or parts.password:
            raise ConfigError(
                "base_url must not carry a user name or a password; use api_key=",
                backend=self.backend,
                field="base_url",
            )
        return url.rstrip("/")

    def key(self, env: Mapping[str, str], variable: str) -> Secret | None:
        """The configured key, else `env[variable]`; an empty variable counts as unset."""
        if self.api_key is not None:
            return self.api_key
        value = env.get(variable, "").strip()
        return Secret(value) if value else None

    def require_key(self, env: Mapping[str, str], variable: str) -> Secret:
        """Like `key`, but raises `ConfigError` naming the variable where there is none."""
        key = self.key(env, variable)
        if key is None:
            raise ConfigError(
                f"the {self.backend!r} backend needs a key: set {variable} or pass api_key=",
                backend=self.backend,
                field="api_key",
            )
        return key

    def option(self, name: str, kind: type[T], default: T) -> T:
        """The option `name`, or `default` where it is not set. Raises `ConfigError` unless it is a `kind`."""
        value = self.options.get(name, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(
                f"the option {name!r} of the {self.backend!r} backend takes a value of type {kind.__name__}, "
                f"not {type(value).__name__}",
                backend=self.backend,
                field=name,
            )
        return value

    def headers(self, usual: Mapping[str, str]) -> dict[str, str]:
        """The headers of every call: `usual`, with those of the option `headers` over them.

        Raises `ConfigError` for one that is no name with a value on one line.
        """
        own: dict[str, Any] = self.option("headers", dict, {})
        names = {str(name).lower() for name in own}  # or a name in another case would be sent beside its default
        headers = {**{name: value for name, value in usual.items() if name.lower() not in names}, **own}
        for name, value in headers.items():
            if (
                not isinstance(value, str)
                or not value.isprintable()
                or not name.replace("-", "").replace("_", "").isalnum()
            ):
                raise ConfigError(
                    f"the header {name[:40]!r} is not a name with a value on one line",
                    backend=self.backend,
                    field="headers",
                )
        return headers

    def check_options(self, *known: str) -> None:
        """Raise `ConfigError` naming the first option that the backend does not know."""
        for name in self.options:
            if name not in known:
                raise ConfigError(
                    f"the {self.backend!r} backend has no option {name!r}; it knows "
                    f"{', '.join(sorted(known)) or 'none'}",
                    backend=self.backend,
                    field=name,
                )


def _split(url: str) -> SplitResult | None:
    """The parts of an address, or `None` if it is none. The error of the standard library would repeat it."""
    try:
        parts = urlsplit(url)
        return parts if parts.port != 0 else None  # which is read here and nowhere else
    except ValueError:
        return None
