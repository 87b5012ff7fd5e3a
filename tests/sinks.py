"""Everywhere that a secret could come to light, searched for a set of canaries."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

import msgspec

from asyncllm import AsyncLLMError

__all__ = ["Sinks"]


class Sinks:
    """Collects what a run shows: log records, warnings, what asyncio reports, and what it is told to look at."""

    def __init__(self, canaries: Mapping[str, str]) -> None:
        self._canaries = canaries
        self.found: set[str] = set()
        """Which canary was seen, and where."""
        self.searched = 0
        """Texts searched."""

    def search(self, place: str, text: str | bytes) -> None:
        """Look for each canary in `text`."""
        self.searched += 1
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        for name, canary in self._canaries.items():
            if canary in text:
                at = text.index(canary)
                self.found.add(f"{name} in {place}: {text[max(0, at - 100) : at + 20]!r}")

    @contextmanager
    def listening(self, loop: asyncio.AbstractEventLoop, level: int = 1) -> Generator[None]:
        """Search all that is logged, warned of and reported while the block lasts, with asyncio in debug mode."""
        handler = _Handler(self)
        root = logging.getLogger()
        before, threshold, debug = root.level, loop.slow_callback_duration, loop.get_debug()
        root.addHandler(handler)
        root.setLevel(level)
        loop.set_debug(True)
        loop.slow_callback_duration = 0  # every step is slow, and is logged with all that it runs
        loop.set_exception_handler(lambda _, context: self.search("a report of asyncio", repr(context)))
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
        finally:
            root.removeHandler(handler)
            root.setLevel(before)
            loop.set_debug(debug)
            loop.slow_callback_duration = threshold
            loop.set_exception_handler(None)
        for one in caught:
            self.search("a warning", f"{one.message} {one.source!r}")

    def error(self, error: BaseException) -> None:
        """Search an exception, all that it comes from, its tracebacks and its pickle."""
        self.search("a traceback", "".join(traceback.format_exception(error)))
        for one in _chain(error):
            kind = type(one).__name__
            self.search(f"str({kind})", str(one))
            self.search(f"repr({kind})", repr(one))
            if isinstance(one, AsyncLLMError):
                self.search(f"{kind}.facts()", repr(one.facts()))
                self.search(f"pickle of {kind}", pickle.dumps(_without_content(one)))

    def live(self) -> None:
        """Search the text of every public object of this package that is alive, and of all tasks."""
        for task in asyncio.all_tasks():
            self.search("a task", repr(task))
        for thing in gc.get_objects():
            if _is_ours(thing) and not isinstance(thing, ModuleType | type):
                self.thing(thing)

    def thing(self, thing: object) -> None:
        """Search the texts of one object, and of the objects of this package that it holds."""
        for one in _parts(thing, set()):
            kind = type(one).__name__
            self.search(f"repr({kind})", repr(one))
            self.search(f"str({kind})", str(one))
            if hasattr(one, "__rich_repr__"):
                self.search(f"rich repr of {kind}", repr(list(cast("Any", one).__rich_repr__())))


class _Handler(logging.Handler):
    def __init__(self, sinks: Sinks) -> None:
        super().__init__(level=0)
        self._sinks = sinks
        self._formatter = logging.Formatter("%(name)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.search(f"a log record of {record.name}", self._formatter.format(record))
        self._sinks.search(f"the arguments of a log record of {record.name}", f"{record.args!r} {vars(record)!r}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and every other that hangs on it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, *getattr(one, "attempts", ()), *getattr(one, "exceptions", ())]


def _without_content(error: AsyncLLMError) -> AsyncLLMError:
    """A copy of `error` without the fields that are there to hold content; what hangs on it is looked at by itself."""
    bare = copy.copy(error)
    bare.partial = bare.body = None
    bare.attempts = ()
    return bare


def _is_ours(thing: object) -> bool:
    """Whether an object is of a public class of this package; its test doubles show what they are told to do."""
    kind = type(thing)
    home = str(kind.__module__)
    return home.startswith("asyncllm") and not home.startswith("asyncllm.testing") and not kind.__name__.startswith("_")


def _parts(thing: object, seen: set[int]) -> Iterator[object]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if _is_ours(thing):
        yield thing
    if isinstance(thing, msgspec.Struct):
        for name in thing.__struct_fields__:
            yield from _parts(getattr(thing, name), seen)
    elif isinstance(thing, list | tuple):
        for item in cast("Iterable[object]", thing):
            yield from _parts(item, seen)
