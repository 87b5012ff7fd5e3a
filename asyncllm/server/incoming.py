"""One request as the routes see it: where it is, and who asks."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from starlette.types import Receive, Scope, Send

from asyncllm.server.limits.quota import Rates
from asyncllm.workspace.keys import Key

__all__ = ["Caller", "Incoming", "header_of"]


class Caller(Struct, frozen=True):
    """Who asks. Whoever has no key, where none is needed, is of the tenant `local`."""

    tenant: str = "local"
    key: Key | None = None

    @property
    def key_id(self) -> str:
        """The id of the key, empty without one."""
        return "" if self.key is None else self.key.id


class Incoming(Struct, eq=False):
    """A request, who sent it, and the way back."""

    scope: Scope
    receive: Receive
    send: Send
    id: str
    caller: Caller
    model: str = ""
    """The name that it uses of those that are served; empty until that is known."""
    rates: Rates | None = None
    """What is left of the minute of its key, once that is known."""

    def __repr__(self) -> str:
        return f"Incoming(id={self.id!r})"  # the scope has headers, and they have keys

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id)]


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header, whose name is in small letters; the first of several."""
    return next((value for told, value in scope["headers"] if told == name), None)
