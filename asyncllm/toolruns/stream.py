"""A tool run read as it happens: the events of every answer, and between them what becomes of the tool calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Self, TypeAlias

from asyncllm.calls import CallOptions, Prompt
from asyncllm.errors import UnsupportedError
from asyncllm.events import Event, end
from asyncllm.stream import Stream
from asyncllm.toolruns.rounds import Rounds, ToolRun
from asyncllm.toolruns.toolbox import ToolResult
from asyncllm.types import Message, Noun, ToolCall

__all__ = ["ToolEnded", "ToolEvent", "ToolStarted", "ToolStream"]


class ToolStarted(Noun, frozen=True):
    """A tool is about to be called, its arguments whole."""

    call: ToolCall
    round: int
    """Which answer asked for it, counted from 1."""


class ToolEnded(Noun, frozen=True):
    """A tool call has its result, or its error. Calls of one round end in any order."""

    result: ToolResult


ToolEvent: TypeAlias = Event | ToolStarted | ToolEnded
"""What a `ToolStream` yields: the events of each answer as a backend gives them, `Finished` at the end of each."""


class ToolStream:
    """The events of a run: iterate inside `async with`; `run` is complete after the loop.

    Leaving the block stops the model and cancels the tools that run. Raises, on entering: what `Client.stream` raises.
    Raises, while iterating: that too, `MaxRoundsExceededError`, and a tool's own error if told to.
    """

    def __init__(self, rounds: Rounds, stream: Callable[[Prompt, CallOptions], Stream]) -> None:
        self._rounds = rounds
        self._make = stream
        self._stream: Stream | None = None  # the answer under way
        self._task: asyncio.Task[list[ToolResult]] | None = None  # the tools under way
        self._events: AsyncGenerator[ToolEvent] | None = None

    async def __aenter__(self) -> Self:
        self._events = self._iterate(await self._ask())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            await end(self._events)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # asyncio reports an error that nobody looked at
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[ToolEvent]:
        if self._events is None:
            raise TypeError("a run is iterated inside its block: `async with client.stream_tools(...) as stream:`")
        return self._events

    @property
    def run(self) -> ToolRun:
        """The run: whole after the loop, and what has come of it so far before its end."""
        return self._rounds.result(self._stream.response if self._stream is not None else None)

    async def _iterate(self, stream: Stream) -> AsyncGenerator[ToolEvent]:
        # What is open is held by the block, not by this generator: leaving the block ends it.
        rounds = self._rounds
        while True:
            async for event in stream:
                yield event
            self._stream = None
            await stream.__aexit__(None, None, None)
            calls = rounds.take(stream.response)
            if calls:
                told: asyncio.Queue[ToolResult | None] = asyncio.Queue()
                task = self._task = asyncio.create_task(rounds.toolbox.run(calls, rounds.number, told.put_nowait))
                task.add_done_callback(_tell_end(told))
                for call in calls:
                    yield ToolStarted(call, rounds.number)
                while (result := await told.get()) is not None:
                    yield ToolEnded(result)
                self._task = None
                rounds.answer(task.result())
            if rounds.stopped is not None:
                return
            stream = await self._ask()

    async def _ask(self) -> Stream:
        """Begin the next round."""
        options = self._rounds.next()
        messages: list[Message] = self._rounds.messages
        stream = self._make(messages, options)
        try:
            await stream.__aenter__()
        except UnsupportedError as error:
            stream = self._make(messages, self._rounds.without_tools(options, error))
            await stream.__aenter__()
        self._stream = stream
        return stream


def _tell_end(told: asyncio.Queue[ToolResult | None]) -> Callable[[asyncio.Task[list[ToolResult]]], None]:
    return lambda _: told.put_nowait(None)
