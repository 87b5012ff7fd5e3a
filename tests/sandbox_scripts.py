"""A model that says what it is told to, and a sandbox that runs nothing: for tests of the code evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from asyncllm.sandbox import Ran
from asyncllm.types import Message, Response, ResponseChoice, Usage

__all__ = ["ScriptedModel", "ScriptedSandbox", "failed", "printed", "reply"]


class Asked(Struct, frozen=True):
    prompt: str
    stop: tuple[str, ...]
    max_tokens: int


def reply(text: str, *, tokens: int | None = 10, prompt_tokens: int | None = 5) -> Response:
    usage = Usage(input_tokens=prompt_tokens, output_tokens=tokens)
    return Response(choices=(ResponseChoice(0, Message("assistant", text), "stop"),), usage=usage, model="m")


class ScriptedModel:
    """Says `texts` one after the other, and the last one again."""

    def __init__(self, *texts: str | Response) -> None:
        self._texts = texts
        self.asked: list[Asked] = []

    async def __call__(self, prompt: str, /, *, stop: tuple[str, ...], max_tokens: int) -> Response:
        said = self._texts[min(len(self.asked), len(self._texts) - 1)]
        self.asked.append(Asked(prompt, stop, max_tokens))
        return said if isinstance(said, Response) else reply(said)


def printed(text: str, *, elapsed_s: float = 0.0) -> Ran:
    return Ran(status="ok", stdout=text, exit_code=0, elapsed_s=elapsed_s)


def failed(error: str, *, elapsed_s: float = 0.0) -> Ran:
    name = error.partition(":")[0]
    trace = f'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\n{error}\n'
    return Ran(status="error", stderr=trace, exception=name, exit_code=1, elapsed_s=elapsed_s)


class ScriptedSandbox:
    """Answers with `runs` one after the other, and the last one again."""

    def __init__(self, *runs: Ran | Callable[[str], Ran]) -> None:
        self._runs: Sequence[Ran | Callable[[str], Ran]] = runs
        self.ran: list[str] = []
        self.timeouts: list[float] = []

    async def run(self, code: str, /, *, timeout_s: float = 60) -> Ran:
        run = self._runs[min(len(self.ran), len(self._runs) - 1)]
        self.ran.append(code)
        self.timeouts.append(timeout_s)
        return run if isinstance(run, Ran) else run(code)
