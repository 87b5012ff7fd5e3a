"""Who may ask for what: keys, by whichever header the vendors' SDKs send them in."""

from __future__ import annotations

import time

from msgspec import Struct
from starlette.types import Scope as Asgi

from asyncllm.errors import AuthenticationError, PermissionDeniedError
from asyncllm.server.incoming import Caller, header_of
from asyncllm.workspace.keys import Key, KeyStore, Scope

__all__ = ["Access"]

_KNOWN_S = 0.5
"""Seconds for which a key is known without looking again, and so at most goes on opening doors once it is revoked."""
_KNOWN_KEYS = 10_000
_MARK = "al_"


class _Known(Struct, frozen=True):
    key: Key
    until: float


class Access:
    """Knows callers by their keys.

    Without `is_needed`, whoever brings no key of ours is let in as well: clients of servers without keys send any text.
    """

    def __init__(self, keys: KeyStore | None, *, is_needed: bool) -> None:
        self._keys = keys
        self._is_needed = is_needed
        self._known: dict[str, _Known] = {}

    async def identify(self, scope: Asgi, needed: Scope | None) -> Caller:
        """Who asks. Raises `AuthenticationError`, and `PermissionDeniedError` where the key is not for `needed`."""
        token = _token(scope)
        if not self._is_needed and not token.startswith(_MARK):
            return Caller()
        key = await self._find(token) if self._keys is not None else None
        if key is None or not key.is_good(time.time()):
            told = "this key is not known here, or not any more" if token else "a key is needed: Authorization: Bearer"
            raise AuthenticationError(told, status=401, code="invalid_api_key")
        if needed is not None and needed not in key.grants.scopes and "admin" not in key.grants.scopes:
            raise PermissionDeniedError(f"this key is not for {needed}", status=403, code="scope")
        return Caller(tenant=key.tenant, key=key)

    async def _find(self, token: str) -> Key | None:
        now = time.monotonic()
        known = self._known.get(token)
        if known is not None and now < known.until:
            return known.key
        assert self._keys is not None  # asked for by whoever has looked
        key = await self._keys.find(token)
        if key is None:
            self._known.pop(token, None)
            return None
        if len(self._known) >= _KNOWN_KEYS:
            self._known.clear()
        self._known[token] = _Known(key, now + _KNOWN_S)
        return key


def _token(scope: Asgi) -> str:
    """The key that came along, in the header of either vendor; empty for none."""
    told = header_of(scope, b"authorization")
    if told is not None:
        kind, _, value = told.partition(b" ")
        token = value.strip() if kind.lower() == b"bearer" else b""
    else:
        token = header_of(scope, b"x-api-key") or header_of(scope, b"api-key") or b""
    return token.decode("latin-1")
