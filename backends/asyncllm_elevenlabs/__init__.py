"""ElevenLabs: speech, dialogues, music, effects, isolation of voices, transcripts, and dubs.

Source: https://elevenlabs.io/docs/api-reference. Environment: `ELEVENLABS_API_KEY`, `ELEVENLABS_BASE_URL`. It has no
chat: `open` refuses by name.
"""

from __future__ import annotations

from asyncllm.backend import About, Backend, Config, Context
from asyncllm_elevenlabs.backend import ElevenLabs

__all__ = ["about", "connect"]


def connect(config: Config, context: Context, /) -> Backend:
    """Make the backend. Options: `headers`."""
    return ElevenLabs(config, context)


def about(_: str, /) -> About:
    """A row of the table of backends."""
    return About(
        summary="ElevenLabs: speech, music, effects, transcripts and dubs",
        variables=("ELEVENLABS_API_KEY", "ELEVENLABS_BASE_URL"),
        calls=("speak", "transcribe", "isolate", "list_models", "submit_dub"),
    )
