"""Where a key may be taken, of the addresses that replies name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from asyncllm.backend import Config
from asyncllm.errors import ConfigError, RedirectRefusedError

__all__ = ["Trusted", "trusted_hosts"]

_PORTS = {"http": 80, "https": 443}


class Trusted:
    """Where the key may be taken: to the origin of `url`, and to `hosts`, there over TLS unless `url` is without."""

    def __init__(self, url: str, hosts: list[str]) -> None:
        parts = urlsplit(url)
        self._own = (parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme))
        self._schemes = {"https", parts.scheme}
        self._hosts = {host.lower() for host in hosts}

    def check(self, url: str) -> None:
        """Raise `RedirectRefusedError` for an address that the key may not be taken to."""
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            scheme, host, port, parts = "", "", None, urlsplit("")
        is_named = f"{host}:{port}" in self._hosts or (host in self._hosts and port == _PORTS.get(scheme))
        is_trusted = (scheme, host, port) == self._own or (is_named and scheme in self._schemes)
        if is_trusted and parts.username is None and parts.password is None:
            return
        raise RedirectRefusedError(
            f"the result is to be asked for at {host[:100] or 'an address that is none'}, which would get "
            "the key; if that is right, name it in the option trusted_hosts",
            maybe_billed=True,
        )


def trusted_hosts(config: Config) -> list[str]:
    """The option `trusted_hosts`. Raises `ConfigError`."""
    hosts: list[Any] = config.option("trusted_hosts", list, [])
    if not all(isinstance(host, str) and host and "/" not in host and "@" not in host for host in hosts):
        raise ConfigError(
            "trusted_hosts is a list of hosts, each as host or host:port", backend=config.backend, field="trusted_hosts"
        )
    return hosts
