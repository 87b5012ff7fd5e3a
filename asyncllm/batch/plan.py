"""A batch as it is asked for, and what a store remembers of it, so that it can be gone on with from there alone.

Paths are kept as they are seen from the folder that the store is in: the same batch is found from any working
directory, and after input, output and store have moved together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
from msgspec import Struct

from asyncllm.batch.evaluator import ToolConfig
from asyncllm.batch.fanout import Source
from asyncllm.batch.inputs import GivenInput
from asyncllm.batch.items import BatchInput
from asyncllm.batch.options import Location, RunOptions, RunSettings, Via
from asyncllm.batch.parts import VendorSettings
from asyncllm.batch.tooling import tool_config_of
from asyncllm.calls import CallOptions, Model, as_tools, check_names, converted
from asyncllm.errors import ConfigError, InvalidRequestError
from asyncllm.tools import FunctionTool
from asyncllm.types import Choice, Grammar, JsonSchema, Regex, Sampling, Timeouts, Tool
from asyncllm.workspace.records import BatchRecord

__all__ = [
    "BatchPlan",
    "again",
    "options_of",
    "plain_options",
    "recall",
    "remembered",
    "seen_from",
    "seen_here",
    "split",
    "store_of",
]


_OPTIONS = RunOptions.__required_keys__ | RunOptions.__optional_keys__
_AS_THEY_ARE = ("format", "output_format", "template", "max_row_bytes", "notes")
_SAMPLING = frozenset(Sampling.__struct_fields__)
_KINDS: dict[str, Any] = {"sampling": Sampling, "timeouts": Timeouts, "tools": list[Tool]}
_CONSTRAINTS: dict[str, Any] = {kind.__name__: kind for kind in (JsonSchema, Regex, Choice, Grammar)}


class BatchPlan(Struct, frozen=True, kw_only=True):
    """A batch as it is asked for, and as the store remembers it."""

    source: str
    sink: str
    errors: str | None = None
    format: str | None = None
    output_format: str | None = None
    template: Any = None
    max_row_bytes: int = 16 * 2**20
    model: Model | None = None
    via: Via = "client"
    vendor: VendorSettings = VendorSettings()
    tool_config: ToolConfig | None = None
    settings: RunSettings = RunSettings()
    options: dict[str, Any] = {}
    """Those of the calls, as plain data, in the store."""
    notes: dict[str, Any] = {}


def store_of(sink: Location, store: Location | None) -> Path:
    """The folder of the store: beside the output, unless said otherwise."""
    if store is not None:
        return Path(store)
    name = fspath(sink)
    if name == "-":
        raise ConfigError("an output to stdout has no place for the store beside it; give one", field="store")
    return Path(f"{name.rpartition('/')[2] if '://' in name else name}.batch")


def split(
    source: Location | Source[BatchInput], sink: Location, options: RunOptions
) -> tuple[BatchPlan, CallOptions, RunOptions]:
    """What is kept of a batch, the options of its calls, and the rest. Raises `InvalidRequestError`."""
    check_names(options, _OPTIONS)
    named: dict[str, Any] = dict(options)
    settings = {name: named.pop(name) for name in RunSettings.__struct_fields__ if name in named}
    errors: Location | None = named.pop("errors", None)
    plan = BatchPlan(
        source=fspath(source) if isinstance(source, str | PathLike) else GivenInput.name,
        sink=fspath(sink),
        errors=None if errors is None else fspath(errors),
        settings=settings_of(settings),
        **{name: named.pop(name) for name in _AS_THEY_ARE if name in named},
        model=named.pop("model", None),
        via=named.pop("via", "client"),
        vendor=vendor_of(named.pop("vendor", {})),
        tool_config=tool_config_of(named.pop("tool_config")) if "tool_config" in named else None,
    )
    if plan.via not in get_args(Via):
        raise InvalidRequestError(f"via is one of {', '.join(map(repr, get_args(Via)))}", field="via")
    if plan.via == "vendor" and plan.tool_config is not None:
        raise InvalidRequestError("tool_config runs code between calls, and via='vendor' makes none", field="via")
    call: Any = {name: named.pop(name) for name in CallOptions.__optional_keys__ if name in named}
    rest: Any = named
    return plan, call, rest


def settings_of(given: dict[str, Any]) -> RunSettings:
    """Raises `InvalidRequestError` naming the setting that cannot be right."""
    return converted(given, RunSettings, "settings")


def vendor_of(given: VendorSettings | Mapping[str, Any]) -> VendorSettings:
    """Raises `InvalidRequestError` naming the setting that cannot be right."""
    if isinstance(given, VendorSettings):
        return given
    check_names(given, frozenset(VendorSettings.__struct_fields__))
    return converted(given, VendorSettings, "vendor")


# -- in a store --------------------------------------------------------------------------------------------------


def remembered(plan: BatchPlan, options: CallOptions, store: Path) -> dict[str, Any]:
    """What a store keeps of a plan, and of the options of its calls."""
    kept = msgspec.structs.replace(
        plan,
        source=seen_from(store, plan.source),
        sink=seen_from(store, plan.sink),
        errors=None if plan.errors is None else seen_from(store, plan.errors),
        options=plain_options(options),
    )
    told: dict[str, Any] = msgspec.to_builtins(kept)
    return told


def recall(record: BatchRecord, store: Path) -> BatchPlan:
    """The plan of a batch in a store, with its paths as they are seen from here."""
    plan = msgspec.convert(record.settings, BatchPlan)
    return msgspec.structs.replace(
        plan,
        source=seen_here(store, plan.source),
        sink=seen_here(store, plan.sink),
        errors=None if plan.errors is None else seen_here(store, plan.errors),
    )


def again(plan: BatchPlan) -> RunOptions:
    """The options with which `run_batch` runs a plan that was recalled."""
    names = ("model", "errors", "via", "vendor", "tool_config", *_AS_THEY_ARE)
    named = {name: getattr(plan, name) for name in names} | msgspec.structs.asdict(plan.settings)
    told: Any = {name: value for name, value in named.items() if value is not None} | options_of(plan.options)
    return cast("RunOptions", told)


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
