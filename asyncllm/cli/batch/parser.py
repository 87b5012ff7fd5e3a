"""The commands of `asyncllm batch` and their options."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any, TypeAlias

from asyncllm.cli.arguments import add_constraint, add_sampling, add_target

__all__ = ["add_batch"]

_AddParser: TypeAlias = Callable[..., ArgumentParser]
_OUTPUT = "the output that the batch was run with"


def add_batch(add: _AddParser, command: Callable[..., ArgumentParser]) -> None:
    """Add the commands; `command` makes one of a name, its module, a summary and a description."""
    parser = add(
        "batch",
        help="ask a whole file, so that nothing is lost and nothing asked twice",
        description="Ask every row of a file, and keep each outcome in a store until all are there.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True).add_parser
    _add_run(command(actions, "run", "batch.run", "run a batch, or go on with it", _RUN))
    _add_retry(command(actions, "retry-failed", "batch.run", "ask the rows again that have failed", _RETRY))
    _add_status(command(actions, "status", "batch.look", "say how far batches have come", _STATUS))
    _add_cancel(command(actions, "cancel", "batch.look", "stop a batch for good", _CANCEL))
    _add_export(command(actions, "export", "batch.export", "write the outcomes that there are by now", _EXPORT))


_RUN = """\
Ask every row of INPUT and write what became of each to the output, in the order of the input. The output is there, all
at once, when the last row has come to its end; until then outcomes are kept in the store beside it. However the command
has ended, the same command goes on where it was: rows with an outcome are not asked again.

