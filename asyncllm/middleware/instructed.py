"""Ask in words for what a place cannot be held to.

A chat whose schema comes with an `instruction` is sent with the schema as its constraint first. A backend that refuses
that refuses before anything is sent; then the instruction takes the constraint's place, at the end of the system text.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType

from msgspec.structs import replace

from asyncllm.errors import UnsupportedError
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.trail import Trail
from asyncllm.types import JsonSchema, Message, Request

__all__ = ["instructed"]


def instructed(open_: Open) -> Open:
    """`open_`, with instructions for schemas that it refuses."""
    lacking: set[str] = set()  # models known to take no schema at all: a refusal costs a slot of the limits

    def opened(request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        constraint = request.constraint
        if not isinstance(constraint, JsonSchema) or not isinstance(constraint.instruction, str) or not request.is_chat:
            return open_(request, trail)
        in_words = _in_words(request, constraint.instruction)
        if request.model in lacking:
            return open_(in_words, trail)
        return _Instructed(open_, request, in_words, trail, lacking)

    return opened


class _Instructed:
    __slots__ = ("_in_words", "_inner", "_lacking", "_open", "_request", "_trail")

    def __init__(self, open_: Open, request: Request, in_words: Request, trail: Trail, lacking: set[str]) -> None:
        self._open = open_
        self._request = request
        self._in_words = in_words
        self._trail = trail
        self._lacking = lacking
        self._inner: AbstractAsyncContextManager[Events]

    async def __aenter__(self) -> Events:
        self._inner = self._open(self._request, self._trail)
        try:
            return await self._inner.__aenter__()
        except UnsupportedError as error:
            if error.field not in ("JsonSchema", "constraint"):
                raise
            if error.field == "JsonSchema":  # else it is something in this schema
                self._lacking.add(self._request.model)
        self._inner = self._open(self._in_words, self._trail)
        return await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


def _in_words(request: Request, instruction: str) -> Request:
    first, *rest = request.messages
    if first.role in ("system", "developer") and isinstance(first.content, str):
        # One system text: not every model's template takes two.
        messages = (replace(first, content=f"{first.content}\n\n{instruction}"), *rest)
    else:
        messages = (Message("system", instruction), *request.messages)
    return replace(request, messages=messages, constraint=None)
