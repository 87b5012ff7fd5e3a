"""`asyncllm serve`: any backend behind OpenAI's API and Anthropic's, until somebody ends it."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

from asyncllm.cli.output import note, say
from asyncllm.cli.serve_options import asked_for, renewer, store_of
from asyncllm.client import Client
from asyncllm.errors import ConfigError

if TYPE_CHECKING:
    from asyncllm.server.running.seat import Seat
    from asyncllm.server.settings import ServerSettings

__all__ = ["run"]

_NEEDED = ("sse_starlette", "starlette", "uvicorn")


def run(args: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises `KeyboardInterrupt` for either, `ConfigError` for an option or a port.

    Returns the status of workers that could not go on.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        raise ConfigError("the server needs what comes with pip install 'asyncllm[server]'")
    from asyncllm.server.running.seat import Seat

    seat = Seat.find(os.environ)
    if seat is not None:
        args.quiet = True  # the parent has said it
    elif args.workers != 1:
        from asyncllm.cli.serve_workers import run_workers

        return run_workers(args)
    client, settings = asked_for(args)
    asyncio.run(_serve(client, settings, args, seat))
    raise KeyboardInterrupt  # what ended it, where uvicorn has kept the signal to itself


async def _serve(client: Client, settings: ServerSettings, args: Namespace, seat: Seat | None) -> None:
    from asyncllm.server.running.serving import serve

    def tell(address: str) -> None:
        if not args.quiet:
            note(f"serving {', '.join(settings.models) or client.resolve_model()}; Ctrl-C ends it")
            if args.uds is None:
                note(f"a page to chat and look: {address}/")
        say(f"{address}/v1" if args.uds is None else address)

    def note_reload(text: str) -> None:
        if not args.quiet:
            note(text)

    async with client, AsyncExitStack() as opened:
        store = store_of(args)
        if store is not None:
            await opened.enter_async_context(store)
        await serve(
            client,
            settings,
            store=store,
            host=args.host,
            port=args.port,
            uds=args.uds,
            drain_s=args.drain,
            tell=tell,
            note=note_reload,
            renew=renewer(args),
            seat=seat,
        )
