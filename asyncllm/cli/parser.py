"""The commands and their options."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NoReturn, TypeAlias

import asyncllm
from asyncllm.cli.arguments import add_constraint, add_sampling, add_target
from asyncllm.cli.batch.parser import add_batch
from asyncllm.cli.keys.parser import add_keys
from asyncllm.cli.status import TEXT
from asyncllm.cli.store import add_store
from asyncllm.errors import ConfigError

__all__ = ["make_parser"]


class _Parser(ArgumentParser):
    """Raises instead of printing its usage, so that a wrong command line is one line like any other error."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


_AddParser: TypeAlias = Callable[..., _Parser]
"""`add_parser` of the group of commands, whose own type argparse keeps to itself."""


def make_parser() -> ArgumentParser:
    """The parser of the whole command line. `args.module` names the file of `asyncllm.cli` that runs the command."""
    parser = _Parser(
        prog="asyncllm",
        description="Language models from the command line: local ones, and any that a backend reaches.",
        epilog=TEXT,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"asyncllm {asyncllm.__version__}")
    add = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser).add_parser
    _add_chat(add)
    _add_complete(add)
    add_batch(add, _add)
    _add_backends(add)
    _add_models(add)
    _add_doctor(add)
    _add_jobs(add)
    _add_serve(add)
    add_keys(add, _add)
    _add_usage(add)
    _add_mock_server(add)
    return parser


def _add_chat(add: _AddParser) -> None:
    parser = _add(
        add,
        "chat",
        "generate",
        "ask a model, once or in a conversation",
        """\
Ask a model. The prompt is the argument, or what is piped in; of both, the argument comes first, then an empty line,
then what was piped, less the line breaks at its end. Without either, on a terminal, a conversation begins: every turn
is remembered until it ends. There Ctrl-C stops an answer and keeps what came; at the prompt it ends the command
(status 130), as Ctrl-D and /quit do (status 0).""",
    )
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="the words of the prompt")
    parser.add_argument("--system", metavar="TEXT", help="instructions put before the conversation")
    _add_generation(parser)


def _add_complete(add: _AddParser) -> None:
    parser = _add(
        add,
        "complete",
        "generate",
        "continue a text, without a chat template",
        """\
Continue a text as it stands. The text is the argument, or what is piped in, less the line breaks at its end; of both,
the argument comes first, then an empty line, then what was piped.""",
    )
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="the words of the text")
    _add_generation(parser)


def _add_backends(add: _AddParser) -> None:
    parser = _add(
        add,
        "backends",
        "backends",
        "list what is installed",
        "List the installed backends; none is imported, except for the table.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--table", action="store_true", help="as a table in Markdown: what each talks to, reads and offers"
    )
    form.add_argument("--json", action="store_true", help="print JSON")


def _add_models(add: _AddParser) -> None:
    parser = _add(
        add,
        "models",
        "models",
        "list the models that backends offer",
        """\
List models as `-m` takes them. A backend that cannot be asked is one line on stderr; the status is that of the first
failure if every backend fails, and 0 otherwise.""",
    )
    parser.add_argument(
        "backend", nargs="*", metavar="BACKEND", help="backend or deployment; by default all backends that list models"
    )
    parser.add_argument("--timeout", type=float, default=15, metavar="SECONDS", help="for each (default: 15)")
    _add_json(parser)


def _add_doctor(add: _AddParser) -> None:
    parser = _add(
        add,
        "doctor",
        "doctor",
        "say what would run, what is missing, and what adds it",
        """\
Say what is installed, what would run, and what is missing with the command that adds it. Every backend that can be
reached is asked for its models. The status is 0 if a model can answer (`echo` is not one), else 1.""",
    )
    _add_json(parser)


def _add_jobs(add: _AddParser) -> None:
    parser = _add(
        add,
        "jobs",
        "jobs",
        "look at a job, wait for it, or cancel it",
        """\
A job is known by the id that it was submitted with, as in openai:sora-2:videos/video_1. `status` looks once; `wait`
looks until it is over, and writes what it has made; `cancel` asks the service to stop. The status is 1 for a job that
has failed.""",
    )
    parser.add_argument("action", choices=("status", "wait", "cancel"), help="what to do")
    parser.add_argument("id", metavar="ID", help="of the job")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="how long `wait` waits (default: no limit)")
    parser.add_argument("--output", metavar="FILE", help="where `wait` puts a film or a recording")
    _add_json(parser)


