"""A process that calls by one key as fast as it is let, for the tests of limits that processes share.

`python quota_worker.py FOLDER TOKEN SECONDS USD HOLD` prints when each call began and ended, on the clock of the
machine, as JSON. Each call costs USD dollars, and takes HOLD seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from asyncllm.errors import AsyncLLMError
from asyncllm.server.limits.quota import Quotas
from asyncllm.workspace.lease import now_s
from asyncllm.workspace.served import ServerStore

_CALLERS = 8


async def main(folder: str, token: str, seconds: float, usd: float, hold_s: float) -> None:
    """Call until the time is over."""
    calls: list[tuple[float, float]] = []
    async with ServerStore(folder, create=False) as store:
        quotas = Quotas(store.books)
        store.closing.append(quotas.aclose)
        key = (await store.keys.ring()).find(token, time.time())
        ends_at = now_s() + seconds

        async def ask() -> None:
            while now_s() < ends_at:
                account = quotas.find(key)
                assert account is not None
                try:
                    leave = account.enter(10) or await account.ask(10)
                except AsyncLLMError:
                    await asyncio.sleep(0.02)
                    continue
                began = now_s()
                await asyncio.sleep(hold_s)
                calls.append((began, now_s()))
                account.leave(leave, 10, usd)

        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(ask())
        found = quotas.find(key)
        assert found is not None
        assert found.in_flight == 0
    print(json.dumps(calls), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])))
