"""The backend behind `asyncllm_vllm.connect`."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

import anyio
import msgspec
from msgspec import UNSET

from asyncllm.backend import EmbedRequest
from asyncllm.errors import (
    APIConnectionError,
    AsyncLLMError,
    ContextLengthExceededError,
    InvalidRequestError,
    UnsupportedError,
)
from asyncllm.events import Event, Events, Ready, Started
from asyncllm.types import Embeddings, ModelInfo, PromptCheck, Request, Tokens, Usage
from asyncllm_vllm.adapter import Collector, Core, Prompt
from asyncllm_vllm.answer import Answer, Parsed
from asyncllm_vllm.engine import Engine, borrow, give_back
from asyncllm_vllm.failures import is_dead, refused
from asyncllm_vllm.options import Options
from asyncllm_vllm.request import Extra, body, check_supported, read_extra, sampling_fields

__all__ = ["VLLM"]

_MARKS = "add_special_tokens"
_LOOK_S = 0.01
_LEAVE_S = 0.25
"""How long leaving a call may take to tell the engine."""


class VLLM:
    """Models of one client, on one event loop; the engines below are shared by all."""

    def __init__(self, name: str, options: Options) -> None:
        self._name = name
        self._options = options
        self._engines: dict[str, Engine] = {}
        self.calls: set[_Call] = set()
        """Those that are under way."""
        self._closed = False

    def open(self, request: Request, /) -> _Call:
        """Start one chat or completion; see `asyncllm.backend.Backend`.

        Entering waits for the engine to start and for its scheduler to take the request.
        """
        check_supported(request, backend=self._name)
        return _Call(self, request, read_extra(request))

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """Embed texts, all at once; see `asyncllm.backend.Embedder`.

        `extra={"task": "classify"}` asks for what else the model's pooler gives.
        """
        task = request.extra.get("task", "embed")
        if set(request.extra) - {"task"} or not isinstance(task, str):
            raise InvalidRequestError("embed takes extra={'task': ...} and nothing else", field="extra")
        engine, core = await self._ready(request.model)
        if not core.is_pooling:
            raise UnsupportedError(
                "this engine writes and does not embed: options={'runner': 'pooling'} makes one that does",
                backend=self._name,
                field="runner",
            )
        dimensions = None if request.dimensions is UNSET else request.dimensions
        sent = msgspec.json.encode(request.texts)
        jobs = [
            asyncio.create_task(_embed(engine, core, text, core.pooling(task, dimensions), sent))
            for text in request.texts
        ]
        try:
            found = await asyncio.gather(*jobs)
        finally:
            for job in jobs:
                job.cancel()
            await _settled(jobs)
        tokens = sum(count for _, count in found)
        return Embeddings(
            vectors=tuple(vector for vector, _ in found), usage=Usage(input_tokens=tokens), model=request.model
        )

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count by the model's tokenizer, chat template included; see `asyncllm.backend.PromptChecker`."""
        core, ids = await self._ids(request)
        return PromptCheck(tokens=len(ids), limit=core.limit, max_tokens=request.sampling.max_tokens or 0)

    async def tokenize(self, request: Request, /) -> Tokens:
        """By the model's tokenizer and template, tools included; see `asyncllm.backend.Tokenizer`."""
        extra = {name: value for name, value in request.extra.items() if name != _MARKS}
        with_marks = request.extra.get(_MARKS, True) is not False
        core, ids = await self._ids(msgspec.structs.replace(request, extra=extra), with_marks=with_marks)
        return Tokens(ids=tuple(ids), limit=core.limit)

    async def detokenize(self, request: Request, /) -> str:
        """See `asyncllm.backend.Tokenizer`."""
        engine, core = await self._ready(request.model)
        assert isinstance(request.prompt, tuple)  # as the contract has it
        try:
            return await core.text_of(request.prompt)
        except Exception as error:
            raise _failure(error, engine, _sent(request)) from None

    async def _ids(self, request: Request, *, with_marks: bool = True) -> tuple[Core, Sequence[int]]:
        """The tokens of a prompt of any length."""
        check_supported(request, backend=self._name)
        extra = read_extra(request)
        engine, core = await self._ready(request.model)
        try:
            if request.is_chat:
                written = body(request)
                kwargs = {**extra.chat_template_kwargs, "tools": written.get("tools")}
                prompt = await core.chat_prompt(written["messages"], kwargs, of_any_length=True)
            else:
                assert request.prompt is not UNSET
                prompt = await core.plain_prompt(request.prompt, of_any_length=True, with_marks=with_marks)
        except Exception as error:
            raise _failure(error, engine, _sent(request)) from None
        ids: Sequence[int] = prompt["prompt_token_ids"]
        return core, ids

    async def list_models(self) -> Sequence[ModelInfo]:
        """The models that this client has started."""
        engines = list(self._engines.items())
        return [ModelInfo(id=model, context_tokens=(await engine.ready()).limit) for model, engine in engines]

    async def is_alive(self) -> bool:
        """Whether vLLM is installed, and every engine that this client has started is well."""
        if self._closed or importlib.util.find_spec("vllm") is None:
            return False
        for engine in list(self._engines.values()):
            await (await engine.ready()).check()
        return True

    # -- beyond the contract: what only an engine can be told --------------------------------------------------------

    async def start(self, model: str) -> None:
        """Start the engine of `model` now rather than with its first call. Raises `ConfigError`."""
        await self._ready(model)

    async def sleep(self, model: str, level: int = 1) -> None:
        """Let go of device memory: of the weights (1) and of what they could be had from again (2).

        Needs `enable_sleep_mode=True` and a device that can do it. Calls that are under way are given up.

        Raises `UnsupportedError` without that option, `APIError`.
        """
        await self._tell(model, lambda core: core.sleep(level))

    async def wake_up(self, model: str) -> None:
        """Take the memory back. Raises as `sleep` does."""
        await self._tell(model, lambda core: core.wake_up())

    async def _tell(self, model: str, what: Callable[[Core], Awaitable[None]]) -> None:
        engine, core = await self._ready(model)
        if not core.can_sleep:
            raise UnsupportedError(
                "this engine cannot sleep: options={'enable_sleep_mode': True} makes one that can, on a GPU",
                backend=self._name,
                field="enable_sleep_mode",
            )
        try:
            await what(core)
        except Exception as error:
            raise _failure(error, engine, b"") from error

    async def drain(self, seconds: float) -> bool:
        """Wait until no call of this client is under way, for `seconds` at most; whether that is so."""
        with anyio.move_on_after(seconds):
            while self.calls:  # noqa: ASYNC110  # each call would pay for an event that hardly anybody waits for
                await asyncio.sleep(_LOOK_S)
        return not self.calls

    def engine(self, model: str) -> Engine | None:
        """The engine of `model`, if this client has one."""
        return self._engines.get(model)

    async def aclose(self) -> None:
        """Stop what is running, and end the engines that no other client uses. Idempotent."""
        self._closed = True
        calls, engines = list(self.calls), list(self._engines.values())
        self._engines.clear()
        for call in calls:
            await call.stop()
        ended = [engine for engine in engines if give_back(engine)]
        if ended:
            with anyio.CancelScope(shield=True):  # a process that nobody waits for is one that nobody sees fail
                await asyncio.to_thread(_join, ended)

    async def _ready(self, model: str) -> tuple[Engine, Core]:
        if self._closed:
            raise APIConnectionError("this client is closed; make a new one", backend=self._name, retryable=False)
        engine = self._engines.get(model)
        if engine is not None and not engine.is_usable:
            del self._engines[model]
            give_back(engine)
            engine = None
        if engine is None:
            engine = self._engines[model] = borrow(model, self._options)
        try:
            return engine, await engine.ready()
        except AsyncLLMError:
            if not engine.is_usable and self._engines.get(model) is engine:
                del self._engines[model]
                give_back(engine)
            raise

    async def submit(self, request: Request, extra: Extra) -> tuple[Engine, Core, Collector, str, Answer]:
        """Hand `request` to the scheduler. Raises what it has against it."""
        engine, core = await self._ready(request.model)
        if core.is_pooling:
            raise UnsupportedError("this engine embeds and does not write", backend=self._name, field="runner")
        if request.tools and not core.needs_parser:
            raise UnsupportedError(
                "tools need to know how the model writes its calls: options={'tool_call_parser': 'hermes'}, or another "
                "of vLLM's parsers",
                backend=self._name,
                field="tools",
            )
        name = secrets.token_hex(16)
        try:
            prompt, parsed = await _rendered(core, request, extra)
            token_ids = prompt["prompt_token_ids"]
            room = core.limit - len(token_ids)
            if room < 1:
                raise ContextLengthExceededError(
                    f"the prompt has {len(token_ids)} tokens, which leaves no room for an answer: both together have "
                    f"max_model_len={core.limit} at most",
                    status=400,
                    code="context_length_exceeded",
                )
            fields = sampling_fields(request, extra, core.defaults, room)
            params = core.sampling(fields, stream=request.stream, parsed=parsed)
            lora = None if extra.lora is None else await engine.lora(extra.lora)
            tops = request.sampling.top_logprobs or 0
            answer = (
                Answer(len(token_ids), tops)
                if parsed is None
                else Parsed(
                    len(token_ids),
                    tops,
                    make=lambda: core.parser(parsed),
                    request=parsed,
                    token_ids=token_ids,
                    stream=request.stream,
                )
            )
            try:
                collector = await core.submit(name, prompt, params, lora=lora, priority=extra.priority)
            except BaseException:
                # It may have been taken all the same: a cancellation strikes between that and the word of it.
                with anyio.move_on_after(_LEAVE_S, shield=True):
                    await core.abort(name, internal=False)
                raise
        except AsyncLLMError:
            raise
        except Exception as error:
            raise _failure(error, engine, _sent(request)) from None
        return engine, core, collector, name, answer


