"""Checks of what goes wrong: always an error of the one tree, which says nothing private."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec

from asyncllm.backend import Backend, HttpCall
from asyncllm.collect import Collector
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncLLMError,
    StreamInterrupted,
    UnsupportedError,
)
from asyncllm.events import Event
from asyncllm.testing.conformance.harness import run_clean, within
from asyncllm.testing.conformance.options import OPTIONS
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport
from asyncllm.types import Request

__all__ = ["FailureChecks"]

_CANARY = "the-canary-that-no-error-may-repeat"
_STATUSES = (400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529)


def _echo(call: HttpCall) -> bytes:
    """An error that repeats all it was sent, as servers do."""
    headers = " ".join(call.headers.values())
    text = f"invalid request: {call.body.decode()} {_CANARY} with {headers}"
    return msgspec.json.encode({"error": {"message": text, "type": "server_error", "code": "broken"}})


def _refused(status: int) -> Callable[[HttpCall], ScriptedReply]:
    return lambda call: ScriptedReply(status, {"Content-Type": "application/json", "Retry-After": "7"}, _echo(call))


_BROKEN: Mapping[str, Callable[[HttpCall], ScriptedReply | BaseException]] = {
    "no body at all": lambda _: ScriptedReply(),
    "bytes that are nothing": lambda _: ScriptedReply(body=b"\x00\xff\xfe garbage {{{"),
    "an event that is nothing": lambda _: ScriptedReply(body=b"data: \xff\xfe{{{\n\n"),
    "a web page": lambda _: ScriptedReply(headers={"Content-Type": "text/html"}, body=b"<html>busy</html>"),
    "an error under status 200": lambda call: ScriptedReply(
        headers={"Content-Type": "application/json"}, body=_echo(call)
    ),
    "an error in the stream": lambda call: ScriptedReply(
        body=b"event: error\ndata: " + _echo(call) + b"\n\n" if call.stream else _echo(call)
    ),
    "a connection that breaks": lambda _: ScriptedReply(
        body=[StreamInterrupted("while reading the reply: cut", maybe_billed=True)]
    ),
    "no connection": lambda _: APIConnectionError("cannot connect to nowhere"),
}


class FailureChecks(Subject):
    """An error is typed, travels between processes, and keeps prompts and keys to itself.

    What a service says goes through a `ScriptedTransport`, which reaches every backend that speaks HTTP. A backend that
    opens no connection has no such failures; its own are what `bad_models` provokes, and refused options.
    """

    def test_an_error_status_is_an_error_of_its_class(self) -> None:
        """For each status: on entering, with the status and the wait that the server asks for as fields."""
        for status in _STATUSES:
            for stream in (True, False):
                error = self._fail(_refused(status), stream=stream)
                if error is None:
                    return
                assert isinstance(error, APIStatusError), f"status {status} raises {type(error).__name__}"
                assert error.status == status, f"status {status} raises an error of status {error.status}"
                assert error.retry_after_s == 7, f"status {status} loses the Retry-After of its reply"
                self._is_proper(error)

    def test_a_reply_that_is_broken_is_never_an_answer(self) -> None:
        """An empty, cut or foreign reply, and an error in place of one: an `APIError`, streamed or not."""
        for what, reply in _BROKEN.items():
            for stream in (True, False):
                error = self._fail(reply, stream=stream)
                if error is None:
                    return
                assert isinstance(error, APIError), f"{what} raises {error!r}, which is no APIError"
                self._is_proper(error, what)

    @check
    async def test_a_model_that_cannot_answer_is_a_typed_error(self, backend: Backend) -> None:
        """Each of `bad_models` fails, and the backend still answers afterwards."""
        for model in self.bad_models:
            request = msgspec.structs.replace(self.request(f"{_CANARY} {self.prompt}"), model=model)
            try:
                await self.answer(backend, request)
            except AsyncLLMError as error:
                self._is_proper(error)
            else:
                raise AssertionError(f"the bad model {model!r} answers")
        await self.answer(backend)

    @check
    async def test_a_refused_option_is_an_error_that_travels_and_says_nothing_private(self, backend: Backend) -> None:
        """Whatever option the backend refuses, its error pickles, copies and does not repeat the prompt."""
        for use in OPTIONS.values():
            try:
                async with backend.open(use(self.request(f"{_CANARY} {self.prompt}"))):
                    pass
            except UnsupportedError as error:
                self._is_proper(error)
            except AsyncLLMError:
                pass  # accepted by the backend and refused by the model

    @check
    async def test_a_backend_does_not_show_its_key(self, backend: Backend) -> None:
        """Neither `repr` nor `str` has it."""
        assert self.api_key is None or self.api_key not in f"{backend!r} {backend!s}", "the backend's repr has the key"

    def _fail(self, reply: Callable[[HttpCall], ScriptedReply | BaseException], *, stream: bool) -> Exception | None:
        """What a call raises that gets `reply`; `None` for a backend that sends nothing."""
        return run_clean(
            self._failing(ScriptedTransport([reply]), self.request(f"{_CANARY} {self.prompt}", stream=stream))
        )

    async def _failing(self, transport: ScriptedTransport, request: Request) -> Exception | None:
        got: list[Event] = []
        async with self.connected(transport=transport) as backend:
            try:
                async with self._bounded(), backend.open(request) as events:
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
    async def _bounded(self) -> AsyncGenerator[None]:
        with within(self.patience_s, "a failing call"):
            async with asyncio.timeout(self.patience_s):
                yield

    def _is_proper(self, error: AsyncLLMError, what: str = "a call") -> None:
        shown = "".join(traceback.format_exception(error)) + f"{error!s} {error!r} {error.facts()}"
        assert _CANARY not in shown, f"{what}: the {type(error).__name__} repeats the prompt"
        assert not self.api_key or self.api_key not in shown, f"{what}: the {type(error).__name__} shows the key"
        for how, twin in (
            ("pickled", pickle.loads(pickle.dumps(error))),  # noqa: S301  # our own pickle
            ("copied", copy.copy(error)),
            ("copied deeply", copy.deepcopy(error)),
        ):
            same = type(twin) is type(error) and str(twin) == str(error) and twin.facts() == error.facts()
            assert same, f"a {type(error).__name__} that was {how} is not what it was"
