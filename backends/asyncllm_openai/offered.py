"""The part of OpenAI's API that a service has."""

from __future__ import annotations

from collections.abc import Sequence

from asyncllm.backend import Backend
from asyncllm_openai.backend import OpenAI

__all__ = ["offered"]

# The methods of a backend by the client's call that asks for them; any other call is asked for by its own name.
_METHODS: dict[str, tuple[str, ...]] = {
    "batch": (
        "batch_item_size", "batch_limits", "batch_outcomes", "cancel_batch", "create_batch", "find_batch", "get_batch",
    ),  # as `Batches` has them
    "chat": (),  # which `open` serves
    "complete": (),
    "submit": ("submit", "poll", "cancel", "job_result"),
    "submit_video": ("submit", "poll", "cancel", "job_result"),
    "edit_image": ("edit_image", "open_image"),
    "generate_image": ("generate_image", "open_image"),
    "speak": ("speak", "open_speech"),
}  # fmt: skip


def offered(server: OpenAI, calls: Sequence[str], *, alive: bool = True, batches: bool = False) -> Backend:
    """`server` with the methods for `calls`, and for batches, and no others.

    Without `alive` nobody can ask whether it would answer.
    """
    return _Offered(server, [*calls, *(["is_alive"] if alive else []), *(["batch"] if batches else [])])


class _Offered:
    """What a service lacks is no method here, so that nobody asks for it."""

    def __init__(self, server: OpenAI, calls: Sequence[str]) -> None:
        self.open = server.open
        self.aclose = server.aclose
        for method in (method for call in calls for method in _METHODS.get(call, (call,))):
            setattr(self, method, getattr(server, method))
        if jobs := server.job_calls.intersection(calls):
            self.job_calls = jobs
