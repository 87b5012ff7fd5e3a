"""What happened to one call on its way: the record that its layers write down on and that its hooks are shown.

A trail goes down with the request, one for each call. A layer notes on it what nobody above could know otherwise: how
long the call waited for a slot, which attempts failed, who answered. It holds no content but the request's own, which
shows in no `repr`.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from asyncllm.backend import AnyRequest
    from asyncllm.errors import AsyncLLMError
    from asyncllm.types import Request, Usage

__all__ = ["Kind", "Trail"]

Kind: TypeAlias = Literal[
    "chat", "complete", "embed", "check_prompt", "tokenize", "detokenize", "list_models", "get_model",
    "transcribe", "speak", "generate_image", "edit_image", "moderate", "rerank", "isolate",
    "submit", "submit_video", "submit_dub", "job_result",
]  # fmt: skip


class Trail(Struct, eq=False):
    """One call, from its start to its end. Times are seconds on the event loop's clock, or seconds since the start."""

    kind: Kind
    """What was called."""
    request: AnyRequest
    """What was asked; `model` is that of the place asked last."""
    backend: str
    """The backend that was asked last: after the call, the one that answered."""
    place: str
    """The deployment that was asked last, by its name in the configuration, or the backend's name."""
    started_at: float = 0.0
    """Event-loop time of the start."""
    queue_s: float = 0.0
    """Seconds spent waiting for a slot, over all attempts."""
    failures: tuple[AsyncLLMError, ...] = ()
    """Errors of the attempts that have failed, oldest first."""
    first_content_s: float | None = None
    """Seconds from the start to the first piece of the answer."""
    ended_s: float | None = None
    """Seconds from the start to the end, whichever end it was."""
    usage: Usage | None = None
    """What the answer consumed, once it is known."""
    cost_usd: float | None = None
    """What the answer cost, once it has ended, where that is known."""
    abandoned: int = 0
    """Hedged requests that were sent and given up: each is billed its prompt."""
    cached: bool = False
    """Whether a cache answered."""
    is_complete: bool = False
    """Whether the answer came to its proper end."""
    _id: str | None = None
    _state: dict[int, Any] | None = None

    def ask(self, backend: str, place: str, request: Request) -> None:
        """The call goes to `place`."""
        self.backend = backend
        self.place = place
        self.request = request

    def fail(self, error: AsyncLLMError) -> None:
        """An attempt has failed with `error`."""
        error.backend = error.backend or self.backend
        error.model = error.model or self.model or None
        if error not in self.failures:
            self.failures += (error,)

    def end(self) -> None:
        """The call is over. The first end counts."""
        if self.ended_s is None:
            self.ended_s = asyncio.get_running_loop().time() - self.started_at

    @property
    def id(self) -> str:
        """A name for this call that no other call has."""
        if self._id is None:
            self._id = secrets.token_hex(8)
        return self._id

    @property
    def due(self) -> float | None:
        """Event-loop time at which the `total_s` of the call is over."""
        total_s = self.request.timeouts.total_s
        return None if total_s is None else self.started_at + total_s

    @property
    def stream(self) -> bool:
        """Whether the caller reads the answer piece by piece."""
        return getattr(self.request, "stream", False)

    @property
    def model(self) -> str:
        """The model asked last, in the backend's own naming."""
        return self.request.model

    @property
    def state(self) -> dict[int, Any]:
        """A place for hooks to keep what is theirs, by `id(self)` of the hook."""
        if self._state is None:
            self._state = {}
        return self._state

    def __repr__(self) -> str:
        return f"<Trail {self.id}: {self.kind} at {self.place}>"
