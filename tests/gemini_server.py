"""Gemini's native API, as far as a reply with a picture goes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from asyncllm import Client
from asyncllm.testing import FaultyServer, Status
from asyncllm.testing.ops import Op
from openai_media_server import PNG

__all__ = ["PICTURE", "answer", "serving"]

PNG_64 = base64.b64encode(PNG).decode()
PICTURE = {"inlineData": {"mimeType": "image/png", "data": PNG_64}}
REPLY: dict[str, Any] = {
    "candidates": [{
        "content": {"role": "model", "parts": [{"text": "Here."}, {**PICTURE, "thought": True}, PICTURE]},
        "finishReason": "STOP", "index": 0,
    }],
    "usageMetadata": {
        "promptTokenCount": 9, "candidatesTokenCount": 1290, "thoughtsTokenCount": 10, "totalTokenCount": 1309,
    },
    "modelVersion": "gemini-3-image", "responseId": "r-1",
}  # fmt: skip


def answer(document: object = REPLY, status: int = 200) -> list[Op]:
    """A reply in one piece."""
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return [Status(status, {"Content-Type": "application/json; charset=UTF-8"}, body)]


@asynccontextmanager
async def serving(script: Any = None) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server that answers with `script`, and a client of it that tries once."""
    async with (
        FaultyServer(script or answer()) as server,
        Client(model="gemini-native:gemini-3-image", base_url=server.url, api_key="g-secret", retry=None) as client,
    ):
        yield server, client
