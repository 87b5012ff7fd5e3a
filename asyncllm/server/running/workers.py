"""Several processes that answer at one address.

The parent listens and answers nothing: it starts workers as processes of their own, which accept from its socket,
starts another where one has died, and passes signals on. The first is started alone, so what keeps all of them from
starting is said once. A worker ends when its parent does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from asyncllm.errors import AsyncLLMError
from asyncllm.server.running.reload import Hangups
from asyncllm.server.running.seat import VARIABLE

__all__ = ["Crew"]

_log = logging.getLogger("asyncllm.server")

_LONG_S = 5.0
"""Whoever has worked for so long did not die of starting."""
_QUICK_DEATHS = 5
"""In a row, after which no other is started, unless one has worked for long."""
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 30.0
_KILL_S = 10.0
"""After the time for streams to end, until a worker that is still there is killed."""


class _GivenUp(Exception):  # noqa: N818  # it ends the crew, and nobody sees it
    """Workers die as they start."""


class Crew:
    """`count` workers, each of which runs asyncllm's command line with `arguments` and a seat at `listening`.

    `check` says whether a configuration would do, before workers are told to read it; it raises `AsyncLLMError`. `tell`
    hears when the first worker answers.
    """

    def __init__(
        self,
        listening: socket.socket,
        count: int,
        *,
        arguments: Sequence[str],
        drain_s: float,
        check: Callable[[], object],
        tell: Callable[[], None],
    ) -> None:
        self._listening = listening
        self._count = count
        self._arguments = arguments
        self._drain_s = drain_s
        self._check = check
        self._tell = tell
        self._workers: set[_Worker] = set()
        self._signals: list[int] = []
        self._working: asyncio.Task[int] | None = None
        self._deaths = 0
        """Quick ones, in a row."""

    async def run(self) -> int:
        """Work until SIGINT or SIGTERM, or until workers die as they start. Returns the status to end with.

        A signal is raised again by whoever called this: `signal` has it.
        """
        loop = asyncio.get_running_loop()
        hangups = Hangups(self._reload)
        self._working = asyncio.create_task(self._work())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)
        hangups.begin()
        try:
            await asyncio.wait([self._working])
        finally:
            self._working.cancel()
            self._listening.close()  # or connections would wait where nobody accepts them
            await self._finish()
            hangups.end()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return 0 if self._working.cancelled() else self._working.result()

    @property
    def signal(self) -> int | None:
        """The one that ended it."""
        return self._signals[0] if self._signals else None

    async def _work(self) -> int:
        first = await self._start()
        if not await first.ready():
            return await first.ended() or 1  # it has said why
        self._tell()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(first))
                for _ in range(self._count - 1):
                    tasks.create_task(self._keep(None))
        except* _GivenUp:
            _log.error("%d workers in a row have died as they started: giving up", self._deaths)
        return 1

    async def _keep(self, worker: _Worker | None) -> None:
        """See to it that there is a worker, `worker` at first."""
        while True:
            try:
                if worker is None:
                    worker = await self._start()
                await worker.ready()
                how = f"has ended with status {await worker.ended()}"
            except OSError as error:
                how = f"could not be started: {error.strerror}"
            self._deaths = 0 if worker is not None and worker.is_well else self._deaths + 1
            if worker is not None:
                worker.leave()
                self._workers.discard(worker)
                worker = None
            if self._deaths >= _QUICK_DEATHS and not any(one.is_well for one in self._workers):
                raise _GivenUp
            _log.warning("a worker %s; another one starts", how)
            if self._deaths > 1:
                await asyncio.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (self._deaths - 2)))

    async def _start(self) -> _Worker:
        worker = await _Worker.start(self._arguments, self._listening)
        self._workers.add(worker)
        return worker

    def _reload(self) -> None:
        try:
            self._check()
        except AsyncLLMError as error:
            _log.error("the configuration stays as it was: %s", error)
            return
        for worker in self._workers:
            worker.reload()

    def _end(self, number: int) -> None:
        """First let what is under way end, then break it off, then kill."""
        self._signals.append(number)
        if self._working is not None:
            self._working.cancel()
        if len(self._signals) > 1:
            for worker in self._workers:
                worker.send(signal.SIGINT if len(self._signals) == 2 else signal.SIGKILL)

    async def _finish(self) -> None:
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._drain_s + _KILL_S):
                for worker in self._workers:
                    await worker.ended()
        except TimeoutError:
            _log.error("workers did not end, and are killed")
        finally:
            for worker in self._workers:
                worker.send(signal.SIGKILL)
                worker.leave()
        for worker in self._workers:
            await worker.ended()


class _Worker:
    """One process."""

    def __init__(self, process: Process, line: socket.socket) -> None:
        self._process = process
        self._line = line
        self._began_at = asyncio.get_running_loop().time()
        self._is_ready = False
        self._is_behind = False

    @classmethod
    async def start(cls, arguments: Sequence[str], listening: socket.socket) -> Self:
        """Start one. It has the environment of this process, and finds what this one can import."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        numbers = (listening.fileno(), theirs.fileno())
        path = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "asyncllm", *arguments),
                stdin=DEVNULL,
                stdout=2,  # the one line there is the parent's
                pass_fds=numbers,
                env={**os.environ, "PYTHONPATH": path, VARIABLE: "{},{}".format(*numbers)},
                start_new_session=True,  # Ctrl-C is for the parent, who passes it on
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    @property
    def is_well(self) -> bool:
        """Whether it works, or worked, for long."""
        return self._is_ready and asyncio.get_running_loop().time() - self._began_at >= _LONG_S

    async def ready(self) -> bool:
        """Wait until it answers requests: `False` if it ends before."""
        if not self._is_ready:
            with suppress(ConnectionError):
                self._is_ready = bool(await asyncio.get_running_loop().sock_recv(self._line, 1))
            if self._is_behind:
                self.send(signal.SIGHUP)
        return self._is_ready

    async def ended(self) -> int:
        """Wait for its end. Returns its status, negative for a signal."""
        return await self._process.wait()

    def reload(self) -> None:
        """Have it read the configuration again, as soon as it can be told."""
        if self._is_ready:
            self.send(signal.SIGHUP)
        else:
            self._is_behind = True

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def leave(self) -> None:
        """Let go of it; one that is still there ends."""
        self._line.close()
