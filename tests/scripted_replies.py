"""Replies of an OpenAI-compatible server, drawn at random: what each means, and how it is sent."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st
from msgspec import Struct

from asyncllm import Response
from asyncllm.testing import Fin, HalfClose, Op, Pause, Rst, Stall

__all__ = ["Fault", "Reply", "plans", "replies"]

Ending: TypeAlias = Literal["done", "finish", "done only", "tail", "none", "error"]
Way: TypeAlias = Literal["fin", "rst", "half", "stall", "garbage"]

GARBAGE = b"\x00\xff\xfe{{{ HTTP/1.1 data: \r\n\r\n"
STOWAWAY = "of another reply"

# Each a block of its own between two events, without a meaning in a chat.
_FILLERS = (
    b": keep-alive\n\n", b": OPENROUTER PROCESSING\n\n", b"event: ping\n\n", b"data:\n\n", b"data: ping\n\n",
    b"data: : ping\n\n", b"retry: 10\n\n", b"id: 1\n\n", b"\n", b"foobar: x\n\n",
    b'data: {"choices":[]}\n\n', b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
)  # fmt: skip

_HEADERS = (
    "X-Request-Id: r-1", "Retry-After: 0", "Retry-After: soon", "Connection: close", "Location: /elsewhere",
    "Set-Cookie: a=b", f"X-Long: {'x' * 9000}", "Trailer: X-Sum", "Keep-Alive: timeout=1", "Content-Encoding: gzip",
)  # fmt: skip


class Fault(Struct, frozen=True, repr_omit_defaults=True):
    """What goes wrong with the bytes of a reply."""

    cut: int | None = None
    """Bytes of the reply that are sent, modulo its length."""
    way: Way = "fin"
    """What follows the cut."""
    flip: tuple[int, int] | None = None
    """A position among the bytes of the head and of the chunks' frames, modulo their number, and bits to turn there."""
    after: Literal["", "garbage", "reply"] = ""
    """What is sent in one write with the reply, though nobody has asked for it."""


class Reply(Struct, frozen=True, repr_omit_defaults=True):
    """One reply. Its repr says all there is to say of it, so that a case that failed can be written down."""

    texts: tuple[str, ...] = ("a", "b")
    arguments: tuple[str, ...] = ()
    """Pieces of the arguments of one tool call."""
    shape: Literal["stream", "whole"] = "stream"
    framing: Literal["length", "chunked", "close"] = "chunked"
    ending: Ending = "done"
    """`done` gives a finish reason and `[DONE]`, `finish` and `done only` one of them, `tail` a `[DONE]` without its
    blank line, `none` neither, `error` an error in their place."""
    status: int = 200
    headers: tuple[int, ...] = ()
    """Further headers, by their number."""
    newline: Literal["\n", "\r", "\r\n"] = "\n"
    bom: bool = False
    fillers: tuple[int, ...] = ()
    """Filler before each event, by its number."""
    escaped: bool = False
    chunk: int = 40
    """Bytes in a chunk, where the framing has any."""
    pieces: tuple[tuple[int, float], ...] = ()
    """Sizes of the first writes and the seconds to wait after each."""
    fault: Fault = Fault()

    @property
    def text(self) -> str:
        """What the server means to say."""
        return "".join(self.texts)

    def is_sound(self, *, stream: bool) -> bool:
        """Whether a client that asked for a stream, or for no stream, must get the whole answer out of this."""
        return (
            self.status == 200
            and self.fault == Fault()
            and self.ending not in ("none", "error")
            and (stream or self.shape == "whole")
        )

    def equals(self, response: Response) -> bool:
        """Whether `response` is what the server means to say."""
        calls = [call.arguments for call in response.tool_calls]
        reason = "stop" if self.shape == "whole" or self.ending != "done only" else None
        return (
            (response.text, response.finish_reason) == (self.text, reason)
            and calls == (["".join(self.arguments)] if self.arguments else [])
            and self.ending not in ("none", "error")
        )

    def ops(self) -> list[Op]:
        """The script of a server that sends this."""
        wire = self._wire()
        cut = self.fault.cut
        if cut is not None:
            wire = wire[: cut % len(wire)]
        if self.fault.after:
            stowaway = Reply(texts=(STOWAWAY,), shape="whole", framing="length")._wire()
            return [wire + (GARBAGE if self.fault.after == "garbage" else stowaway), Stall()]
        ops: list[Op] = []
        for size, wait_s in self.pieces:
            ops += [wire[:size], Pause(wait_s)]
            wire = wire[size:]
        ops.append(wire)
        if cut is None:
            return [*ops, Fin()] if self.framing == "close" else ops
        ways: dict[Way, list[Op]] = {
            "fin": [Fin()],
            "rst": [Pause(0.005), Rst()],  # what was sent arrives first
            "half": [HalfClose(), Stall()],
            "stall": [Stall()],
            "garbage": [GARBAGE, Stall()],
        }
        return ops + ways[self.fault.way]

    def _wire(self) -> bytes:
        """Every byte of the reply, head and framing included."""
        body = self._stream() if self.shape == "stream" else self._whole()
        kind = "text/event-stream" if self.shape == "stream" else "application/json"
        if self.status != 200:
            body, kind = b'{"error":{"message":"no","code":"scripted"}}', "application/json"
        framing = {
            "length": f"Content-Length: {len(body)}",
            "chunked": "Transfer-Encoding: chunked",
            "close": "Connection: close",
        }[self.framing]
        lines = [f"HTTP/1.1 {self.status} X", f"Content-Type: {kind}", framing]
        lines += [_HEADERS[number] for number in self.headers]
        # Parts by whether a bit may be turned in them: in the text of an answer nobody could tell.
        parts = [("\r\n".join([*lines, "", ""]).encode(), True)]
        if self.framing == "chunked":
            for start in range(0, len(body), self.chunk):
                piece = body[start : start + self.chunk]
                parts += [(b"%x\r\n" % len(piece), True), (piece, False), (b"\r\n", True)]
            parts.append((b"0\r\n\r\n", True))
        else:
            parts.append((body, False))
        return self._flipped(parts)

    def _flipped(self, parts: list[tuple[bytes, bool]]) -> bytes:
        if self.fault.flip is None:
            return b"".join(data for data, _ in parts)
        position, bits = self.fault.flip
        position %= sum(len(data) for data, may in parts if may)
        wire = bytearray()
        for data, may in parts:
            start = len(wire)
            wire += data
            if may and 0 <= position < len(data):
                wire[start + position] ^= bits
            position -= len(data) if may else 0
        return bytes(wire)

    def _json(self, document: Any) -> str:
        return json.dumps(document, ensure_ascii=self.escaped)

    def _whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.arguments:
            function = {"name": "f", "arguments": "".join(self.arguments)}
            message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
        if self.ending == "error":
            return self._json({"error": {"message": "no", "code": 500}}).encode()
        if self.ending == "none":
            return self._json({"id": "r", "model": "m"}).encode()
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        blank = "\n" * len(self.fillers)  # servers keep a slow call alive with empty lines
        return (blank + self._json({"id": "r", "model": "m", "choices": [choice]})).encode()

    def _stream(self) -> bytes:
        deltas: list[dict[str, Any]] = [{"content": text} for text in self.texts]
        for number, piece in enumerate(self.arguments):
            call: dict[str, Any] = {"index": 0, "function": {"arguments": piece}}
            if not number:
                call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": piece}}
            deltas.append({"tool_calls": [call]})
        choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
        if self.ending in ("done", "finish", "tail"):
            choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        documents: list[str] = [self._json({"id": "r", "model": "m", "choices": [choice]}) for choice in choices]
        if self.ending == "error":
            documents.append('{"error":{"message":"no","code":500}}')
        if self.ending in ("done", "done only", "tail"):
            documents.append("[DONE]")
        blocks: list[bytes] = []
        for number, document in enumerate(documents):
            if number < len(self.fillers):
                blocks.append(_FILLERS[self.fillers[number] % len(_FILLERS)])
            blocks.append(f"data: {document}\n\n".encode())
        whole = b"".join(blocks)
        if self.ending == "tail":
            whole = whole[:-2]
        # JSON escapes what ends a line of SSE, so every LF here is an ending.
        return (b"\xef\xbb\xbf" if self.bom else b"") + whole.replace(b"\n", self.newline.encode())


