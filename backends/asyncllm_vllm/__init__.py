"""vLLM inside this process: no server, no sockets, no JSON. `vllm:<folder or hub id>`.

Needs `pip install 'asyncllm[vllm]'`; on a machine without a GPU see `asyncllm_vllm.cpu`. The engine of a model starts
with its first call, away from the event loop; clients of one process that ask for the same model with the same options
share it, and it ends with the last of them. Calls are handed to its scheduler as they come, thousands at once if need
be: its queue is the queue.

Options are vLLM's engine arguments by their own names (`max_model_len`, `dtype`, `tensor_parallel_size`,
`gpu_memory_utilization`, `enforce_eager`, `enable_lora`, ...) and those of `asyncllm_vllm.options.Options`. What a
single call can ask for beyond the options that all backends share goes into `extra`: see `asyncllm_vllm.request`.

    async with Client(model="vllm:Qwen/Qwen3-0.6B", options={"max_model_len": 4096}) as client: ...

Source: vLLM 0.32 (Apache-2.0), `vllm.v1.engine.async_llm` and what it takes and gives.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_vllm.backend import VLLM
from asyncllm_vllm.machine import describe
from asyncllm_vllm.options import read_options

__all__ = ["VLLM", "about", "connect", "describe"]


def connect(config: Config, _: Context, /) -> Backend:
    """Make the backend; vLLM is imported, and an engine started, by the first call that needs it."""
    return VLLM(config.backend, read_options(config))


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="vLLM in this process",
        calls=("chat", "complete", "embed", "check_prompt", "tokenize", "detokenize", "list_models"),
    )
