"""vLLM itself: the one place that knows where its names stand, and what it is told and asked.

Its inner modules move from release to release, and their types with them; here they are `Any`, and nothing else in this
package imports them. Written against 0.32.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import functools
import gc
import os
from collections.abc import Awaitable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias, cast

import anyio.lowlevel

from asyncllm.errors import ConfigError
from asyncllm_vllm.machine import is_for_processors
from asyncllm_vllm.options import Options
from asyncllm_vllm.process import Voice, begetting, can_fork

__all__ = ["Collector", "Core", "Parser", "Prompt"]

Prompt: TypeAlias = dict[str, Any]
"""A prompt as vLLM's renderer makes it: `prompt_token_ids`, and what belongs to images and the like."""

Collector: TypeAlias = Any
"""Where the outputs of one request arrive: `get_nowait()`, `await get()`, `request_id`."""

Parser: TypeAlias = Any
"""Reads one choice's text as reasoning, text and tool calls: `parse_delta(...)`, `parse(...)`."""


class Core:
    """A running engine."""

    def __init__(self, counters: _Counters | None) -> None:
        self._counters = counters
        # In no local variable, here and below: some of vLLM's modules keep the frames that they were imported from, and
        # what stands in those would never be freed.
        self._engine: Any = None

    def _prepare(self, options: Options) -> None:
        config = self._engine.model_config
        self.limit: int = config.max_model_len
        """Tokens that prompt and answer may have together."""
        self.defaults: dict[str, Any] = config.get_diff_sampling_param()
        """Sampling that the model's makers recommend."""
        self.is_pooling: bool = config.runner_type == "pooling"
        """Whether it embeds; an engine does either that or writes."""
        self.can_sleep: bool = config.enable_sleep_mode
        """Whether it was started so that it can let go of device memory."""
        self.needs_parser: bool = not self.is_pooling and (
            options.tool_call_parser is not None
            or bool(options.engine.get("reasoning_parser"))
            or config.hf_config.model_type == "gpt_oss"
        )
        """Whether what the model writes is more than text."""
        self._template = options.chat_template
        self._template_kwargs = options.chat_template_kwargs
        self._chat: Any = self._make_chat(options) if self.needs_parser else None
        self._sampling = import_module("vllm.sampling_params")
        self._params = import_module("vllm.renderers").ChatParams
        self._parse_prompt = import_module("vllm.renderers.inputs.preprocess").parse_model_prompt
        self._lora = import_module("vllm.lora.request").LoRARequest
        self._pooling = import_module("vllm.pooling_params").PoolingParams

    @classmethod
    def start(cls, model: str, options: Options, voice: Voice) -> Core:
        """Import vLLM and start an engine; takes seconds to minutes. What its processes write goes to `voice`.

        Raises `ConfigError` for an argument that the engine does not have, and whatever vLLM raises.
        """
        arguments = import_module("vllm.engine.arg_utils").AsyncEngineArgs
        fork = is_for_processors() and can_fork(import_module("torch"))
        _check(options.engine, arguments)
        given = {"use_tqdm_on_load": False, "disable_log_stats": True} | dict(options.engine)
        if fork and given.get("tensor_parallel_size", 1) == 1:
            given.setdefault("distributed_executor_backend", "uni")
        if is_for_processors() and not _CACHE_SIZES & given.keys():
            # vLLM would take nine tenths of the memory, and not start where another process has more than the tenth.
            given["kv_cache_memory_bytes"] = min(_CACHE_BYTES, _free_bytes() // 4)
        context = import_module("vllm.usage.usage_lib").UsageContext.ENGINE_CONTEXT
        config = arguments(model=model, **given).create_engine_config(context)
        loggers, counters = _make_counters() if given["disable_log_stats"] else ([], None)
        with begetting(voice, fork=fork, eager=bool(given.get("enforce_eager")) and is_for_processors()):
            core = cls(counters)
            core._engine = import_module("vllm.v1.engine.async_llm").AsyncLLM.from_vllm_config(
                config,
                usage_context=context,
                stat_loggers=loggers,
                disable_log_stats=given["disable_log_stats"],
                enable_log_requests=False,
            )
        try:
            core._prepare(options)
        except BaseException:
            core.shutdown(options.shutdown_s)
            raise
        return core

    # -- what is asked of it ---------------------------------------------------------------------------------------

    async def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], *, of_any_length: bool = False
    ) -> Prompt:
        """A conversation by the model's template; one that is too long is refused unless it is `of_any_length`."""
        renderer = self._engine.renderer
        params = self._params(
            chat_template=self._template,
            chat_template_kwargs={"add_generation_prompt": True, **self._template_kwargs, **kwargs},
        )
        length = dataclasses.replace(renderer.default_chat_tok_params, max_total_tokens=None) if of_any_length else None
        prompt: Prompt
        if _is_short(messages, kwargs):
            _, (prompt,) = renderer.render_chat([messages], params, length)
        else:
            _, (prompt,) = await _rendering(renderer.render_chat_async([messages], params, length))
        return prompt

    async def plain_prompt(
        self, prompt: str | Sequence[int], *, of_any_length: bool = False, with_marks: bool = True
    ) -> Prompt:
        """A text, `with_marks` if the model wants some before and after it, or token ids; as `chat_prompt`."""
        renderer = self._engine.renderer
        given = prompt if isinstance(prompt, str) else {"prompt_token_ids": list(prompt)}
        if not isinstance(prompt, str):
            renderer.validate_token_ids(prompt, parameter="prompt")
        parsed = self._parse_prompt(self._engine.model_config, given)
        changes: dict[str, Any] = {"max_total_tokens": None} if of_any_length else {}
        changes |= {} if with_marks else {"add_special_tokens": False}
        length = dataclasses.replace(renderer.default_cmpl_tok_params, **changes) if changes else None
        rendered: Prompt
        if len(prompt) <= _SHORT:
            (rendered,) = renderer.render_cmpl([parsed], length)
        else:
            (rendered,) = await _rendering(renderer.render_cmpl_async([parsed], length))
        return rendered

    async def text_of(self, ids: Sequence[int]) -> str:
        """What token ids stand for, marks included."""
        self._engine.renderer.validate_token_ids(ids, parameter="prompt")
        decode = self._engine.get_tokenizer().decode
        return decode(ids) if len(ids) <= _SHORT else await asyncio.to_thread(decode, ids)

    async def parsed_chat(self, body: Mapping[str, Any]) -> tuple[Prompt, Any]:
        """The prompt of a chat whose answer needs a parser, and the request that the parser goes by.

        `body` is that of OpenAI's API. Raises `ValueError` with what vLLM has against it.
        """
        protocol = import_module("vllm.entrypoints.openai.chat_completion.protocol")
        request = protocol.ChatCompletionRequest.model_validate(body)
        rendered = await _rendering(self._chat.render_chat(request))
        if hasattr(rendered, "error"):
            raise ValueError(rendered.error.message)
        prompt: Prompt
        _, (prompt,) = rendered
        return prompt, request

    def parser(self, request: Any) -> Parser | None:
        """What reads one choice of the answer to `request`."""
        if self._chat.parser is None:
            return None
        return self._chat.parser(
            self._engine.get_tokenizer(),
            request.tools,
            chat_template_kwargs=self._chat.effective_chat_template_kwargs(request),
            model_config=self._engine.model_config,
        )

    def sampling(self, fields: Mapping[str, Any], *, stream: bool, parsed: Any = None) -> Any:
        """Sampling parameters as vLLM has them; `constraint` is a name of `StructuredOutputsParams` with its value."""
        kind = self._sampling.RequestOutputKind
        known = dict(fields)
        constraint = known.pop("constraint", None)
        structured = None if constraint is None else self._sampling.StructuredOutputsParams(**constraint)
        if parsed is not None:
            # The template and its parser may have more to say: a called tool's grammar, tokens that must stay.
            structured = parsed.extract_structured_outputs() or structured
            known["skip_special_tokens"] = parsed.skip_special_tokens
        return self._sampling.SamplingParams.from_optional(
            **known,
            structured_outputs=structured,
            output_kind=kind.DELTA if stream else kind.FINAL_ONLY,
            skip_clone=True,
        )

    def pooling(self, task: str, dimensions: int | None) -> Any:
        """What vLLM takes for a vector."""
        return self._pooling(task=task, dimensions=dimensions)

    async def submit(
        self, request_id: str, prompt: Prompt, params: Any, *, lora: Any = None, priority: int = 0
    ) -> Collector:
        """Hand a request to the scheduler. From here until its last output or `abort`, it is under way."""
        return await self._engine.add_request(request_id, prompt, params, lora_request=lora, priority=priority)

    async def abort(self, request_id: str, *, internal: bool) -> None:
        """Have the scheduler forget a request, by the name that a collector has for it or by the one it was given."""
        if not self.is_dead:
            await self._engine.abort(request_id, internal=internal)

    async def add_lora(self, name: str, number: int, folder: str) -> Any:
        """Load an adapter, and return what requests name it by.

        A request that named one which cannot be loaded would kill the engine for everybody.
        """
        lora = self._lora(lora_name=name, lora_int_id=number, lora_path=folder)
        await self._engine.add_lora(lora)
        return lora

    # -- how it is doing -------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """Requests under way, waiting ones included, as this process counts them."""
        return int(self._engine.output_processor.get_num_unfinished_requests())

    @property
    def generated(self) -> int:
        """Tokens that the engine has made since its start."""
        return 0 if self._counters is None else self._counters.tokens

    @property
    def is_dead(self) -> bool:
        """Whether the engine has ended, told to or not."""
        return self._engine is None or bool(self._engine.errored)

    async def check(self) -> None:
        """Raise what is wrong with it."""
        await self._engine.check_health()

    async def sleep(self, level: int) -> None:
        """Let go of device memory."""
        await self._engine.sleep(level)

    async def wake_up(self) -> None:
        """Take it back."""
        await self._engine.wake_up()

    # -- where it runs ---------------------------------------------------------------------------------------------

    @property
    def can_move(self) -> bool:
        """Whether it is well, and nothing of it waits on an event loop."""
        if self._engine is None:
            return False
        resources = self._engine.engine_core.resources
        tasks = self._engine.output_handler, resources.output_queue_task
        return not resources.engine_dead and all(task is None or task.done() for task in tasks)

    async def enter_loop(self) -> None:
        """Go to work on the running event loop, its only one or the first since the last one was closed.

        What the engine has of a loop are two tasks, the queue between them, and sockets, which find the loop by
        themselves. Requests that a former loop has left under way are given up.
        """
        engine, client = self._engine, self._engine.engine_core
        engine.output_handler = client.resources.output_queue_task = None
        client.outputs_queue = asyncio.Queue()
        engine._run_output_handler()  # else the first request does it, and a death before that is unseen
        questions: dict[Any, asyncio.Future[Any]] = client.utility_results
        questions.clear()
        reading = cast("asyncio.Task[None]", engine.output_handler)
        reading.add_done_callback(functools.partial(self._fail, questions))
        await engine.abort(list(engine.output_processor.request_states), internal=True)

    def _fail(self, questions: dict[Any, asyncio.Future[Any]], _: object) -> None:
        # Those who ask an engine that dies for something beside its requests would wait for ever.
        error = import_module("vllm.v1.engine.exceptions").EngineDeadError
        for question in questions.values():
            if not question.done():
                question.set_exception(error())
        questions.clear()

    def leave_loop(self) -> None:
        """End what of it stands on the event loop: its tasks and sockets. On that loop, before `shutdown`."""
        if self._engine is None:
            return  # the shutdown was quicker, and has seen to it
        resources = self._engine.engine_core.resources
        resources.engine_dead = True  # nothing more is sent
        for task in (self._engine.output_handler, resources.output_queue_task):
            if task is not None:
                task.cancel()
        for socket in (resources.input_socket, resources.output_socket):
            socket.close(linger=0)

    def disown(self) -> None:
        """In a process that was forked off: leave the engine to the one that it belongs to, at the end as well."""
        if self._engine is None:
            return
        client = self._engine.engine_core
        manager = client.resources.engine_manager
        for owner in (client, manager):
            owner._finalizer.detach()  # nobody else would stop it from ending the parent's engine
        children: set[Any] = import_module("multiprocessing.process")._children  # the same
        children.difference_update(manager.processes)

    def shutdown(self, seconds: float) -> None:
        """End the engine's processes, at the latest after `seconds`."""
        resources = self._engine.engine_core.resources
        try:
            self._engine.shutdown(timeout=seconds)
            if resources.input_socket.closed and resources.output_socket.closed:
                resources.ctx.destroy(linger=0)  # it would wait for a socket that is still open
        finally:
            # Its finalizer would shut down once more, at a time when half of the interpreter is gone.
            self._engine = self._chat = None
            gc.collect()

    def _make_chat(self, options: Options) -> Any:
        return import_module("vllm.renderers.online_renderer").OnlineRenderer(
            self._engine.model_config,
            self._engine.renderer,
            request_logger=None,
            chat_template=options.chat_template,
            chat_template_content_format="auto",
            enable_auto_tools=options.tool_call_parser is not None,
            tool_parser=options.tool_call_parser,
            reasoning_parser=options.engine.get("reasoning_parser"),
            tool_strict_level=options.tool_strict_level,
            default_chat_template_kwargs=dict(options.chat_template_kwargs),
        )


