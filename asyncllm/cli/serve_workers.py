"""`asyncllm serve --workers`: the parent of several servers at one address."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from asyncllm.cli.output import note, say
from asyncllm.cli.serve_options import asked_for, renewer, store_of
from asyncllm.client import Client
from asyncllm.errors import ConfigError

if TYPE_CHECKING:
    from asyncllm.server.settings import ServerSettings

__all__ = ["run_workers"]


def run_workers(args: Namespace) -> int:
    """Keep workers until Ctrl-C or SIGTERM; see `serve.run`."""
    if args.workers < 1:
        raise ConfigError("--workers is at least 1", field="--workers")
    status, ended_by = asyncio.run(_run(args))
    if ended_by is not None:
        args.signals.terminated = ended_by == signal.SIGTERM
        raise KeyboardInterrupt
    return status


async def _run(args: Namespace) -> tuple[int, int | None]:
    from asyncllm.server.models import Served
    from asyncllm.server.running.exposure import guarded
    from asyncllm.server.running.serving import address_of, listen
    from asyncllm.server.running.unix import leave_unix
    from asyncllm.server.running.workers import Crew

    renew = renewer(args)

    def check() -> None:
        client, settings = renew()
        names = Served(client, settings.models).names()
        if not args.quiet:
            note(f"the workers are told to serve {', '.join(names)} from now on")

    client, settings = asked_for(args)
    async with client, AsyncExitStack() as opened:
        store = store_of(args)
        if store is not None:
            await opened.enter_async_context(store)
        await guarded(settings, store, args.host if args.uds is None else None)
        names = list(Served(client, settings.models).names())
        _warn(client, settings, args)
    listening = listen(args.host, args.port, args.uds)
    address = address_of(listening, args.uds)

    def tell() -> None:
        if not args.quiet:
            note(f"{args.workers} workers serve {', '.join(names)}; Ctrl-C ends them")
            if args.uds is None:
                note(f"a page to chat and look: {address}/")
        say(f"{address}/v1" if args.uds is None else address)

    try:
        crew = Crew(
            listening, args.workers, arguments=args.argv, drain_s=args.drain, check=check, tell=tell
        )  # fmt: skip
        status = await crew.run()
    finally:
        listening.close()
        if args.uds is not None:
            leave_unix(args.uds)
    return status, crew.signal


def _warn(client: Client, settings: ServerSettings, args: Namespace) -> None:
    """Say what there will be as many times as there are workers."""
    own = client.in_process(settings.models.values() or [client.resolve_model()])
    if own and not args.quiet:
        note(f"{', '.join(own)} runs in the server itself: each of {args.workers} workers loads its own")
