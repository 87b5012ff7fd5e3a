"""What four services answer where jobs are concerned: each a script of a `FaultyServer`.

A service plays `looks`, one a question, in the service's own words, and the last one again; a list of ops is played as
it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from aixplain_server import EXECUTE, MODEL, result
from asyncllm import Client
from asyncllm.testing import FaultyServer, ManualClock, Status
from asyncllm.testing.ops import Op
from asyncllm.testing.seen import SeenRequest

__all__ = ["FILM", "AiXplainJobs", "Dubs", "Operations", "OpenAIJobs", "Service", "as_json", "serving"]

FILM = b"\x00\x00\x00\x18ftypmp42" + bytes(range(250)) * 40
RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5", "parallel_tool_calls": True, "tools": [],
    "tool_choice": "auto", "background": True, "error": None, "incomplete_details": None, "output": [],
}  # fmt: skip
SAID: dict[str, Any] = {
    "output": [{
        "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": "forty-two", "annotations": []}],
    }],
    "usage": {
        "input_tokens": 9, "output_tokens": 3, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}  # fmt: skip


def as_json(document: object, status: int = 200, **headers: str) -> list[Op]:
    """A document in one piece."""
    told = {"Content-Type": "application/json", "x-request-id": "req-9", "request-id": "req-9", **headers}
    return [Status(status, told, msgspec.json.encode(document))]


def as_file(kind: str = "video/mp4") -> list[Op]:
    """The film."""
    return [Status(200, {"Content-Type": kind, "x-request-id": "req-9", "request-id": "req-9"}, FILM)]


class Service:
    """What all of them have: looks that are played."""

    key = "job-secret-key"
    model = ""
    path = ""
    options: dict[str, Any] = {}

    def __init__(self, *looks: Any) -> None:
        self.looks = looks
        self.asked = 0

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        """See `FaultyServer`."""
        raise NotImplementedError

    def next_look(self) -> Any:
        """What the next question gets."""
        look = self.looks[min(self.asked, len(self.looks) - 1)]
        self.asked += 1
        return look


class OpenAIJobs(Service):
    """Films and responses in the background."""

    model = "openai:sora-2"
    path = "/v1"

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        """Looks are statuses, or documents."""
        path = request.path.partition("?")[0]
        if path.endswith("/content"):
            return as_file()
        if path.endswith("/cancel"):
            return as_json(RESPONSE | {"status": "cancelled"})
        look = "queued" if request.method == "POST" else self.next_look()
        if isinstance(look, list):
            return look
        told = look if isinstance(look, dict) else {"status": look}
        if "/responses" in path:
            return as_json(RESPONSE | (SAID if told["status"] == "completed" else {}) | told)
        film = {"id": "video_1", "object": "video", "created_at": 1, "model": "sora-2", "progress": 0, "seconds": "8",
                "size": "1280x720"}  # fmt: skip
        return as_json(film | told)


class Operations(Service):
    """Gemini's operations that make films."""

    model = "gemini-native:veo-3.1"

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        """Looks are whether it is done, or documents."""
        name = "models/veo-3.1/operations/op_1"
        if request.method == "POST":
            return as_json({"name": name})
        host = f"http://{request.headers['host']}"
        if request.path.startswith("/v1beta/files/"):
            moved = f"{host}/download{request.path}"
            return [Status(302, {"Location": moved, "Content-Type": "text/html"}, b"<html>moved</html>")]
        if request.path.startswith("/download/"):
            return as_file()
        look = self.next_look()
        if isinstance(look, list):
            return look
        if isinstance(look, dict):
            return as_json({"name": name, "done": True, **look})
        if not look:
            return as_json({"name": name})
        uri = f"{host}/v1beta/files/f_1:download?alt=media"
        made = {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": uri}}]}}
        return as_json({"name": name, "done": True, "response": made})


class Dubs(Service):
    """ElevenLabs' dubbing projects."""

    model = "elevenlabs:dubbing"

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        """Looks are statuses, or documents."""
        if request.method == "POST":
            return as_json({"dubbing_id": "dub_1", "expected_duration_sec": 4.0})
        if "/audio/" in request.path:
            return as_file()
        look = self.next_look()
        if isinstance(look, list):
            return look
        told = look if isinstance(look, dict) else {"status": look}
        project = {
            "dubbing_id": "dub_1", "name": "n", "target_languages": ["es"], "created_at": "2026-01-01T00:00:00Z",
            "media_metadata": {"content_type": "video/mp4", "duration": 127.5},
        }  # fmt: skip
        return as_json(project | told)


class AiXplainJobs(Service):
    """aiXplain's runs that are asked after."""

    model = f"aixplain:{MODEL}"
    path = EXECUTE

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        """Looks are the text of a result, `None` for one that is not there yet, or documents."""
        if request.method == "POST":
            url = f"http://{request.headers['host']}/api/v1/data/run-1"
            return as_json({"status": "IN_PROGRESS", "data": url})
        look = self.next_look()
        if isinstance(look, list):
            return look
        if isinstance(look, dict):
            return as_json(look)
        if look is None:
            return as_json({"completed": False})
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        return [Status(200, {"Content-Type": "application/json"}, result(look, usage=usage))]


@asynccontextmanager
async def serving(service: Service, **given: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server that answers as `service` does, and a client of it that tries once and never waits."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(FaultyServer(service))
        settings: dict[str, Any] = {
            "model": service.model, "base_url": server.url + service.path, "api_key": service.key, "retry": None,
            "env": {}, "options": service.options, "clock": ManualClock(instant=True),
        }  # fmt: skip
        client = await stack.enter_async_context(Client(**{**settings, **given}))
        yield server, client
