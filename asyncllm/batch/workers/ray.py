"""Workers that are actors of a Ray cluster, for machines beside this one. Needs `pip install 'asyncllm[ray]'`.

What goes over Ray is MessagePack of our own nouns, as over the socket of a process. An actor reads variables and files
on the machine it is on, and not on this one. A node that is lost takes its actors with it: their rows have had a crash
and are asked again, under the same lease, by the actors that are left or started anew. Ray itself starts nothing again.

A cluster that somebody else has started is joined and left. Where none is named, one is started on the loopback address
of this machine, without a dashboard, and ended.

Source: https://docs.ray.io/en/latest/ray-core/api/index.html
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import msgspec

from asyncllm.batch.codec import decode_outcome
from asyncllm.batch.lost import WorkerLostError
from asyncllm.batch.rows import AnyAsk
from asyncllm.batch.workers.clerk import Clerk, told
from asyncllm.batch.workers.pool import Workers
from asyncllm.batch.workers.recipe import Recipe
from asyncllm.batch.workers.wire import Question, question_of
from asyncllm.calls import Model
from asyncllm.errors import ConfigError

__all__ = ["Actors", "RayWorker", "actors"]

_START_S = 300.0
_STOP_S = 10.0
_SPARE = 8
"""Calls that an actor takes beside its rows: those that end it, and rows that are being cancelled."""
_LOOPBACK = "127.0.0.1"
_KINDS: dict[str, tuple[type, ...]] = {
    "address": (str,),
    "accelerator_type": (str,),
    "memory": (int, float),
    "num_cpus": (int, float),
    "num_gpus": (int, float),
    "resources": (dict,),
    "runtime_env": (dict,),
}


class Actor:
    """What runs on the cluster."""

    def __init__(self) -> None:
        self._clerk: Clerk | None = None

    async def begin(self, recipe: bytes) -> bytes:
        """Make the client. The error that this raises, as `codec` writes it, or nothing."""
        try:
            self._clerk = Clerk(msgspec.msgpack.decode(recipe, type=Recipe))
        except Exception as error:  # it is raised where the batch was started
            return told(error)
        return b""

    async def ask(self, question: bytes) -> bytes:
        """What became of a row, as `codec` writes it."""
        assert self._clerk is not None  # an actor that is not ready is asked nothing
        return await self._clerk.answer(msgspec.msgpack.decode(question, type=Question))

    async def aclose(self) -> None:
        """Close the client."""
        if self._clerk is not None:
            await self._clerk.aclose()


class RayWorker:
    """One actor, as the batch sees it."""

    def __init__(self, recipe: Recipe, make: Callable[[], Any]) -> None:
        self._recipe = recipe
        self._make = make
        self._actor: Any = None
        self._lost: str | None = None

    async def start(self) -> None:
        """Return once there is a client over there.

        Raises `WorkerLostError`, what making the client raises over there, and `ConfigError` where no node has room.
        """
        self._actor = self._make()
        try:
            async with asyncio.timeout(_START_S):
                body = await self._result(self._actor.begin.remote(msgspec.msgpack.encode(self._recipe)))
        except TimeoutError:
            raise ConfigError(
                f"no node of the Ray cluster had what ray_options ask for within {_START_S:.0f} seconds; ask for less, "
                "or for a smaller data_parallelism",
                field="ray_options",
            ) from None
        if body:
            error = decode_outcome(body, index=0).error
            assert error is not None  # as it was encoded
            raise error

    async def ask(self, asked: AnyAsk, model: Model | None) -> bytes:
        """What became of a row, as `codec` writes it. Cancelled, it is cancelled there. Raises `WorkerLostError`."""
        if self._lost is not None:
            raise WorkerLostError(self._lost, was_asked=False)
        return await self._result(self._actor.ask.remote(msgspec.msgpack.encode(question_of(0, asked, model))))

    async def _result(self, reference: Any) -> bytes:
        ray = _library()
        try:
            body = await reference
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        except ray.exceptions.RayError as error:  # our own errors come as bytes
            self._lost = f"was lost: {type(error).__name__}"
            raise WorkerLostError(self._lost, was_asked=True) from error
        assert isinstance(body, bytes)
        return body

    def kill(self) -> None:
        """End it now."""
        self._lost = self._lost or "was ended"
        if self._actor is not None:
            with suppress(Exception):  # the cluster may be gone as well
                _library().kill(self._actor)

    async def stop(self) -> None:
        """Let it close its client, for ten seconds at the most, and end it. Idempotent."""
        if self._lost is None and self._actor is not None:
            with suppress(WorkerLostError, TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await self._result(self._actor.aclose.remote())
        self.kill()


class Actors(Workers):
    """Actors of the cluster, joined or started as the block is entered."""

    def __init__(self, recipes: Sequence[Recipe], options: Mapping[str, Any], *, concurrency: int) -> None:
        super().__init__(
            [functools.partial(RayWorker, recipe, self._make) for recipe in recipes], concurrency=concurrency
        )
        self._options: dict[str, Any] = {"num_cpus": 1, **options}
        self._address: str | None = self._options.pop("address", None)
        self._kind: Any = None
        self._is_ours = False

    async def __aenter__(self) -> Self:
        ray = _library()
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            joining = asyncio.create_task(asyncio.to_thread(_connect, self._address))
            try:
                await asyncio.shield(joining)
            except asyncio.CancelledError:
                await asyncio.wait([joining])
                ray.shutdown()
                raise
        elif self._address is not None:
            raise ConfigError(
                "this process has joined a Ray cluster already; leave out the address", field="ray_options"
            )
        self._kind = ray.remote(Actor)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await super().__aexit__()
        finally:
            if self._is_ours:
                await asyncio.to_thread(_library().shutdown)

    def _make(self) -> Any:
        once = {"max_concurrency": self.window + _SPARE, "max_restarts": 0, "max_task_retries": 0}
        return self._kind.options(**self._options, **once).remote()


def actors(recipes: Sequence[Recipe], options: Mapping[str, Any], *, concurrency: int) -> Actors:
    """One actor for each of `recipes`, as they are needed.

    Raises `ConfigError` where Ray is not installed, and for options that it has not.
    """
    _library()
    for name, value in options.items():
        if name not in _KINDS:
            raise ConfigError(
                f"ray_options has no {name!r}; there are {', '.join(sorted(_KINDS))}", field="ray_options"
            )
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            kinds = " or ".join(kind.__name__ for kind in _KINDS[name])
            raise ConfigError(f"ray_options: {name} is of type {kinds}", field="ray_options")
    return Actors(recipes, options, concurrency=concurrency)


def _library() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]  # the extra
    except ImportError:
        raise ConfigError("Ray is not installed: pip install 'asyncllm[ray]'", field="via") from None
    return ray  # pyright: ignore[reportUnknownVariableType]


def _connect(address: str | None) -> None:
    """Join the cluster, or start one. Raises `ConfigError` where there is none at the address."""
    ray = _library()
    quiet: Any = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if address or os.environ.get("RAY_ADDRESS"):
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, _node_ip_address=_LOOPBACK, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the Ray cluster cannot be joined: {error}", field="ray_options") from error
