"""The place of one worker among several: what it shares with the process that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Self

from asyncllm.errors import ConfigError

__all__ = ["Seat", "VARIABLE"]

VARIABLE = "ASYNCLLM_WORKER"
"""Where a worker finds the numbers of its two sockets."""


class _Shared(socket.socket):
    """A socket that others listen on as well."""

    def listen(self, backlog: int = 0, /) -> None:
        """It is listened on already, and how many may wait is not for one worker to say."""


class Seat:
    """The socket that all workers accept from, and the line to their parent, which ends where that does."""

    def __init__(self, listening: socket.socket, line: socket.socket) -> None:
        self.listening = listening
        self._line = line

    @classmethod
    def find(cls, env: MutableMapping[str, str]) -> Self | None:
        """That of this process, if it is a worker. Its own children do not hear of it. Raises `ConfigError`."""
        told = env.pop(VARIABLE, None)
        if told is None:
            return None
        try:
            numbers = [int(number) for number in told.split(",")]
            listening, line = (_Shared(fileno=numbers[0]), socket.socket(fileno=numbers[1]))
        except (OSError, ValueError, IndexError):
            raise ConfigError(
                f"{VARIABLE} is for workers alone, which asyncllm starts itself", field=VARIABLE
            ) from None
        for number in numbers:
            os.set_inheritable(number, False)
        return cls(listening, line)

    def take(self) -> None:
        """Tell the parent that requests are answered here, and end as by SIGTERM when it has ended."""
        self._line.setblocking(False)
        with suppress(OSError):  # it has ended already, which is heard next
            self._line.send(b"\n")
        asyncio.get_running_loop().add_reader(self._line, self._hear)

    def _hear(self) -> None:
        try:
            has_ended = not self._line.recv(64)
        except BlockingIOError:
            return
        except OSError:
            has_ended = True
        if has_ended:
            asyncio.get_running_loop().remove_reader(self._line)
            signal.raise_signal(signal.SIGTERM)
