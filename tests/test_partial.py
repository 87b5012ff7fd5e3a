"""JSON that is cut anywhere: what is closed parses, and is part of the whole."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.typed.partial import Completer, Growing

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["😀\\", '"', "\u2028", "\\u12", "\n\t", "é"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
FORMS = st.sampled_from(
    [
        lambda value: json.dumps(value),
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: json.dumps(value, indent=2),
        lambda value: f" \n{json.dumps(value, separators=(' , ', ' : '))}\t",
        lambda value: msgspec.json.encode(value).decode(),
    ]
)


def is_part(part: Any, whole: Any) -> bool:
    """Whether `part` may be read of `whole` while it is written."""
    if isinstance(whole, str):
        return isinstance(part, str) and whole.startswith(part)
    if isinstance(whole, list):
        done = isinstance(part, list) and len(part) <= len(whole) and part[:-1] == whole[: len(part)][:-1]
        return done and (not part or is_part(part[-1], whole[len(part) - 1]))
    if isinstance(whole, dict):
        keys = list(part) if isinstance(part, dict) else [None]
        done = keys == list(whole)[: len(keys)] and all(part[key] == whole[key] for key in keys[:-1])
        return done and (not keys or is_part(part[keys[-1]], whole[keys[-1]]))
    return type(part) is type(whole) and part == whole


def completed(*pieces: str) -> str | None:
    completer = Completer()
    for piece in pieces:
        completer.feed(piece)
    return completer.text()


@given(VALUES, FORMS)
def test_every_cut_of_every_document_parses_and_is_part_of_it(value: Any, form: Any) -> None:
    document = form(value)

    for cut in range(len(document) + 1):
        text = completed(document[:cut])
        if text is not None:
            assert is_part(json.loads(text), value), document[:cut]
            assert is_part(msgspec.json.decode(text), msgspec.json.decode(document))


@given(VALUES.filter(lambda value: isinstance(value, (list, dict, str))), FORMS)
def test_a_whole_document_is_itself(value: Any, form: Any) -> None:
    text = completed(form(value))

    assert text is not None
    assert json.loads(text) == value


@given(VALUES, FORMS, st.lists(st.integers(0, 200), max_size=8))
def test_pieces_make_no_difference(value: Any, form: Any, cuts: list[int]) -> None:
    document = form(value)
    edges = sorted({0, len(document), *(cut for cut in cuts if cut < len(document))})

    assert completed(*(document[start:end] for start, end in pairwise(edges))) == completed(document)


@given(VALUES.filter(lambda value: isinstance(value, (list, dict))))
def test_what_is_read_only_grows(value: Any) -> None:
    document = json.dumps(value)
    read = [json.loads(text) for cut in range(len(document) + 1) if (text := completed(document[:cut])) is not None]

    assert all(is_part(earlier, later) for earlier, later in pairwise(read))


@given(st.text(alphabet='{}[]",:\\u0123456789eE+-.truefalsn \ud83d', max_size=40))
def test_any_text_leaves_something_that_parses_or_nothing(text: str) -> None:
    read = completed(text)
    growing = Growing()
    growing.feed(text)

    assert read is None or json.loads(read) is not ...
    assert growing.value() is not ...


@pytest.mark.parametrize(
    ("cut", "read"),
    [
        ("", None),
        ("  ", None),
        ("12", None),
        ("tru", None),
        ('{"a', "{}"),
        ('{"a": 1', "{}"),
        ('{"a": 1 ', '{"a": 1}'),
        ('{"a": 1, "b', '{"a": 1}'),
        ('{"a": nul', "{}"),
        ('["x\\', '["x"]'),
        ('["x\\ud83d', '["x"]'),
        ('["x\\ud83d\\ude00', '["x\\ud83d\\ude00"]'),
        ("[1, [2, 3", "[1, [2]]"),
    ],
)
def test_what_may_still_become_something_else_is_left_out(cut: str, read: str | None) -> None:
    assert completed(cut) == read


@pytest.mark.parametrize(
    ("broken", "read"),
    [
        ('{"a": 1, b: 2}', '{"a": 1}'),
        ("[1 2, 3]", "[1]"),
        ('["a\x01b", 2]', '["a"]'),
        ('["a\\x", 2]', '["a"]'),
        ('["\\udc00\\udc00"]', '[""]'),
        ("[01, 2]", "[]"),
        ("[1], [2]", "[1]"),
        ("[1]]", "[1]"),
        ('{"a": [1}', '{"a": [1]}'),
        ("[1,]", "[1]"),
        ("nope", None),
        ("[nan]", "[]"),
    ],
)
def test_what_is_no_json_ends_the_reading(broken: str, read: str | None) -> None:
    assert completed(broken) == read
    assert completed(*broken) == read


def test_an_answer_is_read_from_its_first_bracket_on() -> None:
    growing = Growing()

    values = []
    for piece in ["Sure:\n``", "`json\n", '{"a": "b', 'c"', "}\n```", " done {"]:
        growing.feed(piece)
        values.append(growing.value())

    assert values == [None, None, {"a": "b"}, {"a": "bc"}, {"a": "bc"}, {"a": "bc"}]


@pytest.mark.parametrize("rest", ["[" * 5000, "1E310 "])
def test_what_nobody_can_hold_leaves_what_was_read_before(rest: str) -> None:
    growing = Growing()

    growing.feed('{"a": 1 ')
    assert growing.value() == {"a": 1}
    growing.feed(f', "b": {rest}')
    assert growing.value() == {"a": 1}
