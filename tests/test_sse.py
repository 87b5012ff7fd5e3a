"""The decoder against the conformance table, against a naive reference, and against its limits.

Nothing is expected of the decoder here that its own output taught us: events are written out by hand in
`sse_cases`, or come from `sse_reference`, which reads the whole input at once and shares no code with it.
"""

import re
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement, cycle
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncllm.errors import APIError, EventTooLargeError
from asyncllm.sse import ServerSentEvent, SSEDecoder
from sse_cases import BOM, CASES, Case, message, spellings
from sse_reference import Reading, reference, reference_data

KIB = 2**10
MIB = 2**20

ENDS_A_LINE = frozenset(b"\r\n")

every_row = pytest.mark.parametrize("case", [pytest.param(case, id=row) for row, case in spellings()])
fuzz = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(decoder: SSEDecoder, events: Iterable[ServerSentEvent]) -> Reading:
    seen = [(event.type, event.text, event.id) for event in events]
    return Reading(seen, decoder.last_event_id, decoder.retry_ms)


def decode(pieces: Iterable[bytes], *, error_field: bool = False) -> Reading:
    decoder = SSEDecoder(error_field=error_field)
    events = feed_all(decoder, pieces)
    return read(decoder, events + decoder.close())


def expected(case: Case) -> Reading:
    return Reading(list(case.events), case.last_event_id, case.retry_ms)


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def pieces_of(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for size in cycle(sizes):
        yield data[at : at + size]
        at += size
        if at >= len(data):
            return


def feed_all(decoder: SSEDecoder, pieces: Iterable[bytes]) -> list[ServerSentEvent]:
    return [event for piece in pieces for event in decoder.feed(piece)]


def is_too_large(pieces: Iterable[bytes]) -> bool:
    try:
        feed_all(SSEDecoder(max_event_bytes=100), pieces)
    except EventTooLargeError:
        return True
    return False


def feed_within(budget_s: float, decoder: SSEDecoder, pieces: Iterable[bytes]) -> list[ServerSentEvent]:
    """Feed every piece, failing as soon as the processor time is spent rather than hours later."""
    events: list[ServerSentEvent] = []
    started_s = process_time()
    for fed, piece in enumerate(pieces):
        events += decoder.feed(piece)
        if fed % 1024 == 0:
            assert process_time() - started_s < budget_s, f"stopped after {fed} pieces"
    assert process_time() - started_s < budget_s
    return events


@every_row
def test_the_reference_agrees_with_the_table(case: Case) -> None:
    assert reference(case.data) == expected(case)


@every_row
def test_a_row_decodes_whole(case: Case) -> None:
    assert decode([case.data]) == expected(case)


@every_row
def test_a_row_decodes_one_byte_at_a_time(case: Case) -> None:
    assert decode(single_bytes(case.data)) == expected(case)


@every_row
def test_a_row_decodes_one_byte_at_a_time_between_empty_chunks(case: Case) -> None:
    pieces = [part for piece in single_bytes(case.data) for part in (b"", piece, b"")]

    assert decode(pieces) == expected(case)


@every_row
def test_a_row_decodes_at_every_cut(case: Case) -> None:
    data = case.data

    for cut in range(len(data) + 1):
        assert decode([data[:cut], b"", data[cut:]]) == expected(case), f"cut at {cut}"


@pytest.mark.parametrize("case", [pytest.param(case, id=row) for row, case in spellings() if len(case.data) <= 40])
def test_a_short_row_decodes_at_every_two_cuts(case: Case) -> None:
    data = case.data

    for first, second in combinations_with_replacement(range(len(data) + 1), 2):
        pieces = [data[:first], b"", data[first:second], b"", data[second:]]
        assert decode(pieces) == expected(case), f"cut at {first} and {second}"


@every_row
def test_the_byte_that_ends_an_event_returns_it(case: Case) -> None:
    decoder = SSEDecoder()
    events: list[ServerSentEvent] = []
    due = reference(b"")

    for at, byte in enumerate(case.data):
        events += decoder.feed(bytes([byte]))
        if byte in ENDS_A_LINE:
            due = reference(case.data[: at + 1])
        assert read(decoder, events) == due, f"after byte {at}"


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        pytest.param([b"da", b"ta: hel", b"lo\n\n"], "hello", id="W22"),
        pytest.param([b"data: A\r\n", b"data: B\r", b"\n", b"data: C\r\n", b"\n"], "A\nB\nC", id="P1"),
        pytest.param([b"\xef", b"\xbb", b"\xbf", b"data: x\n\n"], "x", id="X6"),
        pytest.param([b"\xef\xbb", b"\xbfdata: x\n\n"], "x", id="X6.two_pieces"),
        pytest.param([b"data: caf\xc3", b"\xa9\n\n"], "café", id="character_cut"),
    ],
)
def test_pieces_as_their_source_sends_them_make_one_event(pieces: list[bytes], text: str) -> None:
    assert decode(pieces).events == [message(text)]


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (b"data: a\xffb", b"a\xffb"),
        (b"data: \xe2\x82", b"\xe2\x82"),
        (b"data: \xc0\xaf", b"\xc0\xaf"),
        (b"data: \xed\xa0\x80", b"\xed\xa0\x80"),
        (b"data: \xe2\ndata: \x82\xac", b"\xe2\n\x82\xac"),
        (b"data: " + BOM, BOM),
    ],
)
def test_data_keeps_bytes_that_text_cannot(line: bytes, data: bytes) -> None:
    [event] = SSEDecoder().feed(line + b"\n\n")

    assert event.data == data


