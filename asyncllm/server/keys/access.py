"""Who may ask for what: keys, by whichever header the vendors' SDKs send them in."""

from __future__ import annotations

from starlette.types import Scope as Asgi

from asyncllm.errors import AuthenticationError, BadRequestError, PermissionDeniedError
from asyncllm.server.incoming import Caller
from asyncllm.server.keys.keyring import Keyring
from asyncllm.workspace.keys import Scope

__all__ = ["Access"]

_MARK = "al_"
_HEADERS = (b"authorization", b"x-api-key", b"api-key")


class Access:
    """Knows callers by their keys.

    Without `is_needed`, whoever brings no key of ours is let in as well: clients of servers without keys send any text.
    """

    def __init__(self, keys: Keyring | None, *, is_needed: bool) -> None:
        self._keys = keys
        self._is_needed = is_needed

    async def identify(self, scope: Asgi, needed: Scope | None) -> Caller:
        """Who asks.

        Raises `AuthenticationError`, `PermissionDeniedError` where the key is not for `needed`, if anything is,
        `BadRequestError` for two different keys, and `InternalServerError` where the store of keys does not tell.
        """
        tokens = _tokens(scope)
        if not self._is_needed and not any(token.startswith(_MARK) for token in tokens):
            return Caller()
        if len(tokens) > 1:
            raise BadRequestError(
                "two different keys came along: send one, in one header", status=400, code="several_keys"
            )
        if not tokens:
            raise AuthenticationError(
                "a key is needed: Authorization: Bearer, or x-api-key", status=401, code="invalid_api_key"
            )
        key = await self._keys.find(tokens.pop()) if self._keys is not None else None
        if key is None:
            raise AuthenticationError("this key is not known here, or not any more", status=401, code="invalid_api_key")
        if needed is not None and needed not in key.grants.scopes and "admin" not in key.grants.scopes:
            raise PermissionDeniedError(f"this key is not for {needed}", status=403, code="scope")
        return Caller(tenant=key.tenant, key=key)


def _tokens(scope: Asgi) -> set[str]:
    """What came along as a key, in the headers of the vendors. Ways of authorization other than Bearer are not ours."""
    found: set[str] = set()
    for name, value in scope["headers"]:
        if name not in _HEADERS:
            continue
        kind, _, after = value.partition(b" ")
        token = value if name != b"authorization" else after if kind.lower() == b"bearer" else b""
        if token.strip():
            found.add(token.strip().decode("latin-1"))
    return found
