"""A decoder of event streams to compare ours with: the whole input at once, naively, and no code in common."""

from __future__ import annotations

from typing import NamedTuple

from sse_cases import BOM


class Reading(NamedTuple):
    """What a decoder has made of its input so far."""

    events: list[tuple[str, str, str]]
    last_event_id: str
    retry_ms: int | None


def reference(data: bytes) -> Reading:
    """Decode a whole stream, deliberately naively.

    Kept to the letter of WHATWG HTML 9.2.6 but for one thing: `retry` keeps the first nine digits only.
    """
    s = data.decode("utf-8", "replace").removeprefix("\ufeff")
    lines: list[str] = []
    i = start = 0
    while i < len(s):  # only CR, LF, CRLF end a line; an unterminated tail is dropped
        if s[i] in "\r\n":
            lines.append(s[start:i])
            i += 2 if s[i : i + 2] == "\r\n" else 1
            start = i
        else:
            i += 1

    out: list[tuple[str, str, str]] = []
    typ, data_, idbuf, last_id = "", "", "", ""
    retry: int | None = None
    for ln in lines:
        if ln == "":
            # The buffer becomes the last event id only here: an id in a block that never ends is forgotten.
            last_id = idbuf
            if data_:
                out.append((typ or "message", data_[:-1], idbuf))
            typ = data_ = ""
            continue
        if ln[0] == ":":
            continue
        f, c, v = ln.partition(":")
        if c and v.startswith(" "):
            v = v[1:]
        if f == "event":
            typ = v
        elif f == "data":
            data_ += v + "\n"
        elif f == "id" and "\0" not in v:
            idbuf = v
        elif f == "retry" and v and all("0" <= ch <= "9" for ch in v):
            retry = int(v[:9])
    return Reading(out, last_id, retry)


def reference_data(data: bytes) -> list[bytes]:
    """The bytes each event carries, by way of a text with one character for every byte."""
    one_to_one = data.removeprefix(BOM).decode("latin-1").encode("utf-8")
    return [text.encode("latin-1") for _, text, _ in reference(one_to_one).events]
