"""How a server is to behave."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from asyncllm.calls import Model
from asyncllm.errors import ConfigError

__all__ = ["ServerSettings"]

_POSITIVE = (
    "max_body_bytes",
    "max_messages",
    "max_choices",
    "max_depth",
    "max_file_bytes",
    "max_media_bytes",
    "max_texts",
    "send_timeout_s",
    "body_timeout_s",
    "min_upload_bytes_per_s",
)


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and deadlines of a server, seconds and bytes throughout. Raises `ConfigError` for what cannot be."""

    models: Mapping[str, Model] = {}
    """What is served: the names that requests use, and what the client calls each. The first is for requests that name
    none. Without any, it is the client's own model."""
    needs_key: bool = False
    """Whether whoever asks has to have a key of the server's store. Without, keys that are brought are looked at."""
    passed_fields: frozenset[str] = frozenset({"response_format"})
    """Fields of bodies that asyncllm has no name for and that go to the backend as they are. Others are ignored."""
    fetch_urls: bool = False
    """Whether a picture may be an address, which whatever is behind the model fetches from where it stands."""
    max_body_bytes: int = 8 * 2**20
    max_messages: int = 2000
    """Of one conversation."""
    max_choices: int = 8
    """The `n` of one request."""
    max_depth: int = 64
    """Of brackets within brackets in a body."""
    max_file_bytes: int = 200 * 2**20
    """Of the file of one upload."""
    max_media_bytes: int = 50 * 2**20
    """Of the recording or the pictures of one call, which are held in memory."""
    max_texts: int = 2048
    """Of one call that embeds, judges or ranks them."""
    body_timeout_s: float = 60
    """For a body to arrive."""
    min_upload_bytes_per_s: int = 32 * 2**10
    """A form may take longer than `body_timeout_s` by as long as this rate takes for what has come of it."""
    send_timeout_s: float = 30
    """For a client to take what is sent, before it is cut off and its work ended."""
    keep_alive_s: float = 15
    """Of silence in a stream, before something without a meaning is sent."""

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, "keep_alive_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is above zero", field=name)
