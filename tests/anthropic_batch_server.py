"""Anthropic's Message Batches as the service serves them, for a `FaultyServer`: the model says what it was told.

A batch ends with the second look at it. What the last message of an item says decides what becomes of it: `refuse`,
`overload`, `late` and `stop` are errored (twice), expired and canceled, everything else is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from anthropic_server import error, message, said, whole
from asyncllm.testing import Op, Rst, SeenRequest, Status

__all__ = ["AnthropicBatchServer"]

_ERRORS = {"refuse": "invalid_request_error", "overload": "overloaded_error"}
_NEVER = {"late": "expired", "stop": "canceled"}


class AnthropicBatchServer:
    """What answers: the `scripts` of a `FaultyServer`. `host` is where results are said to be, by default here."""

    def __init__(self, host: str | None = None) -> None:
        self.host = host
        self.batches: dict[str, dict[str, Any]] = {}
        self.results: dict[str, bytes] = {}
        self.asked: dict[str, list[dict[str, Any]]] = {}
        self.lose: list[str] = []
        """What happens to the next creations: `before` it, or `after` it, the connection goes; `500` is an answer."""
        self.truncate: list[int] = []
        """How many bytes of the next results come before they break off."""
        self.created = 0

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        parts = urlsplit(request.path).path.removeprefix("/v1/messages").strip("/").split("/")
        match request.method, *parts:
            case "POST", "batches":
                return self._create(request)
            case "GET", "batches", id_ if id_ in self.batches:
                return self._look(id_)
            case "POST", "batches", id_, "cancel" if id_ in self.batches:
                batch = self.batches[id_]
                batch |= {"processing_status": "canceling", "cancel_initiated_at": "2026-01-01T00:00:00Z"}
                return whole(batch)
            case "GET", "batches", id_, "results" if id_ in self.results:
                return self._results(self.results[id_])
            case "POST", "":
                asked = request.json()
                return whole(message({"type": "text", "text": said(asked)}, usage={"input_tokens": 1}))
            case _:
                return whole(error("not_found_error", "no such batch"), 404)

    def _create(self, request: SeenRequest) -> Sequence[Op]:
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "before":
            return [Rst()]
        self.created += 1
        id_ = f"msgbatch_{self.created}"
        self.asked[id_] = request.json()["requests"]
        results = f"{self.host or 'http://' + request.headers['host']}/v1/messages/batches/{id_}/results"
        counts = {"processing": len(self.asked[id_]), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        self.batches[id_] = {
            "id": id_, "type": "message_batch", "processing_status": "in_progress", "ended_at": None,
            "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z", "archived_at": None,
            "cancel_initiated_at": None, "results_url": None, "next_results_url": results, "request_counts": counts,
        }  # fmt: skip
        if fate == "after":
            return [Rst()]
        return whole(error("api_error"), int(fate)) if fate else whole(self._shown(id_))

    def _look(self, id_: str) -> Sequence[Op]:
        shown = self._shown(id_)
        self.end(id_)
        return whole(shown)

    def _shown(self, id_: str) -> dict[str, Any]:
        return {name: value for name, value in self.batches[id_].items() if name != "next_results_url"}

    def end(self, id_: str) -> None:
        """Work a batch off."""
        batch = self.batches[id_]
        if batch["processing_status"] == "ended":
            return
        lines = [_line(item) for item in self.asked[id_]]
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for line in lines:
            counts[line["result"]["type"]] += 1
        self.results[id_] = b"".join(msgspec.json.encode(line) + b"\n" for line in lines[::-1])
        batch |= {"processing_status": "ended", "request_counts": counts, "results_url": batch["next_results_url"]}

    def finish(self) -> None:
        """Work off every batch."""
        for id_ in self.batches:
            self.end(id_)

    def _results(self, data: bytes) -> Sequence[Op]:
        if self.truncate:
            kept = self.truncate.pop(0)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-jsonl\r\nContent-Length: {len(data)}\r\n\r\n"
            return [head.encode() + data[:kept], 0.05, Rst()]
        return [Status(200, {"Content-Type": "application/x-jsonl"}, data)]


def _line(item: dict[str, Any]) -> dict[str, Any]:
    told = said(item["params"])
    word = told.partition(" ")[0]
    if word in _ERRORS:
        result: dict[str, Any] = {"type": "errored", "error": error(_ERRORS[word], f"bad words: {told}")}
    elif word in _NEVER:
        result = {"type": _NEVER[word]}
    else:
        usage = {"input_tokens": 3, "output_tokens": 2}
        result = {"type": "succeeded", "message": message({"type": "text", "text": told}, usage=usage)}
    return {"custom_id": item["custom_id"], "result": result}
