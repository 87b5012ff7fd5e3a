"""What Ctrl-C and SIGTERM do to a batch: the first lets it come to an orderly stop, the second ends what is left."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from asyncllm.cli.signals import Signals

__all__ = ["heeding"]


@contextmanager
def heeding(signals: Signals, stop: Callable[[], None]) -> Generator[None]:
    """For the length of the block, inside an event loop: call `stop` at the first signal, cancel all tasks after it.

    A background job, whose shell has it ignore Ctrl-C, goes on ignoring that.
    """
    loop = asyncio.get_running_loop()
    heard = 0

    def hear(number: int) -> None:
        nonlocal heard
        heard += 1
        signals.terminated = signals.terminated or number == signal.SIGTERM
        if heard == 1:
            stop()
            return
        for task in asyncio.all_tasks(loop):
            task.cancel()

    before = {}
    if threading.current_thread() is threading.main_thread():  # signals come to no other
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: found for number in numbers if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        loop.add_signal_handler(number, hear, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
