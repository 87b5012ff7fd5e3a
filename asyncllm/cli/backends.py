"""`asyncllm backends`: what is installed, from metadata alone."""

from __future__ import annotations

from argparse import Namespace

from asyncllm.cli.output import note, print_json, print_table
from asyncllm.cli.status import OK
from asyncllm.registry import Registry

__all__ = ["run"]


def run(args: Namespace) -> int:
    """List the installed backends, importing none."""
    plugins = Registry().plugins()
    if args.json:
        print_json([{"name": one.name, "distribution": one.distribution, "target": one.target} for one in plugins])
    elif plugins:
        print_table((one.name, one.distribution, one.target) for one in plugins)
    else:
        note("no backend is installed")
    return OK
