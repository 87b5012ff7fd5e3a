"""What a call may leave behind, looked at from outside: connections in use, tasks, errors that nobody saw."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

from asyncllm import Client
from asyncllm.testing.server import TASK_NAME
from asyncllm.transport import AiohttpTransport

__all__ = ["idle", "in_use", "lag", "nothing_unseen", "settle", "tasks"]

_SETTLE_S = 5.0


def in_use(client: Client) -> int:
    """Connections of the client's pool that a call holds."""
    return sum(len(connector._acquired) for connector in _connectors(client))


def idle(client: Client) -> int:
    """Connections of the client's pool that wait for the next call."""
    return sum(len(waiting) for connector in _connectors(client) for waiting in connector._conns.values())


def _connectors(client: Client) -> list[Any]:
    transport = client._routes._transport
    sessions = transport.sessions.values() if isinstance(transport, AiohttpTransport) else ()
    return [session.connector for session in sessions if session.connector]


def tasks() -> set[asyncio.Task[Any]]:
    """Every task but the current one and those of a `FaultyServer`."""
    return {task for task in asyncio.all_tasks() - {asyncio.current_task()} if task and task.get_name() != TASK_NAME}


async def settle(client: Client, before: set[asyncio.Task[Any]]) -> None:
    """Return as soon as no call holds a connection and no task runs that is not in `before`; fail if that never is."""
    deadline = asyncio.get_running_loop().time() + _SETTLE_S
    while (held := in_use(client)) or tasks() - before:
        assert asyncio.get_running_loop().time() < deadline, f"{held} connections in use, tasks {tasks() - before}"
        await asyncio.sleep(0.001)


@contextmanager
def nothing_unseen(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Fail if the block leaves an error on `loop` that nobody looked at."""
    unseen: list[str] = []
    loop.set_exception_handler(lambda _, context: unseen.append(f"{context['message']}: {context.get('exception')!r}"))
    gc.freeze()  # what is there already need not be looked at
    try:
        yield
        gc.collect()  # a task that nobody awaited says so when it is collected
    finally:
        gc.unfreeze()
        loop.set_exception_handler(None)
    assert not unseen


class lag:  # noqa: N801  # reads as the measure that it is
    """Measures, while its block lasts, by how much the machine held up the event loop at the worst."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick(), name=TASK_NAME)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        time = asyncio.get_running_loop().time
        while True:
            before = time()
            await asyncio.sleep(0.01)
            self.worst_s = max(self.worst_s, time() - before - 0.01)
