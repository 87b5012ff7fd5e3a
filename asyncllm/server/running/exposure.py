"""What an address asks for: where other machines can ask, keys; where only this one can, names of this one."""

from __future__ import annotations

import ipaddress
import time

import msgspec

from asyncllm.errors import ConfigError
from asyncllm.server.settings import ServerSettings
from asyncllm.workspace.served import ServerStore

__all__ = ["guarded", "is_local"]

_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_local(host: str | None) -> bool:
    """Whether only this machine reaches an address; `None` is a Unix socket. Raises `ConfigError` for none at all."""
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"{host} is no address: give one such as 127.0.0.1 or ::1", field="host") from None


async def guarded(settings: ServerSettings, store: ServerStore | None, host: str | None) -> ServerSettings:
    """`settings` as they have to be where the server listens on `host`, `None` for a Unix socket.

    Raises `ConfigError` where keys are needed and nobody has one; `StoreError`.
    """
    needs_key = settings.needs_key or not is_local(host)
    if needs_key and not await _has_key(store):
        why = "keys are needed" if is_local(host) else f"{host} is reached from other machines"
        raise ConfigError(
            f"{why}, and there is no key yet: make one with `asyncllm keys add NAME`, and name its store with --store",
            field="store",
        )
    hosts = settings.hosts
    if host is not None and is_local(host):
        own = f"[{host}]" if ":" in host else host
        hosts = (*_NAMES, own.lower(), *(hosts or ()))
    return msgspec.structs.replace(settings, needs_key=needs_key, hosts=hosts, origins=settings.origins or ())


async def _has_key(store: ServerStore | None) -> bool:
    now = time.time()
    return store is not None and any(key.is_good(now) for key in await store.keys.list())
