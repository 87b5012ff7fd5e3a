"""Certificates for a server that is to be trusted, or to be seen through."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

from asyncllm.errors import ConfigError

if TYPE_CHECKING:
    import trustme

__all__ = ["Authority", "Tls"]

Tls: TypeAlias = Literal["good", "expired", "wrong_host", "unknown_ca", "plain", "stall"]
"""What a client meets that speaks TLS.

`good` is a certificate of the server's own authority, which `FaultyServer.authority` makes a client trust; `expired`
has been one until yesterday; `wrong_host` is for another name; `unknown_ca` is of an authority that nobody trusts;
`plain` is a server that speaks HTTP where TLS is expected; `stall` takes the connection and never shakes hands.
"""

_HOST = "127.0.0.1"


class Authority:
    """A certificate authority of one server. Raises `ConfigError` where the package that makes one is missing."""

    def __init__(self) -> None:
        try:
            import trustme  # for those alone who ask for TLS
        except ImportError as error:
            raise ConfigError("a server with TLS needs certificates: pip install trustme", field="tls") from error
        self._new = trustme.CA
        self._ca = trustme.CA()

    def server(self, tls: Tls) -> ssl.SSLContext | None:
        """What the server shakes hands with; `None` where it does not."""
        if tls in ("plain", "stall"):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate(tls).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # it takes pyOpenSSL's, too
        return context

    def client(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and nobody else."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # it takes pyOpenSSL's, too
        return context

    @property
    def pem(self) -> bytes:
        """The authority's certificate, as a file of trusted certificates holds it."""
        return self._ca.cert_pem.bytes()

    def _certificate(self, tls: Tls) -> trustme.LeafCert:
        if tls == "expired":
            yesterday = datetime.now(UTC) - timedelta(days=1)
            return self._ca.issue_cert(_HOST, not_before=yesterday - timedelta(days=30), not_after=yesterday)
        authority = self._new() if tls == "unknown_ca" else self._ca
        return authority.issue_cert("elsewhere.example" if tls == "wrong_host" else _HOST)
