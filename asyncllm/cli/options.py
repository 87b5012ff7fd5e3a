"""From parsed arguments to a client and the options of its calls."""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

from asyncllm.calls import CallOptions
from asyncllm.cli.arguments import DEFAULT_MODEL
from asyncllm.cli.output import note
from asyncllm.client import Client
from asyncllm.config import find_settings, load_settings
from asyncllm.errors import ConfigError
from asyncllm.types import Choice, Constraint, Grammar, JsonSchema, Regex, Sampling, Timeouts

__all__ = ["call_options", "make_client", "pair", "read_file", "readable"]

_SAMPLING = frozenset(Sampling.__struct_fields__)
_EXAMPLES = {
    "--label": "--label team=search",
    "--option": "--option top_k=40",
    "--place-option": "--place-option region=eu-west-1",
    "--vendor-option": "--vendor-option part_items=5000",
}
_OF_A_CALL = _SAMPLING | {"tools", "tool_choice", "parallel_tool_calls"}


def make_client(args: Namespace, *, answers: str = "answers", prices: bool = False) -> Client:
    """The client that the arguments ask for. Says so where the local model `answers` because nothing was configured.

    `prices` says whether it is told what a call costs. Raises `ConfigError`.
    """
    settings = load_settings(find_settings(os.environ), os.environ)
    model = args.model or settings.model
    if not model:
        if args.base_url or args.api_key_env:
            raise ConfigError("--base-url and --api-key-env belong to a model: name it, as in -m openai:MODEL")
        model = DEFAULT_MODEL
        if not args.quiet:
            note(
                f"{model} {answers}, as nothing is configured; for another, give -m backend:model or write "
                'model = "backend:model" into asyncllm.toml (-q hides this line)'
            )
    return Client(
        model=model,
        base_url=args.base_url,
        api_key=_key(args.api_key_env),
        timeouts=Timeouts(total_s=args.timeout),
        price_library=None if prices else False,
        config=settings,
    )


def call_options(args: Namespace) -> CallOptions:
    """The options of every call of this command. Raises `ConfigError` naming the argument at fault."""
    options: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(args, name, None)) is not None}
    extra: dict[str, Any] = {}
    for given in args.option:
        name, value = pair(given, "--option")
        home = options if name in _OF_A_CALL else extra
        if name in home:
            raise ConfigError(f"{name} is given twice", field=name)
        home[name] = value
    if extra:
        options["extra"] = extra
    if getattr(args, "system", None) is not None:
        options["system"] = readable(args.system, "--system")
    constraint = _constraint(args)
    if constraint is not None:
        options["constraint"] = constraint
    # The names are those of CallOptions, and the values are checked where every call's are.
    return cast("CallOptions", options)


def readable(text: str, where: str) -> str:
    """`text`, unless it holds bytes that were no text in the locale's encoding. Raises `ConfigError`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} holds bytes that are not UTF-8 text", field=where) from None
    return text


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        # The value could be a key, given by mistake, so only what can be a name is repeated.
        shown = variable if re.fullmatch(r"[A-Z][A-Z0-9_]*", variable) else "its argument"
        raise ConfigError(f"--api-key-env takes the name of a variable, and {shown} is not set", field="--api-key-env")
    return key


def pair(given: str, where: str) -> tuple[str, Any]:
    """Name and value of a KEY=VALUE, whose value is JSON or else text. Raises `ConfigError`."""
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise ConfigError(f"{where} takes KEY=VALUE, as in {_EXAMPLES[where]}", field=where)
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, readable(value, f"{where} {name}")


def _constraint(args: Namespace) -> Constraint | None:
    if args.schema is not None:
        return _schema(Path(args.schema))
    if args.choice is not None:
        return Choice(tuple(args.choice))
    if args.regex is not None:
        return Regex(args.regex)
    if args.grammar is not None:
        return Grammar(read_file(Path(args.grammar), "--grammar"))
    return None


def _schema(path: Path) -> JsonSchema:
    try:
        schema = json.loads(read_file(path, "--schema"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--schema: {path} is not valid JSON: {error}", field="--schema") from None
    if not isinstance(schema, dict):
        raise ConfigError(f"--schema: {path} is not a JSON object", field="--schema")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:64] or "answer"
    return JsonSchema(cast("dict[str, Any]", schema), name=name)


def read_file(path: Path, where: str) -> str:
    """The text of a file that an argument names. Raises `ConfigError`."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}", field=where) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {path} is not UTF-8 text", field=where) from None
