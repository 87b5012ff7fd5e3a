"""Who asks the rows of a batch: this process, or workers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, Self, TypeAlias

from asyncllm.batch.options import RunSettings, Via
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.batch.workers.pool import Workers
from asyncllm.batch.workers.process import ProcessWorker
from asyncllm.batch.workers.recipe import Recipe
from asyncllm.calls import Model
from asyncllm.errors import ConfigError

__all__ = ["AskRow", "Crew", "Here", "crew_of"]

AskRow: TypeAlias = Callable[[AnyAsk, Model | None], Awaitable[Answer]]
"""Asks what a row asks, of a model that goes before the one it names."""


class Crew(Protocol):
    """Asks rows inside `async with`, whose end ends whoever was there for it."""

    @property
    def ask(self) -> AskRow:
        """Asks one row."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class Here:
    """The client that the batch was started with, and nobody beside it."""

    def __init__(self, ask: AskRow) -> None:
        self.ask = ask

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nobody to end."""


def crew_of(
    ask: AskRow,
    recipes: Callable[[int], list[Recipe]],
    via: Via,
    settings: RunSettings,
    ray_options: Mapping[str, Any],
) -> Crew:
    """Whoever asks the rows: `ask` itself, or workers made from `recipes`. Raises `ConfigError`."""
    count, concurrency = settings.data_parallelism, settings.concurrency
    if via == "ray":
        from asyncllm.batch.workers.ray import actors  # an extra

        return actors(recipes(count), ray_options, concurrency=concurrency)
    if ray_options:
        raise ConfigError("ray_options are for via='ray'", field="ray_options")
    if count == 1:
        return Here(ask)
    if via == "vendor":
        raise ConfigError(
            "with via='vendor' the service does the work, and there are no workers", field="data_parallelism"
        )
    return Workers([functools.partial(ProcessWorker, recipe) for recipe in recipes(count)], concurrency=concurrency)
