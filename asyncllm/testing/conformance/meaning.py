"""Checks of what a request asks for and what its answer means by it."""

from __future__ import annotations

import copy
import math

import msgspec
from msgspec import UNSET

from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError, ContextLengthExceededError, UnsupportedError
from asyncllm.events import Event, Skipped, Started, UsageReport
from asyncllm.testing.conformance.failing import CANARY
from asyncllm.testing.conformance.options import OPTIONS
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import Message, Request, Response, TextPart

__all__ = ["MeaningChecks"]

_MUTABLE = ("chat", "stop", "logit_bias", "tools", "JsonSchema", "Choice", "image parts", "extra")
_replace = msgspec.structs.replace


class MeaningChecks(Subject):
    """An option that a backend refuses by name has no meaning to be checked here; see `OptionChecks`."""

    @check
    async def test_an_answer_that_max_tokens_cuts_says_so(self, backend: Backend) -> None:
        """`finish_reason` is `length`, streamed and whole, and no more tokens than allowed are reported."""
        for stream in (True, False):
            response = await self._with(backend, self.request(self.long_prompt, stream=stream), max_tokens=2)
            if response is None:
                return
            assert response.finish_reason == "length", f"an answer that was cut ended by {response.finish_reason!r}"
            made = response.usage.output_tokens
            assert made is None or made <= 2, f"{made} tokens for max_tokens=2"

    @check
    async def test_a_stop_text_ends_the_answer_and_is_not_in_it(self, backend: Backend) -> None:
        """Wherever the pieces of a stream cut it: the text is what came before."""
        certain = {"temperature": 0} if await self._with(backend, self.request(), temperature=0) else {}
        whole = (await self._with(backend, self.request(), **certain) or Response()).text
        stop = whole[len(whole) // 3 :][:3]
        if len(stop) < 3:
            return
        for stream in (True, False):
            response = await self._with(backend, self.request(stream=stream), stop=(stop,), **certain)
            if response is None:
                return
            assert stop not in response.text, f"an answer that stops at {stop!r} has it"
            if self.expected(self.prompt) is not None:
                before = whole.partition(stop)[0]
                assert response.text == before, f"an answer that stops at {stop!r} is {response.text!r}, not {before!r}"
                assert response.finish_reason == "stop", f"an answer that stopped ended by {response.finish_reason!r}"

    @check
    async def test_several_choices_have_an_index_and_an_end_each(self, backend: Backend) -> None:
        """`n=3`, streamed and whole: three, counted from zero, each with an end of its own."""
        for stream in (True, False):
            request = self.request(stream=stream)
            if await self._with(backend, request, n=3) is None:
                return
            request = _replace(request, sampling=_replace(request.sampling, n=3))
            events = await self.events(backend, request)
            seen = {event.index for event in events if not isinstance(event, Started | UsageReport | Skipped)}
            assert seen == {0, 1, 2}, f"three choices have the indices {sorted(seen)} (stream={stream})"
            response = await self.answer(backend, request)
            texts = [choice.message.text for choice in response.choices]
            assert all(texts), f"{texts.count('')} of three choices are empty (stream={stream})"

    @check
    async def test_log_probabilities_belong_to_the_text(self, backend: Backend) -> None:
        """They are logarithms, no more rivals than asked for, and their tokens spell the text."""
        for stream in (True, False):
            request = self.request(stream=stream)
            response = await self._with(backend, request, logprobs=True, top_logprobs=2)
            if response is None:
                return
            tokens = response.logprobs or ()
            for token in tokens:
                for one in (token, *token.top):
                    assert math.isfinite(one.logprob), f"a probability has the logarithm {one.logprob}"
                    assert one.logprob <= 1e-4, f"a probability has the logarithm {one.logprob}"
                assert len(token.top) <= 2, f"{len(token.top)} rivals where two were asked for"
            spelt = b"".join(bytes(one.bytes) if one.bytes is not None else one.token.encode() for one in tokens)
            text = response.text.encode()
            assert not tokens or spelt.startswith(text), f"the tokens spell {spelt!r} and the text is {text!r}"

    @check
    async def test_every_event_is_what_its_type_says(self, backend: Backend) -> None:
        """Each field of each event is of its type: no bytes for text, no finish reason of its own."""
        for stream in (True, False):
            for event in await self.events(backend, self.request(stream=stream)):
                problem = _malformed(event)
                assert not problem, f"a {type(event).__name__} is malformed: {problem}"
                assert getattr(event, "index", 0) >= 0, f"a {type(event).__name__} has the index {event.index}"  # type: ignore[union-attr]

    @check
    async def test_a_request_is_not_changed(self, backend: Backend) -> None:
        """Its lists and mappings, the caller's own tools and schemas, are as they were."""
        for option in _MUTABLE:
            request = OPTIONS[option](self.request())
            before = copy.deepcopy(request)
            try:
                async with backend.open(request) as events:
                    await anext(aiter(events))
            except (AsyncLLMError, StopAsyncIteration):
                pass  # refused or not, it is the caller's
            assert request == before, f"a request with {option} is changed by its call"

    @check
    async def test_a_message_in_parts_is_its_text(self, backend: Backend) -> None:
        """Text parts are answered like the one text that they make."""
        if not self.chat:
            return
        half = len(self.prompt) // 2
        parts = (TextPart(self.prompt[:half]), TextPart(self.prompt[half:]))
        message = Message("user", parts)
        response = await self.answer(backend, _replace(self.request(), messages=(message,)))
        expected = self.expected(message.text)
        assert expected is None or response.text == expected, f"a message in parts is answered with {response.text!r}"

    @check
    async def test_an_empty_prompt_is_answered_or_refused_by_a_typed_error(self, backend: Backend) -> None:
        """Nothing, and white space alone."""
        for prompt in ("", " \n\t"):
            for stream in (True, False):
                try:
                    await self.answer(backend, self.request(prompt, stream=stream))
                except AsyncLLMError:
                    pass  # a model may refuse it

    @check
    async def test_a_huge_prompt_is_answered_or_refused_as_too_long(self, backend: Backend) -> None:
        """By `ContextLengthExceededError`, streamed or not, and the next call is answered."""
        for stream in (True, False):
            try:
                await self.answer(backend, self.request(self.huge_prompt, stream=stream))
            except ContextLengthExceededError as error:
                assert self.huge_prompt[:40] not in f"{error!r} {error!s}", "the error repeats the prompt"  # noqa: PT017
                assert not error.retryable, "a prompt that is too long is to be tried again"  # noqa: PT017  # no pytest
            except AsyncLLMError as error:
                raise AssertionError(f"a prompt of {len(self.huge_prompt)} characters raises {error!r}") from error
        await self.answer(backend)

    @check
    async def test_a_running_call_shows_neither_key_nor_prompt(self, backend: Backend) -> None:
        """The `repr` of backend, call, events and of what surrounds the answer."""
        shown: list[str] = []
        call = backend.open(self.request(f"{CANARY} {self.prompt}"))
        shown.append(repr(call))
        async with call as events:
            shown += [repr(call), repr(events)]
            async for event in events:
                shown += [repr(event), repr(backend), repr(events)]
        text = "".join(shown)
        assert CANARY not in text, "a running call shows the prompt or the answer"
        assert not self.api_key or self.api_key not in text, "a running call shows the key"

    @check
    async def test_a_prompt_is_counted_alike_streamed_or_whole(self, backend: Backend) -> None:
        """`input_tokens` is one number for one prompt, and more for a longer one."""
        longer = f"{self.prompt} {self.prompt} {self.prompt}"
        streamed = (await self.answer(backend, self.request())).usage.input_tokens
        whole = (await self.answer(backend, self.request(stream=False))).usage.input_tokens
        more = (await self.answer(backend, self.request(longer, stream=False))).usage.input_tokens
        assert streamed == whole, f"one prompt has {streamed} tokens streamed and {whole} whole"
        assert whole is None or more is None or more > whole, f"a prompt has {whole} tokens, and thrice as much {more}"

    async def _with(self, backend: Backend, request: Request, **options: object) -> Response | None:
        """The answer to `request` with `options`; `None` where the backend refuses one."""
        sampling = _replace(request.sampling, **options)
        if sampling.max_tokens is UNSET and self.max_tokens is not None:
            sampling = _replace(sampling, max_tokens=self.max_tokens)
        try:
            return await self.answer(backend, _replace(request, sampling=sampling))
        except UnsupportedError:
            return None


def _malformed(event: Event) -> str:
    try:
        twin = msgspec.convert(msgspec.to_builtins(event), type(event))
    except (msgspec.ValidationError, TypeError) as error:
        return str(error)
    return "" if twin == event else "a field is not of its type"
