"""The part of OpenAI's API that a service has."""

from __future__ import annotations

from collections.abc import Sequence

from asyncllm.backend import Backend
from asyncllm_openai.backend import OpenAI

__all__ = ["offered"]

# The methods of a backend by the client's call that asks for them; any other call is asked for by its own name.
_METHODS: dict[str, tuple[str, ...]] = {
    "chat": (),  # which `open` serves
    "complete": (),
    "edit_image": ("edit_image", "open_image"),
    "generate_image": ("generate_image", "open_image"),
    "speak": ("speak", "open_speech"),
}


def offered(server: OpenAI, calls: Sequence[str], *, alive: bool = True) -> Backend:
    """`server` with the methods for `calls` and no others; without `alive` nobody can ask whether it would answer."""
    return _Offered(server, [*calls, *(["is_alive"] if alive else [])])


class _Offered:
    """What a service lacks is no method here, so that nobody asks for it."""

    def __init__(self, server: OpenAI, calls: Sequence[str]) -> None:
        self.open = server.open
        self.aclose = server.aclose
        for method in (method for call in calls for method in _METHODS.get(call, (call,))):
            setattr(self, method, getattr(server, method))
