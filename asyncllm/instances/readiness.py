"""Waiting until an instance answers, no longer than it is worth."""

from __future__ import annotations

import asyncio

from asyncllm.backend import Clock, HttpCall, Transport
from asyncllm.errors import APIConnectionError, APIError, APIStatusError, APITimeoutError, NotFoundError
from asyncllm.instances.errors import InstanceExitedError, InstanceNotReadyError
from asyncllm.instances.instance import Instance
from asyncllm.types import Timeouts

__all__ = ["wait_until_ready"]

_PROBE_S = 2
_GONE = 2  # looks in a row that find nobody where somebody was


async def wait_until_ready(
    instance: Instance, transport: Transport, clock: Clock, *, until: float, poll_s: float
) -> None:
    """Look at the instance's health every `poll_s` seconds, until `until` on the event loop's clock.

    A server without `/health` is ready when it lists its models. Raises `InstanceExitedError` for one that answered,
    if only to say that it is not ready, and then is gone; `InstanceNotReadyError` with the last look as its cause.
    """
    loop = asyncio.get_running_loop()
    was_there = False
    gone = 0
    last: Exception | None = None
    while True:
        try:
            async with asyncio.timeout_at(min(until, loop.time() + _PROBE_S)):
                await _look(instance, transport)
            return
        except APIError as error:
            last = error
            was_there = was_there or isinstance(error, APIStatusError)
            is_gone = isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError)
            gone = gone + 1 if was_there and is_gone else 0
        except TimeoutError as error:
            last = last or error  # what was said before is worth more than a look that was cut short
            gone = 0
        if gone >= _GONE:
            raise InstanceExitedError(
                f"the instance {instance.id} had answered and is gone: its process has ended", model=instance.model
            ) from last
        if loop.time() + poll_s >= until:
            raise InstanceNotReadyError(
                f"the instance {instance.id} was not ready in time; raise timeout_s, or see the server's logs",
                model=instance.model,
                field="timeout_s",
            ) from last
        await clock.sleep(poll_s)


async def _look(instance: Instance, transport: Transport) -> None:
    """Return if the instance is ready. Raises `APIError`."""
    try:
        await _get(f"{instance.endpoint.removesuffix('/v1')}/health", transport)
    except NotFoundError:
        await _get(f"{instance.endpoint}/models", transport)


async def _get(url: str, transport: Transport) -> None:
    timeouts = Timeouts(connect_s=_PROBE_S, byte_idle_s=_PROBE_S)
    async with transport.open(HttpCall(method="GET", url=url, timeouts=timeouts)) as reply:
        await reply.read()
