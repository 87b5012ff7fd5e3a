"""How many connections there may be, and which of them goes where there is room for no more."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from asyncllm.server.settings import ServerSettings
from asyncllm.watchdog import Watchdog

__all__ = ["Gate", "Guest", "raise_file_limit"]

_FILES = 65_536
_OWN_FILES = 128  # of stores, logs and libraries
_V6_NETWORK = 64  # bits of an address that whoever has one can change freely


class Guest(Protocol):
    """A connection, as the gate knows it."""

    def drop(self) -> None:
        """End at once."""
        ...


class Gate:
    """Counts the connections of one process.

    Of too many, the oldest goes of those that have no whole request: a new connection, a slow one, an idle one. Where
    all are being answered, it is the newcomer. `files` is how many files the process may have open, each connection
    counted twice, for the call that is made for it.
    """

    def __init__(self, settings: ServerSettings, *, files: int | None = None) -> None:
        self.settings = settings
        self.dog = Watchdog()
        room = settings.max_connections if files is None else max(1, (files - _OWN_FILES) // 2)
        self._room = min(settings.max_connections, room)
        self._all: dict[Guest, str | None] = {}
        self._half_open: dict[Guest, None] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, guest: Guest, address: str | None) -> str | None:
        """A new connection from `address`, `None` for a socket of this machine. Why it may not stay, if so."""
        party = _party(address)
        if party is not None and self._counts.get(party, 0) >= self.settings.max_connections_per_address:
            return "too many connections from one address"
        if len(self._all) >= self._room:
            oldest = next(iter(self._half_open), None)
            if oldest is None:
                return "too many connections"
            self.leave(oldest)
            oldest.drop()
        self._all[guest] = party
        self._half_open[guest] = None
        if party is not None:
            self._counts[party] = self._counts.get(party, 0) + 1
        return None

    def leave(self, guest: Guest) -> None:
        """The connection is no more. Idempotent."""
        if guest not in self._all:
            return
        party = self._all.pop(guest)
        self._half_open.pop(guest, None)
        if party is not None:
            self._counts[party] -= 1
            if not self._counts[party]:
                del self._counts[party]

    def await_request(self, guest: Guest) -> None:
        """The connection waits for its next request."""
        if guest in self._all:
            self._half_open[guest] = None

    def has_request(self, guest: Guest) -> None:
        """The connection has a whole request."""
        self._half_open.pop(guest, None)

    def close(self) -> None:
        """Watch nobody any more."""
        self.dog.close()


def _party(address: str | None) -> str | None:
    """Who is counted together; nobody of this machine, where a proxy may stand before everybody."""
    try:
        known = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(known, ipaddress.IPv6Address):
        known = known.ipv4_mapped or known
    if known.is_loopback:
        return None
    if known.version == 4:  # a version
        return str(known)
    return str(ipaddress.ip_network((known, _V6_NETWORK), strict=False))


def raise_file_limit() -> int | None:
    """Allow this process as many open files as it may ask for; how many that are, `None` where nothing counts them."""
    try:
        import resource  # only where limits are called that
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit: Callable[[int], int] = lambda told: _FILES if told == resource.RLIM_INFINITY else min(told, _FILES)  # noqa: E731
    if limit(soft) < limit(hard):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit(hard), hard))
            return limit(hard)
    return limit(soft)
