"""Checks of how a stream is cut: whatever the network does to the bytes, the answer is the same or is none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from asyncllm.errors import APIError, StreamInterrupted
from asyncllm.events import Finished, TextDelta
from asyncllm.testing.conformance.harness import run_clean, within
from asyncllm.testing.conformance.spoken import Body, Spoken
from asyncllm.testing.ops import Stall
from asyncllm.testing.scripted_transport import ScriptedReply, in_pieces

__all__ = ["FramingChecks"]

_EVENT_STREAM = "text/event-stream"
_ODD = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1eh\u00a0i\ufeffj"
_NOISE = (b": a comment\n", b":\n", b"retry: 250\n", b"id: 7\n", b"an-unknown-field: x\n", b"a-field-alone\n")


class FramingChecks(Spoken):
    """Bytes arrive in any pieces, and may stop at any of them."""

    def test_a_stream_that_is_cut_in_two_anywhere_reads_the_same(self) -> None:
        """Every place for the cut, those inside of characters and between CR and LF included."""
        body = self._body()
        self._all_same(([body[:cut], body[cut:]] for cut in range(1, len(body))), "cut in two")

    def test_a_stream_that_comes_byte_by_byte_reads_the_same(self) -> None:
        """One byte a read, two, three, and all in one."""
        body = self._body()
        self._all_same([*(in_pieces(body, size) for size in (1, 2, 3)), body], "in equal pieces")

    def test_every_kind_of_line_end_ends_a_line(self) -> None:
        """LF, CR LF and CR alone, in one read and byte by byte."""
        if self.service.content_type != _EVENT_STREAM:
            return  # what ends a line elsewhere is that format's own affair
        for name, end in (("LF", b"\n"), ("CR LF", b"\r\n"), ("CR", b"\r")):
            body = self._body().replace(b"\n", end)
            self._all_same([body, *(in_pieces(body, size) for size in (1, 2, 7))], f"with {name} for line ends")

    def test_a_byte_order_mark_is_not_part_of_a_stream(self) -> None:
        """One at the very start is skipped, whole or cut."""
        if self.service.content_type != _EVENT_STREAM:
            return
        # In some dialects nothing is missed of the first frame, so the mark also goes before the second.
        bodies = [self._body(), b"".join(self.answer_frames()[1:])]
        whole = [body for body, heard in zip(bodies, self.hear(bodies), strict=True) if heard.error is None]
        marked = [b"\xef\xbb\xbf" + body for body in whole]
        self._all_same([*marked, *(in_pieces(body) for body in marked)], "after a byte order mark")

    def test_comments_and_fields_that_nobody_knows_are_no_events(self) -> None:
        """Before, between and inside events, and the dialect's own keep-alives."""
        frames = self.answer_frames()
        keep_alive = self.service.keep_alive()
        bodies = [keep_alive + keep_alive.join(frames) + keep_alive]
        if self.service.content_type == _EVENT_STREAM:
            bodies += [b"".join(noise + b"\n" + noise + frame for frame in frames) for noise in _NOISE]
        self._all_same([*bodies, *(in_pieces(body) for body in bodies)], "with comments")

    def test_characters_that_only_look_like_line_ends_are_kept(self) -> None:
        """U+2028, U+0085 and their like end no line of a stream."""
        service = self.service
        body = b"".join([service.start(), service.text(_ODD), service.finish(), service.end()])
        for heard in self.hear([body, in_pieces(body)]):
            assert heard.error is None, f"characters like line ends break the stream: {heard.error!r}"
            assert heard.response.text == _ODD, f"{_ODD!r} arrives as {heard.response.text!r}"

    def test_a_stream_without_its_last_blank_line_is_whole_or_interrupted(self) -> None:
        """The end of the body is no excuse to drop the end of the answer unsaid."""
        body = self._body().rstrip(b"\n")
        for heard in self.hear([body, body + b"\n", body + b"\r", in_pieces(body)]):
            if heard.error is None:
                assert heard.is_complete, "without its last blank line a stream ends neither complete nor in an error"
                assert heard.response.text == self._text, "without its last blank line the text is another"
            else:
                _is_interruption(heard.error, "without its last blank line")

    def test_a_stream_that_ends_early_is_interrupted(self) -> None:
        """At every byte: `StreamInterrupted`, unless all choices had ended."""
        frames = self.answer_frames()
        body = b"".join(frames)
        finish = len(b"".join(frames[:-2]))
        cuts = range(len(body))
        for cut, heard in zip(cuts, self.hear(body[:cut] for cut in cuts), strict=True):
            if heard.error is not None:
                _is_interruption(heard.error, f"cut after {cut} of {len(body)} bytes")
                continue
            assert cut > finish, f"a stream cut after {cut} of {len(body)} bytes passes for a whole one"
            assert heard.is_complete, f"a stream cut after {cut} of {len(body)} bytes ends like a whole one"
            assert heard.response.text == self._text, f"a stream cut after {cut} bytes passes with half its text"

    def test_what_came_before_a_cut_is_delivered(self) -> None:
        """After each frame the connection dies: what the frames said comes out, and then `StreamInterrupted`."""
        frames = self.answer_frames()[:-2]
        lost = StreamInterrupted("while reading the reply: cut", maybe_billed=True)
        bodies: list[Body] = [[b"".join(frames[:count]), lost] for count in range(1, len(frames) + 1)]
        for count, heard in enumerate(self.hear(bodies)):
            _is_interruption(heard.error, "cut by a lost connection")
            said = "".join(self.words[:count])
            assert heard.response.text == said, f"{said!r} came before the cut and {heard.response.text!r} came out"
            assert not any(isinstance(event, Finished) for event in heard.events), "a choice that was cut has Finished"

    def test_an_error_in_a_stream_comes_after_what_was_said(self) -> None:
        """In one read with it or in a read of its own; and nothing after the error counts."""
        frames = self.answer_frames()
        count = len(frames) // 2
        said = "".join(self.words[: count - 1])
        body = [*frames[:count], self.service.error("the service broke"), *frames[count:]]
        for heard in self.hear([b"".join(body), body, in_pieces(b"".join(body))]):
            assert isinstance(heard.error, APIError), f"an error in a stream ends it with {heard.error!r}"
            assert heard.response.text == said, f"{said!r} came before the error and {heard.response.text!r} came out"

    def test_a_stream_is_over_at_its_end(self) -> None:
        """What follows the end is not read and not waited for."""
        body = self._body()
        extra = self.service.text("more")
        self._all_same([body + extra, [body, extra], [body, b"\xff\xfe{{{\n\n"], [body, Stall()]], "with more after it")

    def test_each_piece_is_delivered_when_it_comes(self) -> None:
        """A reader has the text of a frame before the next frame is there."""
        run_clean(self._first_of_a_stalled_stream())

    def test_an_event_of_a_megabyte_is_read(self) -> None:
        """In one read, and in reads of 64 KiB as networks bring them."""
        text = "0123456789abcdef" * 2**16
        service = self.service
        body = b"".join([service.start(), service.text(text), service.finish(), service.end()])
        for heard in self.hear([body, in_pieces(body, 2**16)]):
            assert heard.error is None, f"a large event breaks the stream: {heard.error!r}"
            assert heard.response.text == text, "a large event does not arrive as it was sent"

    def test_a_whole_answer_in_place_of_a_stream_is_read_or_refused(self) -> None:
        """A server that does not stream: its JSON is the answer or an `APIError`, and never an empty answer."""
        reply = self.saying(self.service.reply(["whole"]), headers={"Content-Type": "application/json"})
        run_clean(self._read_or_refused(reply))

    def test_a_whole_reply_that_ends_early_is_no_answer(self) -> None:
        """At every byte: an `APIError`."""
        body = self.service.reply([self._text]).rstrip()
        for cut, heard in enumerate(self.hear((body[:cut] for cut in range(len(body))), self.request(stream=False))):
            assert isinstance(heard.error, APIError), (
                f"a reply cut after {cut} of {len(body)} bytes passes for an answer"
            )

    @property
    def _text(self) -> str:
        return "".join(self.words)

    def _body(self) -> bytes:
        return b"".join(self.answer_frames())

    def _all_same(self, bodies: Iterable[Body], how: str) -> None:
        """All of `bodies` read as the one answer, from the name of the model to the end."""
        expected = self.hear_whole(self._body())
        assert expected.text == self._text, f"a stream reads {expected.text!r}"
        for number, heard in enumerate(self.hear(bodies)):
            assert heard.error is None, f"a stream {how} ({number}) breaks: {heard.error!r}"
            assert heard.is_complete, f"a stream {how} ({number}) ends without a Finished for every choice"
            assert heard.response.text == self._text, f"a stream {how} ({number}) reads {heard.response.text!r}"
            assert heard.response == expected, f"a stream {how} ({number}) loses something beside its text"

    async def _first_of_a_stalled_stream(self) -> None:
        frames = self.answer_frames()[:2]
        async with self.listening(self.saying([*frames, Stall()])) as (backend, _):
            with within(self.patience_s, "the first piece of a stream that then stalls"):
                async with asyncio.timeout(self.patience_s), backend.open(self.request()) as events:
                    async for event in events:
                        if isinstance(event, TextDelta):
                            assert event.text == self.words[0], "the first piece is not the first"
                            break

    async def _read_or_refused(self, reply: ScriptedReply) -> None:
        async with self.listening(reply) as (backend, _):
            try:
                response = await self.answer(backend)
            except APIError:
                return
            assert response.text == "whole", f"a whole answer in place of a stream reads {response.text!r}"


def _is_interruption(error: object, how: str) -> None:
    assert isinstance(error, StreamInterrupted), f"a stream {how} ends with {error!r} and not in StreamInterrupted"
