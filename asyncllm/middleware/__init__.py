"""The layers between a client and its backends, one file a layer.

A layer takes an `Open` and gives an `Open`: the request goes down unchanged (except through `instructed`), the events
come up by reference, and what happened on the way is written on the call's `Trail`. From the outside in:

    observe > total_timeout > fallback                          once a call
      > instructed > cached > hedge                           once a place, built when its backend is connected
      > retry > limits > gate > deadlines
        > backend

A layer that does not read events does not wrap them, and nothing below calls up.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from asyncllm.backend import Backend
from asyncllm.events import Events
from asyncllm.trail import Trail
from asyncllm.types import Request

__all__ = ["Open", "bottom"]

Open: TypeAlias = Callable[[Request, Trail], AbstractAsyncContextManager[Events]]
"""What a layer takes and gives: `Backend.open`, more or less wrapped."""


def bottom(backend: Backend) -> Open:
    """What the innermost layer wraps: `backend.open`, which knows nothing of trails."""
    open_ = backend.open

    def opened(request: Request, _: Trail) -> AbstractAsyncContextManager[Events]:
        return open_(request)

    return opened
