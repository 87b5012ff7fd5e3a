"""`asyncllm mock-server`: OpenAI's dialect without a model, until somebody ends it."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import NoReturn

from asyncllm.cli.output import say
from asyncllm.errors import ConfigError
from asyncllm.testing.mock import OpenAIMock
from asyncllm.testing.server import FaultyServer

__all__ = ["run"]


def run(args: Namespace) -> NoReturn:
    """Serve until Ctrl-C or SIGTERM. Raises `KeyboardInterrupt` for either, `ConfigError` for an option or a port."""
    mock = OpenAIMock(
        answer=args.answer,
        tokens=args.tokens,
        first_token_s=args.first_token,
        token_s=args.token,
        failure_rate=args.failure_rate,
        failure=args.failure,
        seed=args.seed,
    )
    asyncio.run(_serve(mock, args.port))
    raise AssertionError("a server ends by a signal alone")


async def _serve(mock: OpenAIMock, port: int) -> None:
    server = FaultyServer(mock.script(), port=port, keep=False)
    try:
        await server.__aenter__()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on port {port} of 127.0.0.1: {error}", field="port") from error
    try:
        say(f"{server.url}/v1")
        await asyncio.Event().wait()
    finally:
        await server.__aexit__(None, None, None)
