"""What llama.cpp says, as events: OpenAI-shaped chunks, with its own ways of counting put right."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asyncllm.dialect import ReplyStream
from asyncllm.errors import APIStatusError, AsyncLLMError, BadRequestError
from asyncllm.events import Event, LogprobsDelta, Started, UsageReport
from asyncllm.rejection import embedded_error
from asyncllm.types import Request, TokenLogprob, Usage

__all__ = ["Reply", "refusal"]


class Reply:
    """Reads the answer to one request; `sent` is its body, which no error may repeat."""

    def __init__(self, request: Request, sent: bytes) -> None:
        self.error: AsyncLLMError | None = None
        """What broke the answer off."""
        self._sent = sent
        self._stream = ReplyStream(sent=sent)
        self._model = request.model
        self._usage = Usage()
        # llama.cpp gives no probability of the token alone: at least one rival has to be asked for.
        self._strip = not request.sampling.top_logprobs

    def feed(self, pieces: Sequence[bytes]) -> list[Event]:
        """Events of the next JSON chunks. A failure goes to `error`, so that what came before it is not lost."""
        frames: list[bytes] = []
        for piece in pieces:
            # llama.cpp sends an error in place of a chunk, and nothing after it.
            if piece.startswith(b'{"error"') and (error := embedded_error(piece, sent=self._sent)):
                self.error = error
                break
            frames.append(b"data: %b\n\n" % piece)
        events = self._stream.feed(b"".join(frames))
        self.error = self._stream.error or self.error
        for position, event in enumerate(events):
            kind = type(event)
            if kind is Started or kind is UsageReport or kind is LogprobsDelta:
                events[position] = self._own(event)
        return events

    def close(self) -> list[Event]:
        """The terminal events. Raises `StreamInterrupted` where the answer is not whole."""
        return self._stream.close()

    def _own(self, event: Event) -> Event:
        match event:
            case Started(request_id=request_id):
                return Started(self._model, request_id)
            case UsageReport(usage=usage):
                return UsageReport(self._add(usage))
            case LogprobsDelta(tokens=tokens, index=index) if self._strip:
                return LogprobsDelta(tuple(TokenLogprob(one.token, one.logprob, one.bytes) for one in tokens), index)
            case _:
                return event

    def _add(self, usage: Usage) -> Usage:
        """Each choice reports the one prompt and its own tokens; together they are the call's usage."""
        if self._usage.output_tokens is None:
            self._usage = usage
        else:
            output_tokens = self._usage.output_tokens + (usage.output_tokens or 0)
            self._usage = msgspec.structs.replace(self._usage, output_tokens=output_tokens)
        return self._usage


def refusal(error: Exception, sent: bytes) -> APIStatusError:
    """What llama.cpp raised in place of answering: without exception something about the request."""
    document = msgspec.json.encode({"error": {"message": str(error), "code": 400, "type": type(error).__name__}})
    return embedded_error(document, sent=sent) or BadRequestError("llama.cpp refuses the request", status=400)
