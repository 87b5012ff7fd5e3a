"""Gemini's native API, for pictures and films; its OpenAI-compatible side is another backend.

Source: https://ai.google.dev/api/generate-content. Environment: `GEMINI_API_KEY` or `GOOGLE_API_KEY`,
`GOOGLE_GEMINI_BASE_URL`. There is no chat here: `open` refuses by name.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_gemini.backend import Gemini

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend.

    Options: `headers`; `api_version`, by default `v1` for pictures and `v1beta` for films; `trusted_hosts`, as `host`
    or `host:port`, from which films may be fetched with the key, beside the one of the API.
    """
    return Gemini(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="Gemini's native API, for pictures and films",
        variables=("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL"),
        calls=("generate_image", "edit_image", "list_models", "submit_video"),
    )
