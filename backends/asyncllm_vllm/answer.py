"""What the engine says, as events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asyncllm.errors import APIError, InternalServerError, StreamInterrupted
from asyncllm.events import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.types import FinishReason, Timings, TokenLogprob, Usage

__all__ = ["Answer", "Parsed"]

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "stop"}


class Answer:
    """Reads the outputs of one request."""

    __slots__ = ("_counts", "_finished", "_prompt_tokens", "_tops")

    def __init__(self, prompt_tokens: int, tops: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._tops = tops  # rivals of a token that were asked for
        self._counts: dict[int, int] = {}
        self._finished = False

    def read(self, output: Any) -> list[Event]:
        """Events of the next output. Raises where the engine has given the request up."""
        events: list[Event] = []
        counts = self._counts
        if output.prompt_logprobs:
            events.append(_prompt_logprobs(output))
        for choice in output.outputs:
            index = choice.index
            counts[index] = counts.get(index, 0) + len(choice.token_ids)
            self._add(choice, events)
            if choice.logprobs:
                events.append(LogprobsDelta(_logprobs(choice.token_ids, choice.logprobs, self._tops), index))
            if choice.finish_reason is not None:
                events.append(self._end(choice))
        if output.finished:
            # Before the last `Finished`, at which a reader may stop.
            events.insert(-1, UsageReport(self._usage(output), self._timings(output.metrics)))
        return events

    def _add(self, choice: Any, events: list[Event]) -> None:
        """What a choice has gained."""
        if choice.text:
            events.append(TextDelta(choice.text, choice.index))

    def _end(self, choice: Any) -> Finished:
        word = choice.finish_reason
        reason = _FINISH.get(word)
        if reason is None:
            raise _given_up(word)
        stop = choice.stop_reason
        return Finished(reason, word, choice.index, stop if isinstance(stop, str) else None)

    def _usage(self, output: Any) -> Usage:
        return Usage(
            input_tokens=self._prompt_tokens,
            output_tokens=sum(self._counts.values()),
            cached_tokens=output.num_cached_tokens,
        )

    def _timings(self, metrics: Any) -> Timings | None:
        """What the engine's own clock says; it counts for a request that has one answer."""
        if metrics is None or not metrics.first_token_ts:
            return None
        between = max(self._counts.values(), default=0) - 1
        return Timings(
            queue_s=metrics.scheduled_ts - metrics.queued_ts,
            first_token_s=metrics.first_token_latency,
            token_s=(metrics.last_token_ts - metrics.first_token_ts) / between if between > 0 else None,
        )


class Parsed(Answer):
    """The same where the text holds tool calls or thinking, which a parser of vLLM's tells apart."""

    __slots__ = ("_called", "_make", "_parsers", "_request", "_stream", "_token_ids")

    def __init__(
        self,
        prompt_tokens: int,
        tops: int,
        *,
        make: Callable[[], Any],
        request: Any,
        token_ids: Sequence[int],
        stream: bool,
    ) -> None:
        super().__init__(prompt_tokens, tops)
        self._make = make
        self._request = request
        self._token_ids = token_ids
        self._stream = stream
        self._parsers: dict[int, Any] = {}
        self._called: set[int] = set()

    def _add(self, choice: Any, events: list[Event]) -> None:
        index = choice.index
        parser = self._parsers.get(index)
        if parser is None:
            parser = self._parsers[index] = self._make()
        if self._stream:
            self._add_delta(parser, choice, events)
        else:
            self._add_whole(parser, choice, events)

    def _add_delta(self, parser: Any, choice: Any, events: list[Event]) -> None:
        index = choice.index
        delta = parser.parse_delta(
            choice.text,
            list(choice.token_ids),
            self._request,
            prompt_token_ids=self._token_ids,
            finished=choice.finish_reason is not None,
        )
        if delta is None:
            return
        if delta.reasoning:
            events.append(ReasoningDelta(delta.reasoning, index))
        if delta.content:
            events.append(TextDelta(delta.content, index))
        for call in delta.tool_calls:
            self._called.add(index)
            function = call.function
            events.append(
                ToolCallDelta(
                    call.index,
                    call.id,
                    function.name if function is not None else None,
                    (function.arguments or "") if function is not None else "",
                    index,
                )
            )

    def _add_whole(self, parser: Any, choice: Any, events: list[Event]) -> None:
        index = choice.index
        parser.set_prompt_token_ids(self._token_ids)
        reasoning, content, calls = parser.parse(
            choice.text,
            self._request,
            enable_auto_tools=bool(self._request.tools),
            model_output_token_ids=list(choice.token_ids),
        )
        if reasoning:
            events.append(ReasoningDelta(reasoning, index))
        if content:
            events.append(TextDelta(content, index))
        for position, call in enumerate(calls or ()):
            self._called.add(index)
            events.append(ToolCallDelta(position, call.id, call.name, call.arguments, index))

    def _end(self, choice: Any) -> Finished:
        finished = super()._end(choice)
        if choice.index in self._called and finished.reason == "stop":
            return Finished("tool_calls", finished.raw_reason, choice.index)
        return finished


def _given_up(word: str) -> APIError:
    if word == "abort":
        return StreamInterrupted("the engine has given the request up, as it does before it sleeps", maybe_billed=True)
    return InternalServerError(f"the engine ended the request with {word!r}", status=500, maybe_billed=True)


def _prompt_logprobs(output: Any) -> Started:
    entries = output.prompt_logprobs[1:]  # of the first there is none
    tops = max((len(entry) for entry in entries if entry), default=1)
    return Started(prompt_logprobs=_logprobs(output.prompt_token_ids[1:], entries, tops))


def _logprobs(token_ids: Sequence[int], entries: Sequence[Any], tops: int) -> tuple[TokenLogprob, ...]:
    """One for each token. An entry maps token ids to a log probability, a rank and a text."""
    return tuple(
        _logprob(entry[token], sorted(entry.values(), key=_rank)[:tops])
        for token, entry in zip(token_ids, entries, strict=True)
        if entry
    )


def _logprob(own: Any, rivals: Sequence[Any]) -> TokenLogprob:
    return TokenLogprob(_text(own), own.logprob, None, tuple(TokenLogprob(_text(one), one.logprob) for one in rivals))


def _rank(entry: Any) -> float:
    return float("inf") if entry.rank is None else entry.rank


def _text(entry: Any) -> str:
    return entry.decoded_token or ""
