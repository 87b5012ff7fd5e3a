"""A server that lets nobody in: the queue in which connections wait to be accepted is full, so connecting waits too."""

from __future__ import annotations

import select
import socket

__all__ = ["FullBacklog"]

_CALLERS = 16
"""More than enough: a queue of length zero takes one or two, by the kernel."""
_REFUSED_S = 0.02
"""On this machine a connection that is let in is there at once."""


class FullBacklog:
    """Fills the queue of a listening socket with connections of its own, until `release`.

    Linux then drops whoever asks, and is asked again after one second, three, seven. Raises `OSError` on a system
    whose queue has no such end.
    """

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._callers: list[socket.socket] = []
        door.listen(0)
        for _ in range(_CALLERS):
            caller = socket.socket()
            self._callers.append(caller)
            caller.setblocking(False)
            caller.connect_ex(door.getsockname())
            if not select.select([], [caller], [], _REFUSED_S)[1]:
                return
        self.close()
        raise OSError("this system lets more connections wait than it was told to")

    def release(self) -> None:
        """Empty the queue again."""
        self.close()
        self._door.setblocking(False)
        try:
            for _ in range(_CALLERS):
                self._door.accept()[0].close()
        except BlockingIOError:
            pass  # empty

    def close(self) -> None:
        """Hang up. Idempotent."""
        for caller in self._callers:
            caller.close()
