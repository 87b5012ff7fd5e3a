"""Any server that speaks OpenAI's HTTP API: api.openai.com, and whatever `base_url` or `OPENAI_BASE_URL` names.

Source: https://platform.openai.com/docs/api-reference. Environment: `OPENAI_API_KEY`, `OPENAI_BASE_URL`,
`OPENAI_ORG_ID`, `OPENAI_PROJECT_ID`.

OpenAI's own address needs a key and takes OpenAI's own options. Another server may do without a key, and is sent the
sampling options that vLLM, llama.cpp and others share. Constraints other than a JSON schema are refused: servers
ignore a field that they do not know, and an answer that was to be constrained and is not would pass for one that is.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_openai.batches import OpenAIWithBatches

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options: `headers`, `include_usage`, `max_tokens_field`, `organization`, `project`; for servers that stream in ways
    of their own, `delta_mode="cumulative"` where every chunk holds all of the answer so far, and `on_bad_event="skip"`
    to go on without a chunk that cannot be read (a `Skipped` event; `Response.skipped` counts them) instead of raising.

    `api="responses"` speaks OpenAI's Responses API (`POST /responses`) in place of chat completions. Nothing is stored
    unless a call says `extra={"store": True}`; text completions, and options that this API lacks, are refused by name.
    With it, the options of chats are none: `delta_mode`, `include_usage`, `max_tokens_field`. `submit` has a response
    made in the background, by that same API in any case, and so stored.
    """
    return OpenAIWithBatches(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="OpenAI, and any server that speaks its API",
        variables=("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
        calls=(
            "chat",
            "complete",
            "embed",
            "list_models",
            "transcribe",
            "speak",
            "generate_image",
            "edit_image",
            "moderate",
            "rerank",
            "submit",
            "submit_video",
        ),
    )
