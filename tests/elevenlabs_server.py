"""ElevenLabs' API, as far as a reply goes: one canned answer a path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from asyncllm import Client
from asyncllm.testing import Chunk, FaultyServer, Status
from asyncllm.testing.ops import Op
from asyncllm.testing.seen import SeenRequest
from openai_media_server import MP3

__all__ = ["TRANSCRIPT", "answers", "refusal", "serving"]

TRANSCRIPT: dict[str, Any] = {
    "language_code": "eng", "language_probability": 0.98, "text": "Hello world!", "audio_duration_secs": 2.5,
    "transcription_id": "t-1",
    "words": [
        {"text": "Hello", "start": 0.0, "end": 0.5, "type": "word", "speaker_id": "speaker_0", "logprob": -0.1},
        {"text": " ", "start": 0.5, "end": 0.6, "type": "spacing", "speaker_id": "speaker_0", "logprob": 0.0},
        {"text": "world!", "start": 0.6, "end": 1.1, "type": "word", "speaker_id": "speaker_0", "logprob": -0.2},
    ],
}  # fmt: skip
MODELS = [{"model_id": "eleven_v3", "name": "Eleven v3"}, {"model_id": "music_v1", "name": "Music"}]


def refusal(status: int, word: str, message: str = "No.", **more: Any) -> list[Op]:
    """An error as the service words it."""
    detail = {"status": word, "message": message, **more}
    return [Status(status, {"request-id": "req-11"}, msgspec.json.encode({"detail": detail}))]


def answers(request: SeenRequest) -> Sequence[Op]:
    """What the service says."""
    path = request.path.partition("?")[0]
    if path == "/v1/speech-to-text":
        return [
            Status(200, {"Content-Type": "application/json", "request-id": "req-11"}, msgspec.json.encode(TRANSCRIPT))
        ]
    if path == "/v1/models":
        return [Status(200, {"Content-Type": "application/json"}, msgspec.json.encode(MODELS))]
    if path.startswith(
        ("/v1/text-to-speech/", "/v1/text-to-dialogue", "/v1/music", "/v1/sound-generation", "/v1/audio-isolation")
    ):
        headers = {"Content-Type": "audio/mpeg", "Transfer-Encoding": "chunked", "request-id": "req-11"}
        half = len(MP3) // 2
        return [Status(200, headers, None), Chunk(MP3[:half]), Chunk(MP3[half:]), Chunk()]
    return [Status(404)]


@asynccontextmanager
async def serving(scripts: Any = answers, *, model: str = "eleven_v3") -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server that answers with `scripts`, and a client of it that tries once."""
    async with (
        FaultyServer(scripts) as server,
        Client(model=f"elevenlabs:{model}", base_url=server.url, api_key="xi-secret", retry=None) as client,
    ):
        yield server, client
