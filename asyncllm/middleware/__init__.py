"""The layers between a client and its backends, one file a layer.

A layer takes an `Open` and gives an `Open`: the request goes down unchanged, the events come up by reference. From the
outside in:

    total_timeout > fallback                 once a call
      > retry > gate > deadlines > backend   once a backend, built when it is connected

A layer that does not read events does not wrap them, and nothing below calls up.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from asyncllm.events import Events
from asyncllm.types import Request

__all__ = ["Open"]

Open: TypeAlias = Callable[[Request], AbstractAsyncContextManager[Events]]
"""What a layer takes and gives: `Backend.open`, more or less wrapped."""