INPUT is a path, - for the standard input, or an object: s3://, gs:// or az://bucket/key. It holds OpenAI's batch JSONL,
LLM Engine's batch files of both versions, or prompts: JSONL, CSV or Parquet with a column `prompt` or `messages`, or
with any columns and a --template. A .gz is unpacked. Ctrl-C lets the rows under way finish; a second one does not."""

_RETRY = """\
Ask the rows again that have failed, and those that were not asked, with what the batch was run with, and write the
output anew."""

_STATUS = """\
Say how far the batch of OUTPUT has come, or all batches of a --store; without either, all whose stores are in the
working directory."""

_CANCEL = """\
Stop a batch. Whoever is at work on it lets the rows under way finish, writes the output and ends, within seconds; if
nobody is, it is marked. `asyncllm batch run` goes on with it all the same."""

_EXPORT = """\
Write the outcomes that there are by now, in the order of the input, also while a runner is at work. A row without one
has an error that says so."""


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", help="where the rows are")
    _add_sink(parser, required=True, text="where the outcomes go: a path, or s3://, gs:// or az://bucket/key")
    _add_places(parser)
    group = parser.add_argument_group("what is read and written")
    group.add_argument(
        "--format",
        metavar="NAME",
        help="openai, llmengine, jsonl, csv or parquet (default: told from name and content)",
    )
    group.add_argument(
        "--output-format", metavar="NAME", help="of the output (default: by its name, else as the input)"
    )
    group.add_argument(
        "--template",
        metavar="TEXT",
        help="a prompt with {column} where a row's own values go; @FILE reads it from a file, and a .json file holds "
        "the messages of a conversation",
    )
    group.add_argument("--errors", metavar="PLACE", help="where failed rows go, of formats that keep them apart")
    group.add_argument(
        "--on-bad-row",
        choices=("refuse", "fail"),
        help="whether a row that cannot be asked ends it all before the first call (refuse, the default), or is a "
        "failed row (fail)",
    )
    group.add_argument("--overwrite", action="store_true", help="write over what stands at the output")
    add_target(parser)
    parser.add_argument("--system", metavar="TEXT", help="instructions put before every conversation")
    add_sampling(parser, short=False)
    add_constraint(parser)
    group = parser.add_argument_group("who works it off")
    group.add_argument(
        "--via",
        choices=("client", "ray", "vendor"),
        help="call by call (client, the default), by actors on a Ray cluster (ray), or by the service of the model in "
        "batches of its own (vendor)",
    )
    group.add_argument(
        "--vendor-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --via vendor: part_items, in_flight, interval_s, timeout_s, ..., and for LLM Engine output, the "
        "folder in an object store that it writes outcomes to; repeatable",
    )
    group.add_argument(
        "--tool-config",
        metavar="FILE",
        help="LLM Engine's `tool_config` as JSON: the model has its code run, which needs a --sandbox",
    )
    group.add_argument("--sandbox", choices=("namespaces", "bwrap"), help="where that code runs")
    group = _add_pace(parser)
    group.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="kept with it; repeatable")
    group.add_argument("--priority", metavar="TEXT", help="kept with it, for services that work by priority")
    group.add_argument("--retry-failed", action="store_true", help="ask rows again that have failed before")
    _add_report(parser)


def _add_retry(parser: ArgumentParser) -> None:
    _add_known(parser)
    parser.add_argument("--overwrite", action="store_true", help="write over what stands at the output")
    _add_pace(parser)
    _add_report(parser)


def _add_status(parser: ArgumentParser) -> None:
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help=_OUTPUT)
    _add_store(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_cancel(parser: ArgumentParser) -> None:
    _add_known(parser)


def _add_export(parser: ArgumentParser) -> None:
    _add_known(parser)
    _add_sink(parser, required=False, text="another place than the output of the batch", dest="to")
    parser.add_argument("--output-format", metavar="NAME", help="another format than that of the batch")
    parser.add_argument("--errors", metavar="PLACE", help="where failed rows go, of formats that keep them apart")
    parser.add_argument("--overwrite", action="store_true", help="write over what stands there")
    parser.add_argument("--json", action="store_true", help="print one JSON object: what is there, and where")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing, errors aside")


def _add_known(parser: ArgumentParser) -> None:
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help=f"{_OUTPUT} (default: the only one of the --store)")
    _add_store(parser)


def _add_sink(parser: ArgumentParser, *, required: bool, text: str, dest: str = "output") -> None:
    parser.add_argument("-o", "--output", dest=dest, required=required, metavar="PLACE", help=text)


def _add_store(parser: ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="folder of the store (default: the output's name with .batch)")


def _add_places(parser: ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument(
        "--place-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how object stores are reached, as in endpoint=URL or region=NAME; repeatable. Keys come from the "
        "environment, by the names that the clouds' own tools know",
    )


def _add_pace(parser: ArgumentParser) -> Any:  # argparse keeps the type of a group to itself
    group = parser.add_argument_group("how it goes")
    group.add_argument("-c", "--concurrency", type=int, metavar="N", help="rows under way at once (default: 64)")
    group.add_argument(
        "--data-parallelism",
        type=int,
        metavar="N",
        help="worker processes, or actors on a Ray cluster, each with an engine or a client of its own (default: 1)",
    )
    group.add_argument(
        "--ray-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --via ray: address, num_cpus, num_gpus, memory, ...; repeatable",
    )
    group.add_argument(
        "--max-attempts", type=int, metavar="N", help="how often a row is asked whose call fails for now (default: 3)"
    )
    group.add_argument(
        "--max-runtime", type=float, metavar="SECONDS", dest="max_runtime_s", help="of work, over all runs"
    )
    group.add_argument(
        "--max-failure-rate", type=float, metavar="X", help="stop above this share of failed rows, once 20 have failed"
    )
    group.add_argument(
        "--drain",
        type=float,
        metavar="SECONDS",
        dest="drain_s",
        help="that rows under way have to finish when it is stopped (default: 30)",
    )
    return group


def _add_report(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what is told of it")
    group.add_argument(
        "--json",
        action="store_true",
        help="print JSON objects, one a line: type `progress` as it goes, and `end` or `error`",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="tell nothing, errors aside")
