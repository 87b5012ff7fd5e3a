"""The same `Client` for code without an event loop.

Every call runs on the asynchronous client, on one background loop a client: there is no second implementation. That
loop is the client's own, so it works inside a running loop (Jupyter), inside threads, and across any number of
`asyncio.run`. Ctrl-C, or any other exception that ends a wait, cancels the call it waited for.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import ContextVar, copy_context
from pathlib import Path
from threading import Lock, Thread, current_thread
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from anyio.from_thread import BlockingPortal

from asyncllm import client as asynchronous
from asyncllm.backend import Backend, Clock, Secret, Transport
from asyncllm.batch.waiting import WaitingBatchCalls
from asyncllm.budgets import Budget
from asyncllm.cache import Cache
from asyncllm.calls import CallOptions, Model, Prompt
from asyncllm.config import Settings
from asyncllm.errors import APIConnectionError, WrongLoopError
from asyncllm.events import Event
from asyncllm.hooks import Hook
from asyncllm.jobs import WaitingJobCalls
from asyncllm.media_calls import WaitingMediaCalls
from asyncllm.middleware.hedge import Hedge
from asyncllm.middleware.limits import Limiter
from asyncllm.middleware.retry import Retry
from asyncllm.stream import Stream as AsyncStream
from asyncllm.text_stream import TextStream as AsyncTextStream
from asyncllm.token_calls import WaitingTokenCalls
from asyncllm.toolruns.rounds import ToolOptions, ToolRun
from asyncllm.toolruns.stream import ToolEvent
from asyncllm.toolruns.stream import ToolStream as AsyncToolStream
from asyncllm.types import Embeddings, Limits, ModelInfo, Price, PromptCheck, Request, Response, Timeouts
from asyncllm.waiting import WaitingStream, next_of

__all__ = ["Client", "Stream", "TextStream", "ToolStream"]

T = TypeVar("T")

_END_S = 10
_END = object()


class _Runner:
    """Runs coroutines on the background loop, starting it with the first one.

    The loop ends with `close`, with this object, or with the interpreter, whichever comes first.
    """

    def __init__(self) -> None:
        self.closed = False
        self._portal: BlockingPortal | None = None
        self._thread: Thread | None = None
        self._starting = Lock()
        self._pid = os.getpid()
        self._end: weakref.finalize[Any, Any] | None = None

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await `call()` over there and return its result here."""
        if self.closed:
            raise APIConnectionError("this client is closed; make a new one", retryable=False)
        if os.getpid() != self._pid:
            raise WrongLoopError("this client was made before a fork and its loop stayed in the parent: make one here")
        if current_thread() is self._thread:
            raise WrongLoopError(
                "this client was called from its own background loop, as a hook or an async tool would do, and would "
                "wait for itself: use asyncllm.Client there"
            )
        future = self._started().start_task_soon(call)
        if (calls := _CALLS.get()) is not None:
            calls.add(future)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # of no effect on a call that failed by itself
            raise

    async def in_thread(self, threads: Executor, code: Callable[[], T]) -> T:
        """Over there: run code that may wait for calls in one of the `threads`. Cancelled, such a call is ended."""
        calls, context = _Calls(), copy_context()
        context.run(_CALLS.set, calls)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, context.run, code)
        finally:
            calls.end()

    def close(self) -> None:
        """End the loop and its thread."""
        self.closed = True
        if self._end is not None:
            self._end()

    def _started(self) -> BlockingPortal:
        with self._starting:  # or the first calls of two threads would each get a loop
            if self._portal is None:
                ready: Future[BlockingPortal] = Future()
                # A daemon, or the interpreter would wait for it before the finalizer below can end it.
                thread = Thread(target=lambda: asyncio.run(_serve(ready)), name="asyncllm-sync", daemon=True)
                self._thread = thread
                thread.start()
                self._portal = ready.result()
                self._end = weakref.finalize(self, _end, self._portal, thread, self._pid)
            return self._portal


