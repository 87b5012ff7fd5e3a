"""A call that is made to fail: what comes out, and whether it may be shown."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from asyncllm.backend import HttpCall
from asyncllm.collect import Collector
from asyncllm.errors import AsyncLLMError
from asyncllm.events import Event
from asyncllm.testing.conformance.harness import run_clean, within
from asyncllm.testing.conformance.subject import Subject
from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport
from asyncllm.types import Request

__all__ = ["CANARY", "Failing"]

CANARY = "the-canary-that-no-error-may-repeat"
"""Stands in the prompt of calls that fail."""


class Failing(Subject):
    """What a service says goes through a `ScriptedTransport`, which reaches every backend that speaks HTTP.

    A backend that opens no connection has no such failures; its own are what `bad_models` provokes, and refused
    options.
    """

    def fail(self, reply: Callable[[HttpCall], ScriptedReply | BaseException], *, stream: bool) -> Exception | None:
        """What a call raises that gets `reply`; `None` for a backend that sends nothing."""
        return run_clean(
            self._failing(ScriptedTransport([reply]), self.request(f"{CANARY} {self.prompt}", stream=stream))
        )

    async def _failing(self, transport: ScriptedTransport, request: Request) -> Exception | None:
        got: list[Event] = []
        async with self.connected(transport=transport) as backend:
            try:
                async with self.bounded(), backend.open(request) as events:
                    got += [event async for event in events]
            except AsyncLLMError as error:
                assert transport.opened == transport.closed, "a failed call does not give its reply back"
                return error if transport.calls else None
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"a failing call raises {error!r}, which is not of the tree") from error
        collector = Collector()
        collector.add(got)
        assert not transport.calls or not collector.is_complete, "a broken reply passes for a complete answer"
        assert not transport.calls, "a broken reply ends like a complete one, without an error"
        return None

    @asynccontextmanager
    async def bounded(self) -> AsyncGenerator[None]:
        """Fail where the block does not end in time."""
        with within(self.patience_s, "a failing call"):
            async with asyncio.timeout(self.patience_s):
                yield

    def is_proper(self, error: AsyncLLMError, what: str = "a call") -> None:
        """Fail for an error that shows the prompt or the key, or that does not travel."""
        shown = "".join(traceback.format_exception(error)) + f"{error!s} {error!r} {error.facts()}"
        assert CANARY not in shown, f"{what}: the {type(error).__name__} repeats the prompt"
        assert not self.api_key or self.api_key not in shown, f"{what}: the {type(error).__name__} shows the key"
        for how, twin in (
            ("pickled", pickle.loads(pickle.dumps(error))),  # noqa: S301  # our own pickle
            ("copied", copy.copy(error)),
            ("copied deeply", copy.deepcopy(error)),
        ):
            same = type(twin) is type(error) and str(twin) == str(error) and twin.facts() == error.facts()
            assert same, f"a {type(error).__name__} that was {how} is not what it was"
