from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.batch.template import Template
from asyncllm.errors import InvalidRequestError
from asyncllm.types import AudioPart, ImagePart, Message, TextPart

NAMES = st.text(min_size=1).filter(lambda name: name == name.strip() and not set(name) & set("{}.[]!:\n\r"))


def test_columns_take_the_places_of_their_names() -> None:
    template = Template("{greeting}, {First name}! {greeting}")

    assert template.fill({"greeting": "Hello", "First name": "Ada", "other": 1}) == "Hello, Ada! Hello"
    assert template.columns == ("greeting", "First name")


def test_a_brace_written_twice_is_a_brace() -> None:
    assert Template('{{"a": {n}}} {{}}').fill({"n": 1}) == '{"a": 1} {}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a {b} {{c}}", "a {b} {{c}}"),
        ("", ""),
        (17, "17"),
        (0.5, "0.5"),
        (True, "true"),
        ([1, "ü"], '[1,"ü"]'),
        ({"a": None}, '{"a":null}'),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00Z"),
        (Decimal("1.10"), "1.10"),
    ],
)
def test_a_value_stands_as_its_plain_text(value: Any, text: str) -> None:
    assert Template("<{value}>").fill({"value": value}) == f"<{text}>"


@pytest.mark.parametrize("value", [b"bytes", float("nan"), float("inf"), object(), {1, 2}, [object()]])
def test_a_value_without_a_text_is_refused_by_its_column(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="'value' holds a"):
        Template("{value}").fill({"value": value})


def test_a_missing_column_is_named_beside_those_there_are() -> None:
    with pytest.raises(
        InvalidRequestError, match="'question', which is not there; there are: 'prompt', 'id'"
    ) as raised:
        Template("{question}").fill({"prompt": "secret", "id": 1})

    assert raised.value.field == "template"
    assert "secret" not in str(raised.value)


def test_a_null_column_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="'question', which is null here"):
        Template("{question}").fill({"question": None})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a {b.c}", "the template, character 3"),
        ("{b[0]}", "character 1"),
        ("{b!r}", "character 1"),
        ("{b:>10}", "character 1"),
        ("{}", "character 1"),
        ("{ b }", "character 1"),
        ("a } b", "character 3"),
        ("ab { c", "character 4"),
        ("{a{b}}", "character 1"),
        ('{"a": 1}', "character 1"),
    ],
)
def test_what_is_no_name_in_braces_is_refused_by_its_place(text: str, place: str) -> None:
    with pytest.raises(InvalidRequestError, match=place):
        Template(text)


def test_messages_are_filled_in_their_content_alone() -> None:
    template = Template(
        [
            {"role": "system", "content": "Speak {language}."},
            {"role": "user", "name": "{language}", "content": [
                {"type": "text", "text": "{question}"},
                {"type": "image_url", "image_url": {"url": "{picture}"}},
            ]},
        ]
    )  # fmt: skip

    assert template.fill({"language": "German", "question": "Why?", "picture": "https://x.example/y.png"}) == [
        {"role": "system", "content": "Speak German."},
        {"role": "user", "name": "{language}", "content": [
            {"type": "text", "text": "Why?"},
            {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}},
        ]},
    ]  # fmt: skip


def test_message_structs_are_filled_as_well() -> None:
    sound = AudioPart(b"{x}")
    template = Template([Message("user", (TextPart("{x}"), ImagePart(url="{x}"), sound)), Message("user", "{x}")])

    filled = template.fill({"x": "y"})

    assert filled == [Message("user", (TextPart("y"), ImagePart(url="y"), sound)), Message("user", "y")]


def test_a_place_in_a_message_is_named() -> None:
    with pytest.raises(InvalidRequestError, match=r"template\[1\]\.content\[0\]\.text, character 3"):
        Template([{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "a {"}]}])


@pytest.mark.parametrize("template", ["", [], 7, [7], None])
def test_what_is_no_template_is_refused(template: Any) -> None:
    with pytest.raises(InvalidRequestError, match="template"):
        Template(template)


def test_a_template_shows_nothing_of_its_text() -> None:
    assert "secret" not in repr(Template("secret {x}"))
    with pytest.raises(InvalidRequestError) as raised:
        Template("secret {")
    assert "secret" not in str(raised.value)


@given(st.lists(st.tuples(st.text(), NAMES), min_size=1), st.data())
def test_filling_is_joining_whatever_the_cells_hold(parts: list[tuple[str, str]], data: st.DataObject) -> None:
    columns = {name: data.draw(st.text()) for _, name in parts}
    text = "".join(literal.replace("{", "{{").replace("}", "}}") + f"{{{name}}}" for literal, name in parts)

    filled = Template(text).fill(columns)

    assert filled == "".join(literal + columns[name] for literal, name in parts)


@given(st.text(alphabet="{}a.[]!: 0", min_size=1))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    class Trap(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the template looked for {name}")

    try:
        template = Template(text)
    except InvalidRequestError:
        return
    assert isinstance(template.fill(Trap.fromkeys(template.columns, "x")), str)
