"""How a server is to behave."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from asyncllm.calls import Model
from asyncllm.errors import ConfigError

__all__ = ["LIVE", "ServerSettings"]

LIVE = frozenset({
    "models",
    "passed_fields",
    "max_body_bytes",
    "max_messages",
    "max_choices",
    "max_depth",
    "max_file_bytes",
    "max_media_bytes",
    "max_stored_bytes",
    "max_stored_files",
    "max_batch_rows",
    "max_active_batches",
    "body_timeout_s",
    "min_upload_bytes_per_s",
    "send_timeout_s",
    "keep_alive_s",
    "handover_s",
})  # fmt: skip
"""What a running server changes when its configuration is read again; the rest counts from its next start on."""
_HOST = re.compile(r"\*|[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/*?#@,]+")


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and deadlines of a server, seconds and bytes throughout. Raises `ConfigError` for what cannot be."""

    models: Mapping[str, Model] = {}
    """What is served: the names that requests use, and what the client calls each. The first is for requests that name
    none. Without any, it is the client's own model."""
    needs_key: bool = False
    """Whether whoever asks has to have a key of the server's store. Without, keys that are brought are looked at."""
    hosts: tuple[str, ...] | None = None
    """Names that requests may ask the server by, in small letters and without a port; `*` is for any. Without, nobody
    looks; `asyncllm serve` has those of this machine at least where only this machine can ask."""
    origins: tuple[str, ...] | None = None
    """Origins of web pages that may ask, such as https://app.example.org, beside pages of the server's own address.
    Without, nobody looks and no page of elsewhere can read answers; `asyncllm serve` lets none in that is not named."""
    passed_fields: frozenset[str] = frozenset({"response_format", "thinking"})
    """Fields of bodies that asyncllm has no name for and that go to the backend as they are. Of the others, those that
    ask for another answer are refused, and the rest ignored."""
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
    max_file_bytes: int = 200 * 2**20
    """Of the file of one upload."""
    max_media_bytes: int = 50 * 2**20
    """Of the recording or the pictures of one call, which are held in memory."""
    max_texts: int = 2048
    """Of one call that embeds, judges or ranks them."""
    max_stored_bytes: int = 10 * 2**30
    """Of all files of one tenant. What its batches write is kept in any case."""
    max_stored_files: int = 10_000
    """Of one tenant."""
    max_batch_rows: int = 50_000
    max_active_batches: int = 100
    """Of one tenant."""
    batch_concurrency: int = 8
    """Rows of batches that are under way at one time, of all batches together: other calls go first."""
    batch_drain_s: float = 10
    """For rows under way to end when their batch is cancelled, or the server stops. They are asked again after that."""
    body_timeout_s: float = 60
    """For a body to arrive."""
    min_upload_bytes_per_s: int = 32 * 2**10
    """A form may take longer than `body_timeout_s` by as long as this rate takes for what has come of it."""
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
    handover_s: float = 600
    """For calls under way when the configuration is read again, before what is not in it any more is closed."""

    max_in_flight: int = 256
    """Calls under way at one time, of all keys together; of each process where there are several."""
    max_queued: int = 1024
    """Calls that wait for their turn beyond these. What comes then is refused."""
    queue_timeout_s: float = 30
    """For a turn to come, before the call is refused."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) in (int, float) and not value > 0 and name != "max_queued":
                raise ConfigError(f"{name} is above zero", field=name)
        if not all(_HOST.fullmatch(name) for name in self.hosts or ()):
            raise ConfigError(
                "hosts are names such as api.example.org, in small letters, without a port", field="hosts"
            )
        if not all(_ORIGIN.fullmatch(origin) and origin == origin.lower() for origin in self.origins or ()):
            raise ConfigError(
                "origins are exact, such as https://app.example.org or http://localhost:3000: no path, no *",
                field="origins",
            )
        if self.max_queued < 0:
            raise ConfigError("max_queued is zero, for nobody to wait, or above", field="max_queued")
