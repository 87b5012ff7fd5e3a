"""What a request asks of a backend, by name, and the error for asking too much."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from asyncllm.errors import UnsupportedError
from asyncllm.types import AudioPart, FilePart, ImagePart, Request, Sampling

__all__ = ["require_supported"]

_NO_SAMPLING = Sampling()
_PARTS: dict[type, str] = {ImagePart: "image parts", AudioPart: "audio parts", FilePart: "file parts"}


def _used(request: Request) -> Iterator[str]:
    """Names of the optional features that `request` uses."""
    yield "chat" if request.is_chat else "complete"
    if request.sampling != _NO_SAMPLING:
        yield from msgspec.to_builtins(request.sampling)  # leaves out what is unset
    if request.tools:
        yield "tools"
    if request.tool_choice is not UNSET:
        yield "tool_choice"
    if request.parallel_tool_calls is not UNSET:
        yield "parallel_tool_calls"
    if request.constraint is not None:
        yield type(request.constraint).__name__
    if request.extra:
        yield "extra"
    for message in request.messages:
        if not isinstance(message.content, str):
            yield from (_PARTS[type(part)] for part in message.content if type(part) in _PARTS)


def require_supported(request: Request, supported: frozenset[str], *, backend: str) -> None:
    """Raise `UnsupportedError` naming the first option of `request` that is not in `supported`.

    Names are the fields of `Sampling`, `chat`, `complete`, `tools`, `tool_choice`, `parallel_tool_calls`, `extra`,
    the constraint's class (`JsonSchema`, `Regex`, `Choice`, `Grammar`), and `image parts`, `audio parts`,
    `file parts`.
    """
    for name in _used(request):
        if name not in supported:
            raise UnsupportedError(
                f"the {backend!r} backend does not support {name}; leave it out or choose another backend",
                backend=backend,
                model=request.model,
                field=name,
            )
