"""Checks of tool calls, which arrive in fragments and must not fall apart or together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asyncllm.errors import UnsupportedError
from asyncllm.testing.conformance.harness import run_clean
from asyncllm.testing.conformance.spoken import Body, Spoken
from asyncllm.types import Message, Request, Tool, ToolCall

__all__ = ["ToolChecks"]

_TOOL = Tool("look_up", "Look a word up.", {"type": "object", "properties": {"word": {"type": "string"}}})
_ARGUMENTS = '{"word": "caf\u00e9 \U0001f30a \\"q\\" \\u00e9", "n": [1, 2.5e3]}'
_ONE = ToolCall("call_1", "look_up", _ARGUMENTS)
_TWO = ToolCall("call_2", "look_up", '{"word": "tea"}')


class ToolChecks(Spoken):
    """A backend that refuses tools by name passes these; one that takes them must lose nothing."""

    def test_arguments_that_are_cut_anywhere_are_one_call(self) -> None:
        """Every place in the JSON of the arguments, and one character a piece."""
        service = self.service
        head = service.call(0, call_id=_ONE.id, name=_ONE.name, arguments="")
        cuts = [(_ARGUMENTS[:cut], _ARGUMENTS[cut:]) for cut in range(len(_ARGUMENTS) + 1)]
        bodies = [self._stream([head, *(service.call(0, arguments=part) for part in cut)]) for cut in cuts]
        bodies.append(self._stream([head, *(service.call(0, arguments=one) for one in _ARGUMENTS)]))
        self._all_are(bodies, [_ONE])

    def test_a_call_may_name_itself_once_or_in_every_piece(self) -> None:
        """The id on the first piece, on every piece, with the name or without."""
        service, half = self.service, len(_ARGUMENTS) // 2
        parts = (_ARGUMENTS[:half], _ARGUMENTS[half:])
        once = [service.call(0, call_id=_ONE.id, name=_ONE.name), *(service.call(0, arguments=part) for part in parts)]
        always = [service.call(0, call_id=_ONE.id, name=_ONE.name, arguments=part) for part in ("", *parts)]
        both = [service.call(0, call_id=_ONE.id, name=_ONE.name, arguments=parts[0])]
        self._all_are([self._stream(once), self._stream(always)], [_ONE])
        self._all_are([self._stream([*both, service.call(0, call_id=_ONE.id, arguments=parts[1])])], [_ONE])

    def test_two_calls_that_come_in_turns_stay_apart(self) -> None:
        """One after the other, and a piece of each in turn."""
        service = self.service
        heads = [
            service.call(at, call_id=call.id, name=call.name, arguments="") for at, call in enumerate((_ONE, _TWO))
        ]
        rest = [
            [service.call(at, arguments=one) for one in call.arguments[:12]]
            + [service.call(at, arguments=call.arguments[12:])]
            for at, call in enumerate((_ONE, _TWO))
        ]
        in_turns = [piece for pair in zip(*rest, strict=True) for piece in pair]
        in_order = [heads[0], *rest[0], heads[1], *rest[1]]
        self._all_are([self._stream([*heads, *in_turns]), self._stream(in_order)], [_ONE, _TWO])

    def test_calls_without_an_id_are_kept_and_get_one(self) -> None:
        """Each has an id of its own in the response, as the answer to a call needs one."""
        service = self.service
        frames = [service.call(at, name=call.name, arguments=call.arguments) for at, call in enumerate((_ONE, _TWO))]
        calls = self._tool_calls(self._stream(frames), stream=True)
        if calls is None:
            return
        told = [(call.name, call.arguments) for call in calls]
        assert told == [(call.name, call.arguments) for call in (_ONE, _TWO)], "calls without an id are lost or mixed"
        assert len({call.id for call in calls if call.id}) == len(calls), "two calls have one id, or one has none"

    def test_tool_calls_are_the_same_streamed_or_whole(self) -> None:
        """Two calls with a text before them."""
        service = self.service
        frames = [
            service.call(at, call_id=call.id, name=call.name, arguments=call.arguments)
            for at, call in enumerate((_ONE, _TWO))
        ]
        streamed = self._tool_calls(self._stream([service.text("Wait."), *frames]), stream=True)
        whole = self._tool_calls(service.reply(["Wait."], calls=(_ONE, _TWO)), stream=False)
        assert streamed == whole, "the tool calls of a stream and of a whole reply differ"
        assert whole is None or list(whole) == [_ONE, _TWO], "a whole reply loses or changes its tool calls"

    def test_a_tool_call_and_its_result_reach_the_service(self) -> None:
        """A conversation with both is sent on, id, arguments and result, or refused by name."""
        turns = (
            Message("user", "What is tea?"),
            Message("assistant", "", (_TWO,)),
            Message("tool", "a drink of leaves", tool_call_id=_TWO.id),
        )
        request = msgspec.structs.replace(self._asking(stream=True), messages=turns)
        sent = run_clean(self._sent(request))
        if sent is None:
            return
        for what in (_TWO.id, _TWO.name, "tea", "a drink of leaves"):
            assert what.encode() in sent, "a tool call or its result does not reach the service"

    def _asking(self, *, stream: bool) -> Request:
        return msgspec.structs.replace(self.request(stream=stream), tools=(_TOOL,))

    def _stream(self, frames: Sequence[bytes]) -> bytes:
        service = self.service
        return b"".join([service.start(), *frames, service.finish(), service.end()])

    def _tool_calls(self, body: Body, *, stream: bool) -> tuple[ToolCall, ...] | None:
        """The tool calls of `body`; `None` from a backend that takes no tools."""
        heard = self.hear_one(body, self._asking(stream=stream))
        if isinstance(heard.error, UnsupportedError):
            return None
        assert heard.error is None, f"a reply with tool calls breaks: {heard.error!r}"
        return heard.response.tool_calls

    def _all_are(self, bodies: Sequence[Body], expected: Sequence[ToolCall]) -> None:
        for number, heard in enumerate(self.hear(bodies, self._asking(stream=True))):
            if isinstance(heard.error, UnsupportedError):
                return
            assert heard.error is None, f"a stream of fragments ({number}) breaks: {heard.error!r}"
            assert list(heard.response.tool_calls) == list(expected), f"fragments ({number}) fold to other tool calls"

    async def _sent(self, request: Request) -> bytes | None:
        async with self.listening(self.saying(b"".join(self.answer_frames()))) as (backend, transport):
            try:
                await self.answer(backend, request)
            except UnsupportedError as error:
                assert error.field, "a tool's result is refused without naming the option"  # noqa: PT017  # no pytest
                return None
            return transport.calls[-1].body
