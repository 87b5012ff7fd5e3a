"""`asyncllm serve`: any backend behind OpenAI's API and Anthropic's, until somebody ends it."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import NoReturn

from asyncllm.calls import Model
from asyncllm.cli.options import make_client
from asyncllm.cli.output import note, say
from asyncllm.cli.store import has_store, named_store, store_folder
from asyncllm.client import Client
from asyncllm.config import find_settings, load_settings
from asyncllm.errors import ConfigError
from asyncllm.workspace.served import ServerStore

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

    settings = ServerSettings(
        models=models,
        needs_key=args.require_keys,
        hosts=None if args.allow_host is None else tuple(name.lower() for name in args.allow_host),
        origins=tuple(origin.lower() for origin in args.allow_origin or ()),
    )

    def tell(address: str) -> None:
        if not args.quiet:
            note(f"serving {', '.join(models) or client.resolve_model()}; Ctrl-C ends it")
        say(f"{address}/v1" if args.uds is None else address)

    async with client, AsyncExitStack() as opened:
        store = _store(args)
        if store is not None:
            await opened.enter_async_context(store)
        await serve(
            client, settings, store=store, host=args.host, port=args.port, uds=args.uds, drain_s=args.drain, tell=tell
        )


def _store(args: Namespace) -> ServerStore | None:
    """The store that is named, or that `asyncllm keys` has made. None is made only to turn out to be without keys."""
    from asyncllm.server.exposure import is_local

    folder = store_folder(args.store)
    if has_store(folder):
        return ServerStore(folder, create=False)
    needs_key = args.require_keys or not is_local(args.host if args.uds is None else None)
    return None if needs_key or named_store(args.store) is None else ServerStore(folder)
