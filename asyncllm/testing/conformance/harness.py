"""Runs one check in an event loop of its own and finds out what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from asyncllm.testing.server import TASK_NAME

__all__ = ["comes_down", "open_files", "run_clean", "settled", "within"]

T = TypeVar("T")

_SETTLE_S = 2.0
_NEVER_AWAITED = ".* was never awaited"
# Linux and macOS; elsewhere open files cannot be counted without help, and are not.
_OPEN_FILES = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)


def run_clean(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a new event loop and return what it returns.

    Raises what `main` raises, and otherwise `AssertionError` for anything that nobody would have seen: an object that
    was dropped and not closed, a coroutine that was never awaited, an exception in a task or a callback that nobody
    looked at.
    """
    unseen: list[str] = []
    # What was there before is none of the check's business, and looking through it costs more than most checks do.
    gc.freeze()
    with _listening(unseen):
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unseen.append(_told(context)))
            result = runner.run(main)
        # What was dropped reports itself only when it is collected.
        gc.collect()
    gc.unfreeze()
    assert not unseen, f"the check passed, and left behind: {'; '.join(unseen)}"
    return result


async def settled(before: set[asyncio.Task[Any]], what: str) -> None:
    """Wait until no task runs that is not in `before`; fail, saying after `what`, if that does not come about."""
    deadline = asyncio.get_running_loop().time() + _SETTLE_S
    # A server that was started for the test keeps a task for each connection that the pool may use again.
    while left := {task for task in asyncio.all_tasks() - before if task.get_name() != TASK_NAME}:
        if asyncio.get_running_loop().time() > deadline:
            names = ", ".join(sorted(repr(task.get_coro()) for task in left))
            raise AssertionError(f"{what} leaves {len(left)} tasks running: {names}")
        await asyncio.sleep(0.005)


@contextmanager
def within(seconds: float, what: str) -> Generator[None]:
    """Turn the `TimeoutError` of the block's own deadline into an `AssertionError` that says what did not happen."""
    try:
        yield
    except TimeoutError as error:
        raise AssertionError(f"{what} did not end within {seconds} seconds") from error


def comes_down(count: Callable[[], int], limit: int) -> bool:
    """Whether `count` is `limit` or less, now or within the seconds that a thread or a socket may take to end."""
    deadline = time.monotonic() + _SETTLE_S
    while count() > limit:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def open_files() -> int:
    """How many files and sockets this process has open."""
    return len(list(_OPEN_FILES.iterdir())) if _OPEN_FILES else 0


@contextmanager
def _listening(unseen: list[str]) -> Generator[None]:
    """Note in `unseen` the warnings and exceptions that have no one to go to."""
    hook = sys.unraisablehook
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        warnings.filterwarnings("always", _NEVER_AWAITED, RuntimeWarning)
        sys.unraisablehook = lambda raised: unseen.append(
            f"{raised.err_msg}: {raised.exc_value!r} in {raised.object!r}"
        )
        try:
            yield
        finally:
            sys.unraisablehook = hook
            unseen += [f"{one.category.__name__}: {one.message}" for one in caught if _is_left_behind(one)]
    for one in caught:
        if not _is_left_behind(one):  # not what is looked for here; the caller's filters decide
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _is_left_behind(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, ResourceWarning) or str(warning.message).endswith("was never awaited")


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}{f' ({error!r})' if error else ''}"
