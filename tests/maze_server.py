"""A Maze server and its instances, all at one address: starts, stops, and completions by models that repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncllm.testing import FaultyServer, SeenRequest, Status
from asyncllm.testing.ops import Op

__all__ = ["MazeServer"]


class MazeServer(FaultyServer):
    """Serves both roles while its block lasts. What it is to do wrong is set on it, before or in between."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.running: dict[str, str] = {}
        """Models by the id of their instance."""
        self.port_type: type[int | str] = str
        self.start_ops: Sequence[Op] = ()
        """Played before a start is answered."""
        self.start_answer: Op | None = None
        """In place of the answer to a start."""
        self.stop_answers: list[Op] = []
        """In place of the next answers to stops."""
        self.health: list[Sequence[Op]] = []
        """In place of the next answers to questions for health."""
        self.instance_port: int | None = None
        """Where instances are said to be, if not here."""
        self.query_ops: Sequence[Op] = ()
        """Played before a completion is answered."""

    @property
    def port(self) -> int:
        """Of this server."""
        return int(self.url.rpartition(":")[2])

    def seen(self, path: str) -> list[SeenRequest]:
        """The requests for `path`, in order."""
        return [request for request in self.requests if request.path == path]

    def _answer(self, request: SeenRequest) -> Sequence[Op]:
        match request.path:
            case "/start_llm_instance":
                return [*self.start_ops, self._start(request.json())]
            case "/stop_llm_instance":
                return [self._stop(request.json())]
            case "/health":
                return self.health.pop(0) if self.health else [Status()]
            case "/v1/completions":
                return [*self.query_ops, _complete(request.json())]
            case "/v1/models":
                return [_json({"data": [{"id": model} for model in self.running.values()]})]
            case _:
                return [_json({"detail": "Not Found"}, 404)]

    def _start(self, asked: dict[str, Any]) -> Op:
        if self.start_answer is not None:
            return self.start_answer
        identity = f"instance-{len(self.seen('/start_llm_instance'))}"
        self.running[identity] = asked["model"]
        port = self.port_type(self.instance_port or self.port)
        return _json({"status": "success", "host": "127.0.0.1", "port": port, "instance_id": identity})

    def _stop(self, asked: dict[str, Any]) -> Op:
        if self.stop_answers:
            return self.stop_answers.pop(0)
        self.running.pop(asked["instance_id"], None)
        return _json({"status": "success"})


def _complete(asked: dict[str, Any]) -> Op:
    """The model repeats its prompt, sixteen words of it unless it is told otherwise."""
    words = asked["prompt"].split(" ")
    limit = asked.get("max_tokens", 16)
    finish = "length" if len(words) > limit else "stop"
    choice = {"index": 0, "text": " ".join(words[:limit]), "finish_reason": finish}
    return _json({"id": "cmpl-1", "model": asked["model"], "choices": [choice]})


def _json(document: object, status: int = 200) -> Status:
    return Status(status, body=msgspec.json.encode(document))