_CACHE_SIZES = frozenset({"kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override"})
_CACHE_BYTES = 4 << 30


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_SHORT = 2048
"""Characters, or token ids, that are made a prompt on the spot: in a thread they would wait for twice as long as it
takes. It is about a millisecond at most."""


def _is_short(messages: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]) -> bool:
    """Whether a conversation is a little text, and nothing else."""
    length = 0
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str) or len(message) > 2:  # a role and its content
            return False
        length += len(content)
    return length <= _SHORT and not kwargs.get("tools")


async def _rendering(prompt: Awaitable[Any]) -> Any:
    """What vLLM's renderer makes. It gathers, in which the words may get lost by which anyio knows a cancellation."""
    try:
        return await prompt
    except asyncio.CancelledError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


def _check(given: Mapping[str, Any], arguments: Any) -> None:
    names = {field.name for field in dataclasses.fields(arguments)}
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, [*names, *Options.__struct_fields__], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"vLLM has no engine argument {name!r}{hint}", field=name)


def _make_counters() -> tuple[list[Any], _Counters]:
    """A logger of statistics that only counts, in place of the one that fills Prometheus' registry, and its counts."""
    base = import_module("vllm.v1.metrics.loggers").PrometheusStatLogger
    counters = _Counters()

    class Counting(base):  # type: ignore[misc, valid-type]  # known only at run time
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def record(self, _: Any, iteration_stats: Any, *__: Any, **___: Any) -> None:
            if iteration_stats is not None:
                counters.tokens += iteration_stats.num_generation_tokens

        def log_engine_initialized(self) -> None:
            pass

        def log(self) -> None:
            pass

        def record_sleep_state(self, *_: Any, **__: Any) -> None:
            pass

    return [Counting], counters


class _Counters:
    """What the engine says of itself with each step."""

    tokens = 0
