"""OpenAI-shaped chunk streams to events, without I/O: bytes in any pieces go in, events come out.

Terminal rule: a stream is complete when `[DONE]` arrived, or when the body ended cleanly, between two events, and every
choice that was seen had its finish reason. Anything else is `StreamInterrupted`. `Finished` is held back until then:
servers are seen to send more text, or a second finish reason, after the first.

Chunks of this dialect carry no number of their own, so a chunk that came twice cannot be told from a token that did.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from asyncllm.dialect.lenient import decode
from asyncllm.dialect.mending import PIECES, Blocks, Halves, Totals
from asyncllm.dialect.replies import check_error, choice_events, finished, read_usage
from asyncllm.dialect.wire import ExtendedChunk, ExtendedReply, WireChunk, WireReply
from asyncllm.errors import AsyncLLMError, ResponseValidationError, StreamInterrupted
from asyncllm.events import Event, Skipped, Started, TextDelta, UsageReport
from asyncllm.ndjson import NDJSONDecoder
from asyncllm.rejection import broken_off, embedded_error
from asyncllm.sse import ServerSentEvent, SSEDecoder

__all__ = ["ReplyStream", "is_keep_alive"]

# The first chunk says who answers; the ones after it repeat that, and are decoded without.
_first = msgspec.json.Decoder(WireReply)
_decode_later: Callable[[bytes], WireChunk] = msgspec.json.Decoder(WireChunk).decode
_first_extended = msgspec.json.Decoder(ExtendedReply)
_decode_later_extended: Callable[[bytes], WireChunk] = msgspec.json.Decoder(ExtendedChunk).decode
_KEEP_ALIVE = re.compile(rb"\s*(:|ping|keep-?alive|$)", re.IGNORECASE)
_KEEP_ALIVE_TYPES = frozenset({"ping", "keep-alive", "keepalive", "heartbeat"})


class ReplyStream:
    """Reads one streamed chat or completion.

    `lines`: its chunks come one a line (NDJSON), not as server-sent events. `cumulative`: each chunk holds all of the
    answer so far, not the next piece of it. `skip_bad`: a chunk that cannot be read does not end the stream, and a
    `Skipped` event stands in its place. `extended`: chunks may hold what some services add, see `wire`. `sent` is the
    request's body and `secrets` are its keys, which no error text may repeat.
    """

    def __init__(
        self,
        *,
        sent: bytes = b"",
        secrets: tuple[str, ...] = (),
        lines: bool = False,
        cumulative: bool = False,
        skip_bad: bool = False,
        extended: bool = False,
    ) -> None:
        self.done = False
        """Whether the terminal event has arrived; what follows it is not read."""
        self.error: AsyncLLMError | None = None
        """What broke the stream: `APIStatusError` for an error that the server put into it, `ResponseValidationError`
        for a chunk that cannot be read."""
        self._frames: SSEDecoder | _Lines = _Lines() if lines else SSEDecoder(error_field=True)
        self._sent = sent
        self._secrets = secrets
        self._skip_bad = skip_bad
        self._totals = Totals() if cumulative else None
        self._first: msgspec.json.Decoder[Any] = _first_extended if extended else _first
        self._decode: Callable[[bytes], WireChunk] = self._first.decode
        self._decode_later = _decode_later_extended if extended else _decode_later
        self._blocks = Blocks() if extended else None
        self._started = False
        self._finish: dict[int, str | None] = {}  # the latest finish reason of each choice seen
        self._stops: dict[int, int | str] = {}
        self._halves = Halves()
        self._position = 0

    def feed(self, data: bytes) -> list[Event]:
        """Events that `data` completes. A failure goes to `error`, so that what came before it is not lost."""
        events: list[Event] = []
        try:
            self._read(self._frames.feed(data), events)
        except AsyncLLMError as error:
            self.error = error
        if self._blocks is not None and not self.done:
            self._blocks.take(events)
        if self._totals is not None:
            try:
                self._totals.shorten(events)
            except ResponseValidationError as error:
                self.error = error
        return events

    def close(self) -> list[Event]:
        """The body ended cleanly. Returns the terminal events, or raises `StreamInterrupted`."""
        events: list[Event] = []
        self._skip_bad = False  # what cannot be read here was cut short
        try:
            self._read(self._frames.close(), events)
        except ResponseValidationError:
            raise self._interrupted("in the middle of a chunk") from None
        if not self.done:
            unfinished = sum(reason is None for reason in self._finish.values())
            if self._frames.cut_short:
                raise self._interrupted("in the middle of an event")
            if not self._finish or unfinished:
                raise self._interrupted(
                    "without [DONE] and "
                    + (f"with {unfinished} choices unfinished" if self._finish else "without any choice")
                )
            self._end(events)
        if self._totals is not None:
            self._totals.shorten(events)
        return events

    def _interrupted(self, how: str) -> StreamInterrupted:
        return StreamInterrupted(f"the stream ended after {self._position} chunks {how}", maybe_billed=True)

    def _read(self, frames: list[ServerSentEvent], events: list[Event]) -> None:
        """Add what `frames` mean. One loop, because it runs once a token."""
        finish = self._finish
        for frame in frames:
            if self.done:
                return
            try:
                chunk = self._decode(frame.data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                odd = self._read_odd(frame, events)
                if odd is None:
                    continue
                chunk = odd
            self._position += 1
            choices = chunk.choices
            if not choices or chunk.error is not None or frame.type == "error":
                self._check(chunk, frame)
            if self._decode is not _decode_later:  # which an extended stream never decodes by
                self._begin(chunk, events)
            for choice in choices or ():
                index = choice.index
                if index not in finish:
                    finish[index] = None
                # Nearly every chunk is a piece of text and nothing else: it skips the general path.
                if choice.finish_reason is None and choice.logprobs is None and (delta := choice.delta) is not None:
                    text = delta.content
                    if (
                        text
                        and delta.tool_calls is None
                        and delta.reasoning_content is None
                        and delta.reasoning is None
                    ):
                        events.append(TextDelta(text, index))
                        continue
                events += choice_events(choice)
                if choice.finish_reason and choice.finish_reason != "null":
                    finish[index] = choice.finish_reason
                    if choice.stop_reason is not None:
                        self._stops[index] = choice.stop_reason
            if chunk.usage is not None:
                events.append(UsageReport(read_usage(chunk.usage)))

    def _begin(self, chunk: WireChunk, events: list[Event]) -> None:
        """Say who answers, as soon as a chunk does: a ping or Azure's verdict on the prompt may come before it."""
        if not self._started:
            if not isinstance(chunk, WireReply) or not (chunk.choices or chunk.model):
                return
            self._started = True
            events.append(Started(chunk.model, chunk.id))
        self._decode = _decode_slowly if self._halves else self._decode_later

    def _check(self, chunk: WireChunk, frame: ServerSentEvent) -> None:
        """Errors come in place of any chunk, under several shapes."""
        if frame.type == "error":
            raise broken_off(frame.data, sent=self._sent, secrets=self._secrets)
        if chunk.error is not None or chunk.usage is None:
            check_error(chunk, frame.data, self._sent, self._secrets)

    def _read_odd(self, frame: ServerSentEvent, events: list[Event]) -> WireChunk | None:
        """What cannot be decoded at once: an error, the terminal word, a keep-alive, or a chunk with something odd."""
        data = frame.data
        if frame.type == "error":
            raise broken_off(data, sent=self._sent, secrets=self._secrets)
        if data.strip() == b"[DONE]":
            if not self._finish:
                raise self._interrupted("with [DONE] and without any choice")
            self._end(events)
            return None
        if is_keep_alive(frame):
            return None
        try:
            chunk: WireChunk = decode(data, self._first, "a chunk", halves_in=PIECES)
        except ResponseValidationError as error:
            if (told := embedded_error(data, sent=self._sent, secrets=self._secrets)) is not None:
                raise told from None
            self._position += 1
            if not self._skip_bad:
                message = f"chunk {self._position - 1}: {error.message}"
                raise ResponseValidationError(message, body=error.body, maybe_billed=True) from None
            events.append(Skipped(self._position - 1))
            return None
        if self._totals is not None:
            self._halves.clear()  # this chunk repeats them
        self._halves.mend(chunk)
        # While half of a character waits, every chunk comes this way: it may hold the other half.
        self._decode = _decode_slowly if self._halves else self._first.decode
        return chunk

    def _end(self, events: list[Event]) -> None:
        self.done = True
        if self._totals is None:
            events += self._halves.rest()
        if self._blocks is not None:
            self._blocks.take(events)
            events += self._blocks.rest()
        events.extend(finished(index, reason, self._stops.get(index)) for index, reason in self._finish.items())


def is_keep_alive(frame: ServerSentEvent) -> bool:
    """Whether an event that is no document says no more than that the server is there."""
    return frame.type in _KEEP_ALIVE_TYPES or _KEEP_ALIVE.match(frame.data) is not None


def _decode_slowly(_: bytes) -> WireChunk:
    raise msgspec.DecodeError


class _Lines:
    """Lines as the events that they would be, had they been sent as such."""

    cut_short = False  # a last line without its end is read, and may turn out to be whole

    def __init__(self) -> None:
        self._decoder = NDJSONDecoder()

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        return [ServerSentEvent("message", document) for document in self._decoder.feed(data)]

    def close(self) -> list[ServerSentEvent]:
        return [ServerSentEvent("message", document) for document in self._decoder.close()]
