"""A service that speaks OpenAI's Responses API: its words, and a server whose model says what it was told.

Source: https://platform.openai.com/docs/api-reference/responses and its streaming events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from asyncllm.testing import SeenRequest, Status, sse_event
from asyncllm.testing.ops import Chunk, Named, Op
from asyncllm.types import ToolCall, Usage

__all__ = ["ResponsesDialect", "answering", "call_item", "event", "message_item", "response", "streamed"]


def event(kind: str, **fields: Any) -> bytes:
    """One typed event of a stream."""
    return sse_event(Named(kind, {"type": kind, **fields}))


def message_item(text: str, *, identity: str = "msg_1", logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A message of the output, whole."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
    return {"type": "message", "id": identity, "role": "assistant", "status": "completed", "content": [part]}


def call_item(call: ToolCall, *, identity: str = "fc_1") -> dict[str, Any]:
    """A function call of the output, whole."""
    return {
        "type": "function_call",
        "id": identity,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def response(
    *output: Mapping[str, Any], usage: Usage | None = None, status: str = "completed", **fields: Any
) -> dict[str, Any]:
    """A whole response."""
    return {
        "id": ResponsesDialect.request_id,
        "object": "response",
        "created_at": 0,
        "model": ResponsesDialect.model,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None if usage is None else _usage(usage),
        **fields,
    }


class ResponsesDialect:
    """The words of the Responses API, one at a time."""

    prefix = "/v1"
    content_type = "text/event-stream"
    model = "fake-model"
    request_id = "resp_fake"

    def start(self) -> bytes:
        """The response, with nothing in it yet."""
        return event("response.created", response=response(status="in_progress"))

    def text(self, text: str, index: int = 0) -> bytes:
        """A piece of a message's text; there is one answer to a call."""
        return event(
            "response.output_text.delta", item_id="msg_1", output_index=0, content_index=index, delta=text, logprobs=[]
        )

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        """A call is announced with its name, and its arguments follow."""
        place = {"output_index": position + 1}
        frames = b""
        if name is not None:
            item = {"type": "function_call", "id": f"fc_{position}", "name": name, "arguments": ""}
            item |= {} if call_id is None else {"call_id": call_id}
            frames = event("response.output_item.added", item=item, **place)
        if arguments is not None:
            delta = {"item_id": f"fc_{position}", "delta": arguments}
            frames += event("response.function_call_arguments.delta", **delta, **place)
        return frames

    def usage(self, usage: Usage) -> bytes:
        """The response as far as it has come, which has the counts."""
        return event("response.in_progress", response=response(status="in_progress", usage=usage))

    def finish(self, index: int = 0) -> bytes:
        """The end of a part."""
        part = {"type": "output_text", "text": "", "annotations": []}
        return event("response.content_part.done", item_id="msg_1", output_index=0, content_index=index, part=part)

    def end(self) -> bytes:
        """The response has come to its end."""
        return event("response.completed", response=response())

    def error(self, message: str) -> bytes:
        """An event that is an error."""
        return event("error", message=message, code="server_error", param=None)

    def keep_alive(self) -> bytes:
        """An event of a type that says nothing."""
        return event("keepalive")

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        """A whole response, with a message for each of `texts`."""
        messages = [message_item(text, identity=f"msg_{number}") for number, text in enumerate(texts)]
        items = [call_item(call, identity=f"fc_{number}") for number, call in enumerate(calls)]
        return msgspec.json.encode(response(*messages, *items, usage=usage))


def streamed(events: Iterable[bytes]) -> list[Op]:
    """A reply that streams `events`."""
    head = Status(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, None)
    return [head, *map(Chunk, events), Chunk()]


def answering(request: SeenRequest) -> Sequence[Op]:
    """A server whose model says what it was told, within `max_output_tokens` words."""
    if request.path == "/v1/models":
        return [Status(body=msgspec.json.encode({"data": [{"id": "some-model", "owned_by": "nobody"}]}))]
    asked = request.json()
    if request.path == "/v1/embeddings":
        rows = [{"index": index, "embedding": [text.count("a"), 1.0]} for index, text in enumerate(asked["input"])]
        return [Status(body=msgspec.json.encode({"data": rows, "model": asked["model"]}))]
    if request.path != "/v1/responses":
        return [Status(404, body=b'{"error": {"message": "no such path"}}')]
    words, ending = _answer(asked)
    item = message_item("".join(words), logprobs=_logprobs(asked, words))
    whole = response(item, **ending)
    if not asked.get("stream"):
        return [Status(body=msgspec.json.encode(whole))]
    return streamed(_events(asked, words, item, whole))


def _answer(asked: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    content = asked["input"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if "format" in asked.get("text", {}):
        text = '{"answer": true}'
    words = [piece if place == 0 else f" {piece}" for place, piece in enumerate(text.split(" "))]
    limit = asked.get("max_output_tokens", len(words))
    ending: dict[str, Any] = {
        "usage": Usage(input_tokens=len(text) + 1, output_tokens=min(limit, len(words)), reasoning_tokens=0)
    }
    if len(words) > limit:
        ending |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return words[:limit], ending


def _logprobs(asked: Mapping[str, Any], words: Sequence[str]) -> list[dict[str, Any]]:
    if "message.output_text.logprobs" not in asked.get("include", ()):
        return []
    tops = asked.get("top_logprobs", 0)
    return [
        {
            "token": word,
            "logprob": -0.5,
            "bytes": list(word.encode()),
            "top_logprobs": [{"token": word, "logprob": -0.5, "bytes": list(word.encode())}] * tops,
        }
        for word in words
    ]


def _events(
    asked: Mapping[str, Any], words: Sequence[str], item: Mapping[str, Any], whole: Mapping[str, Any]
) -> list[bytes]:
    """Everything that the service says of one message, in its order and with its numbers."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    begun = {"response": response(status="in_progress")}
    told: list[tuple[str, dict[str, Any]]] = [
        ("response.created", begun),
        ("response.in_progress", begun),
        ("response.output_item.added", {"output_index": 0, "item": {**item, "content": [], "status": "in_progress"}}),
        ("response.content_part.added", {**place, "part": part}),
    ]
    probs = _logprobs(asked, words)
    for number, word in enumerate(words):
        told.append(("response.output_text.delta", {**place, "delta": word, "logprobs": probs[number : number + 1]}))
    told += [
        ("response.output_text.done", {**place, "text": "".join(words), "logprobs": probs}),
        ("response.content_part.done", {**place, "part": item["content"][0]}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        (f"response.{whole['status']}", {"response": whole}),
    ]
    return [event(kind, **fields, sequence_number=number) for number, (kind, fields) in enumerate(told)]


def _usage(usage: Usage) -> dict[str, Any]:
    """Counts by the names of this API; what is `None` is left out."""
    inputs = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    outputs = {"reasoning_tokens": usage.reasoning_tokens}
    counts = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {name: count for name, count in inputs.items() if count is not None},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {name: count for name, count in outputs.items() if count is not None},
        "total_tokens": usage.total_tokens,
    }
    return {name: count for name, count in counts.items() if count is not None}
