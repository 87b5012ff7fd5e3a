"""A model that writes Python gets it run, and goes on from what it printed: LLM Engine's `tool_config` of a batch.

The transcript reads as one completion. Where the model has written a block of code,

    ```python
    print(6 * 7)
    ```
    42
    >>>

what stands after the block is what the code printed, in place of what the model thought it would, and the model is
asked to continue from there. Each prompt goes its own way; nothing is shared between two of them.

Code runs in a `Sandbox` or not at all. Source: contracts of LLM Engine's V1 batches, the model engine's API reference.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Struct

from asyncllm.batch.imports import KNOWN_IMPORTS
from asyncllm.errors import ConfigError, InvalidRequestError
from asyncllm.sandbox import Ran, Sandbox
from asyncllm.types import FinishReason, Message, Response, ResponseChoice, TokenLogprob, Usage

__all__ = ["Complete", "Count", "ToolConfig", "evaluate", "require_sandbox"]

_START, _CALL, _END = "```python\n", "\n```\n", "\n>>>\n"
_ATTEMPTS = 3
_LONGEST_S = 3600
_CHARACTERS = 4
_UNDEFINED = re.compile(r"NameError: name '([^']+)' is not defined")
_PRINT = re.compile(r"\bprint\s*\(")
_BLOCK = re.compile(rf"{re.escape(_START)}(.*?){re.escape(_CALL)}", re.DOTALL)


class ToolConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """LLM Engine's `tool_config`: a tool that a batch gives to its model."""

    name: str
    """`code_evaluator`, the only one there is."""
    max_iterations: int = 10
    """Completions of one prompt at most."""
    execution_timeout_seconds: int = 60
    """Wall time of one block of code, attempts at mending it included."""
    should_retry_on_error: bool = True
    """Whether code that uses an undefined name is tried again with what was defined before, and with a usual import."""

    def __post_init__(self) -> None:
        if self.name != "code_evaluator":
            raise InvalidRequestError(
                "Only code_evaluator tool is supported for batch completions.", field="tool_config.name"
            )
        for name, most in (("max_iterations", None), ("execution_timeout_seconds", _LONGEST_S)):
            value = getattr(self, name)
            if type(value) is not int or value < 1 or (most is not None and value > most):
                bounds = "from 1 up" if most is None else f"from 1 to {most}"
                raise InvalidRequestError(
                    f"{name} of tool_config is a whole number {bounds}; got {value!r}", field=f"tool_config.{name}"
                )
        if type(self.should_retry_on_error) is not bool:
            raise InvalidRequestError(
                "should_retry_on_error of tool_config is true or false", field="tool_config.should_retry_on_error"
            )


class Complete(Protocol):
    """Asks the model to continue `prompt`; everything else of the call is the caller's."""

    async def __call__(self, prompt: str, /, *, stop: tuple[str, ...], max_tokens: int) -> Response:
        """The reply, without the stop text that ended it."""
        ...


Count: TypeAlias = Callable[[str], Awaitable[int]]
"""How many of the model's tokens a text has, for instance by `Client.check_prompt`."""


def require_sandbox(sandbox: Sandbox | None) -> Sandbox:
    """`sandbox`, or a `ConfigError` with `code` `code_execution_disabled`: nothing runs a model's code by default."""
    if sandbox is None:
        raise ConfigError(
            "tool_config has a model's code run, which is off: give a sandbox to allow it",
            code="code_execution_disabled",
            field="sandbox",
        )
    return sandbox


async def evaluate(
    prompt: str,
    *,
    config: ToolConfig,
    complete: Complete,
    sandbox: Sandbox | None,
    max_tokens: int,
    stop: Sequence[str] = (),
    count: Count | None = None,
) -> Response:
    """Complete `prompt` with code run on the way, within `max_tokens` of completions and tool output together.

    The reply's text is the whole transcript after `prompt`, its `usage.output_tokens` what of `max_tokens` is spent,
    and its `usage.input_tokens` those of `prompt` alone. Tool output is charged by how much longer it has made the
    text: in the model's tokens where `count` is given, else by four characters a token, as are completions of a backend
    that reports no usage.

    Raises `InvalidRequestError` naming `max_tokens`, `ConfigError` without a sandbox, and whatever `complete` and the
    sandbox raise. What the code does is part of the transcript, errors included.
    """
    if type(max_tokens) is not int or max_tokens < 1:
        raise InvalidRequestError(f"max_tokens is a whole number from 1 up; got {max_tokens!r}", field="max_tokens")
    evaluation = _Evaluation(config, require_sandbox(sandbox), max_tokens, count)
    ends = (*stop, _END)
    for _ in range(config.max_iterations):
        reply = await complete(prompt + evaluation.text, stop=ends, max_tokens=evaluation.left)
        if not await evaluation.take(reply):
            break
    return evaluation.response()


