"""Events to the chunks of OpenAI's streams, framed as server-sent events: what a server of this API streams.

The other way of `streams`. Each event is one `data:` line that ends in `\n`, without id, name, retry or comment, and
holds no character that any known reader takes for the end of a line: clients that split what they read on more than
line feeds, or on single reads, lose nothing.

Source: https://platform.openai.com/docs/api-reference (the chat completion chunk, and the completion as it is
streamed), with reasoning under both its names, and `continuous_usage_stats` as vLLM has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from asyncllm.collect import merged_usage
from asyncllm.dialect.answers import write_end, write_logprobs, write_reasoning, write_text_logprobs, write_usage
from asyncllm.dialect.faults import write_error
from asyncllm.errors import AsyncLLMError
from asyncllm.events import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.types import Usage

__all__ = ["ChunkWriter", "DONE", "safe"]

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""What JSON lets stand in a text, and some readers of lines take for their end."""


def _framed(document: Any) -> bytes:
    """One event with `document` as its data."""
    return b"data: %b\n\n" % safe(_encode(document))


def safe(data: bytes) -> bytes:
    """JSON without what some readers take for the end of a line."""
    if not data.isascii():
        for end, escaped in _LINE_ENDS:
            data = data.replace(end, escaped)
    return data


class ChunkWriter:
    """Writes the events of one chat, or with `is_chat` false of one text completion.

    `include_usage` adds a last chunk with the usage and no choice, and `null` to all others; `continuous_usage` adds to
    each chunk what is known by then. `created` is in seconds since 1970.
    """

    def __init__(
        self,
        *,
        id_: str,
        model: str,
        created: int,
        is_chat: bool = True,
        include_usage: bool = False,
        continuous_usage: bool = False,
    ) -> None:
        self._is_chat = is_chat
        self._head = {
            "id": id_,
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._continuous = continuous_usage
        self._usage = Usage()
        self._begun: set[int] = set()
        self._positions: dict[int, dict[str, int]] = {}
        self._called: set[int] = set()
        tail = b',"usage":null}\n\n' if include_usage and not continuous_usage else b"}\n\n"
        head = b"data: %b" % safe(_encode({**self._head, "choices": None}))[: -len(b"null}")].replace(b"%", b"%%")
        field = b'"delta":{"content":%b}' if is_chat else b'"text":%b'
        self._text_form = head + b'[{"index":%d,' + field + b',"logprobs":null,"finish_reason":null}]' + tail

    def write(self, events: Sequence[Event]) -> bytes:
        """The chunks of `events`; none for what this API has no place for."""
        if len(events) == 1 and type(events[0]) is TextDelta:
            return self._text(events[0])
        written: list[bytes] = []
        last = len(events) - 1
        skip = -1
        for at, event in enumerate(events):
            if at == skip:
                continue
            if type(event) is TextDelta:
                follower = events[at + 1] if at < last else None
                if type(follower) is LogprobsDelta and follower.index == event.index:
                    skip = at + 1
                    written.append(self._text_with(event, follower))
                else:
                    written.append(self._text(event))
            else:
                self._other(event, written)
        return b"".join(written)

    def end(self) -> bytes:
        """What comes after the last event."""
        if not self._include_usage:
            return DONE
        return _framed({**self._head, "choices": [], "usage": write_usage(self._usage)}) + DONE

    def fail(self, error: AsyncLLMError) -> bytes:
        """What comes in place of the rest."""
        return _framed(write_error(error)) + DONE

    def keep_alive(self) -> bytes:
        """A chunk that says nothing, as readers lose data over comments."""
        return self._chunk(0, {} if self._is_chat else {"text": ""})

    def _text(self, event: TextDelta) -> bytes:
        index = event.index
        if self._continuous or (self._is_chat and index not in self._begun):
            return self._delta(index, "content", event.text)
        return self._text_form % (index, safe(_encode(event.text)))

    def _text_with(self, event: TextDelta, logprobs: LogprobsDelta) -> bytes:
        if self._is_chat:
            return self._chunk(event.index, {"content": event.text}, logprobs=write_logprobs(logprobs.tokens))
        return self._chunk(event.index, {"text": event.text}, logprobs=write_text_logprobs(logprobs.tokens))

    def _other(self, event: Event, written: list[bytes]) -> None:
        match event:
            case Finished():
                written.append(self._chunk(event.index, {}, reason=self._reason(event), stop=event.stop))
            case UsageReport():
                self._usage = merged_usage(self._usage, event.usage)
            case LogprobsDelta():
                write = write_logprobs if self._is_chat else write_text_logprobs
                written.append(self._chunk(event.index, {}, logprobs=write(event.tokens)))
            case ReasoningDelta() if self._is_chat:
                written.append(self._chunk(event.index, write_reasoning(event.text)))
            case RefusalDelta() if self._is_chat:
                written.append(self._delta(event.index, "refusal", event.text))
            case ToolCallDelta() if self._is_chat:
                written.append(self._chunk(event.index, {"tool_calls": [self._call(event)]}))
            case _:
                pass  # who answers, and blocks that go back to their provider alone

    def _reason(self, event: Finished) -> str:
        # Readers take a stream for broken whose last chunk says no reason, so there is always one.
        known = event.reason or event.raw_reason
        return known or ("tool_calls" if event.index in self._called else "stop")

    def _call(self, event: ToolCallDelta) -> dict[str, Any]:
        self._called.add(event.index)
        positions = self._positions.setdefault(event.index, {})
        key = event.id if event.position is None else str(event.position)
        position = positions.setdefault(key or "", len(positions)) if event.position is None else event.position
        call: dict[str, Any] = {"index": position}
        if event.id is not None:
            call |= {"id": event.id, "type": "function"}
        named = {} if event.name is None else {"name": event.name}
        return {**call, "function": {**named, "arguments": event.arguments}}

    def _delta(self, index: int, field: str, text: str) -> bytes:
        return self._chunk(index, {field: text} if self._is_chat else {"text": text})

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Any = None,
        reason: str | None = None,
        stop: str | None = None,
    ) -> bytes:
        if self._is_chat:
            if index not in self._begun:
                self._begun.add(index)
                delta = {"role": "assistant", "content": "", **delta}
            body: dict[str, Any] = {"delta": delta}
        else:
            body = {"text": "", **delta}
        choice = {"index": index, **body, "logprobs": logprobs, **write_end(reason, stop)}
        document: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._continuous:
            document["usage"] = write_usage(self._usage)
        elif self._include_usage:
            document["usage"] = None
        return _framed(document)
