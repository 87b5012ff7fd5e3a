"""Runs the tool calls of one answer, all at once, and puts what comes of them into words for the model.

What a model can mend is told to it as the call's result: arguments that do not fit, a name that no tool has, an error
of the tool, by its class and message and without its traceback. What it cannot mend ends the run: a budget that is
used up, a configuration that is wrong, a client on the wrong loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, cast

import msgspec

from asyncllm.dialect.lenient import make_whole
from asyncllm.errors import APIError, AsyncLLMError, InvalidRequestError
from asyncllm.tools import FinalResult, FunctionTool
from asyncllm.types import AudioPart, ContentPart, FilePart, ImagePart, Message, Noun, TextPart, Tool, ToolCall

__all__ = ["OnToolError", "ToolResult", "Toolbox"]

OnToolError: TypeAlias = Literal["report", "raise"]

_LONGEST_ERROR = 2000
"""Characters of an exception's text that a model is shown."""


class ToolResult(Noun, frozen=True, kw_only=True):
    """What came of one tool call."""

    call: ToolCall
    content: str | tuple[ContentPart, ...]
    """What the model is told: a text as it is, parts of a message as they are, anything else as JSON."""
    value: Any = None
    """What the function returned."""
    error: str | None = None
    """What went wrong, where something did; `content` says it to the model."""
    duration_s: float = 0.0
    """Seconds that the function took."""
    round: int = 1
    """Which answer asked for the call, counted from 1."""
    is_final: bool = False
    """Whether the function returned a `FinalResult`."""

    _private = frozenset({"content", "value", "error"})

    @property
    def message(self) -> Message:
        """The turn that tells the model."""
        return Message("tool", self.content, tool_call_id=self.call.id, is_error=self.error is not None)


class Toolbox:
    """The tools of a run. Those without a function are known and not called here."""

    def __init__(self, tools: Sequence[Tool], *, max_concurrency: int, on_error: OnToolError) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise InvalidRequestError(f"two tools have the name {tool.name!r}", field="tools")
            self._tools[tool.name] = tool
        self._max_concurrency = max_concurrency
        self._raises = on_error == "raise"

    def runs(self, call: ToolCall) -> bool:
        """Whether `call` is answered here: by its function, or by saying that there is no such tool."""
        return isinstance(self._tools.get(call.name), FunctionTool) or call.name not in self._tools

    async def run(
        self, calls: Sequence[ToolCall], number: int, tell: Callable[[ToolResult], None] | None = None
    ) -> list[ToolResult]:
        """The results of the `calls` of round `number`, in their order; each is told as it comes.

        A cancellation stops them all. Raises what a model cannot mend, and every error of a tool if told to.
        """
        results: dict[int, ToolResult] = {}
        slots = asyncio.Semaphore(self._max_concurrency)

        async def one(position: int, call: ToolCall) -> None:
            async with slots:
                result = results[position] = await self._result(call, number)
            if tell is not None:
                tell(result)

        try:
            async with asyncio.TaskGroup() as group:
                for position, call in enumerate(calls):
                    group.create_task(one(position, call))
        except BaseExceptionGroup as errors:
            # The first is why the others were stopped; a group around it would hide it from the caller's `except`.
            raise errors.exceptions[0] from None
        return [results[position] for position in range(len(calls))]

    async def _result(self, call: ToolCall, number: int) -> ToolResult:
        tool = self._tools.get(call.name)
        if not isinstance(tool, FunctionTool):
            names = ", ".join(name for name in self._tools)
            return _failed(call, number, f"there is no tool named {call.name!r}; the tools are {names}")
        try:
            arguments = tool.decode(call.arguments)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            return _failed(call, number, f"the arguments do not fit: {error}")
        time = asyncio.get_running_loop().time
        started = time()
        try:
            value = await tool.call(arguments)
            is_final = isinstance(value, FinalResult)
            value = value.value if isinstance(value, FinalResult) else value
            content = _content(value)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _failed(call, number, _told(error), time() - started)  # its own: nobody has cancelled the run
        except Exception as error:
            if self._raises or (isinstance(error, AsyncLLMError) and not isinstance(error, APIError)):
                raise
            return _failed(call, number, _told(error), time() - started)
        return ToolResult(
            call=call, content=content, value=value, duration_s=time() - started, round=number, is_final=is_final
        )


def _content(value: Any) -> str | tuple[ContentPart, ...]:
    """What a model is told of `value`. Raises `TypeError` for what has no JSON."""
    if isinstance(value, str):
        return make_whole(value)  # a file's name or a program's output may hold half a character, which nobody sends
    parts = cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)
    content = tuple(part for part in parts if isinstance(part, TextPart | ImagePart | AudioPart | FilePart))
    if content and len(content) == len(parts):
        return content
    return msgspec.json.encode(value).decode()


def _told(error: BaseException) -> str:
    text = make_whole(str(error))
    if len(text) > _LONGEST_ERROR:
        text = f"{text[:_LONGEST_ERROR]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failed(call: ToolCall, number: int, error: str, duration_s: float = 0.0) -> ToolResult:
    return ToolResult(call=call, content=f"Error: {error}", error=error, duration_s=duration_s, round=number)
