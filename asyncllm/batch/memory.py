"""What a store remembers of a batch beside its rows, so that it can be gone on with from there alone.

Paths are kept as they are seen from the folder that the store is in: the same batch is found from any working
directory, and after input, output and store have moved together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncllm.calls import CallOptions, as_tools
from asyncllm.tools import FunctionTool
from asyncllm.types import Choice, Grammar, JsonSchema, Regex, Sampling, Timeouts, Tool

__all__ = ["options_of", "plain_options", "seen_from", "seen_here"]

_SAMPLING = frozenset(Sampling.__struct_fields__)
_KINDS: dict[str, Any] = {"sampling": Sampling, "timeouts": Timeouts, "tools": list[Tool]}
_CONSTRAINTS: dict[str, Any] = {kind.__name__: kind for kind in (JsonSchema, Regex, Choice, Grammar)}


def seen_from(store: Path, location: str) -> str:
    """The name by which the store knows a location: a path from the folder it is in, or an address as it is."""
    if location == "-" or "://" in location:
        return location
    return os.path.relpath(Path(location).expanduser(), store.absolute().parent)


def seen_here(store: Path, name: str) -> str:
    """The location that the store knows by `name`: from the working directory if it is below that, else in full."""
    if name == "-" or "://" in name:
        return name
    path = Path(os.path.normpath(store.absolute().parent / name))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def plain_options(options: CallOptions) -> dict[str, Any]:
    """The options of calls, checked before, as plain data. Raises `TypeError` for what is none."""
    told: dict[str, Any] = dict(options)
    single = {name: told.pop(name) for name in _SAMPLING & told.keys()}
    whole = msgspec.to_builtins(told.pop("sampling", Sampling()))
    if whole or single:
        told["sampling"] = {**whole, **single}
    constraint = told.pop("constraint", None)
    if constraint is not None:
        told["constraint"] = [type(constraint).__name__, constraint]
    if "tools" in told:
        told["tools"] = [tool.plain() if isinstance(tool, FunctionTool) else tool for tool in as_tools(options)]
    return cast("dict[str, Any]", msgspec.to_builtins(told))


def options_of(told: Mapping[str, Any]) -> CallOptions:
    """The options that `plain_options` has made plain data of."""
    options = dict(told)
    for name, kind in _KINDS.items():
        if name in options:
            options[name] = msgspec.convert(options[name], kind)
    if "constraint" in options:
        kind, data = options["constraint"]
        options["constraint"] = msgspec.convert(data, _CONSTRAINTS[kind])
    return cast("CallOptions", options)
