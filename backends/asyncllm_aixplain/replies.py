"""Replies of a run: where it stands, its result, and its stream.

A result names its finish reason in `details` where the supplier does. Else it is `length` where all the tokens that
were asked for have been made and `stop` where fewer were; where either number is unknown, nobody knows.

Terminal rule of a stream: `[DONE]`; or the end of the body after a frame that said how the answer ended.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct, field

from asyncllm.backend import HttpCall
from asyncllm.dialect import read_reply
from asyncllm.dialect.lenient import decode
from asyncllm.dialect.replies import choice_events, finished, read_usage
from asyncllm.dialect.wire import WireReply, WireUsage
from asyncllm.errors import ResponseValidationError
from asyncllm.events import Event, Finished, Started, TextDelta, UsageReport
from asyncllm.exchange import EventDecoder, raise_embedded
from asyncllm.rejection import broken_off
from asyncllm.sse import ServerSentEvent
from asyncllm.types import FinishReason, Usage
from asyncllm_aixplain.failures import failed

__all__ = ["PendingError", "RunStream", "is_over", "read_result"]

State: TypeAlias = Literal["IN_PROGRESS", "SUCCESS", "FAILED"]

_BODY_LIMIT = 65536
_STATES: dict[str, State] = {
    "IN_PROGRESS": "IN_PROGRESS",
    "SUCCESS": "SUCCESS",
    "COMPLETED": "SUCCESS",
    "FAILED": "FAILED",
    "ERROR": "FAILED",
}


class PendingError(Exception):
    """The run was accepted and goes on; `url` is where to ask for its result."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url


class _Result(Struct):
    """A reply to a run or to a question after it. What it says of itself is checked where it is used."""

    status: Any = None
    completed: Any = None
    data: Any = None
    url: Any = None
    details: Any = None
    usage: WireUsage | None = None
    error: Any = None
    error_message: Any = None
    supplier_error: Any = field(default=None, name="supplierError")
    choices: Any = None


class _Frame(WireReply, gc=False):
    """A frame of a stream, in the service's own form or in OpenAI's."""

    data: Any = None
    status: Any = None
    error_message: Any = None
    supplier_error: Any = field(default=None, name="supplierError")


_results = msgspec.json.Decoder(_Result)
_frames = msgspec.json.Decoder(_Frame)
_documents = msgspec.json.Decoder(dict[str, Any])


def is_over(body: bytes) -> bool:
    """Whether a run has ended, by the reply to a question after it. Raises `ResponseValidationError` for no answer."""
    result = decode(body, _results, "the state of a run")
    state = _state(result)
    if state is None:
        raise ResponseValidationError(
            "the state of a run has neither `completed` nor a `status`", body=body[:_BODY_LIMIT], maybe_billed=True
        )
    return state != "IN_PROGRESS"


def read_result(body: bytes, *, model: str, limit: int | None, call: HttpCall) -> list[Event]:
    """Events of a run that is done.

    Raises `PendingError` for one that is not, `APIStatusError` for one that failed, `ResponseValidationError`.
    """
    result = decode(body, _results, "a reply")
    state = _state(result)
    if state == "FAILED":
        raise failed(decode(body, _documents, "a reply"), body, call)
    if result.choices is not None and (state is None or (state == "SUCCESS" and result.data is None)):
        return read_reply(body, sent=call.body, secrets=call.secrets)
    if state is None:
        raise_embedded(call, body)
    if state != "SUCCESS":
        url = next((url for url in (result.data, result.url) if _is_url(url)), None)
        if url is not None:
            raise PendingError(url)
        raise ResponseValidationError(
            "the reply to a run is no result, and does not say where to ask for one",
            body=body[:_BODY_LIMIT],
            maybe_billed=True,
        )
    usage = Usage() if result.usage is None else read_usage(result.usage)
    events: list[Event] = [Started(model, None, body)]
    text = _text(result.data)
    if text:
        events.append(TextDelta(text))
    if usage != Usage():
        events.append(UsageReport(usage))
    word = _finish_word(result.details)
    events.append(finished(0, word) if word else Finished(_reason(usage, limit)))
    return events


