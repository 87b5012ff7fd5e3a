"""A server that goes exactly as fast as its client: the next event leaves once the client has taken an earlier one.

Client and server share eight bytes of memory, in which the client counts the events it has taken. The server sends to
its streams in turn and never has more events under way than half of them, so (almost) every event is a read of its own,
however fast the client is; and as the server spins on the counter, the client always has something to read. Only thus
is the client's own cost what sets the pace: a server that sends freely makes a fast client wait and a slow one catch up
by reading several events at once, which hides the difference between the two.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

COUNTER_VARIABLE = "ASYNCLLM_BENCH_COUNTER"
"""The environment variable that names the shared file to both sides."""

_SIZE = 8


class Writer(Protocol):
    """The part of a connection that is needed here."""

    def write_now(self, data: bytes, /) -> None:
        """Send `data`; no more than a window of it is ever under way, so there is no need to wait."""


def create_counter(folder: Path) -> Path:
    """A file for the counter, zero."""
    path = folder / "counter"
    path.write_bytes(bytes(_SIZE))
    return path


@contextmanager
def counter() -> Generator[memoryview[int]]:
    """The shared counter, at index 0, for the length of the block."""
    with (
        Path(os.environ[COUNTER_VARIABLE]).open("r+b") as file,
        mmap.mmap(file.fileno(), _SIZE) as shared,
        memoryview(shared) as raw,
        raw.cast("Q") as view,
    ):
        yield view


class Driver:
    """Sends the content events of all its streams, one stream after the other, in step with the client's counter."""

    def __init__(self, taken: memoryview[int], streams: int) -> None:
        self._taken = taken
        self._window = streams // 2
        self._sent = 0
        self._streams: deque[tuple[Writer, Iterator[bytes], asyncio.Event]] = deque()
        self._driving: asyncio.Task[None] | None = None

    async def send(self, to: Writer, events: Sequence[bytes]) -> None:
        """Send `events` to `to`, each as a write of its own; returns when the last is out."""
        stream = (to, iter(events), asyncio.Event())
        if not self._streams:
            self._sent = self._taken[0]  # the first of a new client, whose count begins again
        self._streams.append(stream)
        if self._driving is None or self._driving.done():
            self._driving = asyncio.create_task(self._drive())
        try:
            await stream[2].wait()
        finally:
            if stream in self._streams:  # its client left
                self._streams.remove(stream)

    async def _drive(self) -> None:
        while self._streams:
            while self._streams and self._sent - self._taken[0] < self._window:
                self._send_one()
            await asyncio.sleep(0)

    def _send_one(self) -> None:
        to, events, over = stream = self._streams.popleft()
        event = next(events, None)
        if event is None:
            over.set()
            return
        to.write_now(event)
        self._sent += 1
        self._streams.append(stream)
