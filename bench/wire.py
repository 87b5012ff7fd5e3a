"""The bytes a real OpenAI server would send, built once and sent many times.

Server and children both build from here, so a child knows how many events and characters a correct client must see.
"""

from __future__ import annotations

from functools import cache
from itertools import cycle, islice

import msgspec

# Token-sized pieces: short and long words, punctuation, an escape (newline) and two-byte UTF-8, as replies have them.
_PIECES = (
    "The",
    " quick",
    " brown",
    " fox",
    " jumps",
    " over",
    " the",
    " lazy",
    " dog",
    ",",
    " naïve",
    " and",
    ".",
    "\n",
)

_ID = "chatcmpl-C2bZk1bqDsPWmMzYvA0fTnJx4Qe7u"
_CREATED = 1_764_000_000
_MODEL = "gpt-x-2026-08-07"
_FINGERPRINT = "fp_a24b4d720c"

# What a hosted server adds to every response; parsing it is part of what a call costs.
_COMMON_HEADERS = (
    b"date: Tue, 25 Nov 2025 10:00:00 GMT\r\n"
    b"openai-organization: bench\r\n"
    b"openai-processing-ms: 12\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 30000\r\n"
    b"x-ratelimit-remaining-requests: 29999\r\n"
    b"x-request-id: req_5b1e7d0c4d8b4f0f9c1a2b3c4d5e6f70\r\n"
)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n" + _COMMON_HEADERS + b"\r\n"
)
STREAM_END = b"0\r\n\r\n"


def pieces(tokens: int) -> list[str]:
    """The reply as `tokens` pieces of text, one to a content event."""
    return list(islice(cycle(_PIECES), tokens))


@cache
def reply_chars(tokens: int) -> int:
    """How many characters the whole reply has; what every client must have counted."""
    return sum(map(len, pieces(tokens)))


def _usage(tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": 8,
        "completion_tokens": tokens,
        "total_tokens": tokens + 8,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _envelope(kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
    return {
        "id": _ID,
        "object": kind,
        "created": _CREATED,
        "model": _MODEL,
        "system_fingerprint": _FINGERPRINT,
        "choices": choices,
    }


def _chunk(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    choice: dict[str, object] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _envelope("chat.completion.chunk", [choice])


def _event(chunk: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


@cache
def opening_events(tokens: int) -> tuple[bytes, ...]:
    """The role chunk and `tokens` content chunks, as server-sent events."""
    role = _chunk({"role": "assistant", "content": "", "refusal": None})
    return (_event(role), *(_event(_chunk({"content": piece})) for piece in pieces(tokens)))


@cache
def events(tokens: int) -> tuple[bytes, ...]:
    """A whole stream: role, content, finish reason, usage, `[DONE]`."""
    usage = _envelope("chat.completion.chunk", []) | {"usage": _usage(tokens)}
    return (*opening_events(tokens), _event(_chunk({}, "stop")), _event(usage), b"data: [DONE]\n\n")


def http_chunks(events_: tuple[bytes, ...], per_write: int) -> tuple[bytes, ...]:
    """Those events in groups of `per_write`, each group one HTTP chunk: what goes out in one write."""
    groups = (b"".join(events_[start : start + per_write]) for start in range(0, len(events_), per_write))
    return tuple(b"%x\r\n%b\r\n" % (len(group), group) for group in groups)


@cache
def plain_response(tokens: int) -> bytes:
    """A whole HTTP response with one JSON body, head included."""
    message: dict[str, object] = {
        "role": "assistant",
        "content": "".join(pieces(tokens)),
        "refusal": None,
        "annotations": [],
    }
    choice: dict[str, object] = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = msgspec.json.encode(_envelope("chat.completion", [choice]) | {"usage": _usage(tokens)})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + _COMMON_HEADERS
    return head + b"content-length: %d\r\n\r\n" % len(body) + body