def _add_serve(add: _AddParser) -> None:
    parser = _add(
        add,
        "serve",
        "serve",
        "serve models in OpenAI's API and Anthropic's, whatever backend they are of",
        """\
Serve models in OpenAI's API and Anthropic's, whatever backend they are of: chats, completions and embeddings, streamed
or whole, and the list of models. Requests name a model as -m does; without -m they may name any alias, deployment or
group of asyncllm.toml, and with nothing configured it is the local model. The one line on stdout is the address, a
client's base URL. On an address of this machine alone nobody needs a key; on any other everybody does, which
`asyncllm keys add` makes. Ctrl-C (status 130) or SIGTERM (143) lets streams end for --drain seconds, and then ends
it. SIGHUP reads asyncllm.toml again, with what its table [server] says, and breaks nothing off; a wrong one is one line
on stderr, and what was there stays.""",
    )
    add_target(parser)
    group = parser.add_argument_group("where to listen")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="of this machine (default: 127.0.0.1)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="port, 0 for any free one (default: 8000)")
    group.add_argument("--uds", metavar="PATH", help="a Unix socket in place of address and port")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes that answer (default: 1)")
    group.add_argument("--drain", type=int, default=30, metavar="SECONDS", help="for streams to end (default: 30)")
    group = parser.add_argument_group("who may ask")
    add_store(group.add_argument, "folder of the server's keys and of what they have used")
    group.add_argument("--require-keys", action="store_true", help="let nobody in without a key, on any address")
    group.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a name that requests may ask this server by, as behind a proxy, beside localhost; * for any; repeatable",
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="web pages that may ask, such as https://app.example.org (default: none of elsewhere); repeatable",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no lines about the command itself, errors aside")


def _add_usage(add: _AddParser) -> None:
    parser = _add(
        add,
        "usage",
        "usage",
        "say what the calls of a server took",
        """\
Add up what calls took, as `asyncllm serve` has written it into its store: requests, those of them that failed, tokens,
US dollars, and the requests whose price nobody knows. A moment is a day such as 2026-11-22, a time, or a Unix time, in
UTC, and what is told is by the hour.""",
    )
    add_store(parser.add_argument, "folder of the server's store")
    parser.add_argument("--since", metavar="TIME", help="the first hour (default: all there is)")
    parser.add_argument("--until", metavar="TIME", help="the end, that hour not included (default: now)")
    parser.add_argument("--by", choices=("key", "tenant", "model", "day"), default="key", help="(default: key)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")


def _add_mock_server(add: _AddParser) -> None:
    parser = _add(
        add,
        "mock-server",
        "mock_server",
        "serve OpenAI's dialect without a model, for testing clients",
        """\
Serve OpenAI's dialect on 127.0.0.1 without a model, for testing any client: chats, completions, embeddings and the
list of models, streamed or whole. The one line on stdout is the address, a client's base URL; any key and any name of
a model will do. An answer repeats the prompt unless --answer is given; a token is a word. Ctrl-C (status 130) or
SIGTERM (143) ends it.""",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port (default: 0, any free one)")
    group = parser.add_argument_group("what it answers")
    group.add_argument("--answer", metavar="TEXT", help="the answer to every call")
    group.add_argument("--tokens", type=int, metavar="N", help="tokens of every answer, which is repeated or cut")
    group.add_argument("--first-token", type=float, default=0, metavar="SECONDS", help="before the first token")
    group.add_argument("--token", type=float, default=0, metavar="SECONDS", help="between two tokens")
    group = parser.add_argument_group("how it fails")
    group.add_argument("--failure-rate", type=float, default=0, metavar="X", help="share of calls that fail, 0 to 1")
    group.add_argument(
        "--failure",
        default="503",
        metavar="KIND",
        help="a status (429, 500, 503, 529), no reply (reset, close, stall), or half an answer (cut, error-event); "
        "default: 503",
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same calls fail in every run")


def _add(add: _AddParser, name: str, module: str, summary: str, description: str) -> _Parser:
    parser = add(
        name,
        help=summary,
        description=description,
        epilog=TEXT,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(module=module)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (also: ASYNCLLM_DEBUG=1)")
    return parser


def _add_json(parser: _Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_generation(parser: _Parser) -> None:
    add_target(parser)
    add_sampling(parser, short=True)
    add_constraint(parser)
    _add_output(parser)


def _add_output(parser: _Parser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    group.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object when the answer is whole: text, finish_reason, model, backend, request_id, usage, "
        "tool_calls, and, where there is any, reasoning, refusal, choices",
    )
    group.add_argument("--reasoning", action="store_true", help="show reasoning on stderr even if it is no terminal")
    group.add_argument("-q", "--quiet", action="store_true", help="no lines about the command itself, errors aside")
