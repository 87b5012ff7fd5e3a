"""Ask a model, run the tools it calls, tell it the results, and again, until it answers.

Every round is a call of its own for limits, budgets, hooks, retries and fallbacks, with `Timeouts` of its own; around
the whole run goes an `asyncio.timeout`. An assistant's turn goes back whole, with its reasoning and what its provider
sealed. The caller's lists are never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

from msgspec import UNSET

from asyncllm.calls import CallOptions, Prompt, as_tools, chat_request
from asyncllm.errors import InvalidRequestError, MaxRoundsExceededError, UnsupportedError
from asyncllm.repairs import Ask, next_key
from asyncllm.toolruns.toolbox import OnToolError, Toolbox, ToolResult
from asyncllm.totals import total_cost_usd, total_usage
from asyncllm.types import Message, Noun, Response, Timeouts, ToolCall, Usage

__all__ = ["AtMaxRounds", "Rounds", "Stopped", "ToolOptions", "ToolRun", "run_tools"]

AtMaxRounds: TypeAlias = Literal["return", "raise", "answer"]

Stopped: TypeAlias = Literal["answer", "final_result", "open_calls", "max_rounds", "max_tokens_total"]
"""Why a run ended: the model answered; a tool returned a `FinalResult`; a call is left to the caller; a cap."""


class ToolOptions(CallOptions, total=False):
    """Keyword arguments of `run_tools` and `stream_tools`, beside those of a chat.

    `tools` has to be there: Python functions, `FunctionTool`, or tools without a function, whose calls are left to the
    caller. A `tool_choice` that forces a call holds for the first round.
    """

    max_rounds: int
    """Answers that the model may give, 4 unless said."""
    at_max_rounds: AtMaxRounds
    """What happens when the last of them asks for tools again: `return` it with its calls in `open_calls`, which is
    the default; `raise` `MaxRoundsExceededError`; or `answer`, which asks for the last answer without tools."""
    max_tokens_total: int
    """Once the rounds have taken as many tokens, input and output as the backend reports them, the model is asked a
    last time, for an answer without tools. Of a backend that reports none, no tokens are counted."""
    max_concurrency: int
    """Tools that run at once, 8 unless said."""
    on_tool_error: OnToolError
    """`report` a tool's exception to the model by its class and message, which is the default, or `raise` it."""


class ToolRun(Noun, frozen=True, kw_only=True):
    """What came of `run_tools`."""

    response: Response
    """The last answer."""
    messages: tuple[Message, ...]
    """The whole conversation, the system text, tool results and the last answer included."""
    results: tuple[ToolResult, ...] = ()
    """Every tool call that was made, in order."""
    open_calls: tuple[ToolCall, ...] = ()
    """Calls of the last answer that nobody has made: append a `tool` message for each to go on."""
    stopped: Stopped | None = None
    """Why the run ended; `None` while it goes on."""
    rounds: int = 0
    """Answers that the model gave."""
    usage: Usage = Usage()
    """What all rounds took."""
    cost_usd: float | None = None
    """US dollars for all rounds, or `None` where a price is unknown."""

    _private = frozenset({"messages"})

    @property
    def text(self) -> str:
        """Text of the last answer."""
        return self.response.text

    @property
    def parsed(self) -> Any:
        """The last answer decoded to the `output_type` of the call."""
        return self.response.parsed


