"""Which error each failure is: by where it arose, never by what aiohttp calls it.

A malformed reply is aiohttp's `ClientResponseError` of status 400, and would pass for a refusal of the request. Nor is
aiohttp's text shown or chained, because it holds addresses with their queries, and bytes of replies; what the operating
system said is chained where it said anything.
"""

from __future__ import annotations

import errno
import ssl
from contextlib import suppress

import aiohttp

from asyncllm.backend import HttpCall
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    AsyncLLMError,
    ConfigError,
    ConnectTimeoutError,
    ProtocolError,
    ResourceExhaustedError,
    StreamInterrupted,
)
from asyncllm.transport.connection import LostError

__all__ = ["broken", "host_of", "not_answered", "os_error"]

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_FORBIDDEN = ("\r", "\n", "\0")


def not_answered(error: Exception, call: HttpCall) -> AsyncLLMError:
    """The error for a call that failed before the head of a reply, by where it failed."""
    host = host_of(call.url)
    match error:
        case LostError(os_error=None):
            return APIConnectionError(f"{host} closed the connection before it answered", maybe_billed=True)
        case LostError(os_error=lost):
            return APIConnectionError(
                f"the connection to {host} failed before it answered ({type(lost).__name__})", maybe_billed=True
            )
        case aiohttp.ConnectionTimeoutError():
            return ConnectTimeoutError(
                f"no connection to {host} within connect_s={call.timeouts.connect_s}", elapsed_s=call.timeouts.connect_s
            )
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorError():
            return _not_connected(error, host)
        case aiohttp.ClientHttpProxyError():
            return APIConnectionError(
                f"the proxy does not connect to {host}",
                status=error.status,
                retryable=error.status in (502, 503, 504),
            )
        case aiohttp.ClientResponseError():
            return ProtocolError(f"{host} answered with something that is not HTTP", maybe_billed=True)
        case aiohttp.InvalidURL() | ValueError():
            return _not_http(call)
        case RuntimeError():
            return APIConnectionError("the event loop is ending, and its connections with it", retryable=False)
        case _:
            return APIConnectionError(f"the connection to {host} failed ({type(error).__name__})", maybe_billed=True)


def _not_connected(error: Exception, host: str) -> AsyncLLMError:
    """The error for a connection that did not come about. Nothing was sent."""
    cause = os_error(error)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return APIConnectionError(f"the certificate of {host} is not valid for it or not trusted", retryable=False)
    if isinstance(cause, ssl.SSLError):
        return APIConnectionError(f"{host} does not speak TLS as expected", retryable=False)
    if cause is not None and cause.errno in _EXHAUSTED:
        return ResourceExhaustedError(f"this machine has no socket left for {host}: {cause.strerror}{_open_files()}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return APIConnectionError(f"the name {host} cannot be resolved: check base_url and the network")
    to = f"the proxy to {host}" if isinstance(error, aiohttp.ClientProxyConnectionError) else host
    said = cause and (cause.strerror or type(cause).__name__)
    return APIConnectionError(f"cannot connect to {to}: {said or type(error).__name__}")


def _not_http(call: HttpCall) -> ConfigError:
    """The error for what cannot be put into a request at all."""
    for name, value in call.headers.items():
        if any(character in name + value for character in _FORBIDDEN):
            return ConfigError(f"the header {name[:40]!r} holds a line break or a null character", field="headers")
    return ConfigError("the address or a header is not valid for HTTP: check base_url and the key", field="base_url")


def broken(error: Exception, call: HttpCall) -> APIError:
    """The error for a reply that broke off: `error` is what the reader met."""
    if isinstance(error, aiohttp.ClientPayloadError):
        reason = "the body ended early or broke its framing"
    else:
        reason = f"the connection was lost ({type(error).__name__})"
    kind = StreamInterrupted if call.stream else APIConnectionError
    return kind(f"while reading the reply: {reason}", maybe_billed=True)


def os_error(error: Exception) -> OSError | None:
    """What the operating system, or TLS, said about `error`."""
    if isinstance(error, LostError | aiohttp.ClientConnectorError):
        return error.os_error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return cause if isinstance(cause, OSError) else None
    return None


def host_of(url: str) -> str:
    """Host and port of an address: all of it that an error may show, since a path or query can hold a key."""
    rest = url.partition("://")[2]
    return (rest.split("/", 1)[0].split("?", 1)[0].rsplit("@", 1)[-1] or "another path of the same host")[:100]


def _open_files() -> str:
    with suppress(ImportError):  # only where limits are called that
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"; this process may have {soft} files open (ulimit -n): allow it more, or make fewer calls at a time"
    return ""
