"""One instance: where it is, and how it is asked."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

from asyncllm.calls import CallOptions
from asyncllm.client import Client
from asyncllm.errors import InvalidRequestError
from asyncllm.types import Response

__all__ = ["Instance", "endpoint_of"]

_MAX_TOKENS = 256
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


class Instance:
    """A running model server. `id`, `host`, `port` and `model` are all that another process needs to attach to it.

    `client` is a client of this instance alone, for chats and streams; it closes when the instance is stopped.
    """

    __slots__ = ("_known", "_stop", "client", "endpoint", "host", "id", "info", "model", "port")

    def __init__(
        self,
        identity: str,
        *,
        model: str,
        host: str,
        port: int,
        info: Mapping[str, Any],
        client: Client,
        known: Callable[[str], None],
        stop: Callable[[str], Awaitable[dict[str, Any]]],
    ) -> None:
        self.id = identity
        self.model = model
        self.host = host
        self.port = port
        self.endpoint = endpoint_of(host, port)
        """The base URL of its OpenAI-compatible API."""
        self.info = info
        """What the server said of it when it was started."""
        self.client = client
        self._known = known
        self._stop = stop

    async def complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Response:
        """Continue a text: `reply.text`, and `reply.finish_reason`, which is `length` where `max_tokens` cut it.

        `max_tokens` is always sent, 256 where it is not given: a server's own limit may be as short as 16. Raises
        `UnknownInstanceError` once the instance is stopped, and as `Client.complete` does.
        """
        self._known(self.id)
        if "sampling" not in options:
            options.setdefault("max_tokens", _MAX_TOKENS)
        return await self.client.complete(prompt, **options)

    async def stop(self) -> dict[str, Any]:
        """Stop it, as `stop` of the server's client does."""
        return await self._stop(self.id)

    def __repr__(self) -> str:
        return f"<Instance {self.id} of {self.model} at {self.endpoint}>"


def endpoint_of(host: str, port: int | str) -> str:
    """The base URL of an instance. Raises `InvalidRequestError` for what is no host or no port."""
    if not isinstance(host, str) or not (_NAME.fullmatch(host) or _IPV6.fullmatch(host)):
        raise InvalidRequestError("host is the name or the address of a machine, without scheme or port", field="host")
    if not isinstance(port, int) or not 0 < port < 65536:
        raise InvalidRequestError("port is a number from 1 to 65535", field="port")
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
