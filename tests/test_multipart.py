"""Forms: what is written is what a server reads."""

from __future__ import annotations

import email.parser
import email.policy
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.errors import InvalidRequestError
from asyncllm.media import MediaFile
from asyncllm.multipart import encode_form, form_texts, option_fields
from forms import Field, read_form

# aiohttp's reader takes a semicolon inside quotes for the end of the value, and a slash for the end of a folder's name.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda name: not set(name) & {";", "/"}
)
plain_names = names.filter(lambda name: not set(name) & {'"', "\\", "%"})
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
contents = st.binary(min_size=1, max_size=200) | st.sampled_from([b"\r\n", b"--", b"\r\n--asyncllm-", b"\n", b"--\r\n"])
files = st.builds(MediaFile, contents, plain_names, st.sampled_from(["audio/wav", "image/png", "text/plain"]))
forms = st.lists(st.tuples(plain_names, texts | files), min_size=1, max_size=5)


def expected(fields: list[tuple[str, str | MediaFile]]) -> list[Field]:
    return [
        Field(name, value.data, value.name, value.media_type)
        if isinstance(value, MediaFile)
        else Field(name, value.encode())
        for name, value in fields
    ]


@given(forms)
async def test_a_server_reads_what_was_written(fields: list[tuple[str, str | MediaFile]]) -> None:
    assert await read_form(*encode_form(fields)) == expected(fields)


@given(st.lists(st.tuples(plain_names.filter(str.isascii), files), min_size=1, max_size=4))
def test_the_parser_of_the_standard_library_reads_it_too(fields: list[tuple[str, MediaFile]]) -> None:
    kind, body = encode_form(fields)

    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
    )

    parts = list(message.iter_parts())
    assert [part.get_param("name", header="content-disposition") for part in parts] == [name for name, _ in fields]
    assert [part.get_content_type() for part in parts] == [file.media_type for _, file in fields]


@given(names, names)
async def test_no_name_breaks_out_of_its_header(name: str, filename: str) -> None:
    kind, body = encode_form([(name + '"\r\nX-Evil: 1', MediaFile(b"x", filename + '"\r\n\r\nbody'))])

    (field,) = await read_form(kind, body)

    assert field.value == b"x"
    assert b"\r\nX-Evil" not in body
    assert '"' not in field.name


def test_a_boundary_that_stands_in_a_field_is_not_taken() -> None:
    candidates: Iterator[str] = iter(["one", "two", "three"])

    kind, body = encode_form(
        [("a", "has one in it"), ("b", MediaFile(b"--two", "f.bin"))], boundary=lambda: next(candidates)
    )

    assert kind == "multipart/form-data; boundary=three"
    assert body.endswith(b"--three--\r\n")


def test_two_forms_have_two_boundaries() -> None:
    assert encode_form([("a", "b")])[0] != encode_form([("a", "b")])[0]


@given(forms)
def test_the_texts_of_a_form_are_found_again_and_its_files_are_not(fields: list[tuple[str, str | MediaFile]]) -> None:
    _, body = encode_form(fields)

    assert form_texts(body) == [(name, value) for name, value in fields if isinstance(value, str)]


@pytest.mark.parametrize("body", [b"", b"{}", b"--other\r\n", b"asyncllm-"])
def test_another_body_has_no_fields(body: bytes) -> None:
    assert form_texts(body) is None


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ("a", [("x", "a")]),
        (0.5, [("x", "0.5")]),
        (True, [("x", "true")]),
        (None, []),
        (["a", 1], [("x[]", "a"), ("x[]", "1")]),
        ({"a": 1, "b": {"c": False}}, [("x[a]", "1"), ("x[b][c]", "false")]),
    ],
)
def test_an_option_becomes_fields(value: object, fields: list[tuple[str, str]]) -> None:
    assert list(option_fields("x", value)) == fields


def test_half_of_a_character_is_refused_by_its_field_and_may_stand_in_the_name_of_a_file() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encode_form([("prompt", "tea \ud83d")])

    assert caught.value.field == "prompt"
    assert "tea" not in str(caught.value)
    assert b'filename="?.wav"' in encode_form([("file", MediaFile(b"RIFF", "\udcff.wav"))])[1]