_WORDS = st.text(max_size=6) | st.sampled_from(["Hel", "lo", "\u2028", "\x85", "😀", "data: [DONE]", "\ufeff", '"}]}'])
_FAULTS = st.one_of(
    st.builds(Fault, cut=st.integers(0, 3000), way=st.sampled_from(["fin", "rst", "half", "stall", "garbage"])),
    st.builds(Fault, flip=st.tuples(st.integers(0, 3000), st.integers(1, 255))),
    st.builds(Fault, after=st.sampled_from(["garbage", "reply"])),
)
_STATUSES = [201, 204, 206, 301, 307, 400, 401, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529, 100, 999]


@st.composite
def replies(draw: st.DrawFn, *, sound: bool) -> Reply:
    """One reply: all that a server may do if `sound`, else with something wrong more often than not."""
    shape: Literal["stream", "whole"] = draw(st.sampled_from(["stream", "stream", "whole"]))
    endings: list[Ending] = ["done", "done", "finish", "done only", "tail"]
    headers = draw(st.lists(st.integers(0, len(_HEADERS) - 2), max_size=2))
    status, fault = 200, Fault()
    if not sound:
        endings += ["none", "error"]
        if draw(st.integers(0, 5)) == 0:
            status = draw(st.sampled_from(_STATUSES))
            headers = draw(st.lists(st.integers(0, len(_HEADERS) - 1), max_size=2))
        else:
            fault = draw(_FAULTS)
    texts = draw(st.lists(_WORDS.filter(bool), min_size=1, max_size=6))
    return Reply(
        texts=tuple(texts),
        arguments=tuple(draw(st.lists(_WORDS.filter(bool), max_size=3))),
        shape=shape,
        framing=draw(st.sampled_from(["length", "chunked", "chunked", "close"])),
        ending=draw(st.sampled_from(endings)),
        status=status,
        headers=tuple(headers),
        newline=draw(st.sampled_from(["\n", "\n", "\r", "\r\n"])),
        bom=draw(st.booleans()),
        fillers=tuple(draw(st.lists(st.integers(0, len(_FILLERS) - 1), max_size=8))),
        escaped=draw(st.booleans()),
        chunk=draw(st.sampled_from([1, 7, 40, 1000])),
        pieces=tuple(draw(st.lists(st.tuples(st.integers(1, 400), st.sampled_from([0, 0.001, 0.004])), max_size=5))),
        fault=fault,
    )


plans = st.one_of(
    st.builds(lambda reply: (reply,), replies(sound=True)),
    st.lists(replies(sound=False), min_size=1, max_size=3).map(tuple),
    st.builds(
        lambda bad, good: (*bad, good), st.lists(replies(sound=False), min_size=1, max_size=2), replies(sound=True)
    ),
)
"""Replies to one call and to the attempts that follow it; the last one answers all further attempts."""
