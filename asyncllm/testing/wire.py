"""Replies in OpenAI's wire format, to be sent by a scripted server or transport."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncllm.testing.ops import Comment, Gzip, Named, Newline, SseItem
from asyncllm.types import Usage

__all__ = ["compressed", "openai_chunks", "openai_reply", "openai_stream", "sse_event", "sse_pieces"]

_MODEL = "fake-model"
_ID = "chatcmpl-fake"
_BOM = b"\xef\xbb\xbf"
_GZIP = 31  # zlib's number for "with the header and trailer of gzip"


def sse_event(item: SseItem, *, newline: Newline = "\n") -> bytes:
    """One server-sent event, with a `data` line for each line of its data; or one comment."""
    if isinstance(item, Comment):
        return f": {item.text}{newline}{newline}".encode()
    end = newline.encode()
    lines: list[bytes] = []
    if isinstance(item, Named):
        lines.append(b"event: " + item.event.encode())
        item = item.data
    lines += [b"data: " + line for line in _data(item).split(b"\n")]
    return end.join([*lines, b"", b""])


def sse_pieces(
    items: Sequence[SseItem],
    *,
    done: bool = True,
    pings: Sequence[SseItem] = (),
    newline: Newline = "\n",
    bom: bool = False,
) -> list[bytes]:
    """An event stream in pieces: each of `items` with `pings` before it, and `[DONE]` unless it is to lack its end."""
    pieces: list[bytes] = []
    for item in [*items, *([b"[DONE]"] if done else [])]:
        pieces += [sse_event(one, newline=newline) for one in (*pings, item)]
    if bom and pieces:
        pieces[0] = _BOM + pieces[0]
    return pieces


def compressed(pieces: Sequence[bytes], how: Gzip) -> list[bytes]:
    """A body in pieces, compressed by gzip; see `Gzip`. No piece is empty."""
    packer = zlib.compressobj(wbits=_GZIP)
    if how == "whole":
        return [packer.compress(b"".join(pieces)) + packer.flush()]
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    packed.append(packer.flush())
    middle = sum(map(len, packed)) // 2
    if how == "truncated":
        return _first(packed, middle)
    if how == "corrupt":
        start = 0
        for number, piece in enumerate(packed):
            if start <= middle < start + len(piece):
                spot = middle - start
                packed[number] = piece[:spot] + bytes([piece[spot] ^ 0xFF]) + piece[spot + 1 :]
            start += len(piece)
    return packed


def _first(pieces: Sequence[bytes], size: int) -> list[bytes]:
    """As many of `pieces` as `size` bytes make, the last one cut."""
    kept: list[bytes] = []
    for piece in pieces:
        if size > 0:
            kept.append(piece[:size])
        size -= len(piece)
    return kept


def _data(item: bytes | str | Mapping[str, Any]) -> bytes:
    if isinstance(item, bytes):
        return item
    return item.encode() if isinstance(item, str) else msgspec.json.encode(item)


def openai_chunks(
    texts: Sequence[str],
    *,
    finish: str | None = "stop",
    usage: Usage | None = None,
    model: str = _MODEL,
    index: int = 0,
) -> list[bytes]:
    """The JSON documents of a streamed chat: the role, each of `texts`, the finish reason, the usage.

    `finish=None` and `usage=None` leave those chunks out.
    """
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    choices: list[dict[str, Any]] = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish is not None:
        choices.append({"index": index, "delta": {}, "finish_reason": finish})
    head = {"id": _ID, "object": "chat.completion.chunk", "created": 0, "model": model}
    documents: list[dict[str, Any]] = [{**head, "choices": [choice]} for choice in choices]
    if usage is not None:
        documents.append({**head, "choices": [], "usage": _usage(usage)})
    return [msgspec.json.encode(document) for document in documents]


def openai_stream(
    texts: Sequence[str],
    *,
    finish: str | None = "stop",
    usage: Usage | None = None,
    model: str = _MODEL,
    done: bool = True,
    pings: Sequence[SseItem] = (),
    newline: Newline = "\n",
    bom: bool = False,
) -> bytes:
    """A whole streamed chat as the bytes of its body; `done=False` leaves out the terminal event.

    The rest is as in `Sse`.
    """
    chunks = openai_chunks(texts, finish=finish, usage=usage, model=model)
    return b"".join(sse_pieces(chunks, done=done, pings=pings, newline=newline, bom=bom))


def openai_reply(
    text: str | Sequence[str], *, finish: str = "stop", usage: Usage | None = None, model: str = _MODEL
) -> bytes:
    """A whole chat in one JSON document, with one choice for each of `text`."""
    texts = [text] if isinstance(text, str) else text
    document: dict[str, Any] = {
        "id": _ID,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": one}, "finish_reason": finish}
            for index, one in enumerate(texts)
        ],
    }
    if usage is not None:
        document["usage"] = _usage(usage)
    return msgspec.json.encode(document)


def _usage(usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return counts
