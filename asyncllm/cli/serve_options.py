"""What `asyncllm serve` is asked for, by its arguments and by the configuration."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from asyncllm.calls import Model
from asyncllm.cli.options import make_client
from asyncllm.client import Client
from asyncllm.config import Settings, find_settings, load_settings
from asyncllm.errors import ConfigError

if TYPE_CHECKING:
    from asyncllm.server.settings import ServerSettings

__all__ = ["asked_for", "renewer"]


def asked_for(args: Namespace) -> tuple[Client, ServerSettings]:
    """A client and the settings of the server, read anew. Raises `ConfigError`."""
    settings = load_settings(find_settings(os.environ), os.environ)
    told = _server_settings(settings.server)
    if args.model or not told.models:
        told = msgspec.structs.replace(told, models=_models(args, settings))
    return make_client(args), told


def renewer(args: Namespace) -> Callable[[], tuple[Client, ServerSettings]]:
    """`asked_for` as a server asks again: nothing is said a second time."""
    again = Namespace(**{**vars(args), "quiet": True})
    return lambda: asked_for(again)


def _server_settings(table: dict[str, Any]) -> ServerSettings:
    from asyncllm.server.settings import ServerSettings

    if isinstance(models := table.get("models"), list):
        table = {**table, "models": {name: name for name in models if isinstance(name, str)}}
    try:
        return msgspec.convert(table, ServerSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the table [server] of the configuration: {error}", field="server") from None


def _models(args: Namespace, settings: Settings) -> dict[str, Model]:
    """What requests may name: the models that are given, or else all that the configuration has names for."""
    if args.model:
        return {name: name for name in args.model}
    default = [settings.model] if isinstance(settings.model, str) else settings.model or []
    named = (*settings.aliases, *settings.deployments, *settings.groups)
    first: dict[str, Model] = {default[0]: default} if default else {}
    return {**first, **{name: name for name in named if name not in first}}
