"""Checks of the options of a call: each is honoured, or refused by its name before anything is generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec import UNSET

from asyncllm.backend import Backend
from asyncllm.collect import collect
from asyncllm.errors import AsyncLLMError, UnsupportedError
from asyncllm.events import Event
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import (
    AudioPart,
    Choice,
    FilePart,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Request,
    Response,
    Sampling,
    TextPart,
    Tool,
)

__all__ = ["OPTIONS", "OptionChecks"]

_replace = msgspec.structs.replace

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8d"
    "b00000000049454e44ae426082"
)
_WAV = (
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00@\x1f\x00\x00\x80>\x00\x00\x02\x00\x10\x00data"
    + bytes(4)
)
_TOOL = Tool("look_up", "Look a word up.", {"type": "object", "properties": {"word": {"type": "string"}}})
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "boolean"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def _sampling(**options: object) -> Callable[[Request], Request]:
    return lambda request: _replace(request, sampling=_replace(request.sampling, **options))


def _part(part: ImagePart | AudioPart | FilePart) -> Callable[[Request], Request]:
    return lambda request: _replace(
        request, prompt=UNSET, messages=(Message("user", (TextPart("What is this?"), part)),)
    )


OPTIONS: Mapping[str, Callable[[Request], Request]] = {
    "chat": lambda request: _replace(request, prompt=UNSET, messages=(Message("user", "What is a cat?"),)),
    "complete": lambda request: _replace(request, messages=(), prompt="Once upon a time there was"),
    "max_tokens": _sampling(max_tokens=2),
    "temperature": _sampling(temperature=0.5),
    "top_p": _sampling(top_p=0.9),
    "stop": _sampling(stop=("e",)),
    "seed": _sampling(seed=7),
    "presence_penalty": _sampling(presence_penalty=0.1),
    "frequency_penalty": _sampling(frequency_penalty=0.1),
    "logprobs": _sampling(logprobs=True),
    "top_logprobs": _sampling(top_logprobs=2),
    "n": _sampling(n=2),
    "logit_bias": _sampling(logit_bias={"1": -1.0}),
    "reasoning_effort": _sampling(reasoning_effort="low"),
    "top_k": _sampling(top_k=5),
    "min_p": _sampling(min_p=0.05),
    "repetition_penalty": _sampling(repetition_penalty=1.1),
    "min_tokens": _sampling(min_tokens=1),
    "ignore_eos": _sampling(ignore_eos=True),
    "include_stop_str_in_output": _sampling(include_stop_str_in_output=False, stop=("e",)),
    "stop_token_ids": _sampling(stop_token_ids=(0,)),
    "tools": lambda request: _replace(request, tools=(_TOOL,)),
    "tool_choice": lambda request: _replace(request, tools=(_TOOL,), tool_choice="auto"),
    "parallel_tool_calls": lambda request: _replace(request, tools=(_TOOL,), parallel_tool_calls=False),
    "JsonSchema": lambda request: _replace(request, constraint=JsonSchema(_SCHEMA)),
    "Regex": lambda request: _replace(request, constraint=Regex("(yes|no)")),
    "Choice": lambda request: _replace(request, constraint=Choice(("yes", "no"))),
    "Grammar": lambda request: _replace(request, constraint=Grammar('root ::= "yes" | "no"')),
    "image parts": _part(ImagePart(data=_PNG)),
    "audio parts": _part(AudioPart(_WAV)),
    "file parts": _part(FilePart(data=b"%PDF-1.4\n%%EOF\n", filename="empty.pdf")),
    "extra": lambda request: _replace(request, extra={"an_option_of_nobody": 1}),
}
"""A request that uses each option, by the names of `require_supported`."""

_NEEDS = {
    "top_logprobs": {"logprobs"},
    "include_stop_str_in_output": {"stop"},
    "tool_choice": {"tools"},
    "parallel_tool_calls": {"tools"},
}
"""Options that a request with the option uses as well, so that the error may name them."""


def _is_yes_or_no(response: Response) -> bool:
    return response.text in ("yes", "no")


def _is_json(response: Response) -> bool:
    if response.finish_reason == "length":
        return True  # the bound on the answer cut it, and what the rest would have been nobody knows
    try:
        return type(msgspec.json.decode(response.text)["answer"]) is bool
    except (msgspec.DecodeError, LookupError, TypeError):
        return False


_EFFECTS: Mapping[str, Callable[[Response], bool]] = {
    "max_tokens": lambda response: (response.usage.output_tokens or 0) <= 2 and len(response.text) < 100,
    "stop": lambda response: "e" not in response.text,
    "include_stop_str_in_output": lambda response: "e" not in response.text,
    "logprobs": lambda response: bool(response.logprobs) or not response.text,
    "top_logprobs": lambda response: any(token.top for token in response.logprobs or ()) or not response.text,
    "n": lambda response: [choice.index for choice in response.choices] == [0, 1],
    "JsonSchema": _is_json,
    "Regex": _is_yes_or_no,
    "Choice": _is_yes_or_no,
    "Grammar": _is_yes_or_no,
}
"""What an answer shows of an option that was honoured, where it shows anything."""


class OptionChecks(Subject):
    """What a backend does not understand is never dropped in silence."""

    @check
    async def test_every_option_is_honoured_or_refused_by_name(self, backend: Backend) -> None:
        """Refused means `UnsupportedError` on entering, naming backend and option; accepted shows in the answer."""
        wrong: list[str] = []
        accepted: set[str] = set()
        for option, use in OPTIONS.items():
            for stream in (True, False):
                refusal = await self._try(backend, option, use(self.request(stream=stream)), wrong)
                if not refusal:
                    accepted.add(option)
        if self.supports is not None:
            wrong += [f"{option} is promised and refused" for option in sorted(self.supports - accepted)]
            wrong += [f"{option} is accepted and not promised" for option in sorted(accepted - self.supports)]
        assert not wrong, "; ".join(wrong)

    @check
    async def test_an_option_that_is_not_set_is_not_missed(self, backend: Backend) -> None:
        """A request without any option is answered; its end may be a long way off, so only its start is awaited."""
        async with backend.open(_replace(self.request(), sampling=Sampling())) as events:
            await anext(events)

    async def _try(self, backend: Backend, option: str, request: Request, wrong: list[str]) -> bool:
        """Use `option` once, add to `wrong` what is, and return whether it was refused."""
        entered = False
        got: list[Event] = []
        honoured = _EFFECTS.get(option)
        try:
            async with backend.open(request) as events:
                entered = True
                async for event in events:
                    got.append(event)
                    if honoured is None:
                        break  # the answer would not show it, so there is no use in waiting for the whole of it
        except UnsupportedError as error:
            if entered:
                wrong.append(f"{option} is refused only after the call was entered")
            if error.field not in {option, *_NEEDS.get(option, ())}:
                wrong.append(f"{option} is refused by an error whose field is {error.field!r}")
            if error.backend != self.name or str(error.field) not in error.message:
                wrong.append(f"{option} is refused by an error that does not name backend and option: {error!r}")
            return True
        except AsyncLLMError:
            return False  # accepted by the backend and refused by the model or the server, which is not silence
        if honoured is not None and not honoured(collect(got)):
            wrong.append(f"{option} is accepted and ignored (stream={request.stream})")
        return False
