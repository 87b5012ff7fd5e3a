"""What is turned away before any route sees it: what a web page somewhere sends, and keys that stand in addresses.

A page whose name has come to mean this machine ("DNS rebinding") asks by that name, and any other page tells where it
is from; programs that are no browsers tell nothing, and are let through. A key in an address would stand in the logs
of everybody on its way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from asyncllm.dialect.faults import write_error
from asyncllm.errors import APIStatusError, BadRequestError, PermissionDeniedError
from asyncllm.server.anthropic.answers import write_fault
from asyncllm.server.replies import http_status, send_json
from asyncllm.server.settings import ServerSettings

__all__ = ["origins_of"]

_HOST = re.compile(r"([a-z0-9._-]+?|\[[0-9a-f:.]+\])\.?(:[0-9]*)?")
_KEY_NAMES = frozenset(
    {"key", "keys", "api_key", "apikey", "x_api_key", "token", "access_token", "auth", "auth_token", "authorization"}
)
_MARK = "al_"
_EXPOSED = ("x-request-id", "request-id", "retry-after", "retry-after-ms")


def origins_of(settings: ServerSettings) -> Sequence[Middleware]:
    """What stands before the routes of an application."""
    origins = Middleware(_Origins, settings)
    if not settings.origins:
        return [origins]
    # Answers preflights, which have no keys and open nothing, and lets pages of these origins read what they get.
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),  # answered with the names that are asked for
        expose_headers=_EXPOSED,
    )
    return [origins, cors]


class _Origins:
    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._hosts = None if settings.hosts is None or "*" in settings.hosts else frozenset(settings.hosts)
        self._origins = None if settings.origins is None else frozenset(settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        error = self._fault(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        document = write_fault(error, "") if "/v1/messages" in scope["path"] else write_error(error)
        await send_json(send, document, http_status(error))

    def _fault(self, scope: Scope) -> APIStatusError | None:
        if scope["query_string"] and _has_key(scope["query_string"]):
            return BadRequestError(
                "keys do not belong in an address: send Authorization: Bearer, or x-api-key, and make another key, as "
                "this one may stand in logs",
                status=400,
                code="key_in_query",
            )
        if self._hosts is None and self._origins is None:
            return None
        hosts: list[str] = []
        origins: list[str] = []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1").lower())
            elif name == b"origin":
                origins.append(value.decode("latin-1").lower())
        if self._hosts is not None and not (len(hosts) == 1 and self._is_known(hosts[0])):
            return BadRequestError(
                "the server is not known by the name that this request is for: it is given with --allow-host",
                status=421,
                code="wrong_host",
            )
        if self._origins is not None and not all(self._is_let_in(origin, hosts) for origin in origins):
            return PermissionDeniedError(
                "pages of this origin may not ask here: it is allowed with --allow-origin",
                status=403,
                code="wrong_origin",
            )
        return None

    def _is_known(self, host: str) -> bool:
        written = _HOST.fullmatch(host)
        return written is not None and self._hosts is not None and written[1] in self._hosts

    def _is_let_in(self, origin: str, hosts: Sequence[str]) -> bool:
        assert self._origins is not None  # asked for by whoever has looked
        scheme, _, place = origin.partition("://")
        return origin in self._origins or (scheme in ("http", "https") and hosts == [place])


def _has_key(query: bytes) -> bool:
    return any(
        name.lower().replace("-", "_") in _KEY_NAMES or name.startswith(_MARK) or value.startswith(_MARK)
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    )
