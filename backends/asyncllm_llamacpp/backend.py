"""The backend behind `asyncllm_llamacpp.connect`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import EmbedRequest
from asyncllm.dialect import read_embeddings, write_embeddings
from asyncllm.errors import (
    APIConnectionError,
    AsyncLLMError,
    BadRequestError,
    ConfigError,
    ContextLengthExceededError,
    InternalServerError,
    PoolTimeoutError,
    StreamInterrupted,
    UnsupportedError,
)
from asyncllm.events import Event, Events, Ready
from asyncllm.rejection import embedded_error
from asyncllm.types import Embeddings, ModelInfo, PromptCheck, Request, Timeouts, Tokens, Usage
from asyncllm_llamacpp.body import check_supported, write_body, write_count
from asyncllm_llamacpp.engine import Engine, borrow, give_back, require_same_process
from asyncllm_llamacpp.generation import Generation, Handler
from asyncllm_llamacpp.options import SMALL, Options, find_model, has_small_model
from asyncllm_llamacpp.reply import Reply, refusal

__all__ = ["LlamaCpp"]

_LEAVE_S = 0.5
"""How long leaving a call waits for llama.cpp to drop it: a token takes some 10 ms, a part of a prompt up to 1 s."""
_CLOSE_S = 5.0


class LlamaCpp:
    """Models of one client. Serves one event loop; the engines below are shared by all."""

    def __init__(self, name: str, options: Options) -> None:
        self._name = name
        self._options = options
        self._pid = os.getpid()
        self._engines: dict[str, Engine] = {}
        self._running: set[Generation] = set()
        self._closed = False

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Start one chat or completion; see `asyncllm.backend.Backend`.

        Entering waits for the model to load, for a free slot up to `pool_s`, and for llama.cpp to take the request.
        """
        check_supported(request, backend=self._name)
        engine = await self._engine(request.model)
        body = write_body(request, engine, backend=self._name)
        slots = request.sampling.n or 1
        generation = await self._start(engine, lambda: engine.handler(chat=request.is_chat), body, slots, request)
        try:
            reply = Reply(request, body)
            pieces = await generation.receive()
            if not pieces:
                _require_answer(generation, body)
            first = reply.feed(pieces)
            if reply.error is not None and not first:
                raise reply.error
            yield Ready(first, _events(generation, reply, body))
        finally:
            await _leave(generation)

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """Embed texts, as many at a time as there are slots; see `asyncllm.backend.Embedder`."""
        if not self._options.embedding:
            raise UnsupportedError(
                f"the {self._name!r} backend embeds only with options={{'embedding': True}}", field="embedding"
            )
        if request.dimensions is not UNSET:
            raise UnsupportedError("llama.cpp gives vectors of the model's own width only", field="dimensions")
        engine = await self._engine(request.model)
        await asyncio.to_thread(_require_fitting, engine, request.texts)
        vectors: list[Sequence[float]] = []
        tokens = 0
        step = engine.options.n_parallel
        for start in range(0, len(request.texts), step):
            part = msgspec.structs.replace(request, texts=request.texts[start : start + step])
            found = await self._embed(engine, part)
            vectors += found.vectors
            tokens += found.usage.input_tokens or 0
        return Embeddings(vectors=tuple(vectors), usage=Usage(input_tokens=tokens), model=request.model)

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """Count by the model's tokenizer, chat template included; see `asyncllm.backend.PromptChecker`."""
        check_supported(request, backend=self._name)
        engine = await self._engine(request.model)
        if isinstance(request.prompt, tuple):
            tokens = len(request.prompt)
        elif isinstance(request.prompt, str):
            tokens = await asyncio.to_thread(_count, engine, request.prompt)
        else:
            body = write_count(request, engine, backend=self._name)
            told = await asyncio.to_thread(engine.ask, "POST", "/v1/chat/completions/input_tokens", body)
            tokens = msgspec.json.decode(told, type=_Counted).input_tokens
        return PromptCheck(tokens=tokens, limit=engine.facts.n_ctx, max_tokens=request.sampling.max_tokens or 0)

    async def tokenize(self, request: Request, /) -> Tokens:
        """By the model's tokenizer and template, tools included; see `asyncllm.backend.Tokenizer`."""
        engine = await self._engine(request.model)
        text, adds_marks = request.prompt, request.extra.get("add_special_tokens", True) is not False
        bare = msgspec.structs.replace(request, extra={})
        check_supported(bare, backend=self._name)
        if request.is_chat:
            body = write_count(bare, engine, backend=self._name)
            told = await asyncio.to_thread(engine.ask, "POST", "/apply-template", body)
            text, adds_marks = msgspec.json.decode(told, type=_Templated).prompt, True
        assert isinstance(text, str)  # as the contract has it
        ids = await asyncio.to_thread(_tokens, engine, text, adds_marks=adds_marks)
        return Tokens(ids=tuple(ids), limit=engine.facts.n_ctx)

    async def detokenize(self, request: Request, /) -> str:
        """See `asyncllm.backend.Tokenizer`."""
        engine = await self._engine(request.model)
        body = msgspec.json.encode({"tokens": request.prompt})
        try:
            told = await asyncio.to_thread(engine.ask, "POST", "/detokenize", body)
        except InternalServerError:
            await asyncio.to_thread(_require_known, engine, request)
            raise
        return msgspec.json.decode(told, type=_Text).content

    async def list_models(self) -> Sequence[ModelInfo]:
        """`smollm2` where it is installed, and what this client has loaded."""
        models = {SMALL: ModelInfo(id=SMALL, owned_by="HuggingFaceTB")} if has_small_model() else {}
        for model, engine in list(self._engines.items()):
            await engine.ready()
            owner = models[model].owned_by if model in models else None
            models[model] = ModelInfo(id=model, owned_by=owner, context_tokens=engine.facts.n_ctx)
        return list(models.values())

    async def is_alive(self) -> bool:
        """Whether llama.cpp is installed and every model that is loaded says that it is well."""
        require_same_process(self._pid)
        if self._closed or importlib.util.find_spec("xllamacpp") is None:
            return False
        for engine in list(self._engines.values()):
            await engine.ready()
            await asyncio.to_thread(engine.ask, "GET", "/health")
        return True

    async def aclose(self) -> None:
        """Stop what is running and free the models that no other client uses. Idempotent."""
        self._closed = True
        if os.getpid() != self._pid:
            return
        running, engines = list(self._running), list(self._engines.values())
        self._engines.clear()
        for generation in running:
            generation.stop()
        if running or engines:
            await asyncio.to_thread(_end, running, engines)

    async def _engine(self, model: str) -> Engine:
        """The engine of a model, loaded. Raises `ConfigError`."""
        require_same_process(self._pid)
        self._require_open()
        engine = self._engines.get(model)
        if engine is None:
            path = find_model(model, backend=self._name)
            if importlib.util.find_spec("xllamacpp") is None:
                raise ConfigError("llama.cpp is not installed: pip install 'asyncllm[llamacpp]'", backend=self._name)
            engine = self._engines[model] = borrow(path, self._options)
        try:
            await engine.ready()
        except AsyncLLMError:
            # Several calls may have waited for it: the first to hear of it takes it away.
            if self._engines.get(model) is engine:
                del self._engines[model]
                give_back(engine)
            raise
        self._require_open()
        return engine

    def _require_open(self) -> None:
        if self._closed:
            raise APIConnectionError("this client is closed; make a new one", backend=self._name, retryable=False)

    async def _start(
        self, engine: Engine, handler: Callable[[], Handler], body: bytes, slots: int, request: Request | EmbedRequest
    ) -> Generation:
        """Hand a request to llama.cpp once `slots` of its slots are free. They come back when it is done with it."""
        await _take(engine, slots, request.timeouts)

        def on_end(generation: Generation) -> None:
            self._running.discard(generation)
            engine.slots.give(slots)

        try:
            self._require_open()
            generation = Generation(handler(), body, on_end)
        except BaseException:
            engine.slots.give(slots)
            raise
        self._running.add(generation)
        try:
            generation.start()
        except BaseException:
            on_end(generation)
            raise
        return generation

    async def _embed(self, engine: Engine, request: EmbedRequest) -> Embeddings:
        body = write_embeddings(request)
        generation = await self._start(engine, engine.embedder, body, len(request.texts), request)
        try:
            document = b"".join(await generation.receive())
            if not document:
                _require_answer(generation, body)
            if error := embedded_error(document, sent=body):
                if not self._options.pooling and "pooling" in error.message.lower():
                    raise UnsupportedError(
                        "this model was not made to embed and has no pooling of its own: "
                        "options={'embedding': True, 'pooling': 'mean'} chooses one",
                        field="pooling",
                    )
                raise error
            return read_embeddings(document, count=len(request.texts))
        finally:
            await _leave(generation)