class RunStream(EventDecoder):
    """Reads one streamed run."""

    def __init__(self, *, model: str, limit: int | None, call: HttpCall) -> None:
        super().__init__()
        self._model = model
        self._limit = limit
        self._call = call
        self._started = False
        self._usage = Usage()
        self._finish: dict[int, str | None] = {}  # the finish reason of each choice seen
        self._succeeded = False

    def read(self, event: ServerSentEvent, events: list[Event], /) -> None:
        """See `EventDecoder`."""
        data = event.data.strip()
        if event.type == "error":
            raise broken_off(data, sent=self._call.body, secrets=self._call.secrets)
        if event.type == "ping" or not data:
            return
        if data == b"[DONE]":
            self._end(events)
            return
        frame = decode(data, _frames, "a frame")
        state = _state_of(frame.status)
        if state == "FAILED" or (state != "SUCCESS" and (frame.error_message or frame.supplier_error)):
            raise failed(decode(data, _documents, "a frame"), data, self._call)
        if not frame.choices and frame.data is None:
            raise_embedded(self._call, data)
        elif frame.error:
            raise broken_off(data, sent=self._call.body, secrets=self._call.secrets)
        self._add(frame, data, events)

    def at_end(self, events: list[Event], /) -> None:
        """See `EventDecoder`."""
        ended = bool(self._finish) and all(self._finish.values())
        if not (ended or self._succeeded):
            super().at_end(events)
        self._end(events)

    def _add(self, frame: _Frame, data: bytes, events: list[Event]) -> None:
        if frame.data == "[DONE]":
            self._end(events)
            return
        if not self._started:
            self._started = True
            events.append(Started(frame.model or self._model, frame.id))
        for choice in frame.choices or ():
            events += choice_events(choice)
            if choice.finish_reason == "error":
                raise failed(decode(data, _documents, "a frame"), data, self._call)
            self._finish[choice.index] = choice.finish_reason or self._finish.get(choice.index)
        if frame.choices is None and (text := _piece(frame.data, data)):
            events.append(TextDelta(text))
        if frame.usage is not None:
            self._usage = read_usage(frame.usage)
            events.append(UsageReport(self._usage))
        self._succeeded = self._succeeded or _state_of(frame.status) == "SUCCESS"

    def _end(self, events: list[Event]) -> None:
        if not self._started:
            raise self.interrupted("with [DONE] and without any output")
        self.done = True
        if not self._finish:
            self._finish[0] = None
        for index, word in self._finish.items():
            events.append(finished(index, word) if word else Finished(_reason(self._usage, self._limit), index=index))


def _state(result: _Result) -> State | None:
    """Where a run stands: what `status` says, if it is one of its words, and else what follows from the rest."""
    told = _state_of(result.status)
    if told is not None:
        return told
    if result.completed is False:
        return "IN_PROGRESS"
    if result.error_message or result.supplier_error:
        return "FAILED"
    return "SUCCESS" if result.completed is True else None


def _state_of(status: object) -> State | None:
    return _STATES.get(status.upper()) if isinstance(status, str) else None


def _is_url(value: object) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


def _inner(data: object) -> object:
    """The text inside of an object with one, or `data` itself."""
    if not isinstance(data, dict):
        return data
    document = cast("dict[str, object]", data)
    return next((text for name in ("text", "output") if isinstance(text := document.get(name), str)), document)


def _text(data: object) -> str:
    """The answer: a text, or the JSON of what else a model gives."""
    text = _inner(data)
    return text if isinstance(text, str) else "" if text is None else msgspec.json.encode(text).decode()


def _piece(data: object, frame: bytes) -> str:
    text = _inner(data)
    if not isinstance(text, str | None):
        raise ResponseValidationError("a frame has `data` without a text", body=frame[:_BODY_LIMIT], maybe_billed=True)
    return text or ""


def _finish_word(details: object) -> str | None:
    """What the supplier said of the end, which stands in the first of its choices."""
    choices = cast("list[object]", details if isinstance(details, list) else [details])
    first = choices[0] if choices else None
    word = cast("dict[str, Any]", first).get("finish_reason") if isinstance(first, dict) else None
    return word if isinstance(word, str) else None


def _reason(usage: Usage, limit: int | None) -> FinishReason | None:
    if usage.output_tokens is None or limit is None:
        return None
    return "length" if usage.output_tokens >= limit else "stop"
