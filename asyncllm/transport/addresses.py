"""Which addresses of the network are everybody's, and which addresses of the web are read at all. Pure.

Source: IANA's registries of special-purpose addresses for IPv4 and IPv6, of 2026-06, with what the registries leave to
others: RFC 5214 (ISATAP), RFC 6052 (NAT64), and the one address of a cloud's own services that is of no private range.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from yarl import URL

__all__ = ["Address", "is_public", "read_address"]

Address = IPv4Address | IPv6Address

_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
        "168.63.129.16/32",  # Azure's, for its machines
    )
)  # fmt: skip
_GLOBAL = IPv6Network("2000::/3")
# Among them 6to4 and Teredo, which hold an address of IPv4 that nobody else has looked at.
_V6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)

_PORTS = (80, 443)
_LOW_PORTS = 1024
_NAME_SIZE = 254
_TEXT = re.compile(r"https?://[^\s\\\x00-\x20\x7f]{1,4000}", re.IGNORECASE)
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


def is_public(address: Address) -> bool:
    """Whether `address` is of the public network, where a form that holds another address means that one."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _V4)
    held = address.ipv4_mapped
    if held is None and address in _NAT64:
        held = IPv4Address(int(address) & 0xFFFFFFFF)
    if held is not None:
        return is_public(held)
    return (
        address in _GLOBAL
        and address.scope_id is None
        and address.is_global
        and not any(address in network for network in _V6)
        and int(address) >> 32 & 0xFFFFFFFF not in _ISATAP
    )


def read_address(text: str) -> URL:
    """What `text` names, of http or https, with a host in its one form. Raises `ValueError` for anything else.

    What two parsers could read in two ways is refused: numbers for a host that are no address as it is written today,
    user names, what is not printed, and letters that only look like those of a host.
    """
    if not text.isascii() or not _TEXT.fullmatch(text):
        raise ValueError("an address is http://host/path or https://host/path, in ASCII")
    try:
        url = URL(text)
    except ValueError:
        raise ValueError("this is no address") from None
    authority = text.split("://", 1)[1].split("/", 1)[0].split("?", 1)[0].split("#", 1)[0]
    if "@" in authority or "%" in authority or url.raw_user is not None or url.raw_password is not None:
        raise ValueError("an address has no user name, and nothing encoded in its host")
    host, port = (url.raw_host or "").lower(), url.port
    if not (port in _PORTS or (port is not None and port >= _LOW_PORTS)):
        raise ValueError("a port is 80, 443 or from 1024 up")
    is_number = authority.startswith("[") or _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2])
    if not (_is_written_out(host) if is_number else _NAME.fullmatch(host.removesuffix(".")) and len(host) < _NAME_SIZE):
        raise ValueError("this is no host")
    return url


def _is_written_out(host: str) -> bool:
    """Whether numbers are an address in the form that every program reads alike."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
