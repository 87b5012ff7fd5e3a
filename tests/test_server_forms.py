"""Forms: read the same however their bytes come, within limits, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.errors import APITimeoutError, BadRequestError, InvalidRequestError
from asyncllm.server.http.departure import ClientGone
from asyncllm.server.http.forms import Form, read_form
from asyncllm.server.http.parts import PartReader, boundary_of
from asyncllm.server.incoming import Caller, Incoming
from asyncllm.server.settings import ServerSettings

BOUNDARY = b"b0undary"
Told = tuple[str, str | None, bytes]
"""A name, a filename, and what it has."""

NAMES = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\\0'), min_size=1, max_size=20)
DATA = st.one_of(
    st.binary(max_size=80),
    st.lists(st.sampled_from([b"\r", b"\n", b"--", BOUNDARY, b"\r\n--b0un", b"x"])).map(b"".join),
).filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data)
FORMS = st.lists(st.tuples(NAMES, st.one_of(st.none(), NAMES), DATA), min_size=1, max_size=5)


def written(parts: Sequence[Told]) -> bytes:
    pieces: list[bytes] = []
    for name, filename, data in parts:
        told = b"" if filename is None else b'; filename="%s"' % filename.encode()
        pieces.append(b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n' % (BOUNDARY, name.encode(), told))
        pieces.append(b"\r\n%s\r\n" % data)
    return b"".join([*pieces, b"--", BOUNDARY, b"--\r\n"])


def split(body: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[one:next_] for one, next_ in pairwise(places)]


def found(pieces: Sequence[bytes]) -> list[Told]:
    reader = PartReader(BOUNDARY)
    files: dict[int, bytes] = {}
    for piece in pieces:
        for part, data in reader.feed(piece):
            files[id(part)] = files.get(id(part), b"") + data
    reader.end()
    return [
        (part.name, part.filename, bytes(part.text) if part.filename is None else files.get(id(part), b""))
        for part in reader.parts
    ]


@given(FORMS, st.lists(st.integers(0), max_size=8))
def test_a_form_is_the_same_however_its_bytes_are_split(parts: list[Told], cuts: list[int]) -> None:
    body = written(parts)

    assert found(split(body, cuts)) == found([body[at : at + 1] for at in range(len(body))]) == found([body])
    assert [(name, data) for name, _, data in found([body])] == [(name, data) for name, _, data in parts]


@given(
    st.binary(max_size=8),
    st.lists(st.tuples(st.integers(0), st.binary(max_size=6)), max_size=6),
    st.lists(st.integers(0), max_size=4),
)
def test_a_broken_form_is_an_error_of_ours_and_of_no_other_kind(
    before: bytes, changes: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    body = bytearray(before + written([("purpose", None, b"batch"), ("file", "a.jsonl", b"{}\r\n{}")]))
    for place, data in changes:
        at = place % len(body)
        body[at : at + len(data)] = data

    with suppress(InvalidRequestError):
        found(split(bytes(body), cuts))


@pytest.mark.parametrize(
    "content_type", [None, b"application/json", b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 71]
)
def test_what_is_no_form_is_told_from_one(content_type: bytes | None) -> None:
    with pytest.raises(InvalidRequestError, match="multipart/form-data"):
        boundary_of(content_type)


def incoming(pieces: Sequence[bytes], *, gap_s: float = 0, then: str = "http.request") -> Incoming:
    """A request whose body comes in `pieces`, and after them `then`."""
    left = [
        *({"type": "http.request", "body": piece, "more_body": True} for piece in pieces),
        {"type": then, "body": b"", "more_body": False},
    ]

    async def receive() -> Any:
        await asyncio.sleep(gap_s)
        return left.pop(0)

    async def send(_: Any) -> None:
        raise AssertionError

    headers = [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY), (b"content-length", b"1")]
    return Incoming({"type": "http", "headers": headers}, receive, send, "id", Caller())


async def read(request: Incoming, folder: Path, limit: int = 10_000, **settings: Any) -> Form:
    """The form, where it has been seen that it left nothing behind."""
    try:
        async with read_form(request, ServerSettings(**settings), max_file_bytes=limit, folder=folder) as form:
            for _, upload in form.uploads:
                data = upload.path.read_bytes()
                assert (len(data), hashlib.sha256(data).digest()) == (upload.size, upload.sha256)
                assert upload.path.stat().st_mode & 0o777 == 0o600
            return form
    finally:
        assert _names(folder) == []


async def test_a_form_has_its_texts_and_its_files(tmp_path: Path) -> None:
    body = written([("purpose", None, b"batch"), ("file", "../a\\b.jsonl", b"x" * 600_000), ("n[]", None, b"1")])

    form = await read(incoming(split(body, range(1, 600_000, 60_000))), tmp_path, 600_000)

    assert form.text("purpose") == "batch"
    assert form.texts("n[]") == ["1"]
    assert form.text("other") is None
    assert form.file("file").size == 600_000
    with pytest.raises(InvalidRequestError, match="is missing"):
        form.file("purpose")
    with pytest.raises(InvalidRequestError, match="sent as a file"):
        form.text("file")


@pytest.mark.parametrize(
    ("parts", "told", "status"),
    [
        ([("f", "x", b"x" * 10_001)], "more than 10000 bytes", 413),
        ([("t", None, b"x" * 70_000)], "at most 65536 bytes", 413),
        ([("t", None, b"")] * 17, "at most 16 parts", None),
        ([("t", None, b"\xff")], "t is not UTF-8", None),
        ([("t", "x" * 5000, b"")], "broken", None),
        ([("t" * 101, None, b"")], "longer than 100", None),
    ],
)
async def test_a_form_over_a_limit_is_refused(parts: list[Told], told: str, status: int | None, tmp_path: Path) -> None:
    with pytest.raises((InvalidRequestError, BadRequestError), match=told) as caught:
        await read(incoming(split(written(parts), [5000, 9000])), tmp_path)

    assert caught.value.status == status


async def test_what_comes_too_slowly_is_cut_off_and_what_keeps_the_rate_is_not(tmp_path: Path) -> None:
    body = written([("f", "x", b"x" * 2000)])
    pieces = split(body, range(0, 2000, 100))

    with pytest.raises(APITimeoutError) as caught:
        await read(incoming(pieces, gap_s=0.02), tmp_path, body_timeout_s=0.1, min_upload_bytes_per_s=100_000)
    form = await read(incoming(pieces, gap_s=0.02), tmp_path, body_timeout_s=0.1, min_upload_bytes_per_s=100)

    assert caught.value.status == 408
    assert form.file("f").size == 2000


async def test_who_goes_away_or_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    pieces = split(written([("f", "x", b"x" * 900_000)])[:-20], range(0, 900_000, 300_000))

    with pytest.raises(ClientGone):
        await read(incoming(pieces, then="http.disconnect"), tmp_path, 10**6)
    with pytest.raises(InvalidRequestError, match="broken off"):
        await read(incoming(pieces), tmp_path, 10**6)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await read(incoming(pieces, gap_s=0.015), tmp_path, 10**6)


async def test_a_form_without_a_folder_has_one_of_its_own_while_it_is_read() -> None:
    request = incoming([written([("f", "x", b"bytes")])])
    async with read_form(request, ServerSettings(), max_file_bytes=10) as form:
        path = form.file("f").path
        assert (_mode(path.parent), _mode(path)) == (0o700, 0o600)

    assert not _is_there(path.parent)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _is_there(path: Path) -> bool:
    return path.exists()
