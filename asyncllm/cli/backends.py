"""`asyncllm backends`: what is installed, from metadata alone, or with what each tells of itself."""

from __future__ import annotations

from argparse import Namespace

from asyncllm.backend import About
from asyncllm.cli.output import note, print_json, print_table, say
from asyncllm.cli.status import OK
from asyncllm.registry import Registry

__all__ = ["markdown", "run"]


def run(args: Namespace) -> int:
    """List the installed backends, importing none unless a table is asked for. Raises `PluginError`."""
    registry = Registry()
    if args.table:
        for line in markdown(registry):
            say(line)
        return OK
    plugins = registry.plugins()
    if args.json:
        print_json([{"name": one.name, "distribution": one.distribution, "target": one.target} for one in plugins])
    elif plugins:
        print_table((one.name, one.distribution, one.target) for one in plugins)
    else:
        note("no backend is installed")
    return OK


def markdown(registry: Registry) -> list[str]:
    """The backends that tell of themselves, as the lines of a table for a page. Raises `PluginError`."""
    rows = ["| backend | talks to | variables | calls |", "|---|---|---|---|"]
    for name in registry.names():
        about = registry.beside(name, "about")
        told = None if about is None else about(name)
        if isinstance(told, About):
            rows.append(f"| `{name}` | {told.summary} | {_code(told.variables) or '-'} | {_code(told.calls)} |")
    return rows


def _code(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)
