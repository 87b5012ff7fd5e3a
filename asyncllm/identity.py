"""What tells one deployment from another, so that no answer of the one is taken for the other's.

A backend is what it was connected with: its configuration, and what it read from the environment meanwhile. The key is
part of it, because another key may stand for another account, which must not see this one's answers.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Self

import msgspec
from msgspec import Struct

from asyncllm.backend import Config

__all__ = ["Noted", "Origin", "identify"]

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Noted(Mapping[str, str]):
    """An environment that notes what is read from it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.read: dict[str, str | None] = {}
        """Every variable that was asked for, and what it held."""

    def __getitem__(self, name: str) -> str:
        self.read[name] = self._env.get(name)
        return self._env[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._env)

    def __len__(self) -> int:
        return len(self._env)


class Origin(Struct, frozen=True):
    """What a backend was connected with."""

    identity: str
    variables: tuple[str, ...]
    """Those that it has read."""

    @classmethod
    def of(cls, config: Config, env: Noted) -> Self:
        """That of a backend which has been connected."""
        return cls(identify(config, env), tuple(env.read))

    def fits(self, config: Config, env: Noted) -> bool:
        """Whether a backend that is connected now would be the same."""
        for name in self.variables:
            env.get(name)
        return identify(config, env) == self.identity


def identify(config: Config, env: Noted) -> str:
    """The same wherever a backend is connected with the same; it shows nothing of what that was."""
    key = None if config.api_key is None else config.api_key.reveal()
    try:
        told = _encoder.encode([config.backend, config.base_url, key, config.options, env.read])
    except (TypeError, ValueError, OverflowError):  # an option that is an object, the same for this process alone
        return secrets.token_hex()
    return hashlib.sha256(told).hexdigest()