class _Tokens(Struct):
    tokens: list[int]


class _Templated(Struct):
    prompt: str


class _Text(Struct):
    content: str


class _Meta(Struct):
    n_vocab: int


class _Model(Struct):
    meta: _Meta


class _Models(Struct):
    data: list[_Model]


class _Counted(Struct):
    input_tokens: int


async def _events(generation: Generation, reply: Reply, sent: bytes) -> AsyncGenerator[list[Event]]:
    """Events by the batch, after the first: all that llama.cpp has said since the last."""
    while reply.error is None and (pieces := await generation.receive()):
        yield reply.feed(pieces)
    if reply.error is not None:
        raise reply.error
    _require_answer(generation, sent)
    yield reply.close()


def _require_answer(generation: Generation, sent: bytes) -> None:
    """Raise what ended a request before its time."""
    error = generation.error
    if error is not None:
        # What else a call may raise is no answer of llama.cpp's.
        raise refusal(error, sent) if isinstance(error, ValueError | RuntimeError) else error
    if generation.stopped:
        raise StreamInterrupted("the client was closed while the model answered", retryable=False)


async def _take(engine: Engine, slots: int, timeouts: Timeouts) -> None:
    try:
        async with asyncio.timeout(timeouts.pool_s):
            await engine.slots.take(slots)
    except TimeoutError:
        raise PoolTimeoutError(
            f"no free slot within pool_s={timeouts.pool_s} seconds; options={{'n_parallel': ...}} makes more of them",
            elapsed_s=timeouts.pool_s,
        ) from None


