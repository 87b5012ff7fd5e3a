"""Text Generation Inference, Hugging Face's server: its own routes for texts, its OpenAI-like one for chats.

Source: https://huggingface.github.io/text-generation-inference (the OpenAPI document of 2.4.1) and the router of the
same release for what the document leaves out. Environment: `TGI_BASE_URL`, and `HF_TOKEN`, which is sent to no address
but a configured one.

TGI leaves a stop text in the answer, and overlooks one that ends inside of a token; here an answer ends before its
first stop text, as it does everywhere else, unless `include_stop_str_in_output` is set. What only TGI knows goes into
`extra`: for `complete` that is any of its `parameters`, such as `best_of`, `truncate`, `typical_p`, `watermark`,
`adapter_id` and `return_full_text` (of which a stream shows nothing, since TGI streams new tokens alone).
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_tgi.backend import TGI

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend, by default for a server at port 8080 of this machine.

    Options: `headers`, and `verify_model=True` to look, before the first call, whether the server serves the model that
    is asked for.
    """
    return TGI(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="Text Generation Inference, Hugging Face's server",
        variables=("HF_TOKEN", "TGI_BASE_URL"),
        calls=("chat", "complete", "check_prompt", "list_models"),
    )
