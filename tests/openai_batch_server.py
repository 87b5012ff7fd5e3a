"""OpenAI's files and batches as a service serves them, for a `FaultyServer`: the model says what it was told.

A batch goes one step further with each look at it. What the last message of an item says decides what becomes of it:
`refuse` is answered with status 400, `break` with 500, `late` is never reached, everything else is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from asyncllm.testing import Op, Rst, SeenRequest, Status, openai_reply
from asyncllm.types import Usage

__all__ = ["OpenAIBatchServer"]

STEPS = ("validating", "in_progress", "finalizing", "completed")
USAGE = Usage(input_tokens=3, output_tokens=2)


class OpenAIBatchServer:
    """What answers at `root`: the `scripts` of a `FaultyServer`. `page` is how many batches a page of the list has."""

    def __init__(self, root: str = "/v1", *, page: int = 2, steps: Sequence[str] = STEPS, azure: bool = False) -> None:
        self.root = root
        self.page = page
        self.steps = tuple(steps)
        self.azure = azure
        self.files: dict[str, bytes] = {}
        self.pending: dict[str, int] = {}
        """Files that have yet to be read, by how many looks that takes."""
        self.batches: list[dict[str, Any]] = []
        """In order of their making."""
        self.lose: list[str] = []
        """What happens to the next creations: `before` it, or `after` it, the connection goes; `500` and `503` are
        answers after it."""
        self.truncate: list[int] = []
        """How many bytes of the next results come before they break off."""
        self.created = 0

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        url = urlsplit(request.path)
        parts = url.path.removeprefix(self.root).strip("/").split("/")
        match request.method, *parts:
            case "POST", "files":
                return self._upload(request)
            case "GET", "files", file:
                return self._file(file)
            case "GET", "files", file, "content":
                return self._content(file)
            case "POST", "batches":
                return self._create(request)
            case "GET", "batches":
                return self._list(parse_qs(url.query))
            case "GET", "batches", id_:
                return self._look(id_)
            case "POST", "batches", id_, "cancel":
                return self._cancel(id_)
            case "POST", *_ if "messages" in (asked := request.json()):
                return good(answer({"custom_id": "", "body": asked})["response"]["body"])
            case _:
                return refusal(404, "not_found", f"no route {request.method} {url.path}")

    def end(self, status: str = "completed") -> None:
        """All batches have ended."""
        for batch in self.batches:
            self._settle(batch, status)

    def finish(self) -> None:
        """All batches have been worked off."""
        self.end()

    def _upload(self, request: SeenRequest) -> Sequence[Op]:
        mark = request.headers["content-type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n") for part in request.body.split(b"--" + mark)[1:-1]]
        form = {head.partition(b'name="')[2].partition(b'"')[0]: content[:-2] for head, _, content in parts}
        assert form[b"purpose"] == b"batch"
        id_ = f"file-{len(self.files)}"
        self.files[id_] = form[b"file"]
        if self.azure:
            self.pending[id_] = 2
        return self._file(id_)

    def _file(self, id_: str) -> Sequence[Op]:
        looks = self.pending.get(id_, 0)
        self.pending[id_] = max(0, looks - 1)
        status = "pending" if looks else "processed"
        return good({"id": id_, "object": "file", "purpose": "batch", "status": status, "bytes": len(self.files[id_])})

    def _content(self, id_: str) -> Sequence[Op]:
        if id_ not in self.files:
            return refusal(404, "not_found", "No such File object")
        data = self.files[id_]
        if self.truncate:
            kept = self.truncate.pop(0)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(data)}\r\n\r\n"
            return [head.encode() + data[:kept], 0.05, Rst()]
        return [Status(200, {"Content-Type": "application/octet-stream"}, data)]

    def _create(self, request: SeenRequest) -> Sequence[Op]:
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "before":
            return [Rst()]
        asked = request.json()
        if asked["input_file_id"] not in self.files:
            return refusal(400, "invalid_request_error", "no such file")
        self.created += 1
        batch = {
            "id": f"batch_{self.created}", "object": "batch", "status": self.steps[0], "errors": None,
            "output_file_id": None, "error_file_id": None, "completion_window": asked["completion_window"],
            "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"], "created_at": 1,
            "metadata": asked.get("metadata"), "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        self.batches.append(batch)
        if fate == "after":
            return [Rst()]
        return refusal(int(fate), "server_error", "try again") if fate else good(batch)

    def _list(self, query: dict[str, list[str]]) -> Sequence[Op]:
        newest = self.batches[::-1]
        after = query.get("after", [""])[0]
        start = next((at + 1 for at, batch in enumerate(newest) if batch["id"] == after), 0)
        some = newest[start : start + min(self.page, int(query["limit"][0]))]
        more = start + len(some) < len(newest)
        return good({"object": "list", "data": some, "has_more": more, "last_id": some[-1]["id"] if some else None})

    def _look(self, id_: str) -> Sequence[Op]:
        batch = self._batch(id_)
        if batch is None:
            return refusal(404, "not_found", f"No batch found with id '{id_}'.")
        if batch["status"] in self.steps[:-1]:
            batch["status"] = self.steps[self.steps.index(batch["status"]) + 1]
            if batch["status"] == self.steps[-1]:
                self._settle(batch, batch["status"])
        return good(batch)

    def _cancel(self, id_: str) -> Sequence[Op]:
        batch = self._batch(id_)
        if batch is None:
            return refusal(404, "not_found", f"No batch found with id '{id_}'.")
        self._settle(batch, "cancelled")
        return good({**batch, "status": "cancelling"})

    def _batch(self, id_: str) -> dict[str, Any] | None:
        return next((batch for batch in self.batches if batch["id"] == id_), None)

    def _settle(self, batch: dict[str, Any], status: str) -> None:
        """Work a batch off. Of one that did not complete, every second item was reached."""
        batch["status"] = status
        if status == "failed":
            faults = [{"code": "invalid_json_line", "line": 2, "message": "a secret", "param": None}]
            batch["errors"] = {"object": "list", "data": faults}
            return
        rows = [msgspec.json.decode(line) for line in self.files[batch["input_file_id"]].splitlines()]
        lines = [answer(row, cut="" if status == "completed" or at % 2 == 0 else status) for at, row in enumerate(rows)]
        good_ones = [line for line in lines if line["error"] is None and line["response"]["status_code"] == 200]
        bad_ones = [line for line in lines if line not in good_ones]
        for name, some in (("output_file_id", good_ones), ("error_file_id", bad_ones)):
            if some:
                batch[name] = f"{batch['id']}-{name}"
                self.files[batch[name]] = b"".join(msgspec.json.encode(one) + b"\n" for one in some[::-1])
        batch["request_counts"] = {"total": len(rows), "completed": len(good_ones), "failed": len(bad_ones)}


def answer(row: dict[str, Any], cut: str = "") -> dict[str, Any]:
    """The line of results for a line of requests."""
    line: dict[str, Any] = {"id": f"batch_req_{row['custom_id']}", "custom_id": row["custom_id"], "error": None}
    told = said(row["body"])
    if cut or told == "late":
        code = f"batch_{cut if cut in ('expired', 'cancelled') else 'expired'}"
        return {**line, "response": None, "error": {"code": code, "message": "This request could not be executed."}}
    status, body = 200, msgspec.json.decode(openai_reply(told, usage=USAGE, model=row["body"]["model"]))
    if "prompt" in row["body"]:
        body["choices"] = [{"index": 0, "text": told, "finish_reason": "stop"}]
    if told.startswith("refuse"):
        status = 400
        body = {"error": {"message": f"bad words: {told}", "type": "invalid_request_error", "code": "bad_words"}}
    if told == "break":
        status, body = 500, {"error": {"message": "it broke", "type": "server_error"}}
    return {**line, "response": {"status_code": status, "request_id": f"req-{row['custom_id']}", "body": body}}


def said(body: dict[str, Any]) -> str:
    """The last thing that the model was told."""
    content = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def good(document: object) -> list[Op]:
    """A reply."""
    return [Status(200, {"Content-Type": "application/json"}, msgspec.json.encode(document))]


def refusal(status: int, code: str, message: str) -> list[Op]:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": None}}
    return [Status(status, {"x-request-id": "req-1"}, msgspec.json.encode(body))]
