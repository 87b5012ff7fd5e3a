"""Groups of options that several commands have."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser

__all__ = ["DEFAULT_MODEL", "add_constraint", "add_sampling", "add_target"]

DEFAULT_MODEL = "llamacpp:smollm2"
"""What answers where nothing is configured: in this process, without a key and without a GPU."""


def add_target(parser: ArgumentParser) -> None:
    """Which model, where, and for how long."""
    group = parser.add_argument_group("where to ask")
    group.add_argument(
        "-m",
        "--model",
        action="append",
        metavar="MODEL",
        help="backend:model, or an alias or deployment of asyncllm.toml; again for what to try next "
        f"(default: `model` of asyncllm.toml, else {DEFAULT_MODEL})",
    )
    group.add_argument("--base-url", metavar="URL", help="address of the (first) model's server")
    group.add_argument(
        "--api-key-env",
        metavar="NAME",
        help="variable that holds the (first) model's key; there is no option for the key itself, "
        "as everyone on the machine can read arguments",
    )
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="for the whole call (default: none)")


def add_sampling(parser: ArgumentParser, *, short: bool) -> None:
    """How a model chooses its words. `short` says that -o is `--option`."""
    group = parser.add_argument_group("how to answer")
    group.add_argument("--max-tokens", type=int, metavar="N", help="tokens of the answer at most")
    group.add_argument("--temperature", type=float, metavar="X", help="0 for the likeliest answer, higher for variety")
    group.add_argument("--top-p", type=float, metavar="X", help="only tokens that make up this share of probability")
    group.add_argument("--top-k", type=int, metavar="N", help="only the N likeliest tokens")
    group.add_argument("--min-p", type=float, metavar="X", help="only tokens this likely, relative to the likeliest")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before this text; repeatable")
    group.add_argument("--seed", type=int, metavar="N", help="the same answer again, where the backend can")
    group.add_argument("--presence-penalty", type=float, metavar="X", help=SUPPRESS)
    group.add_argument("--frequency-penalty", type=float, metavar="X", help=SUPPRESS)
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 against repetition")
    group.add_argument("--reasoning-effort", metavar="LEVEL", help="how long to think, in the model's own word")
    group.add_argument(
        *(["-o"] if short else []),
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other sampling option, `tools`, or an option that only the provider knows; "
        "the value is JSON, else text; repeatable",
    )


def add_constraint(parser: ArgumentParser) -> None:
    """What an answer must be."""
    group = parser.add_argument_group("what the answer must be", "one of these").add_mutually_exclusive_group()
    group.add_argument("--schema", metavar="FILE", help="JSON that fits the JSON schema in FILE")
    group.add_argument("--choice", action="append", metavar="TEXT", help="one of these texts; repeatable")
    group.add_argument("--regex", metavar="PATTERN", help="a match of the regular expression")
    group.add_argument("--grammar", metavar="FILE", help="a sentence of the grammar in FILE, as the backend reads it")
