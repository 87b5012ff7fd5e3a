"""`asyncllm serve`: any backend behind OpenAI's API, until somebody ends it."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from importlib.util import find_spec
from typing import NoReturn

from asyncllm.cli.options import make_client
from asyncllm.cli.output import note, say
from asyncllm.client import Client
from asyncllm.config import find_settings, load_settings
from asyncllm.errors import ConfigError

__all__ = ["run"]

_NEEDED = ("sse_starlette", "starlette", "uvicorn")


def run(args: Namespace) -> NoReturn:
    """Serve until Ctrl-C or SIGTERM. Raises `KeyboardInterrupt` for either, `ConfigError` for an option or a port."""
    if any(find_spec(name) is None for name in _NEEDED):
        raise ConfigError("the server needs what comes with pip install 'asyncllm[server]'")
    names = _names(args)
    client = make_client(args)
    asyncio.run(_serve(client, names, args))
    raise KeyboardInterrupt  # what ended it, where uvicorn has kept the signal to itself


def _names(args: Namespace) -> list[str]:
    """What requests may name: the models that are given, or else all that the configuration has names for."""
    if args.model:
        return list(dict.fromkeys(args.model))
    settings = load_settings(find_settings(os.environ), os.environ)
    default = [settings.model] if isinstance(settings.model, str) else []
    return list(dict.fromkeys([*default, *settings.aliases, *settings.deployments, *settings.groups]))


async def _serve(client: Client, names: list[str], args: Namespace) -> None:
    from asyncllm.server.serving import serve
    from asyncllm.server.settings import ServerSettings

    settings = ServerSettings(models={name: name for name in names})

    def tell(address: str) -> None:
        if not args.quiet:
            note(f"serving {', '.join(names) or client.resolve_model()}; Ctrl-C ends it")
        say(f"{address}/v1" if args.uds is None else address)

    async with client:
        await serve(client, settings, host=args.host, port=args.port, uds=args.uds, drain_s=args.drain, tell=tell)