class _Calls:
    """Calls that code in a thread waits for, so that they can be ended from outside it."""

    def __init__(self) -> None:
        self._futures: list[Future[Any]] = []
        self._has_ended = False

    def add(self, future: Future[Any]) -> None:
        """There is one more. It is ended at once if all of them have been."""
        self._futures.append(future)
        if self._has_ended:
            future.cancel()

    def end(self) -> None:
        """End those that still run, and any that is yet to come."""
        self._has_ended = True
        for future in self._futures:
            future.cancel()


_CALLS: ContextVar[_Calls | None] = ContextVar("asyncllm_calls_of_thread", default=None)


async def _serve(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


def _end(portal: BlockingPortal, thread: Thread, pid: int) -> None:
    if os.getpid() != pid:
        return  # in a forked child there is no such thread
    try:
        portal.start_task_soon(portal.stop, True)  # cancels what is still running
    except RuntimeError:
        return  # it has stopped already
    if thread is not current_thread():
        thread.join(_END_S)


class Client(WaitingMediaCalls, WaitingTokenCalls, WaitingJobCalls, WaitingBatchCalls):
    """`asyncllm.Client` with methods that wait: same arguments, same results, same errors.

    Use it in a `with` block, or end it with `close()`. Any number of threads may share one.
    """

    def __init__(
        self,
        *,
        model: Model | None = None,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        options: Mapping[str, Any] | None = None,
        timeouts: Timeouts = Timeouts(),
        retry: Retry | None = Retry(),
        limits: Limits | Limiter = Limits(),
        hedge: Hedge | None = None,
        budget: Budget | None = None,
        cache: Cache | None = None,
        hooks: Sequence[Hook] = (),
        prices: Mapping[str, Price] | None = None,
        price_library: bool | None = None,
        config: Settings | str | Path | None = None,
        backend: Backend | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._client = asynchronous.Client(
            model=model,
            base_url=base_url,
            api_key=api_key,
            options=options,
            timeouts=timeouts,
            retry=retry,
            limits=limits,
            hedge=hedge,
            budget=budget,
            cache=cache,
            hooks=hooks,
            prices=prices,
            price_library=price_library,
            config=config,
            backend=backend,
            transport=transport,
            clock=clock,
            env=env,
        )
        self._runner = _Runner()

    def chat(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Response:
        """Send a conversation and return the whole answer; see `asyncllm.Client.chat`."""
        return self._runner.run(lambda: self._client.chat(prompt, **options))

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Stream:
        """Send a conversation and read the answer as it is made: `with client.stream(...) as stream:`."""

        async def make() -> AsyncStream:
            return self._client.stream(prompt, **options)

        return Stream(self._runner, self._runner.run(make))

    def run_tools(self, prompt: Prompt, **options: Unpack[ToolOptions]) -> ToolRun:
        """Let the model call Python functions until it answers; see `asyncllm.Client.run_tools`."""
        return self._runner.run(lambda: self._client.run_tools(prompt, **options))

    def stream_tools(self, prompt: Prompt, **options: Unpack[ToolOptions]) -> ToolStream:
        """The same, read as it happens: `with client.stream_tools(...) as stream:`."""

        async def make() -> AsyncToolStream:
            return self._client.stream_tools(prompt, **options)

        return ToolStream(self._runner, self._runner.run(make))

    def stream_text(self, prompt: Prompt, **options: Unpack[CallOptions]) -> TextStream:
        """The text of the answer alone: `for text in client.stream_text("Hello"): ...`"""

        async def make() -> AsyncTextStream:
            return self._client.stream_text(prompt, **options)

        return TextStream(self._runner, self._runner.run(make))

    def complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Response:
        """Continue a text, or a list of token ids, without a chat template."""
        return self._runner.run(lambda: self._client.complete(prompt, **options))

    def stream_complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Stream:
        """Continue a text and read the answer as it is made: `with client.stream_complete(...) as stream:`."""

        async def make() -> AsyncStream:
            return self._client.stream_complete(prompt, **options)

        return Stream(self._runner, self._runner.run(make))

    def ask(self, request: Request, *, model: Model | None = None) -> Stream:
        """The call that a `Request` describes: its `whole()`, or read as what `stream` returns."""

        async def make() -> AsyncStream:
            return self._client.ask(request, model=model)

        return Stream(self._runner, self._runner.run(make))

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: Model | None = None,
        dimensions: int | None = None,
        timeouts: Timeouts | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Embeddings:
        """Embed texts, one vector each, in the order given."""
        return self._runner.run(
            lambda: self._client.embed(texts, model=model, dimensions=dimensions, timeouts=timeouts, extra=extra)
        )

    def check_prompt(self, prompt: Prompt, **options: Unpack[CallOptions]) -> PromptCheck:
        """Count a conversation by the model's own tokenizer."""
        return self._runner.run(lambda: self._client.check_prompt(prompt, **options))

    def probe(self) -> Mapping[str, bool]:
        """Ask every place that stands beside others whether it would answer, and bear it in mind."""
        return self._runner.run(self._client.probe)

    def is_alive(self, *, model: Model | None = None) -> bool:
        """Whether the backend would answer now. Never raises."""
        return self._runner.run(lambda: self._client.is_alive(model=model))

    def resolve_model(self, model: Model | None = None) -> str:
        """The deployment, group or `backend:model` that a call would go to first. Connects nothing."""
        return self._client.resolve_model(model)

    def list_models(self, backend: str | None = None) -> Sequence[ModelInfo]:
        """Models that a backend or deployment offers."""
        return self._runner.run(lambda: self._client.list_models(backend))

    def get_model(self, model: Model | None = None) -> ModelInfo:
        """What a backend says of one model, by its id or its name."""
        return self._runner.run(lambda: self._client.get_model(model))

    def close(self) -> None:
        """Stop what is running, free everything, and end the background loop. Idempotent."""
        if not self._runner.closed:
            try:
                self._runner.run(self._client.aclose)
            finally:
                self._runner.close()

    def _over_there(self) -> tuple[asynchronous.Client, _Runner]:
        return self._client, self._runner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream(WaitingStream[Event]):
    """The events of one call: iterate inside `with`; `response` is complete after the loop."""

    def __init__(self, runner: _Runner, stream: AsyncStream) -> None:
        super().__init__(runner, stream)
        self._runner: _Runner = runner
        self._stream = stream

    @property
    def response(self) -> Response:
        """The reply: whole after the loop, and what has arrived so far before its end."""
        return self._stream.response

    @property
    def partial(self) -> Any:
        """The JSON of the answer so far as plain Python data; see `asyncllm.Stream.partial`."""
        return self._stream.partial

    def whole(self) -> Response:
        """Make the call and return the reply, without handing out its events."""
        return self._runner.run(self._stream.whole)

    def objects(self) -> Iterator[Any]:
        """`partial` after each piece of the answer that changed it."""
        values = self._stream.objects()
        try:
            while (value := self._runner.run(lambda: next_of(values, _END))) is not _END:
                yield value
        finally:
            if not self._runner.closed:
                self._runner.run(values.aclose)


class ToolStream(WaitingStream[ToolEvent]):
    """The events of a run: iterate inside `with`; `run` is complete after the loop."""

    def __init__(self, runner: _Runner, stream: AsyncToolStream) -> None:
        super().__init__(runner, stream)
        self._stream = stream

    @property
    def run(self) -> ToolRun:
        """The run: whole after the loop, and what has come of it so far before its end."""
        return self._stream.run


class TextStream:
    """The text of one answer, piece by piece. `close()`, or its `with` block, ends it early."""

    def __init__(self, runner: _Runner, stream: AsyncTextStream) -> None:
        self._runner = runner
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        try:
            while (text := self._runner.run(lambda: next_of(self._stream))) is not None:
                yield text
        finally:
            self.close()

    @property
    def response(self) -> Response:
        """The reply: whole after the last piece."""
        return self._stream.response

    def close(self) -> None:
        """Stop the model and free the connection. Idempotent."""
        if not self._runner.closed:
            self._runner.run(self._stream.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
