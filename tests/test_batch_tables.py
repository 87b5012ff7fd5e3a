"""Rows of columns: what they ask, and what is written beside them, as JSONL, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from asyncllm.batch.formats import find_format
from asyncllm.batch.formats.csv import Csv
from asyncllm.batch.formats.jsonl import Jsonl
from asyncllm.batch.formats.parquet import Parquet
from asyncllm.batch.formats.protocol import Format
from asyncllm.batch.formats.records import Record, RecordSplitter
from asyncllm.batch.rows import Outcome, Row
from asyncllm.batch.template import Template
from asyncllm.errors import ConfigError, InputError, InvalidRequestError, RateLimitError, UnsupportedError, WriteError
from asyncllm.types import Embeddings, Request, Sampling, ToolCall
from tables import answered, asked, content_of, pieces, rows_of

RESULTS = ["text", "error", "finish_reason", "input_tokens", "output_tokens", "message"]
CALL = ToolCall("c1", "look_up", '{"q":"x"}')
LIMITED = RateLimitError("slow down", status=429, code="too_many")


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def request_of(row: Row) -> Request:
    assert isinstance(row.request, Request), row.error
    return row.request


def why(row: Row) -> str:
    assert row.request is None
    assert row.error is not None
    return str(row.error)


# -- what a row asks ---------------------------------------------------------------------------------------------


async def test_a_prompt_column_is_a_chat() -> None:
    (row,) = await rows_of(Jsonl(), jsonl({"prompt": "Hi", "ticket": 7}))

    assert asked(row) == "Hi"
    assert request_of(row).is_chat
    assert row.fields == {"prompt": "Hi", "ticket": 7}
    assert row.place == "in, line 1"


async def test_a_line_that_is_a_text_is_a_prompt() -> None:
    (row,) = await rows_of(Jsonl(), jsonl("Hi"))

    assert asked(row) == "Hi"
    assert row.fields == {"prompt": "Hi"}


async def test_columns_named_like_options_are_options_and_go_over_those_of_the_batch() -> None:
    line = {
        "prompt": "Hi",
        "model": "echo:b",
        "system": "Be brief.",
        "temperature": 0,
        "stop": ["."],
        "max_tokens": None,
    }

    (row,) = await rows_of(Jsonl(), jsonl(line), options={"model": "echo:a", "max_tokens": 5, "temperature": 1})

    request = request_of(row)
    assert request.model == "echo:b"
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.sampling == Sampling(max_tokens=5, temperature=0, stop=(".",))


async def test_messages_and_tools_are_read_in_openais_form() -> None:
    tool = {"type": "function", "function": {"name": "look_up"}}
    line = {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool], "extra": {"own": 1}}

    (row,) = await rows_of(Jsonl(), jsonl(line))

    assert request_of(row).tools[0].name == "look_up"
    assert request_of(row).extra == {"own": 1}


async def test_equal_rows_are_equal_requests() -> None:
    first, second = await rows_of(Jsonl(), jsonl("Hi", "Hi"))

    assert first.request == second.request


async def test_beside_a_template_all_columns_are_data() -> None:
    line = {"question": "Why?", "model": "T", "timeouts": 3}

    (row,) = await rows_of(Jsonl(), jsonl(line), template="{question} {model}", options={"model": "echo:a"})

    assert asked(row) == "Why? T"
    assert request_of(row).model == "echo:a"


async def test_a_template_may_be_made_already() -> None:
    (row,) = await rows_of(Jsonl(), jsonl("Hi"), template=Template("{prompt}!"))

    assert asked(row) == "Hi!"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "x"}, "neither a prompt nor messages"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "leave one of them out"),
        ({"prompt": ["x"]}, "prompt is a text"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"messages": "x"}, "messages is a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown role"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "model": ["a", "b"]}, "model"),
        ({"prompt": "x", "n": 2}, "no place for what n asks for"),
        ({"prompt": "x", "logprobs": True}, "no place for what logprobs asks for"),
        ({"prompt": "x", "timeouts": {}}, "a column cannot be the option timeouts"),
        ([1], "a line is a JSON object"),
        (3, "a line is a JSON object"),
    ],
)
async def test_a_row_that_cannot_be_asked_says_why_and_where(line: Any, said: str) -> None:
    good, bad, after = await rows_of(Jsonl(), jsonl("a", line, "b"))

    assert why(bad).startswith("in, line 2: ")
    assert said in why(bad)
    assert (asked(good), asked(after), after.index) == ("a", "b", 2)


@pytest.mark.parametrize("line", [b"{", b"nope", b'"\xff"', b"[" * 100_000])
async def test_a_line_that_is_not_json_is_a_row_of_its_own(line: bytes) -> None:
    bad, after = await rows_of(Jsonl(), line + b'\n"b"\n')

    assert "in, line 1: " in why(bad)
    assert asked(after) == "b"


async def test_a_prompt_does_not_stand_in_the_error_of_its_row() -> None:
    rows = await rows_of(
        Jsonl(), jsonl({"prompt": "secret", "temperature": "secret"}, {"messages": [{"role": "secret"}]})
    )

    assert not [row for row in rows if "secret" in why(row).replace("unknown role 'secret'", "")]


@pytest.mark.parametrize(
    ("options", "field"), [({"repairs": 1}, "repairs"), ({"n": 2}, "n"), ({"temprature": 1}, "temprature")]
)
async def test_options_of_the_batch_that_cannot_be_right_are_refused_at_once(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await rows_of(Jsonl(), b"", options=options)

    assert raised.value.field == field


# -- JSONL out ---------------------------------------------------------------------------------------------------


async def test_jsonl_repeats_the_columns_and_adds_the_results() -> None:
    rows = await rows_of(Jsonl(), jsonl({"prompt": "a", "id": 1}, {"prompt": "b"}))

    content = content_of(Jsonl(), rows, [answered(0), Outcome(index=1, error=LIMITED)])

    assert [json.loads(line) for line in content.splitlines()] == [
        {"prompt": "a", "id": 1, "text": "yes", "error": None, "finish_reason": "stop", "input_tokens": 3,
         "output_tokens": 1},
        {"prompt": "b", "text": None, "finish_reason": None, "input_tokens": None, "output_tokens": None,
         "error": {"type": "RateLimitError", "message": "slow down", "status": 429, "code": "too_many"}},
    ]  # fmt: skip


async def test_jsonl_keeps_the_message_that_is_more_than_its_text() -> None:
    rows = await rows_of(Jsonl(), jsonl("a"))

    (line,) = content_of(Jsonl(), rows, [answered(0, "", tool_calls=(CALL,), reasoning="hm")]).splitlines()

    assert json.loads(line)["message"] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"q":"x"}'}}],
    }


async def test_a_result_whose_name_is_taken_has_a_name_of_its_own() -> None:
    rows = await rows_of(Jsonl(), jsonl({"prompt": "a", "text": "mine", "asyncllm_text": "mine too"}))

    (line,) = content_of(Jsonl(), rows, [answered(0)]).splitlines()

    written = json.loads(line)
    assert (written["text"], written["asyncllm_text"], written["asyncllm_asyncllm_text"]) == ("mine", "mine too", "yes")


@pytest.mark.parametrize("format_", [Jsonl(), Csv(), Parquet()], ids=lambda format_: format_.name)
def test_a_table_has_no_place_for_embeddings(format_: Format) -> None:
    outcome = Outcome(index=0, answer=Embeddings(vectors=((0.5,),)))

    with pytest.raises(UnsupportedError, match="embeddings"):
        format_.writer().write(outcome, {"prompt": "a"})


# -- CSV ---------------------------------------------------------------------------------------------------------


def sheet(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
async def test_csv_cells_are_columns_by_the_header(end: bytes) -> None:
    content = end.join([b"\xef\xbb\xbfprompt,max_tokens,note", b'"a, ""b""\n\nc",5,x', b"", b"d,,", b'5" pipe,5.0,"y"'])

    first, second, third = await rows_of(Csv(), content, size=3)

    assert asked(first) == 'a, "b"\n\nc'
    assert first.fields == {"prompt": 'a, "b"\n\nc', "max_tokens": "5", "note": "x"}
    assert request_of(first).sampling.max_tokens == 5
    assert request_of(second).sampling.max_tokens is UNSET
    assert (asked(third), request_of(third).sampling.max_tokens) == ('5" pipe', 5)
    assert [row.place for row in (first, second, third)] == ["in, line 2", "in, line 6", "in, line 7"]


async def test_csv_options_that_are_no_texts_are_json() -> None:
    content = b'messages,logprobs,stop,extra\n"[{""role"": ""user"", ""content"": ""Hi""}]",FALSE,5,"{""own"": 1}"\n'

    (row,) = await rows_of(Csv(), content)

    assert asked(row) == "Hi"
    assert request_of(row).sampling == Sampling(logprobs=False, stop="5")
    assert request_of(row).extra == {"own": 1}


@pytest.mark.parametrize(
    ("line", "said", "code"),
    [
        (b"a,b", "its number of cells is 2, and the header names 3 columns", "ragged_row"),
        (b"a,b,c,d", "its number of cells is 4, and the header names 3 columns", "ragged_row"),
        (b'"a"b,c,d', "quotes do not match", "invalid_csv"),
        (b"\xff,b,c", "not UTF-8", "invalid_utf8"),
        (b"a,b," + b"c" * 200_000, "raise csv.field_size_limit", "invalid_csv"),
        (b"a,b," + b"c" * 2_000_000, "larger than 1000000 bytes", "row_too_large"),
        (b'a,"b\n' + b"b" * 2_000_000 + b'",c', "larger than 1000000 bytes", "row_too_large"),
        (b'a,b,"' + b'""' * 600_000 + b'"', "larger than 1000000 bytes", "row_too_large"),
        (b"a,hot,c", "temperature", "invalid_row"),
        (b"a,{,c", "the cell of temperature is no JSON", "invalid_row"),
    ],
)
async def test_a_csv_row_that_cannot_be_read_says_why_and_ends_nothing(line: bytes, said: str, code: str) -> None:
    content = b"prompt,temperature,note\nx,1,y\n" + line + b"\nz,1,z\n"

    before, bad, after = await rows_of(Csv(), content, max_row_bytes=1_000_000, size=65_536)

    assert why(bad).startswith("in, line 3: ")
    assert said in why(bad)
    assert bad.error is not None
    assert bad.error.code == code
    assert list(bad.fields) == ["prompt", "temperature", "note"]
    assert (asked(before), asked(after)) == ("x", "z")
    assert after.place == f"in, line {4 + line.count(10)}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "in is empty; its first line names the columns"),
        (b"question,id\nx,1\n", "neither a column 'prompt' nor a column 'messages'.*Its columns: 'question', 'id'"),
        (b"prompt,id,prompt\n", "line 1: the header has the column 'prompt' twice"),
        (b"\nprompt,\n", "line 2: the header has a column without a name"),
        (b'prompt\n"a\nb\n', "in, line 2: quotes that open in this row are never closed"),
        (b'prompt\n"' + b"a\n" * 40_000, "in, line 2: quotes that open in this row are never closed"),
        ("prompt\nx\n".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08\x00", "gzip"),
    ],
)
async def test_csv_of_which_nothing_can_be_read_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        await rows_of(Csv(), content, max_row_bytes=10_000)


async def test_csv_without_a_column_of_the_template_is_refused() -> None:
    with pytest.raises(
        InputError, match="in: the template takes the column 'q', which is not there; there are: 'prompt'"
    ):
        await rows_of(Csv(), b"prompt\nx\n", template="{q}")


async def test_the_last_row_may_lack_its_end_but_not_its_closing_quote() -> None:
    whole, cut = await rows_of(Csv(), b'prompt,id\na,1\n"b,2')

    assert asked(whole) == "a"
    assert cut.error is not None
    assert cut.error.code == "truncated_input"


async def test_csv_repeats_the_columns_and_adds_the_results() -> None:
    rows = await rows_of(Csv(), b'prompt,note\na,"=1+1, ""x"""\nb\n')

    content = content_of(
        Csv(), rows, [answered(0, "y\r\nes", tool_calls=(CALL,)), Outcome(index=1, error=rows[1].error)]
    )

    header, first, second = sheet(content)
    assert header == ["prompt", "note", *RESULTS]
    assert first[:-1] == ["a", '=1+1, "x"', "y\r\nes", "", "stop", "3", "1"]
    assert json.loads(first[-1])["tool_calls"][0]["id"] == "c1"
    assert second[:4] == ["b", "", "", f"InputError: {why(rows[1])}"]


