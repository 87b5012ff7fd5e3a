"""aiXplain as its two hosts serve it: runs that are done at once, later, or as a stream, and the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from asyncllm.testing import Op, SeenRequest, Sse, Status, openai_reply, sse_event
from asyncllm.types import ToolCall, Usage

EXECUTE = "/api/v2/execute"
MODEL = "669a63646eb56306647e1091"
CATALOG: list[dict[str, Any]] = [
    {
        "id": MODEL,
        "name": "GPT-4o Mini",
        "supplier": {"id": 1, "name": "openai", "code": "openai"},
        "function": {"id": "text-generation"},
        "supportsStreaming": True,
        "params": [
            {"name": "temperature", "defaultValues": [{"value": "0.7"}]},
            {"name": "max_tokens", "defaultValues": []},
        ],
    },
    {
        "id": "team/slashed/model",
        "name": "Slashed",
        "supplier": "meta",
        "function": {"id": "text-generation"},
        "supportsStreaming": False,
        "params": [],
    },
    {"id": "translator", "name": "Translator", "function": {"id": "translation"}, "params": [], "pricing": {}},
]


def result(text: Any, *, finish: str | None = None, usage: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """The reply of a run that is done."""
    details = [{"index": 0, "message": {"role": "assistant"}, "finish_reason": finish}] if finish else {}
    told: dict[str, Any] = {
        "status": "SUCCESS",
        "completed": True,
        "data": text,
        "details": details,
        "usedCredits": 0.0002,
        "runTime": 1.25,
        "asset": {"assetId": MODEL},
    }
    if usage is not None:
        told["usage"] = usage
    return msgspec.json.encode(told | fields)


def answer(body: bytes) -> Status:
    """`body` as JSON."""
    return Status(200, {"Content-Type": "application/json"}, body)


def told(**fields: Any) -> Status:
    """A JSON object."""
    return answer(msgspec.json.encode(fields))


def streamed(*items: Any, ending: Any = "done") -> list[Op]:
    """A stream of runs."""
    return [Sse(items, ending)]


def service(request: SeenRequest) -> Sequence[Op]:
    """Both hosts in one, whose models say what they were told, a token a word."""
    path = unquote(request.path)
    if path == "/sdk/models/paginate":
        return [page(request.json())]
    if path.startswith("/sdk/models/"):
        return [_asset(path)]
    if request.method == "GET":
        return [answer(result(path.rpartition("/")[2]))]
    asked = request.json()
    if path.startswith("/api/v1/execute/"):
        return [told(status="IN_PROGRESS", data=f"http://{request.headers['host']}/api/v1/data/{quote(asked['data'])}")]
    text = '{"answer": true}' if asked.get("response_format") else asked["data"]
    words = text.split(" ")
    limit = asked.get("max_tokens", len(words) + 1)
    pieces = [word if position == 0 else f" {word}" for position, word in enumerate(words[:limit])]
    usage = {"prompt_tokens": len(text) + 1, "completion_tokens": len(pieces)}
    if not asked.get("options", {}).get("stream"):
        return [answer(result("".join(pieces), usage=usage))]
    return streamed(*({"data": piece} for piece in pieces), {"data": "", "usage": usage})


def page(asked: dict[str, Any]) -> Status:
    """A page of the catalogue."""
    wanted = [one for one in CATALOG if one["function"]["id"] in asked["functions"]]
    start = asked["pageNumber"] * asked["pageSize"]
    return told(items=wanted[start : start + asked["pageSize"]], total=len(wanted))


def _asset(path: str) -> Status:
    by_name = path.startswith("/sdk/models/by-name/")
    word = path.removeprefix("/sdk/models/by-name/" if by_name else "/sdk/models/")
    found = [one for one in CATALOG if one["name" if by_name else "id"] == word]
    body = msgspec.json.encode(found[0] if found else {"statusCode": 404, "message": "no such model"})
    return Status(200 if found else 404, {"Content-Type": "application/json"}, body)


class RunDialect:
    """Frames of a streamed run in the service's own form; what ends a choice comes in OpenAI's."""

    prefix = EXECUTE
    content_type = "text/event-stream"
    model = "some-model"
    request_id = ""

    def start(self) -> bytes:
        """A frame without text."""
        return self.text("")

    def text(self, text: str, index: int = 0) -> bytes:
        """A frame with text; there is one choice alone."""
        del index
        return _event({"data": text})

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        """No tools are called."""
        del position, call_id, name, arguments
        return b""

    def usage(self, usage: Usage) -> bytes:
        """A frame that counts."""
        return _event({"data": "", "usage": _counts(usage)})

    def finish(self, index: int = 0) -> bytes:
        """A chunk with the finish reason."""
        return _event({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})

    def end(self) -> bytes:
        """The word after the last frame."""
        return sse_event("[DONE]")

    def error(self, message: str) -> bytes:
        """A frame of a run that failed."""
        return _event({"status": "FAILED", "error_message": message})

    def keep_alive(self) -> bytes:
        """A comment."""
        return b": ping\n\n"

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        """A run that is done."""
        del calls
        return result("".join(texts[:1]), finish="stop", usage=None if usage is None else _counts(usage))


def _counts(usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = msgspec.json.decode(openai_reply("", usage=usage))["usage"]
    return counts


def _event(document: dict[str, Any]) -> bytes:
    return sse_event(msgspec.json.encode(document))
