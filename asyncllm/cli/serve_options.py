"""What `asyncllm serve` is asked for, by its arguments and by the configuration."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from asyncllm.calls import Model
from asyncllm.cli.options import make_client
from asyncllm.cli.store import has_store, named_store, store_folder
from asyncllm.client import Client
from asyncllm.config import Settings, find_settings, load_settings
from asyncllm.errors import ConfigError
from asyncllm.workspace.served import ServerStore

if TYPE_CHECKING:
    from asyncllm.server.settings import ServerSettings

__all__ = ["asked_for", "renewer", "store_of"]


def asked_for(args: Namespace) -> tuple[Client, ServerSettings]:
    """A client and the settings of the server, read anew. Raises `ConfigError`."""
    settings = load_settings(find_settings(os.environ), os.environ)
    told = _server_settings(settings.server, args)
    if args.model or not told.models:
        told = msgspec.structs.replace(told, models=_models(args, settings))
    return make_client(args), told


def renewer(args: Namespace) -> Callable[[], tuple[Client, ServerSettings]]:
    """`asked_for` as a server asks again: nothing is said a second time."""
    again = Namespace(**{**vars(args), "quiet": True})
    return lambda: asked_for(again)


def store_of(args: Namespace) -> ServerStore | None:
    """The store that is named, or that `asyncllm keys` has made. None is made only to turn out to be without keys."""
    from asyncllm.server.running.exposure import is_local

    folder = store_folder(args.store)
    if has_store(folder):
        return ServerStore(folder, create=False)
    needs_key = args.require_keys or not is_local(args.host if args.uds is None else None)
    return None if needs_key or named_store(args.store) is None else ServerStore(folder)


def _server_settings(table: dict[str, Any], args: Namespace) -> ServerSettings:
    from asyncllm.server.settings import ServerSettings

    try:
        if isinstance(table.get("models"), list):
            names = msgspec.convert(table["models"], list[str])
            table = {**table, "models": dict(zip(names, names, strict=True))}
        told = msgspec.convert(table, ServerSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the table [server] of the configuration: {error}", field="server") from None
    given: dict[str, Any] = {"needs_key": True} if args.require_keys else {}
    if args.allow_host is not None:
        given["hosts"] = tuple(name.lower() for name in args.allow_host)
    if args.allow_origin is not None:
        given["origins"] = tuple(origin.lower() for origin in args.allow_origin)
    return msgspec.structs.replace(told, **given)


def _models(args: Namespace, settings: Settings) -> dict[str, Model]:
    """What requests may name: the models that are given, or else all that the configuration has names for."""
    if args.model:
        return {name: name for name in args.model}
    default = [settings.model] if isinstance(settings.model, str) else settings.model or []
    named = (*settings.aliases, *settings.deployments, *settings.groups)
    first: dict[str, Model] = {default[0]: default} if default else {}
    return {**first, **{name: name for name in named if name not in first}}
