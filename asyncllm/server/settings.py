"""How a server is to behave."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from asyncllm.calls import Model
from asyncllm.errors import ConfigError

__all__ = ["ServerSettings"]

_POSITIVE = (
    "max_body_bytes", "max_messages", "max_choices", "max_depth", "send_timeout_s", "body_timeout_s", "head_timeout_s",
    "max_head_bytes", "max_headers", "min_bytes_per_s", "max_connections", "max_connections_per_address",
    "max_fetches", "max_fetch_bytes", "fetch_timeout_s",
)  # fmt: skip


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
    """Whether a picture may be an address, which the server then fetches from the public network, for the backend."""
    fetch_hosts: frozenset[str] = frozenset()
    """The hosts that pictures are fetched from, all of them where there is none here; `.example.org` is all below."""
    max_fetches: int = 20
    """Pictures of one request that are fetched."""
    max_fetch_bytes: int = 20 * 2**20
    """Of them together."""
    fetch_timeout_s: float = 10
    """For one of them."""
    max_body_bytes: int = 8 * 2**20
    max_messages: int = 2000
    """Of one conversation."""
    max_choices: int = 8
    """The `n` of one request."""
    max_depth: int = 64
    """Of brackets within brackets in a body."""
    body_timeout_s: float = 60
    """For a body to arrive."""
    head_timeout_s: float = 10
    """For the head of a request to arrive."""
    max_head_bytes: int = 64 * 2**10
    max_headers: int = 100
    min_bytes_per_s: float = 500
    """How fast a body has to come, and a reply has to be taken, after a while in which nothing need be."""
    max_connections: int = 8192
    """Of one process, and fewer where it may not have as many files open. Then those without a request go first."""
    max_connections_per_address: int = 256
    """Of an IPv4 address, or of the /64 of an IPv6 one; this machine's own are not counted."""
    send_timeout_s: float = 30
    """For a client to take what is sent, before it is cut off and its work ended."""
    keep_alive_s: float = 15
    """Of silence in a stream, before something without a meaning is sent."""

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, "keep_alive_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is above zero", field=name)
