"""What a service sends, piece by piece: how the checks put words into the mouth of a backend's other end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from asyncllm.testing.wire import openai_reply, sse_event
from asyncllm.types import ToolCall, Usage

__all__ = ["Dialect", "OpenAIDialect"]


class Dialect(Protocol):
    """One wire format. Each method gives whole frames of it, ends of lines included, or a whole body.

    Write one for a service of your own, and every check of framing, tool calls, stalls and replies applies to it.
    `start`, any number of `text`, `call` and `usage`, `finish` and `end`, joined in this order, are a whole answer.
    """

    prefix: str
    """What stands in `base_url` after the address of a server, such as `/v1`."""
    content_type: str
    """Of a streamed reply. For `text/event-stream` the rules of server-sent events are checked as well."""
    model: str
    """The model that `start` and `reply` name."""
    request_id: str
    """The id that `start` and `reply` give the call."""

    def start(self) -> bytes:
        """What comes before the first piece of the answer."""
        ...

    def text(self, text: str, index: int = 0) -> bytes:
        """A piece of a choice's text."""
        ...

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        """A piece of the tool call at `position`; what is `None` it does not say."""
        ...

    def usage(self, usage: Usage) -> bytes:
        """What was consumed so far."""
        ...

    def finish(self, index: int = 0) -> bytes:
        """The end of a choice, whose reason is that the model stopped."""
        ...

    def end(self) -> bytes:
        """The end of the stream."""
        ...

    def error(self, message: str) -> bytes:
        """A failure of the service in place of the next piece."""
        ...

    def keep_alive(self) -> bytes:
        """What says that the service is there, and nothing else."""
        ...

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        """The body of a call that is not streamed: a choice for each of `texts`, the first one with `calls`."""
        ...


class OpenAIDialect:
    """The format of OpenAI's chat completions, for the backends of all who speak it."""

    prefix = "/v1"
    content_type = "text/event-stream"
    model = "fake-model"
    request_id = "chatcmpl-fake"

    def start(self) -> bytes:
        """The first chunk, which names the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str, index: int = 0) -> bytes:
        """A chunk with content."""
        return self._chunk({"content": text}, index)

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        """A chunk with a piece of one call, whose fields are left out where they are `None`."""
        function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
        call: dict[str, Any] = {"index": position, "function": function}
        return self._chunk({"tool_calls": [call if call_id is None else {**call, "id": call_id, "type": "function"}]})

    def usage(self, usage: Usage) -> bytes:
        """A chunk without choices."""
        return sse_event(msgspec.json.encode({**self._head(), "choices": [], "usage": _usage(usage)}))

    def finish(self, index: int = 0) -> bytes:
        """A chunk with the finish reason."""
        return self._chunk({}, index, "stop")

    def end(self) -> bytes:
        """The word after the last chunk."""
        return sse_event("[DONE]")

    def error(self, message: str) -> bytes:
        """An error object where a chunk should be."""
        return sse_event(msgspec.json.encode({"error": {"message": message, "type": "server_error", "code": None}}))

    def keep_alive(self) -> bytes:
        """A comment."""
        return b": ping\n\n"

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        """A chat completion."""
        document = msgspec.json.decode(openai_reply(texts, usage=usage, model=self.model))
        if calls:
            document["choices"][0]["message"]["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        return msgspec.json.encode({**document, "id": self.request_id})

    def _head(self) -> dict[str, Any]:
        return {"id": self.request_id, "object": "chat.completion.chunk", "created": 0, "model": self.model}

    def _chunk(self, delta: dict[str, Any], index: int = 0, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return sse_event(msgspec.json.encode({**self._head(), "choices": [choice]}))


def _usage(usage: Usage) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(openai_reply("", usage=usage))
    counts: dict[str, Any] = document["usage"]
    return counts
