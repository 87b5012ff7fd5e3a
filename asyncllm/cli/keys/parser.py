"""The commands of `asyncllm keys` and their options."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import TypeAlias

from asyncllm.cli.store import add_store

__all__ = ["add_keys"]

_AddParser: TypeAlias = Callable[..., ArgumentParser]

_ADD = """\
Make a key and print it, this once: the store has a hash of it. A server that has the store knows the key at once.
Without --model it opens all models that are served, and without limits there are none."""

_LIST = "List keys: whose they are, what they open, and whether they still do. Nobody can list the keys themselves."

_REVOKE = "Take a key back, for good. Servers stop letting it in within a second; what it has begun may end."

_ROTATE = """\
Give a key a new secret and print it, this once. Its id, grants, limits and account stay. The secret before opens doors
for --overlap more, so that whoever has it can change it; one that was to end for an earlier rotation ends now."""


def add_keys(add: _AddParser, command: Callable[..., ArgumentParser]) -> None:
    """Add the commands; `command` makes one of a name, its module, a summary and a description."""
    parser = add(
        "keys",
        help="make, list and take back the keys of a server",
        description="Make, list and take back the keys that `asyncllm serve` lets in.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True).add_parser
    _add_add(command(actions, "add", "keys.command", "make a key", _ADD))
    listing = command(actions, "list", "keys.command", "list keys", _LIST)
    listing.add_argument("--tenant", metavar="NAME", help="only the keys of this one")
    listing.add_argument("--json", action="store_true", help="print JSON")
    _add_common(listing)
    revoking = command(actions, "revoke", "keys.command", "take a key back", _REVOKE)
    _add_id(revoking)
    _add_common(revoking)
    rotating = command(actions, "rotate", "keys.command", "give a key a new secret", _ROTATE)
    _add_id(rotating)
    rotating.add_argument("--overlap", default="0s", metavar="TIME", help="such as 90s, 10m, 1h or 7d (default: none)")
    _add_common(rotating)


def _add_add(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what it is for, as lists show it")
    group = parser.add_argument_group("whose it is, and what it opens")
    group.add_argument(
        "--tenant",
        default="default",
        metavar="NAME",
        help="who shares usage, files and batches; others never see them (default: default)",
    )
    group.add_argument(
        "--scope",
        action="append",
        choices=("calls", "files", "metrics", "admin"),
        help="calls of models; files and batches; figures of the server; or all of everybody; repeatable "
        "(default: calls and files)",
    )
    group.add_argument("--model", action="append", metavar="NAME", help="only models of this name; repeatable")
    group.add_argument("--expires", metavar="WHEN", help="after a time such as 30d or 12h, or at a date, UTC")
    group = parser.add_argument_group("limits")
    group.add_argument("--requests-per-minute", type=int, metavar="N")
    group.add_argument("--tokens-per-minute", type=int, metavar="N", help="input and output together")
    group.add_argument("--concurrency", type=int, metavar="N", help="calls under way at one time")
    group.add_argument("--budget-usd", type=float, metavar="X", help="what its calls may cost")
    group.add_argument("--budget-per", choices=("day", "month", "ever"), help="UTC (default: ever)")
    _add_common(parser)


def _add_id(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of the key, as lists show it; not the key itself")


def _add_common(parser: ArgumentParser) -> None:
    add_store(parser.add_argument, "folder of the server's store")
    parser.add_argument("-q", "--quiet", action="store_true", help="no lines about the command itself, errors aside")
