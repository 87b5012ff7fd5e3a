"""The wire that scripts write: the dialect's line endings and keep-alives, compression, and scripts as text."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.client import Client
from asyncllm.sse import SSEDecoder
from asyncllm.testing import (
    Chunk,
    Comment,
    FaultyServer,
    Fin,
    Gzip,
    HalfClose,
    Named,
    Newline,
    Op,
    Pause,
    Rst,
    Slice,
    Sse,
    SseItem,
    Stall,
    Status,
    compressed,
    openai_chunks,
    openai_stream,
    parse_script,
    sse_event,
    sse_pieces,
)

NEWLINES: list[Newline] = ["\n", "\r", "\r\n"]
GZIPS: list[Gzip] = ["whole", "flushed", "truncated", "corrupt"]
ODD = "one\u2028two\u2029three\x85four \N{SNOWMAN}"


# -- server-sent events ----------------------------------------------------------------------------------------------


@given(
    items=st.lists(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]))),
    newline=st.sampled_from(NEWLINES),
    bom=st.booleans(),
    comment=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
)
def test_a_decoder_reads_back_what_was_written(items: list[str], newline: Newline, bom: bool, comment: str) -> None:
    body = b"".join(sse_pieces(items, newline=newline, bom=bom, pings=[Comment(comment)]))

    events = SSEDecoder().feed(body)

    assert [event.text for event in events] == [*items, "[DONE]"]


def test_events_have_types_and_lines() -> None:
    assert sse_event("a\nb", newline="\r\n") == b"data: a\r\ndata: b\r\n\r\n"
    assert sse_event(Named("error", {"code": 529})) == b'event: error\ndata: {"code":529}\n\n'
    assert sse_event(Comment("keep-alive"), newline="\r") == b": keep-alive\r\r"
    assert sse_pieces(["a"], done=False, pings=["ping"], bom=True) == [b"\xef\xbb\xbfdata: ping\n\n", b"data: a\n\n"]


def test_a_whole_stream_takes_the_same_options() -> None:
    body = openai_stream(["Hi"], newline="\r", bom=True, pings=[Comment()])

    assert body.startswith(b"\xef\xbb\xbf: ping\r\rdata: {")
    assert body.endswith(b"\r\r: ping\r\rdata: [DONE]\r\r")


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("pings", [(), (Comment(),), ("ping",), (": ping",), ("",)])
async def test_a_client_reads_the_dialect_however_it_is_written_and_cut(
    newline: Newline, pings: Sequence[SseItem]
) -> None:
    stream = Sse(openai_chunks([ODD, ODD]), newline=newline, bom=True, pings=pings, at_once=True)
    script: list[Op] = [Slice((1, 2, 3, 5, 8, 89)), stream]

    async with (
        FaultyServer(script) as server,
        Client(model="openai:any", base_url=server.url, env={}, retry=None) as client,
    ):
        text = "".join([piece async for piece in client.stream_text("hi")])

    assert text == ODD * 2


# -- gzip ------------------------------------------------------------------------------------------------------------


@given(pieces=st.lists(st.binary(), max_size=5), how=st.sampled_from(GZIPS))
def test_compression_is_whole_or_broken_as_asked(pieces: list[bytes], how: Gzip) -> None:
    packed = compressed(pieces, how)
    body = b"".join(packed)

    assert all(packed)
    if how in ("whole", "flushed"):
        assert gzip.decompress(body) == b"".join(pieces)
    else:
        with pytest.raises((EOFError, OSError, zlib.error)):
            gzip.decompress(body)


def test_what_was_flushed_can_be_read_as_it_comes() -> None:
    unpacker = zlib.decompressobj(wbits=31)

    assert [unpacker.decompress(piece) for piece in compressed([b"one", b"two"], "flushed")] == [b"one", b"two", b""]
    assert unpacker.eof


# -- scripts as text -------------------------------------------------------------------------------------------------

seconds = st.floats(0, 100)
texts = st.text(st.characters(exclude_categories=["Cs"]))
mappings = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts | st.lists(seconds))
datas = st.binary() | texts | mappings
items = datas | st.builds(Comment, texts) | st.builds(Named, texts, datas)
headers = st.dictionaries(texts, texts)
ops: st.SearchStrategy[Op] = st.one_of(
    st.binary(),
    seconds,
    st.builds(Pause, seconds),
    st.builds(Status, st.integers(200, 599), headers, st.none() | st.binary(), st.none() | st.sampled_from(GZIPS)),
    st.builds(Chunk, st.binary()),
    st.builds(Slice, st.integers(1) | st.lists(st.integers(1), min_size=1).map(tuple), seconds),
    st.builds(
        Sse,
        st.lists(items),
        st.sampled_from(["done", "end", "fin", "rst", "stall"]),
        st.sampled_from(["chunked", "close"]),
        headers,
        seconds,
        st.lists(items),
        st.sampled_from(NEWLINES),
        st.booleans(),
        st.none() | st.sampled_from(GZIPS),
        st.booleans(),
    ),
    st.sampled_from([Stall(), Fin(), Rst(), HalfClose()]),
)


@given(st.lists(ops))
def test_a_script_is_made_again_from_its_text(script: list[Op]) -> None:
    assert parse_script(repr(script)) == script


@pytest.mark.parametrize(
    "text", ["Fin()", "[open('x')]", "[Fin().__class__]", "[Fin", "[Fin(1)]", "['a' 'b', lambda: 0]"]
)
def test_a_text_that_is_no_script_is_refused_and_not_run(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError, TypeError)):
        parse_script(text)


def test_a_slice_has_at_least_one_byte() -> None:
    for size in (0, (), (3, 0)):
        with pytest.raises(ValueError, match="at least one byte"):
            Slice(size)