class _Evaluation:
    """One prompt on its way: the transcript so far, and what is left of its tokens."""

    def __init__(self, config: ToolConfig, sandbox: Sandbox, max_tokens: int, count: Count | None) -> None:
        self._config, self._sandbox, self._count = config, sandbox, count
        self._budget = self.left = max_tokens
        self.text = ""
        self._replies: list[Response] = []

    async def take(self, reply: Response) -> bool:
        """Add a reply, with its code run. Whether the model is to be asked again."""
        self._replies.append(reply)
        written = reply.text
        if not written:
            return False
        spent = reply.usage.output_tokens
        self.left -= _estimated(written) if spent is None else spent
        text = written
        if _START in written and _CALL in written:
            text = await self._with_output(written)
            self.left -= await self._longer_by(written, text)
        self.text += text
        return self.text.endswith(_END) and self.left > 0

    async def _with_output(self, written: str) -> str:
        """`written` with the tool's output in place of all that stands after the first block of code."""
        code = written.rpartition(_START)[2].partition(_CALL)[0]
        output = await self._run(code)
        return f"{written.partition(_CALL)[0]}{_CALL}{output}{_END}"

    async def _run(self, code: str) -> str:
        """What `code` prints, or why it does not."""
        # Time that is spent waiting for other snippets is not the code's.
        left_s = float(self._config.execution_timeout_seconds)
        attempt = 0
        while True:
            ran = await self._sandbox.run(code, timeout_s=left_s)
            attempt += 1
            left_s -= ran.elapsed_s
            if ran.status == "ok" or attempt == _ATTEMPTS or left_s <= 0:
                break
            if not (lines := self._missing(ran, attempt)):
                break
            code = f"{lines}\n{code}"
        if ran.status != "ok":
            return self._failure(ran)
        return (ran.stdout or await self._last_value(code, left_s)).strip()

    def _missing(self, ran: Ran, attempt: int) -> str:
        """The lines that code which failed for an undefined name has to begin with, or none."""
        name = _UNDEFINED.search(ran.stderr) if self._config.should_retry_on_error else None
        if name is None or ran.exception != "NameError":
            return ""
        before = self._code_before() if attempt == 1 else ""
        return before or KNOWN_IMPORTS.get(name[1], "")

    def _code_before(self) -> str:
        """All earlier blocks without the lines that print: their output stands in the transcript already."""
        blocks = [block.split("\n") for block in _BLOCK.findall(self.text)]
        return "\n".join(line for lines in blocks for line in lines if not _PRINT.search(line))

    async def _last_value(self, code: str, left_s: float) -> str:
        """What the last line comes to, where nothing was printed: a notebook would show it too."""
        before, _, last = code.rpartition("\n")
        if "print" in last or left_s <= 0:
            return ""
        ran = await self._sandbox.run(f"{before}\nprint({last})", timeout_s=left_s)
        return ran.stdout if ran.status == "ok" else ""  # it was no expression, and so there is nothing to show

    def _failure(self, ran: Ran) -> str:
        if ran.status == "timeout":
            return f"failed with error: timed out after {self._config.execution_timeout_seconds} seconds"
        if ran.status == "killed":
            return "failed with error: ended by the limits of the sandbox"
        return f"failed with error: {ran.stderr.strip() or f'exit status {ran.exit_code}'}"

    async def _longer_by(self, before: str, after: str) -> int:
        if self._count is None:
            return max(0, _estimated(after) - _estimated(before))
        return max(0, await self._count(after) - await self._count(before))

    def response(self) -> Response:
        """All of it as one reply."""
        first, last = self._replies[0], self._replies[-1]
        reason: FinishReason | None = "length" if self.left <= 0 else last.finish_reason
        logprobs: list[TokenLogprob] = [one for reply in self._replies for one in reply.logprobs or ()]
        choice = ResponseChoice(0, Message("assistant", self.text), reason, logprobs=tuple(logprobs) or None)
        costs = [reply.cost_usd for reply in self._replies if reply.cost_usd is not None]
        return msgspec.structs.replace(
            last,
            choices=(choice,),
            usage=Usage(input_tokens=first.usage.input_tokens, output_tokens=self._budget - self.left),
            cost_usd=sum(costs) if len(costs) == len(self._replies) else None,
            failures=tuple(failure for reply in self._replies for failure in reply.failures),
            body=None,
        )


def _estimated(text: str) -> int:
    return -(-len(text) // _CHARACTERS)