class _Call:
    """One call under way. A class and not a decorated generator: this is the path that every call takes."""

    def __init__(self, backend: VLLM, request: Request, extra: Extra) -> None:
        self._backend = backend
        self._request = request
        self._extra = extra
        self._collector: Collector | None = None
        self._events: Ready | None = None
        self._core: Core
        self._engine: Engine
        self._answer: Answer

    async def __aenter__(self) -> Events:
        request = self._request
        self._engine, self._core, self._collector, name, self._answer = await self._backend.submit(request, self._extra)
        self._backend.calls.add(self)
        started = Started(request.model, name)
        if request.stream:
            self._events = Ready((started,), self._outputs())
            return self._events
        events: list[Event] = [started]
        try:
            async for batch in self._outputs():
                events += batch
        except BaseException:
            await self.stop()
            raise
        return Ready(events)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            await self._events.aclose()
        await self.stop()

    async def stop(self) -> None:
        """Have the engine forget the request, unless it has ended."""
        self._backend.calls.discard(self)
        collector, self._collector = self._collector, None
        if collector is None:
            return
        # Shielded, because a cancelled anyio scope cancels every wait again; what is sent is sent before any wait.
        with anyio.move_on_after(_LEAVE_S, shield=True):
            await self._core.abort(collector.request_id, internal=True)

    async def _outputs(self) -> AsyncGenerator[Sequence[Event]]:
        """The events of each output: of all tokens that have come since the last one."""
        read = self._answer.read
        finished = False
        while not finished:
            collector = self._collector
            if collector is None:
                raise APIConnectionError("the client was closed during the call", retryable=False, maybe_billed=True)
            try:
                output = collector.get_nowait() or await collector.get()
            except Exception as error:
                raise _failure(error, self._engine, _sent(self._request)) from None
            finished = output.finished
            if finished:
                self._collector = None
            if events := read(output):
                yield events


