"""A server that is looked after: its places are probed, and on SIGHUP its configuration is read again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeAlias

from asyncllm.client import Client
from asyncllm.errors import AsyncLLMError
from asyncllm.finishing import finish
from asyncllm.server.service import Service
from asyncllm.server.settings import LIVE, ServerSettings

__all__ = ["Hangups", "Kept", "Renew"]

_CLOSE_S = 15
_log = logging.getLogger("asyncllm.server")

Renew: TypeAlias = Callable[[], tuple[Client, ServerSettings]]
"""Reads the configuration, and makes what it asks for. Raises `ConfigError`."""


class Kept:
    """Looks after a server for the length of its block.

    A configuration that is wrong is one line in the log, and the one before stays. Clients that have been replaced are
    closed once no call uses them, the first of them included; `tell` hears of each that came.
    """

    def __init__(
        self, service: Service, settings: ServerSettings, renew: Renew | None, tell: Callable[[str], None]
    ) -> None:
        self._service = service
        self._asked = settings  # before the address had a say
        self._renew = renew
        self._tell = tell
        self._first = service.upstream.client
        self._old: list[Client] = []
        """Replaced, and not closed yet; oldest first."""
        self._probes = AsyncExitStack()
        self._renewing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hangups = Hangups(self.reload)

    async def __aenter__(self) -> Self:
        await self._probes.enter_async_context(self._first.probing())
        if self._renew is not None:
            self._hangups.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hangups.end()
        await finish(asyncio.create_task(self._close()), _CLOSE_S)  # the signal that ends a server cancels this

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._probes.aclose()
        client = self._service.upstream.client
        for one in [*self._old, *([] if client is self._first else [client])]:
            await one.aclose()

    def reload(self) -> None:
        """Read the configuration again, in the background."""
        task = asyncio.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        assert self._renew is not None  # or else nobody asks
        service = self._service
        async with self._renewing:
            client: Client | None = None
            try:
                client, settings = self._renew()
                before = service.swap(client, settings)
            except Exception as error:
                told = error if isinstance(error, AsyncLLMError) else type(error).__name__
                _log.error("the configuration stays as it was: %s", told)
                if client is not None:
                    await client.aclose()
                return
            for name in settings.__struct_fields__:
                if name not in LIVE and getattr(settings, name) != getattr(self._asked, name):
                    _log.warning("%s has changed, which counts from the next start on", name)
            self._old.append(before.client)
            await self._probes.aclose()
            self._probes = AsyncExitStack()
            await self._probes.enter_async_context(client.probing())
        self._tell(f"serving {', '.join(service.upstream.served.names())} from now on")
        await service.released(before)
        await before.client.aclose()
        self._old.remove(before.client)


class Hangups:
    """Calls `hear` at each SIGHUP, except where it says that the terminal has gone: then it is a SIGTERM."""

    def __init__(self, hear: Callable[[], None]) -> None:
        self._hear = hear
        self._has_begun = False
        self._had_terminal = False

    def begin(self) -> None:
        """From now on."""
        try:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._take)
        except (NotImplementedError, RuntimeError, ValueError):  # no such signals, or not in the main thread
            return
        self._has_begun = True
        self._had_terminal = _has_terminal()

    def end(self) -> None:
        """No more."""
        if self._has_begun:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    def _take(self) -> None:
        if self._had_terminal and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            self._hear()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
