"""The two routes of a Maze server, and the transport that they share with the instances."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from asyncllm.backend import Clock, HttpCall, Transport
from asyncllm.errors import APIError, APIStatusError, TotalTimeoutError
from asyncllm.instances import wire
from asyncllm.types import Timeouts

__all__ = ["Server", "may_run"]

_STOP_TRIES = 3
_RELAYS = (408, 502, 504)  # by which something in between says that it has no answer


class Server:
    """One Maze server."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        connect_s: float | None,
        stop_s: float,
        transport: Transport | None,
        clock: Clock,
    ) -> None:
        self._url = url
        self._headers = headers
        # A start is answered when the instance is up, so that its silence says nothing.
        self._timeouts = Timeouts(connect_s=connect_s, byte_idle_s=None)
        self._stop_s = stop_s
        self._transport = transport
        self._clock = clock

    @property
    def transport(self) -> Transport:
        """What carries every call, to the instances too; made when it is first asked for."""
        if self._transport is None:
            # Imported here: aiohttp, which making this object does not need.
            from asyncllm.transport import AiohttpTransport

            self._transport = AiohttpTransport()
        return self._transport

    async def start(self, body: bytes) -> wire.Started:
        """Ask for an instance, once. Raises `APIError`; see `may_run`."""
        return wire.read_started(await self._post("/start_llm_instance", body), sent=body)

    async def stop(self, identity: str) -> dict[str, Any]:
        """Ask for the end of an instance, more than once if need be. Raises `APIError`."""
        body = wire.write_stop(identity)
        try:
            async with asyncio.timeout(self._stop_s):
                return await self._stop(body)
        except TimeoutError as error:
            if isinstance(error, APIError):
                raise
            raise TotalTimeoutError(
                f"the server did not answer a stop within stop_s={self._stop_s}: the instance {identity[:100]} may "
                "still be running",
                field="stop_s",
            ) from None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._transport is not None:
            await self._transport.aclose()

    async def _stop(self, body: bytes) -> dict[str, Any]:
        tried = 0
        while True:
            tried += 1
            try:
                return wire.read_stopped(await self._post("/stop_llm_instance", body), sent=body)
            except APIError as error:
                if not error.retryable or tried == _STOP_TRIES:
                    raise
                await self._clock.sleep(error.retry_after_s or 0.1 * 2**tried)

    async def _post(self, path: str, body: bytes) -> bytes:
        call = HttpCall(url=self._url + path, body=body, headers=self._headers, timeouts=self._timeouts)
        async with self.transport.open(call) as reply:
            return await reply.read()


def may_run(end: object) -> bool:
    """Whether a start that ended this way may have left an instance behind whose id nobody knows."""
    if isinstance(end, APIStatusError):
        return end.status in _RELAYS
    if isinstance(end, APIError):
        return end.maybe_billed
    return isinstance(end, BaseException)
