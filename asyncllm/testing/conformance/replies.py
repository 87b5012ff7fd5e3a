"""Checks of what a backend makes of a service's replies: counts, names, choices and odd answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asyncllm.errors import APIConnectionError, APIError, UnsupportedError
from asyncllm.events import TextDelta
from asyncllm.testing.conformance.harness import run_clean
from asyncllm.testing.conformance.spoken import Heard, Spoken
from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport
from asyncllm.types import Response, Usage

__all__ = ["ReplyChecks"]

_COUNTS = Usage(input_tokens=21, output_tokens=9, cached_tokens=16, reasoning_tokens=4)
_ODD = {
    "quotes and backslashes": "say \"it's\" 'so' \\n \\u0041 \\",
    "line ends": "one\ntwo\r\nthree\rfour\n\n",
    "white space alone": "  \n\t ",
    "characters beyond the basic plane": "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U00020000",
    "combining and right-to-left characters": "e\u0301 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "what looks like framing": "data: [DONE]\n\nevent: error\n\n: ping\n\n{}",
    "a byte order mark": "\ufeffword",
}


class ReplyChecks(Spoken):
    """What the service says is what the response has, streamed or whole; what it does not say is not made up."""

    def test_usage_is_what_the_service_tells(self) -> None:
        """Input, output, and the shares of them that were cached or thought, streamed and whole."""
        for how, response in self._both(_COUNTS):
            assert response.usage == _COUNTS, f"{how}: {_COUNTS} was told and {response.usage} comes out"

    def test_usage_that_the_service_does_not_tell_is_unknown(self) -> None:
        """`None`, and never a zero that nobody counted."""
        for how, response in self._both(None):
            assert response.usage == Usage(), f"{how}: no usage was told and {response.usage} comes out"
        for how, response in self._both(Usage(input_tokens=3, output_tokens=0)):
            assert response.usage.output_tokens == 0, f"{how}: a zero that was counted is lost"
            assert response.usage.cached_tokens is None, f"{how}: a share that nobody told is made up"

    def test_usage_that_is_told_again_is_not_added_up(self) -> None:
        """The later report stands for the earlier one."""
        service = self.service
        early = service.usage(Usage(input_tokens=21, output_tokens=1))
        frames = [service.start(), service.text("a"), early, service.text("b"), service.finish()]
        usage = self.hear_whole(b"".join([*frames, service.usage(_COUNTS), service.end()])).usage
        assert usage == _COUNTS, f"usage was told twice, {_COUNTS} at last, and {usage} comes out"

    def test_the_model_and_the_id_of_a_reply_are_told(self) -> None:
        """`Response.model` is who answered, and `request_id` what its support asks for."""
        for how, response in self._both(None):
            assert response.model == self.service.model, f"{how}: the model that answered is {response.model!r}"
            assert response.request_id == self.service.request_id, f"{how}: the id is {response.request_id!r}"

    def test_an_answer_without_a_word_is_an_answer(self) -> None:
        """Empty, ended and complete: a model may have nothing to say."""
        service = self.service
        stream = b"".join([service.start(), service.finish(), service.end()])
        for body, request in ((stream, self.request()), (service.reply([""]), self.request(stream=False))):
            response = self.hear_whole(body, request)
            assert response.text == "", f"an empty answer has the text {response.text!r}"
            assert response.finish_reason == "stop", (
                f"an empty answer that ended has the reason {response.finish_reason}"
            )

    def test_every_character_of_an_answer_arrives(self) -> None:
        """Streamed in one piece and character by character, and whole."""
        service = self.service
        for what, text in _ODD.items():
            bodies = [
                b"".join([service.start(), *(service.text(piece) for piece in pieces), service.finish(), service.end()])
                for pieces in ([text], list(text))
            ]
            heard = [*self.hear(bodies), self.hear_one(service.reply([text]), self.request(stream=False))]
            for how, one in zip(("in one piece", "by the character", "whole"), heard, strict=True):
                assert one.response.text == text, f"{what}, {how}: {text!r} arrives as {one.response.text!r}"

    def test_choices_that_come_in_turns_stay_apart(self) -> None:
        """A piece of each in turn, with an end of its own; and two in a whole reply."""
        service = self.service
        request = self.request()
        request = msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, n=2))
        frames = [service.text(piece, index) for piece in ("a", "b", "c") for index in (1, 0)]
        ends = [service.text("d", 0), service.finish(1), service.finish(0), service.end()]
        streamed = self.hear_one(b"".join([service.start(), *frames, *ends]), request)
        whole = self.hear_one(service.reply(["abcd", "abc"]), msgspec.structs.replace(request, stream=False))
        for how, heard in (("streamed", streamed), ("whole", whole)):
            if isinstance(heard.error, UnsupportedError):
                return
            assert heard.error is None, f"{how}: a reply with two choices breaks: {heard.error!r}"
            texts = [(choice.index, choice.message.text) for choice in heard.response.choices]
            assert texts == [(0, "abcd"), (1, "abc")], f"{how}: two choices come out as {texts}"
            assert all(choice.finish_reason == "stop" for choice in heard.response.choices), f"{how}: an end is lost"

    def test_a_call_after_one_that_failed_is_answered(self) -> None:
        """A refusal, a lost connection, nonsense, an error in a stream: the next call is none the worse."""
        run_clean(self._after_failures())

    def _both(self, usage: Usage | None) -> list[tuple[str, Response]]:
        """A streamed answer and a whole one, each with `usage`."""
        service = self.service
        told = [] if usage is None else [service.usage(usage)]
        frames = [service.start(), service.text("a"), service.text("b"), service.finish(), *told, service.end()]
        whole = self.hear_whole(service.reply(["ab"], usage=usage), self.request(stream=False))
        return [("streamed", self.hear_whole(b"".join(frames))), ("whole", whole)]

    async def _after_failures(self) -> None:
        service = self.service
        good = self.saying(b"".join(self.answer_frames()))
        failures: Sequence[ScriptedReply | BaseException] = (
            ScriptedReply(500, body=b"broken"),
            APIConnectionError("cannot connect to nowhere"),
            self.saying(b"\x00\xff\xfe garbage {{{"),
            self.saying(service.start() + service.text("half")),
            self.saying(service.start() + service.text("half") + service.error("the service broke")),
        )
        transport = ScriptedTransport([reply for failure in failures for reply in (failure, good)])
        async with self.connected(transport=transport) as backend:
            for failure in failures:
                heard: Heard = await self._hear(backend, self.request())
                assert isinstance(heard.error, APIError), f"{failure!r} ends in {heard.error!r}, which is no APIError"
                heard = await self._hear(backend, self.request())
                assert heard.error is None, f"a call after a failure fails: {heard.error!r}"
                assert _text(heard) == "".join(self.words), "a call after a failure has something of the one before"


def _text(heard: Heard) -> str:
    return "".join(event.text for event in heard.events if isinstance(event, TextDelta))
