"""Very many streams on one client: every event arrives once, in its order, at the stream it was sent to."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from asyncllm import Client, Settings, TextDelta, Timeouts
from asyncllm.config import Deployment
from events_server import ADDRESSES, raise_file_limit
from leftovers import in_use

TIMEOUTS = Timeouts(connect_s=100, first_event_s=200, event_idle_s=200, byte_idle_s=200)


class Measured(Struct):
    """What a run has shown."""

    seconds: float
    kib_a_stream: float
    """Resident memory of this process with all streams open, above that without, for each stream."""
    delays_s: array[float]
    """From the moment an event was sent to the one when the caller had it."""
    running_delays_s: array[float]
    """The same, of events that were sent when every stream was open."""


@asynccontextmanager
async def serving(streams: int, events: int, interval_s: float) -> AsyncIterator[Settings]:
    """Deployments `0` to `3`, one an address of the server."""
    script = Path(__file__).with_name("events_server.py")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, str(streams), str(events), str(interval_s), stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ports = (await process.stdout.readline()).split()
        yield Settings(
            deployments={
                str(number): Deployment(backend="openai", model="m", base_url=f"http://{address}:{int(port)}")
                for number, (address, port) in enumerate(zip(ADDRESSES, ports, strict=True))
            }
        )
    finally:
        process.stdin.close()
        await process.wait()


async def run(streams: int, events: int, interval_s: float) -> Measured:
    """Read `streams` at once, of `events` each, and see that each gets its own."""
    raise_file_limit()
    delays, running_delays = array("d"), array("d")
    all_open_ns = sys.maxsize
    opened = asyncio.Semaphore(0)

    async def read(client: Client, number: int) -> None:
        expected = 0
        async with client.stream(str(number), model=str(number % len(ADDRESSES))) as stream:
            opened.release()
            async for event in stream:
                if isinstance(event, TextDelta):
                    stream_number, event_number, sent = map(int, event.text.split(":"))
                    delays.append((time.monotonic_ns() - sent) / 1e9)
                    if sent > all_open_ns:
                        running_delays.append(delays[-1])
                    assert (stream_number, event_number) == (number, expected)
                    expected += 1
        assert expected == events
        assert stream.response.text.count(":") == 2 * events

    async with serving(streams, events, interval_s) as settings:
        async with Client(config=settings, env={}, retry=None, timeouts=TIMEOUTS) as client:
            begun, before = time.monotonic(), memory_kib()
            async with asyncio.TaskGroup() as group:
                for number in range(streams):
                    group.create_task(read(client, number))
                for _ in range(streams):
                    await opened.acquire()
                all_open_ns = time.monotonic_ns()
                open_at_once, memory = in_use(client), memory_kib() - before
            seconds = time.monotonic() - begun
            assert in_use(client) == 0
    assert open_at_once == streams
    assert len(delays) == streams * events
    return Measured(seconds, memory / streams, delays, running_delays)


def memory_kib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


async def test_a_thousand_streams_at_once_get_every_event_once_and_in_order() -> None:
    await run(streams=1000, events=20, interval_s=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_ten_thousand_streams_of_a_hundred_events_get_every_event_once_and_in_order() -> None:
    measured = await run(streams=10_000, events=100, interval_s=0.8)

    print(f"\n10,000 streams of 100 events in {measured.seconds:.0f} s: {measured.kib_a_stream:.1f} KiB a stream")
    for when, delays_s in (("at any time", measured.delays_s), ("when all were open", measured.running_delays_s)):
        delays = sorted(delays_s)
        p50, p99 = (delays[int(len(delays) * share)] * 1000 for share in (0.5, 0.99))
        print(f"delay of an event sent {when}: {p50:.0f} ms in the middle, {p99:.0f} ms at the 99th percentile")
    assert measured.kib_a_stream < 50
