"""What a request asks of a backend, by name, and the error for asking too much."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from asyncllm.errors import UnsupportedError
from asyncllm.types import AudioPart, FilePart, ImagePart, Request, Sampling

__all__ = ["require_supported"]

_NO_SAMPLING = Sampling()
_PARTS: dict[type, str] = {ImagePart: "image parts", AudioPart: "audio parts", FilePart: "file parts"}


def _used(request: Request) -> list[str]:
    """Names of the optional features that `request` uses."""
    names = ["chat" if request.is_chat else "complete"]
    if request.sampling != _NO_SAMPLING:
        names += msgspec.to_builtins(request.sampling)  # leaves out what is unset
    if request.tools:
        names.append("tools")
    if request.tool_choice is not UNSET:
        names.append("tool_choice")
    if request.parallel_tool_calls is not UNSET:
        names.append("parallel_tool_calls")
    if request.constraint is not None:
        names.append(type(request.constraint).__name__)
    if request.extra:
        names.append("extra")
    for message in request.messages:
        if not isinstance(message.content, str):
            names += [_PARTS[type(part)] for part in message.content if type(part) in _PARTS]
    return names


def require_supported(request: Request, supported: frozenset[str], *, backend: str) -> None:
    """Raise `UnsupportedError` naming the first option of `request` that is not in `supported`.

    Names are the fields of `Sampling`, `chat`, `complete`, `tools`, `tool_choice`, `parallel_tool_calls`, `extra`,
    the constraint's class (`JsonSchema`, `Regex`, `Choice`, `Grammar`), and `image parts`, `audio parts`,
    `file parts`.
    """
    used = _used(request)
    if supported.issuperset(used):
        return
    for name in used:
        if name not in supported:
            raise UnsupportedError(
                f"the {backend!r} backend does not support {name}; leave it out or choose another backend",
                backend=backend,
                model=request.model,
                field=name,
            )
