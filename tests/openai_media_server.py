"""OpenAI's API for sound, pictures, moderation and ranking, as far as a reply goes: one canned answer a path."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from asyncllm import Client
from asyncllm.testing import Chunk, FaultyServer, Sse, Status
from asyncllm.testing.ops import Named, Op
from asyncllm.testing.seen import SeenRequest

__all__ = ["MP3", "PNG", "PNG_64", "WAV", "answers", "image_events", "serving", "whole"]

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(range(256))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
MP3 = b"ID3\x04" + bytes(range(250)) * 40
PNG_64 = base64.b64encode(PNG).decode()

_TEXT_USAGE = {
    "type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
}  # fmt: skip
IMAGE_USAGE = {
    "input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}  # fmt: skip
VERBOSE: dict[str, Any] = {
    "task": "transcribe", "language": "english", "duration": 8.47, "text": "The beach was a popular spot.",
    "segments": [{
        "id": 0, "seek": 0, "start": 0.0, "end": 3.3, "text": " The beach was", "tokens": [50364, 440],
        "temperature": 0.0, "avg_logprob": -0.28, "compression_ratio": 1.23, "no_speech_prob": 0.009,
    }],
    "words": [{"word": "The", "start": 0.0, "end": 0.24}, {"word": "beach", "start": 0.24, "end": 0.6}],
    "usage": {"type": "duration", "seconds": 9},
}  # fmt: skip
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def whole(document: object, *, kind: str = "application/json") -> list[Op]:
    """A reply in one piece."""
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return [Status(200, {"Content-Type": kind, "x-request-id": "req-7"}, body)]


def sound(data: bytes = MP3, *, kind: str = "audio/mpeg") -> list[Op]:
    """A reply that is a sound, in three pieces."""
    headers = {"Content-Type": kind, "Transfer-Encoding": "chunked", "x-request-id": "req-7"}
    third = len(data) // 3
    return [Status(200, headers, None), Chunk(data[:third]), Chunk(data[third:-third]), Chunk(data[-third:]), Chunk()]


def image_events(kind: str, *, partial: int = 2) -> list[Named]:
    """The events of one picture."""
    usual = {"b64_json": PNG_64, "background": "opaque", "created_at": 1, "output_format": "png", "quality": "high",
             "size": "1024x1024"}  # fmt: skip
    frames = [{"type": f"{kind}.partial_image", "partial_image_index": index, **usual} for index in range(partial)]
    final = {"type": f"{kind}.completed", **usual, "usage": IMAGE_USAGE}
    return [Named(str(frame["type"]), frame) for frame in (*frames, final)]


def _verdict(*, flagged: bool) -> Mapping[str, Any]:
    return {
        "flagged": flagged,
        "categories": {name: flagged and name == "violence" for name in _CATEGORIES},
        "category_scores": {name: 0.9 if flagged and name == "violence" else 0.01 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


def _moderation(request: SeenRequest) -> list[Op]:
    given = request.json()["input"]
    is_one = isinstance(given, str) or isinstance(given[0], dict)
    texts = [str(given)] if is_one else given
    verdicts = [_verdict(flagged="kill" in text) for text in texts]
    return whole({"id": "modr-1", "model": "omni-moderation-latest", "results": verdicts})


def _images(request: SeenRequest, count: int = 2) -> list[Op]:
    kind = "image_edit" if request.path.endswith("/edits") else "image_generation"
    if b'"stream":true' in request.body.replace(b" ", b"") or b'name="stream"' in request.body:
        return [Sse(image_events(kind), ending="end")]
    picture = {"b64_json": PNG_64, "revised_prompt": "A cat, in oil"}
    reply = {"created": 1, "data": [picture] * count, "size": "1024x1024", "quality": "high", "output_format": "png"}
    return whole({**reply, "background": "opaque", "usage": IMAGE_USAGE})


def answers(request: SeenRequest) -> Sequence[Op]:
    """What the service says."""
    path = request.path.partition("?")[0]
    if path.endswith("/audio/transcriptions"):
        if b"verbose_json" in request.body:
            return whole(VERBOSE)
        return whole({"text": "The beach was a popular spot.", "usage": _TEXT_USAGE})
    if path.endswith("/audio/speech"):
        return sound()
    if "/images/" in path:
        return _images(request)
    if path.endswith("/moderations"):
        return _moderation(request)
    if path.endswith("/rerank"):
        ranks = [{"index": 2, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.2}]
        return whole({"id": "r", "model": "reranker", "results": ranks, "usage": {"total_tokens": 17}})
    return [Status(404)]


@asynccontextmanager
async def serving(
    scripts: Any = answers, *, model: str = "openai:gpt-image-2", **options: Any
) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server that answers with `scripts`, and a client of it that tries once."""
    async with (
        FaultyServer(scripts) as server,
        Client(model=model, base_url=f"{server.url}/v1", api_key="sk-media", retry=None, **options) as client,
    ):
        yield server, client