def _failure(error: Exception, engine: Engine, sent: bytes) -> AsyncLLMError:
    """What a call raises `from None`: vLLM's words may repeat what was sent, which no log is to have."""
    if isinstance(error, AsyncLLMError):
        return error
    return engine.over() if is_dead(error) or engine.core.is_dead else refused(error, sent)


async def _rendered(core: Core, request: Request, extra: Extra) -> tuple[Prompt, Any]:
    """The prompt in tokens and, where the answer needs a parser, the request in the form that it goes by."""
    if not request.is_chat:
        assert request.prompt is not UNSET
        return await core.plain_prompt(request.prompt), None
    written = body(request)
    kwargs = extra.chat_template_kwargs
    if core.needs_parser:
        return await core.parsed_chat({**written, "chat_template_kwargs": kwargs} if kwargs else written)
    if request.sampling.reasoning_effort is not UNSET:
        kwargs = {"reasoning_effort": request.sampling.reasoning_effort, **kwargs}
    return await core.chat_prompt(written["messages"], kwargs), None


async def _embed(engine: Engine, core: Core, text: str, params: Any, sent: bytes) -> tuple[array[float], int]:
    """One vector, and the tokens of its text."""
    name = secrets.token_hex(16)
    try:
        prompt = await core.plain_prompt(text)
        collector = await core.submit(name, prompt, params)
        output = collector.get_nowait() or await collector.get()
    except asyncio.CancelledError:
        with anyio.move_on_after(_LEAVE_S, shield=True):
            await core.abort(name, internal=False)
        raise
    except Exception as error:
        raise _failure(error, engine, sent) from None
    return array("f", output.outputs.data.flatten().tolist()), len(output.prompt_token_ids)


async def _settled(jobs: Sequence[asyncio.Task[Any]]) -> None:
    with anyio.move_on_after(2 * _LEAVE_S, shield=True):
        await asyncio.wait(jobs)


def _sent(request: Request) -> bytes:
    """What an error must not repeat."""
    said = body(request) if request.is_chat else {"prompt": request.prompt}
    return msgspec.json.encode({**said, "constraint": request.constraint, "extra": request.extra}, enc_hook=repr)


def _join(engines: Sequence[Engine]) -> None:
    for engine in engines:
        engine.join(2 * engine.options.shutdown_s)
