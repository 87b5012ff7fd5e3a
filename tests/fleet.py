"""Backends by name that a test can put down and up again, connected as `echo` from a configuration."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import asyncllm
import asyncllm_echo
from asyncllm import ConfigError, Finished, TextDelta
from asyncllm.backend import Backend, Config, Context
from asyncllm.config import Deployment
from asyncllm.events import Event, Events
from asyncllm.types import Request

__all__ = ["Engine", "Fleet", "place"]


def place(name: str, **options: object) -> Deployment:
    """A deployment of the engine of that name."""
    return Deployment(backend="echo", model="m", options={"name": name, **options})


class Engine:
    """Says its name, in two pieces between which it may be held."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_up = True
        self.is_closed = False
        self.asked = 0
        """How often it was asked whether it is alive."""
        self.calls = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    @asynccontextmanager
    async def open(self, _: Request, /) -> AsyncGenerator[Events]:
        self.calls += 1
        if not self.is_up:
            raise asyncllm.OverloadedError("down")
        yield self._events()

    async def _events(self) -> AsyncGenerator[Event]:
        yield TextDelta(self.name)
        await self.go_on.wait()
        assert not self.is_closed
        yield TextDelta(" says so")
        yield Finished("stop")

    async def is_alive(self) -> bool:
        self.asked += 1
        return self.is_up

    async def aclose(self) -> None:
        self.is_closed = True


class Fleet:
    """All engines that were connected, the last of each name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engines: dict[str, Engine] = {}
        self.connected: Counter[str] = Counter()
        monkeypatch.setattr(asyncllm_echo, "connect", self._connect)

    def __getitem__(self, name: str) -> Engine:
        return self.engines[name]

    def _connect(self, config: Config, _: Context, /) -> Backend:
        name = config.options["name"]
        if name == "broken":
            raise ConfigError("this one cannot be connected", field="options")
        self.connected[name] += 1
        engine = self.engines[name] = Engine(name)
        return engine
