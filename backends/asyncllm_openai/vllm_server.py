"""vLLM's own server: OpenAI's API, and what vLLM tells beside it.

Source: https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html, and what vLLM 0.32 answers. Environment:
`VLLM_API_KEY`, `VLLM_BASE_URL`. The engine without a server, in this process, is the backend `vllm`.

A constraint is written in the server's own way, since a server ignores a field that it does not know and answers
without the constraint: `response_format` and `structured_outputs` for vLLM from 0.12 on, `guided_json` and its like
for older ones, by the option `structured_outputs="guided"`.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_openai.vllm_backend import VLLMServer

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend. `base_url` may end in `/v1` or not, and no key is needed where the server asks for none.

    Options: `structured_outputs="guided"` for the older spelling of constraints; `verify_model=True` to look, before
    the first call, whether the server serves the model that is asked for; and `headers`.
    """
    return VLLMServer(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="vLLM's own server",
        variables=("VLLM_API_KEY", "VLLM_BASE_URL"),
        calls=(
            "chat",
            "complete",
            "embed",
            "check_prompt",
            "tokenize",
            "detokenize",
            "list_models",
            "transcribe",
            "rerank",
        ),
    )
