"""A text completion by TGI's own routes, `/generate` and `/generate_stream`.

Terminal rule: the last event of a stream is the one with `generated_text`; there is no `[DONE]`.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.backend import HttpCall, HttpReply
from asyncllm.dialect.lenient import decode
from asyncllm.dialect.replies import finished
from asyncllm.errors import ResponseValidationError
from asyncllm.events import Event, Finished, LogprobsDelta, Started, TextDelta, UsageReport
from asyncllm.exchange import EVENT_STREAM, EventDecoder
from asyncllm.rejection import embedded_error
from asyncllm.sse import ServerSentEvent
from asyncllm.types import Request, TokenLogprob, Usage
from asyncllm_tgi.failures import failure, with_status
from asyncllm_tgi.requests import stop_texts, write_generate
from asyncllm_tgi.stops import Cut

__all__ = ["Generation"]


class _Token(Struct, gc=False):
    text: str
    logprob: float | None = None
    special: bool = False


class _Details(Struct):
    """Of a plain answer `tokens` and `prefill`, of a stream `input_length`."""

    finish_reason: str | None = None
    generated_tokens: int | None = None
    input_length: int | None = None
    tokens: list[_Token] = []
    top_tokens: list[list[_Token]] = []
    prefill: list[Any] = []


class _Answer(Struct):
    """The reply to `/generate`."""

    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None


class _Piece(Struct):
    """An event of `/generate_stream`."""

    token: _Token | None = None
    top_tokens: list[_Token] | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer)
_piece = msgspec.json.Decoder(_Piece)


class Generation:
    """What one completion asks for, and how its reply is read."""

    def __init__(self, request: Request) -> None:
        sampling = request.sampling
        self.path = "/generate_stream" if request.stream else "/generate"
        self.body = write_generate(request)
        self._stops = () if sampling.include_stop_str_in_output is True else stop_texts(sampling)
        self._rivals = sampling.top_logprobs or 0
        self._logprobs = sampling.logprobs is True or bool(self._rivals)
        # A prompt that TGI repeats before its answer may hold a stop text and ends nothing.
        self._head = str(request.prompt) if request.extra.get("return_full_text") is True else ""

    def whole(self, call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]:
        """Events of a plain reply."""
        answer = decode(body, _answer, "a reply")
        text = answer.generated_text
        if text is None or answer.error is not None:
            raise _no_answer(body, call, "the reply has no `generated_text`")
        head = self._head if text.startswith(self._head) else ""
        cut = Cut(self._stops)
        text = head + cut.feed(text[len(head) :]) + cut.close()
        details = answer.details or _Details()
        events: list[Event] = [Started(None, reply.headers.get("x-request-id"), body)]
        if text:
            events.append(TextDelta(text))
        rivals = details.top_tokens or [[] for _ in details.tokens]
        for token, others in zip(details.tokens, rivals, strict=False):
            self.add_logprob(token, others, events)
        _add_usage(_prompt_tokens(reply, details), details, events)
        events.append(_finished(details, is_cut=cut.found))
        return events

    def decoder(self, call: HttpCall, reply: HttpReply, kind: str) -> GenerationStream | None:
        """The decoder of a streamed reply."""
        request_id = reply.headers.get("x-request-id")
        return GenerationStream(self, call, request_id) if kind in (EVENT_STREAM, "") else None

    def cut(self) -> Cut:
        """What ends the text of a stream."""
        return Cut(self._stops)

    def add_logprob(self, token: _Token, rivals: list[_Token], events: list[Event]) -> None:
        """Add the probability of `token`, where it was asked for and is part of the text."""
        if self._logprobs and token.logprob is not None and not token.special:
            top = [TokenLogprob(one.text, one.logprob) for one in rivals if one.logprob is not None]
            events.append(LogprobsDelta((TokenLogprob(token.text, token.logprob, None, tuple(top[: self._rivals])),)))


class GenerationStream(EventDecoder):
    """Events of a streamed reply: a token each, the last one with the whole text and its details."""

    def __init__(self, asked: Generation, call: HttpCall, request_id: str | None) -> None:
        super().__init__()
        self._asked = asked
        self._fail = partial(failure, sent=call.body, secrets=call.secrets)
        self._call = call
        self._request_id = request_id
        self._cut = asked.cut()
        self._said: list[str] = []
        self._started = False

    def read(self, event: ServerSentEvent, events: list[Event], /) -> None:
        """See `EventDecoder`."""
        if event.type == "error":
            raise self._fail(event.data)
        if not event.data.strip():
            return
        piece = decode(event.data, _piece, "an event")
        if piece.error is not None or (piece.token is None and piece.generated_text is None):
            raise _no_answer(event.data, self._call, "an event has no `token`")
        if not self._started:
            self._started = True
            events.append(Started(None, self._request_id))
        if piece.token is not None and not piece.token.special:
            self._say(piece.token.text, events)
            self._asked.add_logprob(piece.token, piece.top_tokens or [], events)
        if piece.generated_text is not None:
            self._end(piece.generated_text, piece.details or _Details(), events)

    def _say(self, text: str, events: list[Event]) -> None:
        self._said.append(text)
        if certain := self._cut.feed(text):
            events.append(TextDelta(certain))

    def _end(self, text: str, details: _Details, events: list[Event]) -> None:
        said = "".join(self._said)
        if text.startswith(said):  # as it does, unless the prompt stands before it
            self._say(text[len(said) :], events)
        if rest := self._cut.close():
            events.append(TextDelta(rest))
        _add_usage(details.input_length, details, events)
        events.append(_finished(details, is_cut=self._cut.found))
        self.done = True


def _no_answer(document: bytes, call: HttpCall, otherwise: str) -> Exception:
    """The error that `document` is, or the one for what is neither answer nor error."""
    error = embedded_error(document, sent=call.body, secrets=call.secrets)
    if error is None:
        return ResponseValidationError(otherwise, body=document[:65536])
    return with_status(error, sent=call.body, secrets=call.secrets)


def _prompt_tokens(reply: HttpReply, details: _Details) -> int | None:
    """By the header that TGI counts in, or by the tokens themselves where `decoder_input_details` asked for them."""
    told = reply.headers.get("x-prompt-tokens", "")
    return int(told) if re.fullmatch("[0-9]{1,9}", told) else len(details.prefill) or None


def _add_usage(prompt_tokens: int | None, details: _Details, events: list[Event]) -> None:
    if prompt_tokens is not None or details.generated_tokens is not None:
        events.append(UsageReport(Usage(input_tokens=prompt_tokens, output_tokens=details.generated_tokens)))


def _finished(details: _Details, *, is_cut: bool) -> Finished:
    """The end in TGI's own word; a text that was cut has stopped, whatever TGI did after that."""
    return Finished("stop", details.finish_reason) if is_cut else finished(0, details.finish_reason)