class Rounds:
    """A run under way: what to ask next, and what its answer means."""

    def __init__(self, prompt: Prompt, options: ToolOptions, timeouts: Timeouts) -> None:
        self._max_rounds = _count(options, "max_rounds", 4)
        self._max_tokens = _count(options, "max_tokens_total", None)
        self._at_max_rounds: str = _word(options, "at_max_rounds", ("return", "raise", "answer"))
        on_error = cast("OnToolError", _word(options, "on_tool_error", ("report", "raise")))
        concurrency = _count(options, "max_concurrency", 8) or 8
        known: dict[str, Any] = {name: value for name, value in options.items() if name not in _OWN}
        self._options = cast("CallOptions", known)
        request = chat_request(prompt, self._options, stream=False, timeouts=timeouts)
        if request.sampling.n not in (1, UNSET):
            raise InvalidRequestError("a run follows one answer; leave n out", field="n")
        tools = as_tools(self._options)
        if not tools:
            raise InvalidRequestError("a run needs tools, as in tools=[function]; use chat without", field="tools")
        known["tools"] = tools
        known.pop("system", None)  # it stands at the head of the messages from here on
        self.toolbox = Toolbox(tools, max_concurrency=concurrency, on_error=on_error)
        self.messages = list(request.messages)
        self.number = 0
        self.stopped: Stopped | None = None
        self._cap: Stopped | None = None
        self._responses: list[Response] = []
        self._results: list[ToolResult] = []
        self._open: tuple[ToolCall, ...] = ()

    def next(self) -> CallOptions:
        """The options of the next round, which begins."""
        self.number += 1
        options = self._options.copy()
        if self.number > 1:
            options.pop("tool_choice", None)
            if "idempotency_key" in options:
                options["idempotency_key"] = next_key(options["idempotency_key"], self.number)
        if self._max_tokens is not None and (total_usage(self._responses).total_tokens or 0) >= self._max_tokens:
            self._cap = "max_tokens_total"
        elif self._at_max_rounds == "answer" and self.number == self._max_rounds:
            self._cap = "max_rounds"
        if self._cap is not None:
            options["tool_choice"] = "none"
        return options

    def without_tools(self, options: CallOptions, error: UnsupportedError) -> CallOptions:
        """What to ask of a backend that knows no `tool_choice`, when it is not to call any. Else raises `error`."""
        if self._cap is None or error.field != "tool_choice":
            raise error
        gone = ("tools", "tool_choice", "parallel_tool_calls")
        return cast("CallOptions", {name: value for name, value in options.items() if name not in gone})

    def take(self, response: Response) -> list[ToolCall]:
        """The round has been answered: the calls to make now.

        Raises `MaxRoundsExceededError`.
        """
        self._responses.append(response)
        calls = response.tool_calls
        if response.choices:
            self.messages.append(response.choices[0].message)
        if not calls:
            self.stopped = self._cap or "answer"
        elif self._cap or self.number == self._max_rounds:
            self.stopped = self._cap or "max_rounds"
            self._open = calls
            if self._at_max_rounds == "raise" and self.stopped == "max_rounds":
                raise MaxRoundsExceededError(
                    f"the model asks for more tool calls after max_rounds={self._max_rounds} answers",
                    field="max_rounds",
                    backend=response.backend,
                    model=response.model,
                    partial=response,
                )
        else:
            self._open = tuple(call for call in calls if not self.toolbox.runs(call))
            if self._open:
                self.stopped = "open_calls"
            return [call for call in calls if self.toolbox.runs(call)]
        return []

    def answer(self, results: Sequence[ToolResult]) -> None:
        """The calls of the round have been made."""
        self._results += results
        self.messages += [result.message for result in results]
        if self.stopped is None and any(result.is_final for result in results):
            self.stopped = "final_result"

    def result(self, response: Response | None = None) -> ToolRun:
        """What has come of the run; `response` stands for an answer under way."""
        return ToolRun(
            response=response or (self._responses[-1] if self._responses else Response()),
            messages=tuple(self.messages),
            results=tuple(self._results),
            open_calls=self._open,
            stopped=self.stopped,
            rounds=len(self._responses),
            usage=total_usage(self._responses),
            cost_usd=total_cost_usd(self._responses) if self._responses else None,
        )


async def run_tools(ask: Ask, prompt: Prompt, options: ToolOptions, timeouts: Timeouts) -> ToolRun:
    """Run to the end, each round by `ask`; see `Client.run_tools`."""
    rounds = Rounds(prompt, options, timeouts)
    while rounds.stopped is None:
        asked = rounds.next()
        try:
            response = await ask(rounds.messages, asked)
        except UnsupportedError as error:
            response = await ask(rounds.messages, rounds.without_tools(asked, error))
        calls = rounds.take(response)
        if calls:
            rounds.answer(await rounds.toolbox.run(calls, rounds.number))
    return rounds.result()


_OWN = ToolOptions.__optional_keys__ - CallOptions.__optional_keys__


def _count(options: ToolOptions, name: str, default: int | None) -> int | None:
    value = cast("dict[str, Any]", options).get(name, default)
    if value is default or (type(value) is int and value > 0):
        return cast("int | None", value)
    raise InvalidRequestError(f"{name} is a whole number from 1 up", field=name)


def _word(options: ToolOptions, name: str, words: tuple[str, ...]) -> str:
    value = cast("dict[str, Any]", options).get(name, words[0])
    if value in words:
        return cast("str", value)
    raise InvalidRequestError(f"{name} is one of {', '.join(words)}", field=name)
