"""How a server is to behave."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from asyncllm.calls import Model
from asyncllm.errors import ConfigError

__all__ = ["ServerSettings"]

_POSITIVE = ("max_body_bytes", "max_messages", "max_choices", "max_depth", "send_timeout_s", "body_timeout_s")


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and deadlines of a server, seconds and bytes throughout. Raises `ConfigError` for what cannot be."""

    models: Mapping[str, Model] = {}
    """What is served: the names that requests use, and what the client calls each. The first is for requests that name
    none. Without any, it is the client's own model."""
    needs_key: bool = False
    """Whether whoever asks has to have a key of the server's store. Without, keys that are brought are looked at."""
    passed_fields: frozenset[str] = frozenset({"response_format", "thinking"})
    """Fields of bodies that asyncllm has no name for and that go to the backend as they are. Of the others, those that
    ask for another answer are refused, and the rest ignored."""
    fetch_urls: bool = False
    """Whether a picture may be an address, which whatever is behind the model fetches from where it stands."""
    max_body_bytes: int = 8 * 2**20
    max_messages: int = 2000
    """Of one conversation."""
    max_choices: int = 8
    """The `n` of one request."""
    max_depth: int = 64
    """Of brackets within brackets in a body."""
    body_timeout_s: float = 60
    """For a body to arrive."""
    send_timeout_s: float = 30
    """For a client to take what is sent, before it is cut off and its work ended."""
    keep_alive_s: float = 15
    """Of silence in a stream, before something without a meaning is sent."""

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, "keep_alive_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is above zero", field=name)