def test_a_cr_at_the_end_of_a_chunk_ends_the_event_at_once() -> None:
    decoder = SSEDecoder()

    assert read(decoder, decoder.feed(b"data: a\r\r")).events == [message("a")]
    assert decoder.feed(b"\n") == []
    assert read(decoder, decoder.feed(b"data: b\r\n\r")).events == [message("b")]


def test_only_one_lf_is_swallowed_after_a_cr() -> None:
    decoder = SSEDecoder()

    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\n") == []
    assert read(decoder, decoder.feed(b"\n")).events == [message("a")]


def test_an_id_counts_from_its_blank_line() -> None:
    decoder = SSEDecoder()

    decoder.feed(b"id: 42\n")
    before = decoder.last_event_id
    decoder.feed(b"\n")

    assert (before, decoder.last_event_id) == ("", "42")


def test_retry_counts_from_its_own_line() -> None:
    decoder = SSEDecoder()

    decoder.feed(b"retry: 1000\n")

    assert decoder.retry_ms == 1000


@pytest.mark.parametrize("digits", [10, 19, 35, 5_000, 1_000_000])
def test_an_absurd_retry_does_no_harm(digits: int) -> None:
    decoder = SSEDecoder()

    events = feed_within(1.0, decoder, [b"retry: " + b"9" * digits + b"\ndata: x\n\n"])

    assert read(decoder, events).events == [message("x")]
    assert decoder.retry_ms is None or decoder.retry_ms > 0


@pytest.mark.parametrize(
    ("tail", "data"),
    [
        (b"data: [DONE]", b"[DONE]"),
        (b"data:[DONE]", b"[DONE]"),
        (b"data: [DONE]\n", b"[DONE]"),
        (b"data:[DONE]\n", b"[DONE]"),
        (b"data: [DONE]\r", b"[DONE]"),
        (b"data: [DONE]\r\n", b"[DONE]"),
    ],
)
@pytest.mark.parametrize("head", [b"", b"data: x\n\n", b": comment\n", BOM])
def test_a_done_without_its_blank_line_is_an_event_at_close(head: bytes, tail: bytes, data: bytes) -> None:
    stream = head + tail

    for cut in range(len(stream) + 1):
        decoder = SSEDecoder()
        before = feed_all(decoder, [stream[:cut], stream[cut:]])
        after = decoder.close()

        assert all(event.text == "x" for event in before), f"cut at {cut}"
        assert [(event.type, event.data) for event in after] == [("message", data)], f"cut at {cut}"


