"""Checks of what a call yields."""

from __future__ import annotations

import asyncio

import msgspec

from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError, UnsupportedError
from asyncllm.events import Event, Finished, ReasoningDelta, RefusalDelta, Skipped, Started, TextDelta, UsageReport
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import Message, Request, Response, Usage

__all__ = ["AnswerChecks"]

_ODD = {
    "quotes and backslashes": "say \"it's\" 'so' \\n \\u0041 \\",
    "line ends": "one\ntwo\r\nthree\rfour\n\n",
    "separators that only look like line ends": "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "characters beyond the basic plane": "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U00020000",
    "combining and right-to-left characters": "e\u0301 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
    "a NUL": "before\0after",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f",
    "the words of templates": "</s> <|im_end|> <|endoftext|> [INST] {{ x }} {% y %} {z} %s data: [DONE]",
    "a lone byte order mark": "\ufeffword",
    "white space around it": "  word \t ",
}


class AnswerChecks(Subject):
    """A call ends as the contract says, streamed or not, alone or among others."""

    @check
    async def test_a_call_yields_events_that_fold_to_a_complete_response(self, backend: Backend) -> None:
        """Every choice has text, tool calls, reasoning or a refusal, and the reason why it ended is a known one."""
        for stream in (True, False):
            events = await self.events(backend, self.request(stream=stream))
            kinds = {type(event) for event in events}
            assert kinds <= set(Event.__args__), f"open lends something that is no Event: {kinds}"
            response = await self.answer(backend, self.request(stream=stream))
            message = response.choices[0].message
            assert message.text or message.reasoning or message.tool_calls or message.refusal, "the answer is empty"
            expected = self.expected(self.prompt)
            assert expected is None or response.text == expected, "the answer is not the expected one"

    @check
    async def test_each_choice_has_one_finished_after_its_last_delta(self, backend: Backend) -> None:
        """One `Finished` a choice, and nothing of the choice after it."""
        for stream in (True, False):
            finished: set[int] = set()
            for event in await self.events(backend, self.request(stream=stream)):
                if isinstance(event, Started | UsageReport | Skipped):
                    continue
                assert event.index not in finished, f"{type(event).__name__} after Finished of choice {event.index}"
                if isinstance(event, Finished):
                    finished.add(event.index)
            assert finished, "no choice has a Finished"

    @check
    async def test_nothing_comes_after_the_last_finished(self, backend: Backend) -> None:
        """The usage comes before, so that a reader may stop at the last `Finished`."""
        for stream in (True, False):
            events = await self.events(backend, self.request(stream=stream))
            assert isinstance(events[-1], Finished), f"the last event is a {type(events[-1]).__name__}, not a Finished"

    @check
    async def test_streamed_or_not_the_answer_is_of_one_kind(self, backend: Backend) -> None:
        """The same choices, an end for each, and the usage known for both or for neither."""
        streamed = await self.answer(backend, self.request(stream=True))
        whole = await self.answer(backend, self.request(stream=False))
        for told, facts in (("streamed", _kind(streamed)), ("whole", _kind(whole))):
            assert facts["choices"], f"the {told} answer has no choice"
        assert _kind(streamed) == _kind(whole), f"streamed {_kind(streamed)}, whole {_kind(whole)}"

    @check
    async def test_no_delta_is_empty(self, backend: Backend) -> None:
        """An empty piece says nothing and costs every reader a turn."""
        for stream in (True, False):
            for event in await self.events(backend, self.request(stream=stream)):
                if isinstance(event, TextDelta | ReasoningDelta | RefusalDelta):
                    assert event.text, f"a {type(event).__name__} is empty"

    @check
    async def test_usage_is_plausible_or_unknown(self, backend: Backend) -> None:
        """Counts are whole numbers from zero up or `None`, a part is not above its whole, and the output is bounded."""
        for stream in (True, False):
            usage = (await self.answer(backend, self.request(stream=stream))).usage
            for name in Usage.__struct_fields__:
                value = getattr(usage, name)
                assert value is None or (type(value) is int and value >= 0), f"{name} is {value!r}"
            for part, whole in (("cached_tokens", "input_tokens"), ("reasoning_tokens", "output_tokens")):
                share, of = getattr(usage, part), getattr(usage, whole)
                assert share is None or of is None or share <= of, f"{part}={share} of {whole}={of}"
            assert usage.input_tokens != 0, "a prompt of several words has zero tokens"
            limit, made = self.max_tokens, usage.output_tokens
            assert limit is None or made is None or made <= limit, f"{made} tokens for max_tokens={limit}"

    @check
    async def test_a_conversation_of_several_turns_is_answered(self, backend: Backend) -> None:
        """System, user and assistant turns, the last one the user's."""
        turns = (
            Message("system", "Answer in one word."),
            Message("user", "What is the colour of grass?"),
            Message("assistant", "Green."),
            Message("user", self.prompt),
        )
        if self.chat:
            await self.answer(backend, msgspec.structs.replace(self.request(), messages=turns))

    @check
    async def test_every_character_is_taken(self, backend: Backend) -> None:
        """A prompt is text: no character of it ends the call, its JSON or its template."""
        cases = [(what, prompt, True) for what, prompt in _ODD.items()]
        for what, prompt, stream in [*cases, ("all of them", " ".join(_ODD.values()), False)]:
            try:
                # Words before it, so that no prompt is only white space, which a model may refuse.
                await self.answer(backend, self.request(f"Repeat: {prompt}", stream=stream))
            except AsyncLLMError as error:
                raise AssertionError(f"a prompt with {what} is refused: {error!r}") from error

    @check
    async def test_half_a_character_is_taken_or_refused_by_a_typed_error(self, backend: Backend) -> None:
        """A lone surrogate is a Python text that has no UTF-8: replaced or refused, and no `UnicodeEncodeError`."""
        for stream in (True, False):
            try:
                await self.answer(backend, self.request("half a face: \ud83d", stream=stream))
            except AsyncLLMError:
                pass

    @check
    async def test_eight_calls_at_once_do_not_mix(self, backend: Backend) -> None:
        """Each of eight different prompts gets the answer it gets alone."""
        prompts = [f"{self.prompt} This is about {word}." for word in _THINGS]
        requests = [await self._decided(backend, self.request(prompt)) for prompt in prompts]
        alone = [await self.answer(backend, request) for request in requests]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.answer(backend, request)) for request in requests]
        together = [task.result() for task in tasks]
        for prompt, response in zip(prompts, together, strict=True):
            expected = self.expected(prompt)
            assert expected is None or response.text == expected, f"{prompt!r} was answered with {response.text!r}"
        # Batched arithmetic rounds differently, so a real model may now and then choose another word.
        same = sum(one.text == two.text for one, two in zip(alone, together, strict=True))
        assert same >= len(prompts) * 3 // 4, f"only {same} of {len(prompts)} answers are the same alone and at once"

    @check
    async def test_the_event_loop_keeps_turning(self, backend: Backend) -> None:
        """While an answer is made, other tasks get their turn."""
        await self.answer(backend)  # the first call may load a model, in a thread, holding the interpreter
        longest_s = 0.0
        loop = asyncio.get_running_loop()

        async def tick() -> None:
            nonlocal longest_s
            while True:
                before = loop.time()
                await asyncio.sleep(0.01)
                longest_s = max(longest_s, loop.time() - before)

        ticker = loop.create_task(tick())
        await asyncio.sleep(0)
        try:
            await self.answer(backend, self.request(self.long_prompt))
            await asyncio.sleep(0.02)
        finally:
            ticker.cancel()
        assert longest_s < self.longest_block_s, f"the event loop stood still for {longest_s:.2f} seconds"

    async def _decided(self, backend: Backend, request: Request) -> Request:
        """`request` without chance, where the backend has a temperature."""
        sampling = msgspec.structs.replace(request.sampling, temperature=0)
        decided = msgspec.structs.replace(request, sampling=sampling)
        try:
            async with backend.open(decided):
                return decided
        except UnsupportedError:
            return request


_THINGS = ("bread", "the sea", "trains", "mathematics", "winter", "a piano", "cats", "Rome")


def _kind(response: Response) -> dict[str, object]:
    usage = response.usage
    return {
        "choices": [(choice.index, choice.message.role, bool(choice.message.text)) for choice in response.choices],
        "ended": [choice.finish_reason is not None for choice in response.choices],
        "input known": usage.input_tokens is not None,
        "output known": usage.output_tokens is not None,
        "model": response.model,
    }
