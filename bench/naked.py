"""vLLM's own engine as a careful engineer would use it, without a word of asyncllm: the measure of what asyncllm adds.

`python -m bench.naked` starts it, has it say one token, and waits to be told to end: the measure of a start.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",
    "HF_HUB_OFFLINE": "1",
}
ON_CPU = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""One thread, so that the engine can be forked, and no third process beside the engine's."""


class Answer(NamedTuple):
    """How one call went."""

    tokens: int
    outputs: int
    first_s: float
    """From the prompt as text to the first text; zero where there was none."""


def start(model: str, options: Mapping[str, Any], *, on_cpu: bool) -> Any:
    """An `AsyncLLM` in the quickest way there is: on processors that is to fork it off a process of one thread."""
    for name, value in ((QUIET | ON_CPU) if on_cpu else QUIET).items():
        os.environ.setdefault(name, value)
    arguments: Any = import_module("vllm.engine.arg_utils").AsyncEngineArgs
    if on_cpu:
        options = {"distributed_executor_backend": "uni", **options}
    given = arguments(model=model, use_tqdm_on_load=False, disable_log_stats=True, **options)
    config = given.create_engine_config(import_module("vllm.usage.usage_lib").UsageContext.ENGINE_CONTEXT)
    if on_cpu:
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    os.register_at_fork(after_in_child=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0))
    engine: Any = import_module("vllm.v1.engine.async_llm").AsyncLLM
    return engine.from_vllm_config(config, disable_log_stats=True, enable_log_requests=False)


def offline(model: str, options: Mapping[str, Any], *, on_cpu: bool) -> Any:
    """Answers many prompts with vLLM's `LLM`, as its quick start shows."""
    for name, value in ((QUIET | ON_CPU) if on_cpu else QUIET).items():
        os.environ.setdefault(name, value)
    vllm: Any = import_module("vllm")
    llm = vllm.LLM(model=model, use_tqdm_on_load=False, disable_log_stats=True, **options)

    async def generate(prompts: list[str], tokens: int) -> list[Answer]:
        params = vllm.SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [Answer(len(output.outputs[0].token_ids), 1, 0) for output in outputs]

    return generate


class Naked:
    """Chats with an engine through its renderer and `generate`."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._chat = import_module("vllm.renderers").ChatParams
        self._params: Any = import_module("vllm.sampling_params")

    async def ask(self, prompt: str, tokens: int, *, stream: bool) -> Answer:
        """One chat of exactly `tokens` tokens, read to its end."""
        kind = self._params.RequestOutputKind
        began = time.perf_counter()
        _, (rendered,) = await self._engine.renderer.render_chat_async(
            [[{"role": "user", "content": prompt}]],
            self._chat(chat_template=None, chat_template_kwargs={"add_generation_prompt": True}),
        )
        params = self._params.SamplingParams(
            max_tokens=tokens,
            temperature=0,
            ignore_eos=True,
            output_kind=kind.DELTA if stream else kind.FINAL_ONLY,
            skip_clone=True,
        )
        first_s = 0.0
        pieces: list[str] = []
        count = outputs = 0
        async for output in self._engine.generate(rendered, params, request_id=uuid.uuid4().hex):
            (choice,) = output.outputs
            if not first_s and (choice.text or not stream):
                first_s = time.perf_counter() - began
            pieces.append(choice.text)
            count += len(choice.token_ids)
            outputs += 1
        _ = "".join(pieces)
        return Answer(count, outputs, first_s)


async def _first_token() -> None:
    model, options, on_cpu = json.loads(sys.argv[1])
    engine = start(model, options, on_cpu=on_cpu)
    await Naked(engine).ask("Hello", 1, stream=True)
    print(flush=True)
    sys.stdin.readline()
    engine.shutdown()
    del engine
    gc.collect()


if __name__ == "__main__":
    asyncio.run(_first_token())