@pytest.mark.parametrize("tail", [b"data:  [DONE]", b"data: [DONE] ", b"data: [DONE]\t", b"data:  [DONE] \n"])
def test_a_done_among_blanks_is_an_event_at_close(tail: bytes) -> None:
    decoder = SSEDecoder()
    before = decoder.feed(tail)

    after = decoder.close()

    assert before == []
    assert [event.data.strip() for event in after] == [b"[DONE]"]


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"data: {}",
        b"data: {}\n",
        b"data: [DON",
        b"data: [DONE]x",
        b"data: x[DONE]\n",
        b"data: [DONE]\ndata: x",
        b"data: x\ndata: [DONE]",
        b"data: x\ndata: [DONE]\n",
        b"data: [DONE]\ndata: [DONE]\n",
        b"event: [DONE]\n",
        b"id: [DONE]",
        b"Data: [DONE]\n",
        b": [DONE]\n",
        b"data: [DONE]\n\n",
        b"data: [DONE]\r\r",
    ],
)
def test_nothing_else_is_an_event_at_close(tail: bytes) -> None:
    for cut in range(len(tail) + 1):
        decoder = SSEDecoder()
        feed_all(decoder, [tail[:cut], tail[cut:]])

        assert decoder.close() == [], f"cut at {cut}"


@pytest.mark.parametrize("tail", [b"id: 2", b"id: 2\n", b"id: 2\ndata: x\n", b"retry: 9", b"event: x\ndata: y"])
def test_a_block_that_never_ends_leaves_no_trace(tail: bytes) -> None:
    assert decode([b"id: 1\nretry: 5\n\n", tail]) == Reading([], "1", 5)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_an_error_line_is_an_event_of_type_error(ending: bytes) -> None:
    data = b'data: {}%bid: 7%b%berror: {"code":500}%b%bdata: x%b%b'.replace(b"%b", ending)
    events = [("message", "{}", "7"), ("error", '{"code":500}', "7"), ("message", "x", "7")]

    for cut in range(len(data) + 1):
        reading = decode([data[:cut], b"", data[cut:]], error_field=True)
        assert reading == Reading(events, "7", None), f"cut at {cut}"


def test_an_error_line_waits_for_its_blank_line() -> None:
    decoder = SSEDecoder(error_field=True)

    assert decoder.feed(b'error: {"code":500}\n') == []
    assert [event.type for event in decoder.feed(b"\n")] == ["error"]


@pytest.mark.parametrize("line", [b"Error: {}", b" error: {}", b"errors: {}", b"err: {}", b": error: {}"])
def test_only_a_field_called_error_is_one(line: bytes) -> None:
    assert decode([line + b"\n\n"], error_field=True).events == []


def test_an_error_line_is_an_unknown_field_by_default() -> None:
    assert decode([b"error: {}\n\ndata: x\n\n"]).events == [message("x")]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.row) for case in CASES])
def test_the_error_field_leaves_other_input_alone(case: Case) -> None:
    assert decode([case.data], error_field=True) == expected(case)
    assert decode(single_bytes(case.data), error_field=True) == expected(case)


def test_a_huge_data_line_raises_by_default() -> None:
    pieces = iter([b"data: ", *[b"x" * (64 * KIB)] * 1024, b"x\n\n"])

    with pytest.raises(EventTooLargeError):
        feed_all(SSEDecoder(), pieces)

    # 256 pieces of data are the limit and the next one is over it; what follows that one is left unread.
    assert len(list(pieces)) == 1024 - 257 + 1


def test_a_huge_data_line_passes_without_a_limit() -> None:
    decoder = SSEDecoder(max_event_bytes=None)
    pieces = [b"data: ", *[b"x" * (64 * KIB)] * 1024, b"x\n\n"]

    [event] = feed_within(2.0, decoder, pieces)

    assert len(event.data) == 64 * MIB + 1


def test_an_event_too_large_is_an_api_error() -> None:
    assert issubclass(EventTooLargeError, APIError)


