"""The caller's door to every backend: chat, stream, complete, embed; sound and pictures are in `media_calls`.

A chat is a stream that is folded: there is one path, whether the answer is wanted whole or piece by piece.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import msgspec

from asyncllm.backend import (
    AnyRequest,
    Backend,
    Batches,
    Clock,
    Embedder,
    EmbedRequest,
    ModelGetter,
    Models,
    PromptChecker,
    Secret,
    Transport,
)
from asyncllm.backend.optional import find_model
from asyncllm.batch.calls import BatchCalls
from asyncllm.budgets import Budget
from asyncllm.cache import Cache, Guarded
from asyncllm.calls import (
    CallOptions,
    Model,
    Prompt,
    chat_request,
    completion_request,
    embed_request,
    output_of,
    repairs_of,
)
from asyncllm.clock import LoopClock
from asyncllm.config import Settings, check_arguments, settings_of
from asyncllm.errors import ConfigError, InvalidRequestError
from asyncllm.finishing import finish
from asyncllm.hooks import Hook, Hooks
from asyncllm.jobs import JobCalls
from asyncllm.lifetime import Lifetime
from asyncllm.media_calls import MediaCalls
from asyncllm.middleware.hedge import Hedge
from asyncllm.middleware.limits import Limiter
from asyncllm.middleware.observe import Observer
from asyncllm.middleware.retry import Retry
from asyncllm.once import once
from asyncllm.place import Means, Target, lacking
from asyncllm.repairs import repaired
from asyncllm.routes import Arguments, Routes
from asyncllm.stream import Candidate, Stream
from asyncllm.text_stream import TextStream
from asyncllm.token_calls import TokenCalls
from asyncllm.toolruns.rounds import Rounds, ToolOptions, ToolRun, run_tools
from asyncllm.toolruns.stream import ToolStream
from asyncllm.trail import Kind, Trail
from asyncllm.types import Embeddings, Limits, ModelInfo, Price, PromptCheck, Request, Response, Timeouts
from asyncllm.upkeep import Upkeep
from asyncllm.watchdog import Watchdog

__all__ = ["Client"]

T = TypeVar("T")

_NO_TIMEOUTS = Timeouts()
_CLOSE_S = 10


class Client(MediaCalls, TokenCalls, JobCalls, BatchCalls, Upkeep):
    """Talks to every installed backend; one client serves any number of tasks of one event loop.

    `model` is what calls use that name none: `backend:model`, an alias of the configuration, or several in order of
    preference. `base_url`, `api_key` and `options` belong to the backend of that model (of the first, of several; of
    `openai`, where there is none) and go to no other. `retry=None` makes every call once. `config` is the path of a
    TOML file, or `Settings` made in code; by default the file is looked for as `asyncllm.config` says. `backend` puts
    an object of your own in the place of all backends, and `transport` one in the place of aiohttp. `cache` answers a
    chat or completion that the same deployment, under the same key, has answered before. Clients may share a transport
    or a cache, and none of them closes what it was given. `prices` are by `backend:model` or deployment; what has none
    is looked up in `asyncllm.prices`, unless `price_library=False` turns that off.

    Works with `async with`, and without it, then ended by `aclose()`. Binds to the event loop of its first call.

    Raises `ConfigError` for what cannot be right. Nothing is connected or imported before the first call.
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
        if not isinstance(timeouts, Timeouts):
            raise ConfigError("timeouts is a Timeouts, as in Timeouts(total_s=30)", field="timeouts")
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError("retry is a Retry, as in Retry(attempts=5), or None", field="retry")
        if hedge is not None and not isinstance(hedge, Hedge):
            raise ConfigError("hedge is a Hedge, as in Hedge(after_s=2), or None", field="hedge")
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigError("budget is a Budget, as in Budget(usd=5), or None", field="budget")
        if cache is not None and not (callable(getattr(cache, "get", None)) and callable(getattr(cache, "put", None))):
            raise ConfigError("cache is a Cache, as in MemoryCache(), or None", field="cache")
        if not isinstance(limits, Limits | Limiter):
            raise ConfigError("limits is a Limits, as in Limits(concurrency=8), or a Limiter", field="limits")
        check_arguments(base_url, api_key, options, prices)
        given_env, env = env, os.environ if env is None else env
        settings = settings_of(config, env)
        self._be_known(model=model, base_url=base_url, api_key=api_key, options=options, timeouts=timeouts, retry=retry,
            limits=limits, hedge=hedge, budget=budget, cache=cache, hooks=hooks, prices=prices, settings=settings,
            price_library=price_library, backend=backend, transport=transport, clock=clock, env=given_env)  # fmt: skip
        self._timeouts = timeouts
        self._dog = Watchdog()
        self._observer = Observer(Hooks(hooks), budget)
        self._life = Lifetime()
        self._routes = Routes(
            settings=settings,
            env=env,
            model=model,
            arguments=Arguments(
                base_url=base_url or None,
                api_key=Secret(api_key) if isinstance(api_key, str) and api_key else api_key or None,
                options=options or {},
            ),
            means=Means(
                clock=clock or LoopClock(),
                dog=self._dog,
                retry=retry or Retry(attempts=1),
                hedge=hedge,
                cache=None if cache is None else Guarded.of(cache),
                cool_down_s=settings.cool_down_s,
            ),
            limits=limits,
            prices=prices or {},
            price_library=price_library,
            backend=backend,
            transport=transport,
        )

    async def chat(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Response:
        """Send a conversation and return the whole answer.

        `prompt` is a user's text or a list of messages, which is never changed; the options are those of
        `CallOptions` and `Sampling`.

        Raises, before anything is sent: `InvalidRequestError` naming the argument, `ConfigError`, `UnsupportedError`.
        Raises, after: `APIError`, with whatever had arrived in `partial`.
        """
        if "output_type" in options:
            return await repaired(
                lambda turns, asked: self._chat(turns, asked, stream=False).whole(), prompt, options, self._timeouts
            )
        return await self._chat(prompt, options, stream=False).whole()

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Stream:
        """Send a conversation and read the answer as it is made.

            async with client.stream("Hello") as stream:
                async for event in stream: ...
            stream.response

        Leaving the block stops the model. Raises as `chat` does, on entering until the first piece of the answer has
        come, and while iterating from then on.
        """
        return self._chat(prompt, options, stream=True)

    async def run_tools(self, prompt: Prompt, **options: Unpack[ToolOptions]) -> ToolRun:
        """Let the model call Python functions until it answers: `tools=[function]`; see `ToolOptions`.

        The calls of one answer run at once, and their results go back in order. What a function raises is told to the
        model unless `on_tool_error="raise"`.

        Raises as `chat` does, and `MaxRoundsExceededError` if told to. A run that fails takes what it had with it;
        `stream_tools` keeps it.
        """
        return await run_tools(lambda turns, asked: self.chat(turns, **asked), prompt, options, self._timeouts)

    def stream_tools(self, prompt: Prompt, **options: Unpack[ToolOptions]) -> ToolStream:
        """Let the model call Python functions as `run_tools` does, and read what happens.

            async with client.stream_tools("Hello", tools=[function]) as stream:
                async for event in stream: ...
            stream.run

        Raises as `stream` and `run_tools` do.
        """
        rounds = Rounds(prompt, options, self._timeouts)
        return ToolStream(rounds, lambda turns, asked: self.stream(turns, **asked))

    def stream_text(self, prompt: Prompt, **options: Unpack[CallOptions]) -> TextStream:
        """The text of the answer alone: `async for text in client.stream_text("Hello"): ...`

        Raises as `stream` does, and `InvalidRequestError` for more than one answer.
        """
        if options.get("n", 1) != 1:
            raise InvalidRequestError("stream_text gives the text of one answer; use stream for n above 1", field="n")
        return TextStream(self._chat(prompt, options, stream=True))

    async def complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Response:
        """Continue a text, or a list of token ids, without a chat template. Raises as `chat` does."""
        return await self._complete(prompt, options, stream=False).whole()

    def stream_complete(self, prompt: str | Sequence[int], **options: Unpack[CallOptions]) -> Stream:
        """Continue a text as `complete` does, and read the answer as it is made. Raises as `stream` does."""
        return self._complete(prompt, options, stream=True)

    def ask(self, request: Request, *, model: Model | None = None) -> Stream:
        """The call that a `Request` describes: `await` its `whole()`, or read it as what `stream` returns.

        `model` stands for that of the request, which is one that the client takes, or empty. Deadlines are the client's
        where the request has those that there are by default. Raises as `chat` and `stream` do.
        """
        if request.timeouts == _NO_TIMEOUTS:
            request = msgspec.structs.replace(request, timeouts=self._timeouts)
        return Stream(self._candidates(request, model or request.model or None), self._dog, self._observer)

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: Model | None = None,
        dimensions: int | None = None,
        timeouts: Timeouts | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Embeddings:
        """Embed texts, one vector of float32 each, in the order given.

        `dimensions=None` asks for the model's own width. There are no partial results.

        Raises `InvalidRequestError` naming the position of an empty text, `UnsupportedError` if the backend does not
        embed, and `APIError`.
        """
        return await self._embed(embed_request(texts, dimensions, timeouts, extra, self._timeouts), model)

    async def check_prompt(self, prompt: Prompt, **options: Unpack[CallOptions]) -> PromptCheck:
        """Count a conversation by the model's own tokenizer: truthy if it, and `max_tokens` of answer, fit.

        Raises `UnsupportedError` if the backend cannot count, and as `chat` does.
        """
        request = chat_request(prompt, options, stream=False, timeouts=self._timeouts)
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, PromptChecker):
            raise lacking(target, "check_prompt")
        request = msgspec.structs.replace(request, model=target.model)
        return await self._once("check_prompt", target, request, lambda: backend.check_prompt(request))

    async def is_alive(self, *, model: Model | None = None) -> bool:
        """Whether the backend would answer now, which it has ten seconds to say. Never raises, except when cancelled.

        A backend that can be asked is asked; of any other, being connected is all that can be known.
        """
        try:
            place = self._target(model).place
        except Exception:
            return False
        return await place.is_alive()

    def resolve_model(self, model: Model | None = None) -> str:
        """What a call would be sent to first, without connecting it. Raises `ConfigError` where no model is there."""
        return self._routes.resolve_name(model)

    async def list_models(self, backend: str | None = None) -> Sequence[ModelInfo]:
        """Models that a backend or deployment offers, by default that of the client's model.

        Raises `UnsupportedError` if it does not list them, `ConfigError`, `APIError`.
        """
        self._bind()
        place = self._routes.place(backend)
        target = Target(place, "")
        if not isinstance(place.backend, Models):
            raise lacking(target, "list_models")
        request = Request(model="", timeouts=self._timeouts)
        return await self._once("list_models", target, request, place.backend.list_models)

    async def get_model(self, model: Model | None = None) -> ModelInfo:
        """What a backend says of one model: by its id, and where the backend can look that up, by its name.

        Raises as `list_models` does, and `NotFoundError` for none.
        """
        target = self._target(model)
        backend = target.place.backend
        if isinstance(backend, ModelGetter):
            find = backend.get_model
        elif isinstance(backend, Models):
            find = functools.partial(find_model, backend)
        else:
            raise lacking(target, "get_model")
        request = Request(model=target.model, timeouts=self._timeouts)
        return await self._once("get_model", target, request, lambda: find(target.model))

    async def aclose(self) -> None:
        """Stop what is running and free connections, processes and memory. Idempotent.

        Cancelled, it goes on to its end, for ten seconds at the most, and is cancelled then.
        """
        if self._life.is_over:
            return
        self._bind()
        self._life.is_over = True
        await finish(asyncio.create_task(self._routes.aclose()), _CLOSE_S)

    async def __aenter__(self) -> Self:
        self._bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<asyncllm.Client{' (closed)' if self._life.is_over else ''}>"

    def __reduce__(self) -> str:
        raise TypeError("a Client holds connections and keys and is not pickled; make one in each process")

    def _chat(self, prompt: Prompt, options: CallOptions, *, stream: bool) -> Stream:
        repairs_of(options, stream=stream)
        output = output_of(options)
        request = chat_request(prompt, options, stream=stream, timeouts=self._timeouts, output=output)
        return Stream(self._candidates(request, options.get("model")), self._dog, self._observer, output)

    def _complete(self, prompt: str | Sequence[int], options: CallOptions, *, stream: bool) -> Stream:
        output = output_of(options)
        request = completion_request(prompt, options, stream=stream, timeouts=self._timeouts, output=output)
        return Stream(self._candidates(request, options.get("model")), self._dog, self._observer, output)

    async def _ask(self, request: Request, model: Model | None) -> Response:
        return await self.ask(request, model=model).whole()

    async def _embed(self, asked: EmbedRequest, model: Model | None) -> Embeddings:
        target = self._target(model)
        backend = target.place.backend
        if not isinstance(backend, Embedder):
            raise lacking(target, "embed")
        request = msgspec.structs.replace(asked, model=target.model)
        return await self._once("embed", target, request, lambda: backend.embed(request))

    def _service(self, model: Model | None) -> tuple[Batches, str, Clock]:
        self._bind()
        target, *others = self._routes.resolve(model)
        if others:
            raise InvalidRequestError("via='vendor' goes to one model, not to several in turn", field="model")
        backend = target.place.backend
        if not isinstance(backend, Batches):
            raise lacking(target, "run_batch, via='vendor',")
        return backend, target.model, target.place.clock

    def _candidates(self, request: Request, model: Model | None) -> list[Candidate]:
        self._bind()
        return [
            Candidate(target.place, msgspec.structs.replace(request, model=target.model), target.tariff)
            for target in self._routes.resolve(model, request)
        ]

    def _target(self, model: Model | None) -> Target:
        self._bind()
        return self._routes.resolve(model)[0]

    async def _once(self, kind: Kind, target: Target, request: AnyRequest, call: Callable[[], Awaitable[T]]) -> T:
        trail = Trail(kind, request, target.place.name, target.place.label)
        return await once(call, target, trail, dog=self._dog, observer=self._observer)

    def _bind(self) -> None:
        self._life.bind()
