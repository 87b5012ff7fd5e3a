"""What both ways to Claude are told at `connect`, checked there."""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from asyncllm.backend import Config
from asyncllm.errors import ConfigError

__all__ = ["Options", "SHARED", "SUPPORTED"]

SHARED = ("beta", "cache", "headers", "max_tokens", "version")
"""Names of the options that both backends have."""

SUPPORTED = frozenset(
    {
        "chat", "extra", "tools", "tool_choice", "parallel_tool_calls", "JsonSchema", "image parts", "file parts",
        "max_tokens", "temperature", "top_p", "top_k", "stop", "reasoning_effort",
    }
)  # fmt: skip
"""What the API has had a place for, by the names of `require_supported`."""

_MAX_TOKENS = 10_000

# Source: https://platform.claude.com/docs/en/api/migration-2026-10-21
_WITHOUT_SAMPLING = "2026-10-21"
_REMOVED = {"temperature", "top_p", "top_k"}


class Options(Struct, frozen=True, kw_only=True):
    """How requests are written."""

    max_tokens: int
    """For calls that do not say: the API takes none without."""
    cache: bool
    """Whether to mark what a next call will repeat."""
    beta: tuple[str, ...]
    """Names of features that are not on for everybody."""
    version: str
    """Of the API, a date."""
    supported: frozenset[str]
    """What that version has a place for, by the names of `require_supported`."""

    @classmethod
    def of(cls, config: Config, *, version: str) -> Options:
        """The options in `config`, where `version` is the usual one. Raises `ConfigError`."""
        max_tokens = config.option("max_tokens", int, _MAX_TOKENS)
        if max_tokens < 1:
            raise _wrong(config, "max_tokens", f"a whole number from 1 up; got {max_tokens}")
        cache = config.option("cache", str, "off")
        if cache not in ("auto", "off"):
            raise _wrong(config, "cache", f"'auto' or 'off', not {cache[:40]!r}")
        word = config.option("version", str, version)
        return cls(
            max_tokens=max_tokens,
            cache=cache == "auto",
            beta=_names(config),
            version=word,
            supported=SUPPORTED - _REMOVED if word.removeprefix("bedrock-") >= _WITHOUT_SAMPLING else SUPPORTED,
        )


def _names(config: Config) -> tuple[str, ...]:
    given: object = config.options.get("beta", ())
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise _wrong(config, "beta", "a name or a list of names")
    return tuple(name.strip() for name in cast("list[str]", names) if name.strip())


def _wrong(config: Config, name: str, right: str) -> ConfigError:
    return ConfigError(
        f"the option {name!r} of the {config.backend!r} backend is {right}", backend=config.backend, field=name
    )
