"""The files of batches that carry requests: read from bytes cut anywhere, written in input order."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.backend import EmbedRequest
from asyncllm.batch.formats import TABLE, find_format, openai
from asyncllm.batch.formats.lines import Line, LineSplitter
from asyncllm.batch.formats.llmengine import LLMEngineV1, LLMEngineV2
from asyncllm.batch.formats.openai import OpenAI
from asyncllm.batch.formats.protocol import Format, Reading
from asyncllm.batch.rows import Answer, Outcome, Row, asked_of
from asyncllm.errors import (
    ConfigError,
    InputError,
    InvalidRequestError,
    RateLimitError,
    TotalTimeoutError,
)
from asyncllm.types import (
    Choice,
    Embeddings,
    Message,
    Request,
    Response,
    ResponseChoice,
    Sampling,
    Timeouts,
    TokenLogprob,
    Usage,
)

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def given_pieces(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def read(format_: Format, *pieces: bytes, **reading: Any) -> list[Row]:
    said = Reading(**{"name": "in.jsonl", **reading})
    return [row async for row in format_.read(given_pieces(pieces), said)]


def run(format_: Format, *pieces: bytes, **reading: Any) -> list[Row]:
    """The same without an event loop, which a property has none of: nothing here waits for anything."""
    coroutine = read(format_, *pieces, **reading)
    try:
        coroutine.send(None)
    except StopIteration as done:
        rows: list[Row] = done.value
        return rows
    raise AssertionError("reading has waited")


def line(custom_id: object = "a", url: object = "/v1/chat/completions", body: Any = BODY, **fields: Any) -> bytes:
    whole = {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def repeated(row: Row) -> dict[str, Any]:
    """What an outcome repeats of its row."""
    assert row.request is not None
    return {"asked": asked_of(row.request), "model": row.request.model}


def written(format_: Format, *outcomes: Outcome) -> tuple[bytes, bytes]:
    writer = format_.writer()
    pairs = [writer.write(outcome, {}) for outcome in outcomes]
    return (
        writer.begin() + b"".join(good for good, _ in pairs) + writer.end(),
        b"".join(bad for _, bad in pairs),
    )


def said(text: str, **fields: Any) -> Response:
    return Response(choices=(ResponseChoice(0, Message("assistant", text), "stop"),), **fields)


def told(row: Row) -> tuple[int, str | None, str | None]:
    return row.index, row.id, None if row.error is None else row.error.code


# -- lines -------------------------------------------------------------------------------------------------------


def split(content: bytes, cuts: Iterable[int] = (), limit: int = 100) -> list[Line]:
    splitter = LineSplitter(limit)
    places = [0, *sorted(cuts), len(content)]
    lines = [one for start, end in pairwise(places) for one in splitter.feed(content[start:end])]
    return lines + splitter.close()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb\n", [Line(1, b"a"), Line(2, b"b")]),
        (b"a\r\nb", [Line(1, b"a"), Line(2, b"b", ended=False)]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [Line(1, b"a"), Line(2, b"\xef\xbb\xbfb")]),
        (b"\n \t\r\na\n\n", [Line(3, b"a")]),
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (
            b"123456\n1234567\n123456",
            [Line(1, b"123456"), Line(2, b"", too_long=True), Line(3, b"123456", ended=False)],
        ),
        (b"1234567", [Line(1, b"", ended=False, too_long=True)]),
    ],
)
def test_a_content_has_the_same_lines_at_every_cut(content: bytes, lines: list[Line]) -> None:
    for first in range(len(content) + 1):
        for second in range(first, len(content) + 1):
            assert split(content, (first, second), limit=6) == lines


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b" ", b"\xef\xbb\xbf", b"bc"])).map(b"".join), st.data())
def test_how_bytes_are_cut_does_not_matter(content: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(content))))

    assert split(content, cuts, limit=4) == split(content, limit=4)


def test_no_more_of_a_line_is_kept_than_its_limit() -> None:
    splitter = LineSplitter(1000)

    for _ in range(100):
        splitter.feed(b"x" * 600)

    assert len(splitter._tail) <= 1000


# -- OpenAI ------------------------------------------------------------------------------------------------------


async def test_a_line_is_a_request_with_its_name_and_place() -> None:
    (row,) = await read(OpenAI(), b"\n" + line("a-1", body={**BODY, "temperature": 0.5}) + b"\n")

    assert (row.index, row.id, row.place, row.error) == (0, "a-1", "in.jsonl, line 2", None)
    assert row.request == Request(model="m", messages=(Message("user", "hi"),), sampling=Sampling(temperature=0.5))


@pytest.mark.parametrize("version", ["/v1", ""])
async def test_each_endpoint_has_its_kind_of_request(version: str) -> None:
    rows = await read(
        OpenAI(),
        line(url=f"{version}/chat/completions"), b"\n",
        line(url=f"{version}/completions", body={"prompt": "p"}), b"\n",
        line(url=f"{version}/embeddings", body={"input": ["a", "b"]}), b"\n",
    )  # fmt: skip

    assert [row.request for row in rows] == [
        Request(model="m", messages=(Message("user", "hi"),)),
        Request(model="", prompt="p"),
        EmbedRequest(model="", texts=("a", "b")),
    ]


async def test_a_batch_has_no_stream() -> None:
    (row,) = await read(OpenAI(), line(body={**BODY, "stream": True, "stream_options": {"include_usage": True}}))

    assert row.request == Request(model="m", messages=(Message("user", "hi"),))


@pytest.mark.parametrize(
    ("content", "code", "field", "id_"),
    [
        (b"{oops}", "invalid_json", None, None),
        (b"[]", "invalid_request", None, None),
        (b'{"custom_id":"a","body":' + b"[" * 100_000, "invalid_json", None, None),
        (b'{"url":5,"body":' + b"[" * 100_000, "invalid_request", None, None),
        (b'{"custom_id":"a\xff"}', "invalid_json", None, None),
        (line(...), "missing_custom_id", "custom_id", None),
        (line(""), "missing_custom_id", "custom_id", None),
        (line(7), "invalid_request", None, None),
        (line(method=...), "unsupported_method", "method", "a"),
        (line(method="GET"), "unsupported_method", "method", "a"),
        (line(url=...), "unsupported_url", "url", "a"),
        (line(url="/v1/responses"), "unsupported_url", "url", "a"),
        (line(url=5), "invalid_request", None, "a"),
        (line(body=...), "invalid_request", "body", "a"),
        (line(body=[]), "invalid_request", "body", "a"),
        (line(body={"messages": [{"role": "user", "content": 5}]}), "invalid_request", "body.messages[0].content", "a"),
        (line(body={**BODY, "n": 0}), "invalid_request", "body.n", "a"),
    ],
)
async def test_a_bad_line_is_an_error_that_ends_nothing(
    content: bytes, code: str, field: str | None, id_: str | None
) -> None:
    bad, good = await read(OpenAI(), content + b"\n" + line("b") + b"\n", max_row_bytes=200_000)

    assert told(bad) == (0, id_, code)
    assert isinstance(bad.error, InputError)
    assert bad.error.field == field
    assert bad.error.message.startswith("in.jsonl, line 1: ")
    assert (good.index, good.id, good.error) == (1, "b", None)


async def test_a_line_over_the_limit_is_an_error_and_reading_goes_on() -> None:
    long = line("long", body={**BODY, "user": "x" * 5000})

    rows = await read(OpenAI(), line("a") + b"\n" + long[:3000], long[3000:] + b"\n" + line("b"), max_row_bytes=4000)

    assert [told(row) for row in rows] == [(0, "a", None), (1, None, "row_too_large"), (2, "b", None)]
    assert "4000" in str(rows[1].error)


async def test_a_last_line_without_an_end_is_taken_only_if_it_is_whole() -> None:
    whole = line("a") + b"\n" + line("b")

    for cut in range(len(line("a")) + 3, len(whole)):
        rows = await read(OpenAI(), whole[:cut])
        assert [told(row) for row in rows] == [(0, "a", None), (1, None, "truncated_input")]
    assert [told(row) for row in await read(OpenAI(), whole)] == [(0, "a", None), (1, "b", None)]


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"\x1f\x8b\x08\x00", "gzip"), (b"PK\x03\x04", "ZIP"), (b"\xff\xfe{\x00", "UTF-16"), (b"PAR1", "Parquet")],
)
async def test_a_content_that_is_no_text_is_refused_whole(start: bytes, kind: str) -> None:
    with pytest.raises(InputError, match=f"in.jsonl is.*{kind}"):
        await read(OpenAI(), start[:1], start[1:] + b"rest\n")


def test_an_error_names_no_more_of_a_line_than_its_place() -> None:
    (row,) = run(OpenAI(), b'{"custom_id":"a","prompt":"a secret')

    assert "secret" not in str(row.error)


async def test_options_of_the_batch_hold_where_a_row_says_nothing() -> None:
    options = {
        "max_tokens": 9, "temperature": 0.1, "system": "Be brief.", "model": "other", "extra": {"a": 1, "b": 1},
        "timeouts": Timeouts(total_s=3),
    }  # fmt: skip
    spoken = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.9, "b": 2}

    (row,) = await read(OpenAI(), line(body=spoken), options=options)

    assert row.request == Request(
        model="other",
        messages=(Message("system", "Be brief."), Message("user", "hi")),
        sampling=Sampling(max_tokens=9, temperature=0.9),
        extra={"a": 1, "b": 2},
        timeouts=Timeouts(total_s=3),
    )


async def test_a_row_with_a_model_and_instructions_of_its_own_keeps_them() -> None:
    own = {"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}

    (row,) = await read(OpenAI(), line(body=own), options={"system": "other", "model": "other"})

    assert row.request == Request(model="m", messages=(Message("system", "s"), Message("user", "u")))


@pytest.mark.parametrize(
    ("url", "body", "option"),
    [("/v1/completions", {"prompt": "p"}, "system"), ("/v1/embeddings", {"input": "a"}, "temperature")],
)
async def test_an_option_that_a_row_cannot_take_is_its_error(url: str, body: object, option: str) -> None:
    (row,) = await read(OpenAI(), line(url=url, body=body), options={option: "0" if option == "system" else 0})

    assert row.error is not None
    assert row.error.field == option


async def test_embeddings_take_the_options_that_all_calls_have() -> None:
    options = {"model": "e", "timeouts": Timeouts(total_s=3), "extra": {"a": 1}}

    (row,) = await read(OpenAI(), line(url="/v1/embeddings", body={"input": "a"}), options=options)

    assert row.request == EmbedRequest(model="e", texts=("a",), timeouts=Timeouts(total_s=3), extra={"a": 1})


async def test_an_option_that_no_call_has_is_refused_before_any_row() -> None:
    with pytest.raises(InvalidRequestError, match="temprature"):
        await read(OpenAI(), line(), options={"temprature": 1})


async def test_one_idempotency_key_is_not_for_all_rows() -> None:
    with pytest.raises(InvalidRequestError, match="idempotency_key"):
        await read(OpenAI(), line(), options={"idempotency_key": "k"})


@given(st.data())
def test_how_a_file_of_requests_is_cut_does_not_matter(data: st.DataObject) -> None:
    content = line("a") + b"\r\n{bad\n\n" + line("b", body={"messages": []}) + b"\n" + line("c")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)))))
    pieces = [content[start:end] for start, end in pairwise([0, *cuts, len(content)])]

    assert list(map(told, run(OpenAI(), *pieces))) == list(map(told, run(OpenAI(), content)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompts", "messages", "role", "content", "input", "prompt"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
GARBAGE = (
    st.binary(max_size=60)
    | JSON.map(msgspec.json.encode)
    | JSON.map(lambda body: line(body=body))
    | st.text('{}[]",:a1\n \\').map(str.encode)
)


@pytest.mark.parametrize("format_", [OpenAI(), LLMEngineV1(), LLMEngineV2()], ids=lambda format_: format_.name)
@given(content=GARBAGE)
def test_garbage_is_rows_with_errors_or_an_input_error(format_: Format, content: bytes) -> None:
    try:
        rows = run(format_, content)
    except InputError:
        return
    for index, row in enumerate(rows):
        assert row.index == index
        assert (row.request is None) != (row.error is None)


def test_an_answer_goes_into_the_output_and_nothing_else() -> None:
    outcome = Outcome(index=3, id="a", answer=said("hi", request_id="r", model="m", usage=Usage(input_tokens=1)))

    good, bad = written(OpenAI(), outcome)

    assert bad == b""
    assert json.loads(good) == {
        "id": "batch_req_3",
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": "r",
            "body": {
                "id": "r",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "hi", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 1},
            },
        },
        "error": None,
    }


def test_a_refusal_goes_into_the_errors_with_its_status() -> None:
    good, bad = written(OpenAI(), Outcome(index=0, id="a", error=RateLimitError("slow down", status=429)))

    assert good == b""
    assert json.loads(bad) == {
        "id": "batch_req_0",
        "custom_id": "a",
        "response": {
            "status_code": 429,
            "request_id": "",
            "body": {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": None}},
        },
        "error": None,
    }


def test_an_error_that_is_no_reply_goes_into_the_errors_without_one() -> None:
    good, bad = written(OpenAI(), Outcome(index=0, id=None, error=InputError("line 1: no", code="invalid_json")))

    assert good == b""
    assert json.loads(bad) == {
        "id": "batch_req_0",
        "custom_id": None,
        "response": None,
        "error": {"code": "invalid_json", "message": "line 1: no", "type": "InputError"},
    }


async def test_a_reply_has_the_form_of_the_endpoint_of_its_row() -> None:
    rows = await read(
        OpenAI(), line() + b"\n" + line(url="/completions", body={"prompt": "p", "model": "own"}) + b"\n"
        + line(url="/v1/embeddings", body={"input": "a"}),
    )  # fmt: skip
    answers: list[Answer] = [said("x"), said("y"), Embeddings(vectors=((1.0, 2.0),))]

    lines = [
        json.loads(written(OpenAI(), Outcome(index=row.index, answer=answer, **repeated(row)))[0])
        for row, answer in zip(rows, answers, strict=True)
    ]

    bodies = [one["response"]["body"] for one in lines]
    assert [body["object"] for body in bodies] == ["chat.completion", "text_completion", "list"]
    assert bodies[1]["model"] == "own"
    assert bodies[1]["choices"][0]["text"] == "y"
    assert bodies[2]["data"][0]["embedding"] == [1.0, 2.0]


def test_what_is_written_is_read_as_the_same_outcomes() -> None:
    outcomes = [
        Outcome(index=0, id="a", answer=said("hi")),
        Outcome(index=1, id="b", answer=Embeddings(vectors=((1.0,),))),
        Outcome(index=2, id="c", error=RateLimitError("no", status=429, request_id="r")),
        Outcome(index=3, id="d", error=TotalTimeoutError("late")),
    ]

    good, bad = written(OpenAI(), *outcomes)

    hi, vectors, limited, late = openai.read_output(good + bad)
    assert isinstance(hi.answer, Response)
    assert (hi.id, hi.answer.text) == ("a", "hi")
    assert isinstance(vectors.answer, Embeddings)
    assert list(vectors.answer[0]) == [1.0]
    assert type(limited.error) is RateLimitError
    assert (limited.error.message, limited.error.status, limited.error.request_id) == ("no", 429, "r")
    assert repr(late.error) == repr(outcomes[3].error)


def test_outputs_of_the_same_outcomes_are_the_same() -> None:
    outcome = Outcome(index=0, id="a", answer=said("hi"))

    assert written(OpenAI(), outcome) == written(OpenAI(), outcome)


# -- LLM Engine --------------------------------------------------------------------------------------------------

V1 = {"prompts": ["one", "two"], "max_new_tokens": 5, "temperature": 0.5}


def encoded(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()


async def test_the_options_of_version_1_hold_for_each_of_its_prompts() -> None:
    document = {
        **V1, "stop_sequences": ["x"], "return_token_log_probs": True, "top_k": None, "guided_choice": ["a"],
        "skip_special_tokens": False,
    }  # fmt: skip

    rows = await read(LLMEngineV1(), encoded(document), name="in.json")

    assert [row.request for row in rows] == [
        Request(
            model="",
            prompt=prompt,
            sampling=Sampling(max_tokens=5, temperature=0.5, stop=("x",), logprobs=True),
            constraint=Choice(("a",)),
            extra={"skip_special_tokens": False},
        )
        for prompt in ("one", "two")
    ]
    assert [row.place for row in rows] == ["in.json, prompts[0]", "in.json, prompts[1]"]


async def test_a_bad_prompt_does_not_end_the_rest() -> None:
    rows = await read(LLMEngineV1(), encoded({"prompts": ["a", 5, "", "long" * 9, "b"]}), max_row_bytes=20)

    assert [told(row)[2] for row in rows] == [None, "invalid_request", "invalid_request", "row_too_large", None]


async def test_a_bad_body_does_not_end_the_rest() -> None:
    items = [BODY, {"messages": 5}, None, {"model": "m"}, {"prompt": "p"}, {"input": "a", "user": "x" * 200}]

    rows = await read(LLMEngineV2(), encoded(items), max_row_bytes=200)

    assert [told(row)[2] for row in rows] == [None, *["invalid_request"] * 3, None, "row_too_large"]
    assert rows[1].error is not None
    assert (rows[1].place, rows[1].error.field) == ("in.jsonl, [1]", "messages")


async def test_bytes_of_an_item_that_are_no_text_do_not_end_the_rest() -> None:
    rows = await read(LLMEngineV2(), b'[{"prompt":"\xff"},{"prompt":"b"}]')

    assert [told(row)[2] for row in rows] == ["invalid_request", None]


@pytest.mark.parametrize(
    ("format_", "content", "message", "field"),
    [
        (LLMEngineV1(), b"[]", 'is not an object with "prompts"', None),
        (LLMEngineV1(), b"{}", 'has no "prompts"', "prompts"),
        (LLMEngineV1(), b'{"prompts": "a"}', "is not a list", None),
        (LLMEngineV1(), b'{"prompts": ["a"], "max_new_tokens": "5"}', "max_new_tokens: expected", "max_new_tokens"),
        (LLMEngineV1(), b'{"prompts": ["a"], "guided_choice": 5}', "guided_choice", "guided_choice"),
        (LLMEngineV1(), b'{"prompts": ["a"], "max_tokens": 5, "max_new_tokens": 6}', "another field", "max_new_tokens"),
        (LLMEngineV1(), b'{"prompts": ["a"], "prompt": "b"}', "another field", "prompt"),
        (LLMEngineV1(), b'{"content": {}, "model_config": {}}', "creates a batch", "content"),
        (LLMEngineV1(), b'{"input_data_path": "s3://x"}', "creates a batch", "input_data_path"),
        (LLMEngineV1(), b'{"prompts": ["a"], "tool_config": {}}', "leave it out", "tool_config"),
        (LLMEngineV2(), b"{}", "is not a list of requests", None),
        (LLMEngineV2(), b"", "is cut short", None),
        (LLMEngineV2(), b'[{"prompt": "a"},', "is cut short", None),
        (LLMEngineV2(), b'[\n{"prompt": "a"},\n}]', "breaks off in line 3", None),
        (LLMEngineV2(), b"\x1f\x8b", "gzip", None),
    ],
)
async def test_a_document_that_cannot_be_read_says_why(
    format_: Format, content: bytes, message: str, field: str | None
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        await read(format_, content, name="in.json")

    assert caught.value.field == field
    assert caught.value.message.startswith("in.json")


async def test_options_of_the_batch_hold_where_a_document_says_nothing() -> None:
    rows = await read(LLMEngineV1(), encoded(V1), options={"max_tokens": 9, "seed": 1})
    (body,) = await read(LLMEngineV2(), encoded([BODY]), options={"max_tokens": 9})

    assert isinstance(rows[0].request, Request)
    assert rows[0].request.sampling == Sampling(max_tokens=5, temperature=0.5, seed=1)
    assert isinstance(body.request, Request)
    assert body.request.sampling == Sampling(max_tokens=9)


def test_an_output_of_version_1_has_a_result_or_null_for_each_prompt() -> None:
    tokens = (TokenLogprob("h", -0.5),)
    answer = Response(
        choices=(ResponseChoice(0, Message("assistant", "h"), "stop", None, tokens),),
        usage=Usage(input_tokens=2, output_tokens=1),
    )

    good, bad = written(
        LLMEngineV1(),
        Outcome(index=0, answer=answer),
        Outcome(index=1, error=TotalTimeoutError("late")),
        Outcome(index=2, answer=said("x")),
    )

    assert bad == b""
    assert json.loads(good) == [
        {"text": "h", "num_prompt_tokens": 2, "num_completion_tokens": 1, "tokens": [{"token": "h", "log_prob": -0.5}]},
        None,
        {"text": "x", "num_prompt_tokens": None, "num_completion_tokens": None, "tokens": None},
    ]


def test_an_output_of_nothing_is_an_empty_list() -> None:
    for format_ in (LLMEngineV1(), LLMEngineV2()):
        assert json.loads(written(format_)[0]) == []


def test_an_error_of_version_2_has_its_status_for_a_code() -> None:
    good, _ = written(LLMEngineV2(), Outcome(index=0, error=InvalidRequestError("no", field="top_p")))

    assert json.loads(good) == [
        {"error": {"message": "no", "type": "invalid_request_error", "param": "top_p", "code": 400}}
    ]


# -- finding a format --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place", "content", "found"),
    [
        ("openai", "in.csv", b"[", "openai"),
        ("llmengine-v1", "in.json", b"[", "llmengine-v1"),
        ("llmengine", "in", b' \n{"prompts":[]}', "llmengine-v1"),
        ("llmengine", "in", b"\xef\xbb\xbf[]", "llmengine-v2"),
        ("llmengine", "out.json", b"", "llmengine-v2"),
        (None, "in.jsonl", line(), "openai"),
        (None, "in.jsonl", line()[:40], "openai"),
        (None, "in", line("a", body={"messages": "x" * 99})[:150] + b"\xff", "openai"),
        (None, "in.json", b"[\n", "llmengine-v2"),
        (None, "in.json", b'{"prompts": ["a"], "max_new_tokens": 5}', "llmengine-v1"),
        (None, "in.json", b'{\n  "max_new_tokens": 5,\n  "prompts": ["a', "llmengine-v1"),
        (None, "job.json", b'{"content": {"prompts": []}, "output_data_path": "s3://x"}', "llmengine-v1"),
    ],
)
def test_a_format_is_found_by_name_or_by_content(name: str | None, place: str, content: bytes, found: str) -> None:
    assert find_format(name, place, content).name == found


@pytest.mark.parametrize(
    "content",
    [b"", b'{"prompt": "a"}\n', b'{"custom_id": 5, "prompt": "a"}\n', b'{"text": "say \\"prompts\\": x', b"name,age\n"],
)
def test_what_nothing_tells_is_jsonl(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "jsonl", "asyncllm.batch.formats.openai:OpenAI")
    monkeypatch.setitem(TABLE, "openai", "nowhere:Nothing")

    assert isinstance(find_format(None, "in.txt", content), OpenAI)


@pytest.mark.parametrize(
    ("place", "content", "name"), [("IN.CSV", b"[", "csv"), ("in.parquet", b"", "parquet"), ("in", b"PAR1", "parquet")]
)
def test_some_formats_are_told_by_the_name_or_the_first_bytes(
    place: str, content: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLE, name, "asyncllm.batch.formats.openai:OpenAI")

    assert isinstance(find_format(None, place, content), OpenAI)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match="csv, jsonl, llmengine, llmengine-v1, llmengine-v2, openai, parquet"
    ) as error:
        find_format("xml", "in.xml", b"<")

    assert error.value.field == "format"
