"""`asyncllm models`: what the backends offer, asked side by side."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import Sequence

import msgspec

from asyncllm.cli.output import note, print_json, say, tell
from asyncllm.cli.remedies import read_variables
from asyncllm.cli.status import OK, status_of
from asyncllm.client import Client
from asyncllm.config import Settings, find_settings, load_settings
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    AsyncLLMError,
    ConfigError,
    ConnectTimeoutError,
    PluginError,
    UnsupportedError,
)
from asyncllm.registry import Registry
from asyncllm.types import ModelInfo, Timeouts

__all__ = ["list_all", "run"]


def run(args: Namespace) -> int:
    """Print the models of the backends named, or of all. Raises `ConfigError` for a bad configuration file."""
    settings = load_settings(find_settings(os.environ), os.environ)
    registry = Registry()
    names = args.backend or registry.names()
    client = Client(config=settings, retry=None, timeouts=Timeouts(total_s=args.timeout))
    found = dict(zip(names, asyncio.run(list_all(client, names)), strict=True))
    if not args.backend:
        # Nobody asked for a backend that has no list, such as one that takes any name, nor for one without a key.
        idle = [name for name, result in found.items() if _is_idle(result) and not _is_set_up(registry, name, settings)]
        found = {name: result for name, result in found.items() if name not in idle}
        found = {name: result for name, result in found.items() if not isinstance(result, UnsupportedError)}
        if idle:
            note(f"not set up, or not running at its usual address: {', '.join(idle)}")
    models = {name: result for name, result in found.items() if not isinstance(result, AsyncLLMError)}
    errors = {name: result for name, result in found.items() if isinstance(result, AsyncLLMError)}
    if not found:
        note("no installed backend lists models")
    for error in errors.values():
        tell(error, debug=args.debug)
    if args.json:
        print_json([{"backend": name} | msgspec.structs.asdict(one) for name, some in models.items() for one in some])
    else:
        for name, some in models.items():
            _print(name, some, is_deployment=name in settings.deployments)
    if errors and not models:
        return status_of(next(iter(errors.values())))
    return OK


def _is_idle(result: Sequence[ModelInfo] | AsyncLLMError) -> bool:
    """Whether a backend lacks a key, an address or the like, or nothing runs where it looked."""
    if isinstance(result, ConfigError):
        return not isinstance(result, PluginError)
    return isinstance(result, ConnectTimeoutError) or type(result) is APIConnectionError


def _is_set_up(registry: Registry, name: str, settings: Settings) -> bool:
    """Whether anybody has said anything of a backend, in the configuration or by a variable that it reads."""
    variables = read_variables(registry, name)
    return name in settings.backends or any(os.environ.get(variable, "").strip() for variable in variables)


async def list_all(client: Client, names: Sequence[str]) -> list[Sequence[ModelInfo] | AsyncLLMError]:
    """The models of each backend, or the error that it gave; closes the client."""
    async with client:
        return await asyncio.gather(*(_list(client, name) for name in names))


async def _list(client: Client, name: str) -> Sequence[ModelInfo] | AsyncLLMError:
    try:
        return await client.list_models(name)
    except AsyncLLMError as error:
        error.backend = error.backend or name
        return error
    except Exception as error:
        # One plugin's mistake must not hide what the others offer.
        mistake = APIError(f"the backend failed with {type(error).__name__}: {error}", backend=name)
        mistake.__cause__ = error
        return mistake


def _print(name: str, models: Sequence[ModelInfo], *, is_deployment: bool) -> None:
    if not models:
        note(f"{name} offers no model")
    for model in models:
        # A deployment's name stands for its one model, so no string leads to the others of its server.
        say(f"{name}  {model.id}" if is_deployment else f"{name}:{model.id}")
