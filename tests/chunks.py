"""OpenAI-shaped chunks as tests write them, and the events that a stream of them is read as."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from asyncllm import Event, Finished, Started, TextDelta
from asyncllm.dialect import ReplyStream


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of one choice."""
    return {"id": "r", "model": "m", "choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def sse(*documents: object, ending: str = "\n\n") -> bytes:
    """The documents as server-sent events; what is a `str` goes out as it is."""
    return b"".join(b"data: " + _text(document) + ending.encode() for document in documents)


def ndjson(*documents: object, ending: str = "\n") -> bytes:
    """The documents one a line; what is a `str` goes out as it is."""
    return b"".join(_text(document) + ending.encode() for document in documents)


def read_stream(data: bytes, *cuts: int, **options: bool) -> list[Event]:
    """Events of a stream that arrives cut at the given places."""
    stream = ReplyStream(**options)
    events: list[Event] = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        events += stream.feed(data[start:end])
        if stream.error:
            raise stream.error
    return events + stream.close()


def _text(document: object) -> bytes:
    return (document if isinstance(document, str) else json.dumps(document)).encode()


HELLO_CHUNKS = (
    delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo ✓"), delta(finish="stop")
)  # fmt: skip
HELLO = sse(*HELLO_CHUNKS, "[DONE]")
HELLO_EVENTS = [Started("m", "r"), TextDelta("Hel"), TextDelta("lo ✓"), Finished("stop", "stop")]
