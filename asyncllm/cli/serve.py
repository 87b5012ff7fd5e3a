"""`asyncllm serve`: any backend behind OpenAI's API and Anthropic's, until somebody ends it."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from importlib.util import find_spec
from typing import NoReturn

from asyncllm.calls import Model
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
    models = _models(args)
    client = make_client(args)
    asyncio.run(_serve(client, models, args))
    raise KeyboardInterrupt  # what ended it, where uvicorn has kept the signal to itself


def _models(args: Namespace) -> dict[str, Model]:
    """What requests may name: the models that are given, or else all that the configuration has names for."""
    if args.model:
        return {name: name for name in args.model}
    settings = load_settings(find_settings(os.environ), os.environ)
    default = [settings.model] if isinstance(settings.model, str) else settings.model or []
    named = (*settings.aliases, *settings.deployments, *settings.groups)
    first: dict[str, Model] = {default[0]: default} if default else {}
    return {**first, **{name: name for name in named if name not in first}}


async def _serve(client: Client, models: dict[str, Model], args: Namespace) -> None:
    from asyncllm.server.serving import serve
    from asyncllm.server.settings import ServerSettings

    settings = ServerSettings(models=models)

    def tell(address: str) -> None:
        if not args.quiet:
            note(f"serving {', '.join(models) or client.resolve_model()}; Ctrl-C ends it")
        say(f"{address}/v1" if args.uds is None else address)

    async with client:
        await serve(client, settings, host=args.host, port=args.port, uds=args.uds, drain_s=args.drain, tell=tell)
