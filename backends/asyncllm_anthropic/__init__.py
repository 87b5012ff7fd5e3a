"""Claude over Anthropic's Messages API, and over Amazon Bedrock (the module `bedrock`).

Source: https://platform.claude.com/docs/en/api/messages. Environment: `ANTHROPIC_API_KEY`, or `ANTHROPIC_AUTH_TOKEN`
for a bearer token, and `ANTHROPIC_BASE_URL` for another server that speaks the same API.

The API has no place for `n`, `seed`, penalties, log probabilities, or a constraint other than a JSON schema, and no
text completions: these are refused by name.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_anthropic.batches import AnthropicWithBatches

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options: `max_tokens` for calls that set none (10000; the API takes no call without one); `cache="auto"` to mark
    what a next call will repeat; `beta`, a name or a list of names for the header `anthropic-beta`; `version` of the
    API; `bearer=True` to send the key as a bearer token, as some gateways want it; `headers`.
    """
    return AnthropicWithBatches(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="Claude over Anthropic's Messages API",
        variables=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"),
        calls=("chat", "check_prompt", "list_models"),
    )
