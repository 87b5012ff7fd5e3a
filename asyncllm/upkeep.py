"""What a client is told that runs for long, such as a server's: how its places are, and who carries on for it."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Literal

from asyncllm.calls import Model
from asyncllm.errors import ConfigError
from asyncllm.lifetime import Lifetime
from asyncllm.place import Place
from asyncllm.routes import Routes

__all__ = ["Condition", "Upkeep"]

Condition = Literal["up", "cooling", "down"]
"""`cooling` has just failed, and `down` does not say that it would answer: others are asked first."""

_JITTER = 0.2
"""Of the time between two probes, so that those of several processes do not fall together."""
_AT_ONCE = 16


class Upkeep(ABC):
    """Looking after places, over what a client has for every call."""

    _routes: Routes
    _life: Lifetime

    async def probe(self) -> Mapping[str, bool]:
        """Ask every place that stands beside others whether it would answer, and bear it in mind.

        The answers are by deployment or backend. One that has not said so twice in a row is left out until it does, or
        until it answers a call.
        """
        self._bind()
        places = self._routes.alternatives()
        answers = await _each(places, Place.probe)
        return {place.label: answers[place] for place in places}

    @asynccontextmanager
    async def probing(self, every_s: float | None = None) -> AsyncGenerator[None]:
        """For the length of the block, `probe` in the background every so often; by default as `probe_s` says.

        Without either, nothing happens. It ends with the client, too.
        """
        every_s = self._routes.probe_s if every_s is None else every_s
        if every_s is None:
            yield
            return
        if not every_s > 0:
            raise ConfigError("probes are some time apart: every_s is above zero", field="every_s")
        self._bind()
        task = asyncio.create_task(self._keep_probing(every_s))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def conditions(self, models: Iterable[Model]) -> list[dict[str, Condition]]:
        """How the places are that each of `models` may lead to, by deployment or backend.

        Those that are probed are known already, and the others are asked. A model that leads nowhere has none.
        """
        self._bind()
        found = [self._places(model) for model in models]
        probed = self._routes.alternatives() if self._routes.is_probed else []
        everywhere = {place for places in found for place in places}
        alive = {place: not place.is_down for place in probed}
        alive |= await _each(everywhere - alive.keys(), Place.is_alive)
        now = asyncio.get_running_loop().time()
        return [
            {place.label: "down" if not alive[place] else "cooling" if place.is_away(now) else "up" for place in places}
            for places in found
        ]

    def in_process(self, models: Iterable[Model]) -> list[str]:
        """Those of the places that `models` may lead to which are engines in this process, by deployment or backend."""
        self._bind()
        places = dict.fromkeys(place for model in models for place in self._places(model))
        return [place.label for place in places if self._routes.is_local(place)]

    def take_over(self, other: Upkeep, models: Iterable[Model]) -> None:
        """Connect what `models` lead to, with the backends of `other` wherever they would be connected alike.

        Engines in memory and connections stay as they are. `other` may go on with its calls for as long as this client
        is open, and has to be closed before it; it closes only what was not taken over.

        Raises `ConfigError`; then nothing was taken over.
        """
        self._bind()
        self._routes.take_over(other._routes, list(models))

    def _places(self, model: Model) -> list[Place]:
        try:
            return list(dict.fromkeys(target.place for target in self._routes.resolve(model)))
        except ConfigError:
            return []

    async def _keep_probing(self, every_s: float) -> None:
        self._routes.is_probed = True
        try:
            await asyncio.sleep(every_s * random.uniform(0, _JITTER))
            while not self._life.is_over:
                await self.probe()
                await asyncio.sleep(every_s * random.uniform(1 - _JITTER, 1 + _JITTER))
        finally:
            self._routes.is_probed = False

    @abstractmethod
    def _bind(self) -> None:
        """Tie the client to the running loop."""


async def _each(places: Collection[Place], ask: Callable[[Place], Awaitable[bool]]) -> dict[Place, bool]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def asked(place: Place) -> bool:
        async with slots:
            return await ask(place)

    return dict(zip(places, await asyncio.gather(*map(asked, places)), strict=True))
