"""Newline-delimited JSON against a naive reference, and against its limits."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.errors import EventTooLargeError
from asyncllm.ndjson import NDJSONDecoder


def decode(pieces: Iterable[bytes], limit: int | None = None) -> list[bytes]:
    decoder = NDJSONDecoder(max_line_bytes=limit)
    documents = [document for piece in pieces for document in decoder.feed(piece)]
    return documents + decoder.close()


CASES = {
    "lines": (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    "no end of the last line": (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    "crlf": (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
    "blank lines": (b'\n\r\n \t\n{"a":1}\n\n\n{"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
    "blanks around": (b'  {"a":1}\t \r\n', [b'{"a":1}']),
    "two objects on a line": (
        b'{"a":1}{"b":2}\n{"c":3} \r {"d":4}\n',
        [b'{"a":1}', b'{"b":2}', b'{"c":3}', b'{"d":4}'],
    ),
    "what only looks like two": (b'{"a":"}{","b":{"c":"} {"}}\n', [b'{"a":"}{","b":{"c":"} {"}}']),
    "two that look like more": (b'{"a":"}{"}{"b":2}', [b'{"a":"}{"}', b'{"b":2}']),
    "objects and a word": (b'{"a":1}{"b":2}[DONE]\n', [b'{"a":1}', b'{"b":2}', b"[DONE]"]),
    "an object and half of one": (b'{"a":1}{"b":\n', [b'{"a":1}', b'{"b":']),
    "no JSON": (b"hello\n}{\n", [b"hello", b"}{"]),
    "bytes that are no text": (b'{"a":"\xff"}{"b":"\xe2\x82"}\n', [b'{"a":"\xff"}', b'{"b":"\xe2\x82"}']),
    "a character over a cut": ('{"a":"✓"}\n'.encode(), ['{"a":"✓"}'.encode()]),
    "other line ends are none": ('{"a":"\u2028\u0085"}\n'.encode(), ['{"a":"\u2028\u0085"}'.encode()]),
    "a byte order mark": (b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"b":2}\n', [b'{"a":1}', b'\xef\xbb\xbf{"b":2}']),
    "nothing": (b"", []),
    "nothing but blanks": (b" \r\n\n\t", []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_decodes_at_every_two_cuts_and_byte_by_byte(name: str) -> None:
    data, documents = CASES[name]

    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            assert decode([data[:first], b"", data[first:second], data[second:]]) == documents
    assert decode(data[at : at + 1] for at in range(len(data))) == documents


def test_a_document_is_there_with_the_end_of_its_line() -> None:
    decoder = NDJSONDecoder()

    assert decoder.feed(b'{"a":1}') == []
    assert decoder.feed(b"\n") == [b'{"a":1}']
    assert decoder.close() == []


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("line", [b'"' + b"x" * 110, b" " * 101, b"x" * 100 + b"\r"])
def test_a_line_over_the_limit_raises_however_it_comes(line: bytes, size: int) -> None:
    for data in (line, line + b"\n", b"{}\n" + line + b"\n"):
        with pytest.raises(EventTooLargeError, match="max_line_bytes=100"):
            decode((data[at : at + size] for at in range(0, len(data), size)), limit=100)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_line_of_just_the_limit_passes(size: int) -> None:
    data = (b'"' + b"x" * 98 + b'"\n') * 20

    assert len(decode((data[at : at + size] for at in range(0, len(data), size)), limit=100)) == 20


def test_blank_lines_use_no_memory() -> None:
    decoder = NDJSONDecoder()

    tracemalloc.start()
    try:
        for _ in range(1000):
            assert decoder.feed(b"\n" * 1000) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2**20


@pytest.mark.parametrize(
    "data", [b"{}" * 500_000 + b"\n", b"{}\n" * 500_000, b"{}" + b'{"a":' * 200_000 + b"\n", b"}{" * 500_000]
)
def test_a_long_line_takes_linear_time(data: bytes) -> None:
    started_s = time.process_time()

    documents = decode(data[at : at + 2**16] for at in range(0, len(data), 2**16))

    assert b"".join(documents) == data.replace(b"\n", b"")
    assert time.process_time() - started_s < 10


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["}{", "} {", '"}{"', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=3)


@given(
    st.lists(st.lists(objects, min_size=1, max_size=3), max_size=6),
    st.sampled_from(["\n", "\r\n", "\n\n", " \r\n"]),
    st.booleans(),
    st.integers(1, 9),
)
def test_objects_come_out_as_they_were_written(lines: list[list[object]], end: str, escaped: bool, size: int) -> None:
    texts = [[json.dumps(item, ensure_ascii=escaped) for item in line] for line in lines]
    data = "".join(" ".join(line) + end for line in texts).encode("utf-8", "replace")

    documents = decode(data[at : at + size] for at in range(0, len(data), size))

    assert documents == [text.encode("utf-8", "replace") for line in texts for text in line]


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r\n", b'{"a":1}', b"}{", b'"']), max_size=20))
def test_bytes_of_any_kind_lose_nothing_but_blanks(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    expected = [line.strip(b" \t\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]

    documents = decode(pieces)

    assert b"".join(documents).translate(None, b" \t\r") == b"".join(expected).translate(None, b" \t\r")
    assert all(document.strip(b" \t\r") and b"\n" not in document for document in documents)