async def _leave(generation: Generation) -> None:
    """Have llama.cpp drop the request, and wait a moment for it."""
    generation.stop()
    if not generation.ended:
        # Shielded, because a cancelled anyio scope cancels every wait again. Past the limit the caller goes on; the
        # slot comes back from the request's own thread in any case.
        with anyio.move_on_after(_LEAVE_S, shield=True):
            await generation.wait()


def _require_fitting(engine: Engine, texts: Sequence[str]) -> None:
    """Raise `ContextLengthExceededError` naming the first text that is too long to embed; blocks.

    llama.cpp would say so with the status of a failed server, which asks for another try.
    """
    limit = engine.batch
    for position, text in enumerate(texts):
        # A token is a byte at least, so most texts need not be counted; a few are put around them.
        if len(text.encode()) + 8 <= limit:
            continue
        tokens = _count(engine, text)
        if tokens > limit:
            raise ContextLengthExceededError(
                f"texts[{position}] has {tokens} tokens, and one text has {limit} at most: "
                "options={'n_ctx': ...} sets the limit",
                param=f"texts[{position}]",
            )


def _require_known(engine: Engine, request: Request) -> None:
    """Raise `BadRequestError` if the prompt has ids of no token, over which llama.cpp fails."""
    assert isinstance(request.prompt, tuple)  # as the contract has it
    (model,) = msgspec.json.decode(engine.ask("GET", "/v1/models"), type=_Models).data
    highest, count = max(request.prompt), model.meta.n_vocab
    if highest >= count:
        raise BadRequestError(f"there is no token {highest}: this model has {count}", status=400, param="prompt")


def _count(engine: Engine, text: str) -> int:
    return len(_tokens(engine, text, adds_marks=True))


def _tokens(engine: Engine, text: str, *, adds_marks: bool) -> list[int]:
    body = msgspec.json.encode({"content": text, "add_special": adds_marks})
    return msgspec.json.decode(engine.ask("POST", "/tokenize", body), type=_Tokens).tokens


def _end(running: Sequence[Generation], engines: Sequence[Engine]) -> None:
    for generation in running:
        generation.join(_CLOSE_S)
    for engine in engines:
        give_back(engine)
