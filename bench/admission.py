"""What it costs our server to let a call in and to keep its account: one call after the other, without sockets."""

from __future__ import annotations

import asyncio
import tempfile
import time
from statistics import median

import msgspec

from asyncllm.server.incoming import Caller, Incoming
from asyncllm.server.limits.admission import Admission
from asyncllm.server.monitoring.figures import Figures
from asyncllm.server.settings import ServerSettings
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from bench.report import heading, number, table

_CALLS, _QUICK_CALLS = 20_000, 2_000
_BURST = 32
_MUCH = Grants(requests_per_minute=10**7, tokens_per_minute=10**9, concurrency=1000)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of caller; medians of the rounds."""

    caller: str
    cpu_us: float
    """Microseconds of CPU a call, those of the store's thread included."""
    commits_per_s: float
    """Of the store."""


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """Every kind of caller, `rounds` times."""
    return asyncio.run(_measure(_QUICK_CALLS if quick else _CALLS, rounds))


def text(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = [(row.caller, number(row.cpu_us, 1), number(row.commits_per_s, 1)) for row in rows]
    title = "Letting a call in and keeping its account, one after the other."
    return "\n".join((heading(title), table(("", "CPU, us", "commits/s"), lines)))


async def _measure(calls: int, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        async with ServerStore(folder) as store:
            free, _ = await store.keys.add("free")
            limited, _ = await store.keys.add("limited", grants=_MUCH)
            admission = Admission(ServerSettings(), store, Figures())
            rows: list[Row] = []
            for name, caller in (
                ("no key", Caller()),
                ("a key without limits", Caller("default", free)),
                ("a key with three limits", Caller("default", limited)),
            ):
                taken = [await _sample(admission, caller, calls, store) for _ in range(rounds)]
                cpu_us, commits = (median(column) for column in zip(*taken, strict=True))
                rows.append(Row(caller=name, cpu_us=cpu_us, commits_per_s=commits))
            return rows


async def _sample(admission: Admission, caller: Caller, calls: int, store: ServerStore) -> tuple[float, float]:
    incoming = Incoming({"path": "/v1/chat/completions"}, _nothing, _nobody, "id", caller)
    before = store.commits
    began, began_s = time.process_time(), time.perf_counter()
    for number_ in range(calls):
        async with admission.admit(incoming, "m", 100):
            pass
        if number_ % _BURST == 0:
            await asyncio.sleep(0)
    cpu_us = (time.process_time() - began) / calls * 1e6
    return cpu_us, (store.commits - before) / (time.perf_counter() - began_s)


async def _nothing() -> dict[str, object]:
    await asyncio.Event().wait()
    return {}


async def _nobody(_: object) -> None:
    pass
