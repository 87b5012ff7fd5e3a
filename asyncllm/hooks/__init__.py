"""Watch calls: what is told of each when it begins, when it is answered and when it fails.

A hook is an object with any of three methods, each of them sync or async:

    before(call)              before anything is sent
    after(call, response)     the answer has ended, or was left early: then `call.is_complete` is false
    on_error(call, error)     the call failed or was cancelled

`call` is a `Trail`. A hook watches: one that raises, or takes longer than five seconds, is logged once by its name and
changes nothing. One with an attribute `strict = True` asks to be taken at its word: what it raises is raised to the
caller.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import anyio

from asyncllm.errors import ConfigError
from asyncllm.trail import Trail
from asyncllm.types import Response

__all__ = ["AfterHook", "BeforeHook", "ErrorHook", "Hook", "Hooks"]

_log = logging.getLogger("asyncllm")

_HOOK_S = 5
_METHODS = ("before", "after", "on_error")


class BeforeHook(Protocol):
    """Is told that a call begins."""

    def before(self, call: Trail, /) -> Awaitable[None] | None:
        """Nothing has been sent yet."""
        ...


class AfterHook(Protocol):
    """Is told that a call has been answered."""

    def after(self, call: Trail, response: Response | None, /) -> Awaitable[None] | None:
        """`response` is what has arrived; `None` for calls without one, such as an embedding."""
        ...


class ErrorHook(Protocol):
    """Is told that a call has failed."""

    def on_error(self, call: Trail, error: BaseException, /) -> Awaitable[None] | None:
        """`error` is what the caller gets: an `AsyncLLMError`, or the cancellation."""
        ...


Hook: TypeAlias = BeforeHook | AfterHook | ErrorHook
"""Any one of the three, or several in one object."""


class Hooks:
    """The hooks of a client, told in the order given."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        for position, hook in enumerate(hooks):
            if not any(callable(getattr(hook, method, None)) for method in _METHODS):
                raise ConfigError(
                    f"hooks[{position}] is a {type(hook).__name__}, which has none of before, after and on_error",
                    field="hooks",
                )
        self._hooks = {method: [hook for hook in hooks if hasattr(hook, method)] for method in _METHODS}
        self._logged: set[tuple[int, str]] = set()

    def __bool__(self) -> bool:
        return any(self._hooks.values())

    async def before(self, call: Trail) -> None:
        """Tell that `call` begins."""
        await self._tell("before", call)

    async def after(self, call: Trail, response: Response | None) -> None:
        """Tell that `call` has been answered."""
        await self._tell("after", call, response)

    async def on_error(self, call: Trail, error: BaseException) -> None:
        """Tell that `call` has failed."""
        await self._tell("on_error", call, error)

    async def _tell(self, method: str, *told: object) -> None:
        for hook in self._hooks[method]:
            try:
                result = cast("Callable[..., object]", getattr(hook, method))(*told)
                if inspect.isawaitable(result):
                    await self._bounded(result)
            except Exception as error:
                if getattr(hook, "strict", False):
                    raise
                self._log(hook, method, error)

    async def _bounded(self, told: Awaitable[Any]) -> None:
        # Shielded, because the end of a cancelled call must be told too; bounded, because a caller waits for it.
        with anyio.move_on_after(_HOOK_S, shield=True) as scope:
            await told
        if scope.cancelled_caught:
            raise TimeoutError(f"not done within {_HOOK_S} seconds")

    def _log(self, hook: Hook, method: str, error: Exception) -> None:
        if (id(hook), method) in self._logged:
            return
        self._logged.add((id(hook), method))
        # Without the error's text, which is the hook's own and may quote what it was shown.
        _log.error("the hook %s failed in %s with %s", type(hook).__qualname__, method, type(error).__name__)
