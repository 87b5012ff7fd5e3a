"""A scripted server and a client of it, for the tests of backends whose service stands at any address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asyncllm import Client
from asyncllm.testing import FaultyServer, Op, SeenRequest

__all__ = ["paths", "talking"]


@asynccontextmanager
async def talking(
    script: Callable[[SeenRequest], Sequence[Op]] | Sequence[Op],
    model: str,
    *,
    suffix: str = "",
    env: Mapping[str, str] | None = None,
    api_key: str | None = None,
    **options: Any,
) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server, and a client of it that tries once."""
    async with (
        FaultyServer(script) as server,
        Client(
            model=model, base_url=server.url + suffix, api_key=api_key, retry=None, options=options, env=env or {}
        ) as client,
    ):
        yield server, client


def paths(server: FaultyServer) -> list[str]:
    """What the server was asked for."""
    return [f"{seen.method} {seen.path}" for seen in server.requests]