async def test_csv_without_rows_has_a_header() -> None:
    assert sheet(content_of(Csv(), [], [])) == [RESULTS]


async def test_a_row_that_is_no_utf8_is_written_without_its_cells() -> None:
    rows = await rows_of(Csv(), b"prompt,id\n\xff,1\n")

    _, row = sheet(content_of(Csv(), rows, [Outcome(index=0, error=rows[0].error)]))

    assert row[:4] == ["", "", "", f"InputError: {why(rows[0])}"]


async def test_rows_of_other_columns_do_not_fit_into_csv() -> None:
    writer = Csv().writer()
    writer.write(answered(0), {"prompt": "a"})

    with pytest.raises(WriteError, match="row 1 has a column 'id', which the first row has not"):
        writer.write(answered(1), {"prompt": "a", "id": 1})


CELLS = st.text(st.characters(codec="utf-8"))


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3)), st.integers(1, 40), st.sampled_from(["\r\n", "\n", "\r"]))
async def test_any_cells_come_through_csv_however_it_is_cut(table: list[list[str]], size: int, end: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["prompt", "b", "c"], *table])

    rows = await rows_of(Csv(), text.getvalue().encode(), size=size)
    content = content_of(Csv(), rows, [answered(index) for index in range(len(rows))])

    assert [list(row.fields.values()) for row in rows] == table
    assert [row[:3] for row in sheet(content)[1:]] == table


