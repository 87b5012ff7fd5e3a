"""A chat by TGI's OpenAI-like route, `/v1/chat/completions`, and where that departs from OpenAI's."""

from __future__ import annotations

from asyncllm.backend import HttpCall, HttpReply
from asyncllm.dialect import ReplyStream, read_reply
from asyncllm.errors import APIStatusError, AsyncLLMError, StreamInterrupted
from asyncllm.events import Event, Finished, TextDelta
from asyncllm.exchange import EVENT_STREAM
from asyncllm.types import Request
from asyncllm_tgi.failures import with_status
from asyncllm_tgi.requests import stop_texts, write_chat_body
from asyncllm_tgi.stops import Cut

__all__ = ["Chat"]


class Chat:
    """What one chat asks for, and how its reply is read."""

    path = "/v1/chat/completions"

    def __init__(self, request: Request) -> None:
        self.body = write_chat_body(request)
        self._has_tools = bool(request.tools)
        self._stops = () if request.sampling.include_stop_str_in_output is True else stop_texts(request.sampling)

    def whole(self, call: HttpCall, _: HttpReply, body: bytes) -> list[Event]:
        """Events of a plain reply."""
        try:
            events = read_reply(body, sent=call.body, secrets=call.secrets)
        except APIStatusError as error:
            raise with_status(error, sent=call.body, secrets=call.secrets) from None
        return _cut_events(Cut(self._stops), events) if self._stops else events

    def decoder(self, call: HttpCall, _: HttpReply, kind: str) -> ChatStream | None:
        """The decoder of a streamed reply."""
        cut = Cut(self._stops)
        return ChatStream(call, cut, may_end_unsaid=self._has_tools) if kind in (EVENT_STREAM, "") else None


class ChatStream:
    """The dialect's stream, cut at a stop text.

    Releases around 2.4 leave out an error that comes between two tokens: they end with `[DONE]`, and all that is
    missing is a finish reason. It is missing as well where the model was offered tools and took none, which is what
    `may_end_unsaid` allows for.
    """

    def __init__(self, call: HttpCall, cut: Cut, *, may_end_unsaid: bool) -> None:
        self.done = False
        self.error: AsyncLLMError | None = None
        self._chunks = ReplyStream(sent=call.body, secrets=call.secrets)
        self._call = call
        self._cut = cut
        self._may_end_unsaid = may_end_unsaid

    def feed(self, data: bytes) -> list[Event]:
        """See `asyncllm.exchange.StreamDecoder`."""
        events = self._chunks.feed(data)
        self.done, self.error = self._chunks.done, self._chunks.error
        if isinstance(self.error, APIStatusError):
            self.error = with_status(self.error, sent=self._call.body, secrets=self._call.secrets)
        if self.done and self._is_cut_off(events):
            self.error = StreamInterrupted(
                "the stream ended with [DONE] and without a finish reason: the server broke off", maybe_billed=True
            )
            events = [event for event in events if not isinstance(event, Finished)]
        return _cut_events(self._cut, events)

    def close(self) -> list[Event]:
        """See `asyncllm.exchange.StreamDecoder`."""
        return _cut_events(self._cut, self._chunks.close())

    def _is_cut_off(self, events: list[Event]) -> bool:
        ends = [event.raw_reason for event in events if isinstance(event, Finished)]
        return not self._may_end_unsaid and None in ends


def _cut_events(cut: Cut, events: list[Event]) -> list[Event]:
    """`events`, of one choice, with their text up to the first stop text."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, TextDelta):
            if text := cut.feed(event.text):
                kept.append(TextDelta(text))
        elif isinstance(event, Finished):
            if rest := cut.close():
                kept.append(TextDelta(rest))
            kept.append(Finished("stop", event.raw_reason) if cut.found else event)
        else:
            kept.append(event)
    return kept
