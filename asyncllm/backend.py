"""The door for plugin authors: what a backend is, what it is given, and what it may be asked beside `open`.

A backend is an object with two methods, made by a function that an entry point names:

    [project.entry-points."asyncllm.backends"]
    echo = "asyncllm_echo:connect"

    def connect(config: Config, context: Context, /) -> Backend: ...

`connect` checks its configuration and opens nothing: no sockets, no files, no threads. A function `describe() -> str`
beside it, if there is one, tells `asyncllm doctor` what the backend would run on. What else a backend can do it
shows by having the method of an optional protocol below; the client asks once, with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar, runtime_checkable
from urllib.parse import SplitResult, urlsplit

from msgspec import UNSET, UnsetType

from asyncllm.errors import ConfigError
from asyncllm.events import Events
from asyncllm.support import require_supported
from asyncllm.types import (
    Embeddings,
    ModelInfo,
    Noun,
    PromptCheck,
    Request,
    Timeouts,
)

__all__ = [
    "Backend",
    "Clock",
    "Config",
    "Connect",
    "Context",
    "EmbedRequest",
    "Embedder",
    "Health",
    "HttpCall",
    "HttpReply",
    "Models",
    "PromptChecker",
    "Secret",
    "Transport",
    "require_supported",
]

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


class Clock(Protocol):
    """Monotonic time, so that tests can bring their own."""

    def time(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Return after `seconds`."""
        ...


# Headers that hold no secret. Any other may: gateways have names of their own for a key.
_PLAIN = ("Accept", "Cache-Control", "Content-Type", "OpenAI-Organization", "OpenAI-Project", "User-Agent")
_PLAIN_HEADERS = frozenset((*_PLAIN, *(name.lower() for name in _PLAIN)))
_SECRET_LENGTH = 6  # a shorter value is a flag or a number, and would be blanked out of every text


class HttpCall(Noun, frozen=True, kw_only=True):
    """One HTTP request, complete: nothing below adds to it but what HTTP itself needs."""

    url: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    method: str = "POST"
    stream: bool = False
    """Whether the body is read as it comes. A streamed body that breaks off raises `StreamInterrupted`."""
    timeouts: Timeouts = Timeouts()

    _private = frozenset({"url", "body", "headers"})

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the headers carry that no error text may repeat."""
        found: list[str] = []
        for name, value in self.headers.items():  # in every call, so the usual headers are the quick ones
            if name in _PLAIN_HEADERS:
                continue
            if value.startswith("Bearer "):
                found.append(value.removeprefix("Bearer "))
            elif name == "Idempotency-Key":
                found.append(value)
            elif name.lower() not in _PLAIN_HEADERS:
                found += _secrets(value)
        return tuple(found)


def _secrets(value: str) -> Iterator[str]:
    """A header's value, and its parts without what names them, as in `session=...; theme=...`."""
    words = value.split()
    for part in {value, *words, *(word.partition("=")[2].rstrip(";") for word in words)}:
        if len(part) >= _SECRET_LENGTH:
            yield part


class HttpReply(Protocol):
    """A reply with a good status, lent for the length of the block that opened it."""

    status: int
    headers: Mapping[str, str]
    """Names are case-insensitive."""

    async def receive(self) -> bytes:
        """The next piece of the body, as the network brings it; empty at its end."""
        ...

    async def read(self) -> bytes:
        """The whole body."""
        ...

    async def drain(self) -> None:
        """Read a little past the part of the body that mattered, so that the connection can serve again."""
        ...


class Transport(Protocol):
    """The HTTP client that all backends of a client share."""

    def open(self, call: HttpCall, /) -> AbstractAsyncContextManager[HttpReply]:
        """Send `call` and lend the reply for the length of the block.

        Entering returns with a status of 2xx. Leaving hands the connection back if the body was read to its end,
        and cuts it otherwise.

        Raises, on entering: `APIStatusError` for any other status, `APIConnectionError`.
        Raises, while reading: `StreamInterrupted` or `APIConnectionError`.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        ...


class Context(Noun, frozen=True, kw_only=True):
    """What every backend is lent at `connect`: the ways to the world outside."""

    transport: Transport
    clock: Clock
    env: Mapping[str, str]

    _private = frozenset({"env"})


class Backend(Protocol):
    """A place that answers requests. One instance serves many tasks at once, on one event loop."""

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        """Start one generation and lend its events for the length of the block.

        Entering returns once the backend has accepted the call, so a failure there is safe to retry. The events end
        with one `Finished` for each choice. Leaving, for whatever reason, frees the connection or the slot: the
        model stops.

        Raises, on entering: `UnsupportedError` for an option it cannot honour, `APIError`.
        Raises, while iterating: `APIError`; `StreamInterrupted` where the reply ends without its terminal event.
        """
        ...

    async def aclose(self) -> None:
        """Free what outlives a call: pools, processes, device memory. Idempotent."""
        ...


Connect: TypeAlias = Callable[[Config, Context], Backend]
"""What an entry point of the group `asyncllm.backends` names. May raise `ConfigError`; opens nothing."""


class EmbedRequest(Noun, frozen=True, kw_only=True):
    """Texts to embed in one call."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | UnsetType = UNSET
    """Width of the vectors; unset asks for the model's own."""
    timeouts: Timeouts = Timeouts()
    extra: dict[str, Any] = {}

    _private = frozenset({"texts", "extra"})


@runtime_checkable
class Embedder(Protocol):
    """A backend that embeds texts."""

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """One vector a text, in order. Raises `APIError`."""
        ...


@runtime_checkable
class PromptChecker(Protocol):
    """A backend that counts a prompt by the model's own tokenizer."""

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count the prompt, chat template included, against the model's limit. Raises `APIError`."""
        ...


@runtime_checkable
class Health(Protocol):
    """A backend that can be asked whether it would answer."""

    async def is_alive(self) -> bool:
        """Ask the service itself. May raise `APIError`, which the client reads as no."""
        ...


@runtime_checkable
class Models(Protocol):
    """A backend that lists what it offers."""

    async def list_models(self) -> Sequence[ModelInfo]:
        """Models by the names that requests take. Raises `APIError`."""
        ...