@given(st.text(alphabet='a",\r\né '), st.integers(1, 5), st.integers(1, 30))
async def test_records_are_the_same_however_they_are_cut(text: str, size: int, limit: int) -> None:
    async def records(size: int) -> list[Record] | str:
        splitter = RecordSplitter(limit, "in")
        try:
            found = [record async for piece in pieces(text.encode(), size) for record in splitter.feed(piece)]
            return found + splitter.close()
        except InputError as error:
            return str(error)

    assert await records(size) == await records(10_000)


@given(st.text(alphabet='a",\r\n'))
async def test_records_are_those_of_pythons_reader(text: str) -> None:
    splitter = RecordSplitter(10_000, "in")
    try:
        records = splitter.feed(text.encode()) + splitter.close()
    except InputError:
        return  # quotes left open, which Python's reader lets pass

    assert [next(csv.reader([record.text])) for record in records if record.closed] == [
        row for row in csv.reader(io.StringIO(text, newline="")) if row
    ][: sum(record.closed for record in records)]


@given(st.binary(), st.integers(1, 7))
async def test_no_bytes_raise_anything_but_an_input_error(content: bytes, size: int) -> None:
    for format_ in (Csv(), Jsonl()):
        try:
            rows = await rows_of(format_, b'prompt,"b"\n' + content, size=size, max_row_bytes=50)
        except InputError:
            continue
        assert [row.index for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize(("name", "format_"), [("in.CSV.gz", Csv), ("in.parquet.gz", Parquet), ("in.gz", Jsonl)])
def test_a_packed_file_has_the_format_of_its_name_without_gz(name: str, format_: type) -> None:
    assert isinstance(find_format(None, name, b""), format_)


# -- Parquet -----------------------------------------------------------------------------------------------------


def parquet(**columns: list[Any]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, row_group_size=2)
    return content.getvalue()


async def test_parquet_is_read_row_by_row_with_its_types() -> None:
    content = parquet(
        prompt=["a", "b", None],
        max_tokens=[5.0, float("nan"), None],
        at=[date(2026, 1, 2)] * 3,
        tags=[["x"], [], None],
    )

    first, second, third = await rows_of(Parquet(), content, size=7)

    assert asked(first) == "a"
    assert request_of(first).sampling.max_tokens == 5
    assert request_of(second).sampling == Sampling()
    assert first.fields["tags"] == ["x"]
    assert "in, row 3: it has neither a prompt nor messages" in why(third)


async def test_parquet_holds_messages_as_lists_or_as_json() -> None:
    turns = [{"role": "user", "content": "Hi"}]

    (nested,) = await rows_of(Parquet(), parquet(messages=[turns]))
    (text,) = await rows_of(Parquet(), parquet(messages=[json.dumps(turns)]))

    assert asked(nested) == asked(text) == "Hi"


async def test_parquet_keeps_the_schema_of_the_input_and_adds_the_results() -> None:
    columns = {"prompt": ["a", "b"], "at": [date(2026, 1, 2), None], "n8": pa.array([1, 2], pa.int8())}
    rows = await rows_of(Parquet(), parquet(**columns))

    content = content_of(Parquet(), rows, [answered(0, tool_calls=(CALL,)), Outcome(index=1, error=LIMITED)])

    table = pq.read_table(io.BytesIO(content))
    assert table.schema.names == ["prompt", "at", "n8", *RESULTS]
    assert table.schema.field("n8").type == pa.int8()
    assert table.schema.field("input_tokens").type == pa.int64()
    first, second = table.to_pylist()
    assert (first["at"], first["n8"], first["text"]) == (date(2026, 1, 2), 1, "yes")
    assert json.loads(first["message"])["tool_calls"][0]["id"] == "c1"
    assert second["error"] == "RateLimitError: slow down (status=429, code=too_many)"


async def test_parquet_is_written_in_groups_as_rows_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncllm.batch.formats.parquet._GROUP_ROWS", 3)
    rows = await rows_of(Parquet(), parquet(prompt=[str(index) for index in range(10)]))

    content = content_of(Parquet(), rows, [answered(index) for index in range(10)])

    file = pq.ParquetFile(io.BytesIO(content))
    assert file.num_row_groups == 4
    assert file.read().column("prompt").to_pylist() == [str(index) for index in range(10)]


async def test_rows_without_types_become_texts_in_parquet() -> None:
    rows = await rows_of(Jsonl(), jsonl({"prompt": "a", "tags": [1], "x": None}))

    table = pq.read_table(io.BytesIO(content_of(Parquet(), rows, [answered(0)])))

    assert table.to_pylist()[0] | {"message": None} == {
        "prompt": "a", "tags": "[1]", "x": None, "text": "yes", "error": None, "finish_reason": "stop",
        "input_tokens": 3, "output_tokens": 1, "message": None,
    }  # fmt: skip


async def test_parquet_without_rows_is_a_table_of_none() -> None:
    table = pq.read_table(io.BytesIO(content_of(Parquet(), [], [])))

    assert (table.num_rows, table.schema.names) == (0, RESULTS)


@pytest.mark.parametrize("content", [b"", b"prompt\nx\n", parquet(prompt=["a"])[:-9], b"PAR1" + b"x" * 50 + b"PAR1"])
async def test_what_is_no_parquet_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="in is not a Parquet file, or not whole"):
        await rows_of(Parquet(), content)


async def test_damage_within_parquet_is_an_input_error() -> None:
    content = bytearray(parquet(prompt=["abc" * 100] * 4))
    content[20:60] = b"\xff" * 40

    with pytest.raises(InputError, match="in cannot be read to its end"):
        await rows_of(Parquet(), bytes(content))


async def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncllm.batch.formats.parquet.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'asyncllm\[parquet\]'"):
        Parquet().writer()