@pytest.mark.parametrize("name", [b"data", b"event", b"id", b"unknown"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_line_over_the_limit_raises(name: bytes, end: bytes, size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    data = b"data: fine\n\n" + name + b": " + b"x" * 110 + end

    with pytest.raises(EventTooLargeError):
        feed_all(decoder, pieces_of(data, [size]))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_that_are_over_the_limit_together_raise_before_the_event_ends(size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    data = b"data:0123456789\n" * 11

    with pytest.raises(EventTooLargeError):
        feed_all(decoder, pieces_of(data, [size]))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_lf_between_data_lines_count_towards_the_limit(size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)

    with pytest.raises(EventTooLargeError):
        feed_all(decoder, pieces_of(b"data\n" * 102, [size]))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_line_of_just_the_limit_passes(ending: bytes, size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    data = (b"data: " + b"x" * 94 + ending + ending) * 20

    events = feed_all(decoder, pieces_of(data, [size]))

    assert read(decoder, events).events == [message("x" * 94)] * 20


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_limit_starts_afresh_with_every_event(size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    data = b"data: 0123456789\ndata: 0123456789\ndata: 0123456789\n\n" * 50

    events = feed_all(decoder, pieces_of(data, [size]))

    assert len(events) == 50


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_limit_starts_afresh_after_a_block_without_data(size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    data = b"event: 0123456789\nid: 0123456789\n\n" * 50 + b"data: x\n\n"

    events = feed_all(decoder, pieces_of(data, [size]))

    assert read(decoder, events).events == [message("x", "0123456789")]


@pytest.mark.parametrize("start", [b"data:", b"data: ", b"id: ", b"event:", b"unknown: ", b": ", BOM + b"data: "])
@pytest.mark.parametrize("ending", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_the_limit_does_not_depend_on_the_cuts(start: bytes, ending: bytes) -> None:
    for length in range(85, 115):
        stream = start + b"x" * length + ending
        outcomes = {is_too_large(pieces_of(stream, [size])) for size in (1, 2, 3, 50, 100, 1000)}
        assert len(outcomes) == 1, f"a value of {length} bytes"


def test_a_piece_over_the_limit_is_not_copied_first() -> None:
    decoder = SSEDecoder()
    piece = b"data: " + b"x" * (64 * MIB)

    tracemalloc.start()
    try:
        with pytest.raises(EventTooLargeError):
            decoder.feed(piece)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < MIB


def test_a_million_comments_inside_an_event_count_towards_no_limit() -> None:
    decoder = SSEDecoder(max_event_bytes=KIB)
    stream = b"data: a\n" + b": keep-alive\n" * 1_000_000 + b"data: b\n\n"

    events = feed_within(5.0, decoder, pieces_of(stream, [64 * KIB]))

    assert read(decoder, events).events == [message("a\nb")]


@pytest.mark.parametrize(
    ("piece", "times"),
    [
        pytest.param(b": keep-alive\n" * 5000, 60, id="many_comments"),
        pytest.param(b": keep-alive\n\n" * 5000, 60, id="many_comment_blocks"),
        pytest.param(b":" + b"x" * (64 * KIB), 100, id="one_long_comment"),
    ],
)
def test_comments_use_bounded_memory(piece: bytes, times: int) -> None:
    decoder = SSEDecoder(max_event_bytes=None)

    tracemalloc.start()
    try:
        for _ in range(times):
            # A copy each time, as from a socket: of a piece that it keeps, memory would show one otherwise.
            decoder.feed(bytes(bytearray(piece)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < MIB


@pytest.mark.parametrize("size", [64 * KIB, 16 * MIB])
def test_an_event_of_many_lines_takes_linear_time(size: int) -> None:
    stream = b"data: 0123456789\n" * 100_000 + b"\n"

    [event] = feed_within(2.0, SSEDecoder(), pieces_of(stream, [size]))

    assert event.data == b"\n".join([b"0123456789"] * 100_000)


@pytest.mark.parametrize("size", [64 * KIB, 16 * MIB])
def test_many_events_take_linear_time(size: int) -> None:
    stream = b"data: 0123456789\n\n" * 100_000

    events = feed_within(3.0, SSEDecoder(), pieces_of(stream, [size]))

    assert len(events) == 100_000


def test_a_large_event_one_byte_at_a_time_takes_linear_time() -> None:
    stream = b"data: " + b"x" * 1_000_000 + b"\n\n"

    [event] = feed_within(10.0, SSEDecoder(), single_bytes(stream))

    assert event.data == b"x" * 1_000_000


NAMES = [b"data"] * 6 + [
    *[b"id", b"event", b"retry"] * 2,
    *[b"", b"Data", b" data", b"data ", b"data\0", b"dat", b"datas", b"\tdata", b"error", BOM + b"data", b"\xffid"],
]
SEPARATORS = [b":", b": ", b": ", b":  ", b"", b" :", b":\t", b"::", b":\xc2\xa0"]
VALUES = [
    *[b"", b"x", b" ", b"{}", b"[DONE]", b": ", b"data: x", "héllo 🙂".encode(), BOM],
    *[b"0", b"7", b"02000", b"123456789", b"-5", b"1_000", b"+5", b"5 ", "١٢".encode(), "²".encode()],
    *[b"\0", b"a\0b", b"\xc2\xa0", b"\xc2\x85", b"\xe2\x80\xa8", b"\x0b", b"\x0c", b"\x1c\x1d\x1e"],
    *[b"\xff", b"\xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf0\x9f\x99", b"\xf4\x90\x80\x80", b"\x80"],
]
ENDINGS = [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\r\n\n"]
OPENINGS = [b"", b"", BOM, BOM + BOM, b"\xef\xbb", b"\xef", b"\xbf", b"\n", b"\r"]
FRAGMENTS = [
    *[b"\r", b"\n", b"\r\n", b":", b" ", b"\0", b"\t", b"\xef", b"\xbb", b"\xbf", b"\xe2", b"\x82", b"\xac", b"\xff"],
    *[b"data", b"data:", b"data: ", b"id", b"id:", b"event:", b"retry:", b"1", b"a", b"[DONE]", b"error:"],
]

values = st.sampled_from(VALUES) | st.binary(max_size=6)
endings = st.sampled_from(ENDINGS)
fields = st.tuples(st.sampled_from(NAMES), st.sampled_from(SEPARATORS), values, endings)
comments = st.tuples(st.just(b":"), values, endings)
usual = st.sampled_from([(b"data: {}\n\n",), (b"data: {}\r\n\r\n",), (b"data: {}\n",), (b"event: x\n",), (b"id: 7\n",)])
lines = st.one_of(fields, fields, usual, comments, endings.map(lambda ending: (ending,))).map(b"".join)
unfinished = st.tuples(st.sampled_from(NAMES), st.sampled_from(SEPARATORS), values).map(b"".join)
grammatical = st.tuples(
    st.sampled_from(OPENINGS), st.lists(lines, max_size=24).map(b"".join), st.just(b"") | unfinished
).map(b"".join)
raw = st.binary(max_size=200) | st.lists(st.sampled_from(FRAGMENTS), max_size=80).map(b"".join)
chunk_sizes = st.lists(st.integers(0, 12) | st.just(1000), max_size=6).map(lambda sizes: [*sizes, 5])


def has_a_long_retry(stream: bytes) -> bool:
    """Whether a `retry` has more digits than `reference` reads, of which decoders may make what they like."""
    return re.search(rb"retry: ?[0-9]{10}", stream) is not None


def assert_agrees_after_every_piece(pieces: Iterable[bytes]) -> None:
    decoder = SSEDecoder()
    events: list[ServerSentEvent] = []
    fed = b""

    for piece in pieces:
        events += decoder.feed(piece)
        fed += piece
        assert read(decoder, events) == reference(fed)

    assert [event.data for event in events] == reference_data(fed)


@fuzz
@given(stream=grammatical, sizes=chunk_sizes)
def test_grammatical_streams_decode_as_the_reference_does(stream: bytes, sizes: list[int]) -> None:
    assert_agrees_after_every_piece(pieces_of(stream, sizes))


@fuzz
@given(pieces=st.lists(lines, max_size=24))
def test_lines_fed_one_by_one_decode_as_the_reference_does(pieces: list[bytes]) -> None:
    assert_agrees_after_every_piece(pieces)


@fuzz
@given(stream=raw.filter(lambda stream: not has_a_long_retry(stream)), sizes=chunk_sizes)
def test_raw_bytes_decode_as_the_reference_does(stream: bytes, sizes: list[int]) -> None:
    assert_agrees_after_every_piece(pieces_of(stream, sizes))


@fuzz
@given(stream=grammatical, sizes=chunk_sizes)
def test_closing_adds_a_done_or_nothing(stream: bytes, sizes: list[int]) -> None:
    decoder = SSEDecoder()
    feed_all(decoder, pieces_of(stream, sizes))

    tail = decoder.close()

    assert [event.data.strip() for event in tail] in ([], [b"[DONE]"])
    if b"[DONE]" not in stream:
        assert read(decoder, tail) == Reading([], *reference(stream)[1:])
