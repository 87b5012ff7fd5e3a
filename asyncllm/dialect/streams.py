"""OpenAI-shaped chunk streams to events, without I/O: bytes in any pieces go in, events come out.

Terminal rule: a stream is complete when `[DONE]` arrived, or when the body ended cleanly and every choice that was
seen had its finish reason. Anything else is `StreamInterrupted`. `Finished` is held back until then: servers are
seen to send more text, or a second finish reason, after the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from asyncllm.dialect.replies import WireChunk, WireReply, check_error, choice_events, decode, finished, read_usage
from asyncllm.errors import AsyncLLMError, ResponseValidationError, StreamInterrupted
from asyncllm.events import Event, Started, TextDelta, UsageReport
from asyncllm.rejection import embedded_error
from asyncllm.sse import ServerSentEvent, SSEDecoder

__all__ = ["ReplyStream"]

# The first chunk says who answers; the ones after it repeat that, and are decoded without.
_first = msgspec.json.Decoder(WireReply)
_decode_first: Callable[[bytes], WireChunk] = _first.decode
_decode_later: Callable[[bytes], WireChunk] = msgspec.json.Decoder(WireChunk).decode
_KEEP_ALIVE = re.compile(rb":?\s*(ping|keep-?alive)?\s*", re.IGNORECASE)


class ReplyStream:
    """Reads one streamed chat or completion.

    `sent` is the request's body and `secrets` are its keys, which no error text may repeat.
    """

    def __init__(self, *, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> None:
        self.done = False
        """Whether the terminal event has arrived; what follows it is not read."""
        self.error: AsyncLLMError | None = None
        """What broke the stream: `APIStatusError` for an error that the server put into it, `ResponseValidationError`
        for a chunk that cannot be read."""
        self._sse = SSEDecoder(error_field=True)
        self._sent = sent
        self._secrets = secrets
        self._decode = _decode_first
        self._finish: dict[int, str | None] = {}  # the latest finish reason of each choice seen
        self._surrogates: dict[int, str] = {}  # half of a character that a server split over two chunks
        self._position = 0

    def feed(self, data: bytes) -> list[Event]:
        """Events that `data` completes. A failure goes to `error`, so that what came before it is not lost."""
        events: list[Event] = []
        try:
            self._read(self._sse.feed(data), events)
        except AsyncLLMError as error:
            self.error = error
        return events

    def close(self) -> list[Event]:
        """The body ended cleanly. Returns the terminal events, or raises `StreamInterrupted`."""
        events: list[Event] = []
        self._read(self._sse.close(), events)
        if not self.done:
            unfinished = sum(reason is None for reason in self._finish.values())
            if not self._finish or unfinished:
                raise StreamInterrupted(
                    f"the stream ended after {self._position} chunks without [DONE] and "
                    + (f"with {unfinished} choices unfinished" if self._finish else "without any choice"),
                    maybe_billed=True,
                )
            self._end(events)
        return events

    def _read(self, frames: list[ServerSentEvent], events: list[Event]) -> None:
        """Add what the server-sent events mean. One loop, because it runs once a token."""
        finish = self._finish
        for frame in frames:
            if self.done:
                return
            try:
                chunk = self._decode(frame.data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                if self._take_odd(frame, events):
                    continue
                chunk = self._decode_leniently(frame.data)
            self._position += 1
            choices = chunk.choices
            if choices is None or chunk.error is not None or frame.type == "error":
                self._take_error(chunk, frame)
            if self._decode is _decode_first and isinstance(chunk, WireReply):
                events.append(Started(chunk.model, chunk.id))
                self._decode = _decode_later
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
            if chunk.usage is not None:
                events.append(UsageReport(read_usage(chunk.usage)))

    def _take_error(self, chunk: WireChunk, event: ServerSentEvent) -> None:
        """Errors come in place of any chunk, under several shapes."""
        error = embedded_error(event.data, sent=self._sent, secrets=self._secrets) if event.type == "error" else None
        if error is not None:
            raise error
        if chunk.error is not None or chunk.usage is None:
            check_error(_first.decode(event.data), event.data, self._sent, self._secrets)

    def _take_odd(self, event: ServerSentEvent, events: list[Event]) -> bool:
        """What is not a JSON document: the terminal word, a keep-alive, an error. True if it was one of them."""
        data = event.data
        if data.strip() == b"[DONE]":
            self._end(events)
            return True
        if event.type == "error":
            text = msgspec.json.encode({"error": event.text or "error"})
            error = embedded_error(text, sent=self._sent, secrets=self._secrets)
            assert error is not None  # the document above has a message
            raise error
        return bool(_KEEP_ALIVE.fullmatch(data))

    def _end(self, events: list[Event]) -> None:
        self.done = True
        events.extend(finished(index, reason) for index, reason in self._finish.items())

    def _decode_leniently(self, data: bytes) -> WireChunk:
        try:
            chunk: WireChunk = decode(data, _first, "a chunk")
        except ResponseValidationError as error:
            raise ResponseValidationError(
                f"chunk {self._position}: {error.message}", body=error.body, maybe_billed=True
            ) from None
        for choice in chunk.choices or ():
            if choice.delta is not None and choice.delta.content:
                choice.delta.content = self._join_surrogates(choice.index, choice.delta.content)
        return chunk

    def _join_surrogates(self, index: int, text: str) -> str:
        """Make characters whole that a server cut between two chunks, as `\\ud83d` and `\\ude00`."""
        text = self._surrogates.pop(index, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._surrogates[index] = text[-1]
            text = text[:-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
