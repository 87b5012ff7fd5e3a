"""OpenAI's wire format from the server's side: requests read, replies and errors written, files of results read."""

from __future__ import annotations

import json
from array import array
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import errors
from asyncllm.backend import EmbedRequest
from asyncllm.collect import collect
from asyncllm.dialect import Flavor, read_embeddings, read_reply, write_chat, write_completion, write_embeddings
from asyncllm.dialect.answers import write_chat_reply, write_completion_reply, write_embeddings_reply
from asyncllm.dialect.faults import status_of, write_error
from asyncllm.dialect.outcomes import read_output_line, write_failure
from asyncllm.dialect.served import read_chat_request, read_completion_request, read_embeddings_request
from asyncllm.errors import (
    APIError,
    APIStatusError,
    AsyncLLMError,
    ContextLengthExceededError,
    InputError,
    InternalServerError,
    InvalidRequestError,
    RateLimitError,
    ResponseValidationError,
    RowAbandonedError,
    TotalTimeoutError,
    UnsupportedError,
)
from asyncllm.rejection import rejection
from asyncllm.types import (
    AudioPart,
    Choice,
    Embeddings,
    FilePart,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Request,
    Response,
    ResponseChoice,
    Sampling,
    TextPart,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)

# -- any request -------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
words = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=8)
unset = st.just(msgspec.UNSET)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
schemas = st.dictionaries(words, json_values, max_size=3)

images = st.builds(ImagePart, url=words.map("https://x/{}".format), detail=unset | words) | st.builds(
    ImagePart, url=st.binary(max_size=9).map(lambda data: ImagePart(data=data, media_type="image/png").as_url)
)
files = st.builds(FilePart, file_id=words) | st.builds(
    FilePart, data=st.binary(max_size=9), filename=unset | texts, media_type=st.sampled_from(["text/plain", "a/b"])
)
parts = st.builds(TextPart, texts) | images | st.builds(AudioPart, st.binary(max_size=9), words) | files
calls = st.builds(ToolCall, words, words, texts)
contents = texts | st.lists(parts, min_size=1, max_size=3).map(tuple)
names = st.none() | words
messages = (
    st.builds(Message, st.sampled_from(["system", "developer", "user"]), contents, name=names)
    | st.builds(Message, st.just("tool"), contents, tool_call_id=words)
    | st.builds(
        Message, st.just("assistant"), contents, st.lists(calls, max_size=2).map(tuple), name=names,
        reasoning=st.none() | texts, refusal=st.none() | texts,
    )
)  # fmt: skip
tools = st.builds(Tool, words, unset | texts, unset | schemas, unset | st.booleans())
constraints = st.one_of(
    st.builds(JsonSchema, schemas, words, unset | st.booleans()),
    st.builds(Regex, texts),
    st.builds(Choice, st.lists(texts, min_size=1, max_size=3).map(tuple)),
    st.builds(Grammar, texts),
)
floats = st.floats(0.125, 1)
counts = st.integers(1, 1000)
samplings = st.builds(
    Sampling,
    max_tokens=unset | counts,
    temperature=unset | floats,
    top_p=unset | floats,
    stop=unset | texts.filter(bool) | st.lists(texts.filter(bool), max_size=3).map(tuple),
    seed=unset | st.integers(-(2**63), 2**63 - 1),
    presence_penalty=unset | st.floats(-2, 2),
    frequency_penalty=unset | st.floats(-2, 2),
    logprobs=unset | st.booleans(),
    n=unset | counts,
    logit_bias=unset | st.dictionaries(counts.map(str), floats, max_size=2),
    reasoning_effort=unset | words,
    top_k=unset | st.integers(-1, 9),
    min_p=unset | floats,
    repetition_penalty=unset | floats,
    min_tokens=unset | counts,
    ignore_eos=unset | st.booleans(),
    include_stop_str_in_output=unset | st.booleans(),
    stop_token_ids=unset | st.lists(counts, max_size=2).map(tuple),
)
extras = st.dictionaries(words.map("x_{}".format), json_values, max_size=2)


@given(
    st.builds(
        Request,
        model=words,
        messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
        sampling=samplings,
        tools=st.lists(tools, max_size=2).map(tuple),
        tool_choice=unset | st.sampled_from(["auto", "none", "required"]) | words.map("f_{}".format),
        parallel_tool_calls=unset | st.booleans(),
        constraint=st.none() | constraints,
        stream=st.booleans(),
        extra=extras,
    ),
    st.sampled_from(["max_tokens", "max_completion_tokens"]),
)
def test_any_chat_that_is_written_is_read_as_the_same(request: Request, limit: str) -> None:
    assert read_chat_request(write_chat(request, Flavor(max_tokens=limit))) == request


@given(
    st.builds(
        Request,
        model=words,
        prompt=texts.filter(bool) | st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
        sampling=samplings.filter(lambda sampling: sampling.logprobs is msgspec.UNSET),
        constraint=st.none() | constraints,
        stream=st.booleans(),
        extra=extras,
    )
)
def test_any_completion_that_is_written_is_read_as_the_same(request: Request) -> None:
    assert read_completion_request(write_completion(request)) == request


@given(
    st.builds(
        EmbedRequest,
        model=words,
        texts=st.lists(texts, min_size=1, max_size=3).map(tuple),
        dimensions=unset | counts,
        extra=extras,
    )
)
def test_any_request_for_embeddings_that_is_written_is_read_as_the_same(request: EmbedRequest) -> None:
    assert read_embeddings_request(write_embeddings(request)) == request


# -- what bodies hold --------------------------------------------------------------------------------------------


def chat(**fields: Any) -> Request:
    return read_chat_request({"messages": [{"role": "user", "content": "hi"}], **fields})


def complete(**fields: Any) -> Request:
    return read_completion_request({"prompt": "hi", **fields})


def test_a_body_without_a_model_leaves_it_empty() -> None:
    assert chat().model == ""


def test_a_null_says_no_more_than_leaving_the_field_out() -> None:
    nulls = dict.fromkeys(
        ("model", "temperature", "stop", "tools", "tool_choice", "response_format", "guided_json", "stream")
    )

    assert chat(**nulls) == chat()


def test_a_null_inside_a_tool_says_no_more_than_leaving_the_field_out() -> None:
    function = {"name": "f", "description": None, "parameters": None, "strict": None}

    assert chat(tools=[{"type": "function", "function": function}]).tools == (Tool("f"),)


def test_both_names_of_the_output_limit_are_one() -> None:
    assert chat(max_completion_tokens=5).sampling.max_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=5).sampling.max_tokens == 5


def test_what_no_noun_has_a_place_for_goes_into_extra_untouched() -> None:
    assert chat(metadata={"a": None}, user="u", best=None).extra == {"metadata": {"a": None}, "user": "u", "best": None}


@pytest.mark.parametrize("effort", [{"effort": "high"}, {"max_tokens": 5}])
def test_reasoning_as_an_object_stays_in_extra(effort: dict[str, Any]) -> None:
    assert chat(reasoning=effort).extra == {"reasoning": effort}


def test_the_logprobs_of_a_completion_are_a_count() -> None:
    sampling = complete(logprobs=3).sampling

    assert (sampling.logprobs, sampling.top_logprobs) == (True, 3)
    assert complete(logprobs=True).sampling == Sampling(logprobs=True)


@pytest.mark.parametrize("prompt", [["hi"], "hi"])
def test_a_prompt_alone_in_a_list_is_the_prompt(prompt: object) -> None:
    assert read_completion_request({"prompt": prompt}).prompt == "hi"


def test_token_ids_alone_in_a_list_are_the_prompt() -> None:
    assert read_completion_request({"prompt": [[1, 2]]}).prompt == (1, 2)


def test_one_text_is_embedded_like_a_list_of_one() -> None:
    assert read_embeddings_request({"input": "a"}).texts == ("a",)


def test_how_vectors_are_to_be_written_is_no_part_of_what_is_asked() -> None:
    assert read_embeddings_request({"input": "a", "encoding_format": "float"}) == EmbedRequest(model="", texts=("a",))


SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, JsonSchema(SCHEMA)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": SCHEMA, "name": "n", "strict": True},
                }
            },
            JsonSchema(SCHEMA, "n", strict=True),
        ),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {"json": SCHEMA}}, JsonSchema(SCHEMA)),
        ({"structured_outputs": {"json": '{"type":"object"}', "regex": None}}, JsonSchema(SCHEMA)),
        ({"structured_outputs": {"regex": "a+"}}, Regex("a+")),
        ({"structured_outputs": {"choice": ["a"]}}, Choice(("a",))),
        ({"structured_outputs": {"grammar": "g"}}, Grammar("g")),
        ({"guided_json": SCHEMA}, JsonSchema(SCHEMA)),
        ({"guided_json": '{"type":"object"}'}, JsonSchema(SCHEMA)),
        ({"guided_regex": "a+"}, Regex("a+")),
        ({"guided_choice": ["a", "b"]}, Choice(("a", "b"))),
        ({"guided_grammar": "g"}, Grammar("g")),
        ({"grammar": "root ::= x"}, Grammar("root ::= x")),
    ],
)
def test_every_spelling_of_a_constraint_is_one(body: dict[str, Any], constraint: object) -> None:
    assert chat(**body) == msgspec.structs.replace(chat(), constraint=constraint)


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "description": "d"}}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " "}},
        {"grammar": {"type": "regex", "value": "a"}},
    ],
)
def test_a_form_that_no_constraint_has_stays_in_extra(body: dict[str, Any]) -> None:
    request = chat(**body)

    assert (request.constraint, request.extra) == (None, body)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.messages"),
        ({"messages": []}, "body.messages"),
        ({"messages": [USER, USER, {"role": "user", "content": 5}]}, "body.messages[2].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "body.messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "body.messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "body.messages[0]"),
        ({"messages": [USER], "temperature": "hot"}, "body.temperature"),
        ({"messages": [USER], "top_p": 2}, "body.top_p"),
        ({"messages": [USER], "stop": [""]}, "body.stop"),
        ({"messages": [USER], "max_completion_tokens": 0}, "body.max_completion_tokens"),
        ({"messages": [USER], "max_completion_tokens": 1, "max_tokens": 2}, "body.max_completion_tokens"),
        ({"messages": [USER], "tools": [{"type": "custom"}]}, "body.tools[0].type"),
        ({"messages": [USER], "tools": [{"type": "function", "function": {}}]}, "body.tools[0].function.name"),
        ({"messages": [USER], "tool_choice": "any"}, "body.tool_choice"),
        ({"messages": [USER], "tool_choice": {"type": "allowed_tools"}}, "body.tool_choice.type"),
        (
            {"messages": [USER], "tool_choice": {"type": "function", "function": {"name": "none"}}},
            "body.tool_choice",
        ),
        ({"messages": [USER], "response_format": "json"}, "body.response_format"),
        ({"messages": [USER], "response_format": {"type": "json_schema"}}, "body.response_format.json_schema"),
        (
            {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {}}},
            "body.response_format.json_schema.schema",
        ),
        ({"messages": [USER], "structured_outputs": {"regex": "a", "choice": ["a"]}}, "body.structured_outputs"),
        ({"messages": [USER], "structured_outputs": {"regex": 5}}, "body.structured_outputs.regex"),
        ({"messages": [USER], "guided_choice": []}, "body.guided_choice"),
        ({"messages": [USER], "guided_json": "{"}, "body.guided_json"),
        ({"messages": [USER], "guided_regex": "a", "guided_json": {}}, "body.guided_json"),
        ({"messages": [USER], "stream": "yes"}, "body.stream"),
    ],
)
def test_what_is_wrong_with_a_chat_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_chat_request(body, "body")

    assert caught.value.field == field
    assert caught.value.message.startswith(field.removesuffix(".role"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "logprobs": 1, "top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_is_wrong_with_a_completion_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_completion_request(body)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": []}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({}, "input"),
        ({"input": "a", "dimensions": "3"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_is_wrong_with_a_request_for_embeddings_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_embeddings_request(body)

    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"\\ud83d"', b"[" * 100_000, b"null", b"nan"])
def test_a_body_that_is_no_object_is_an_error_of_the_body(body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_chat_request(body)

    assert caught.value.field == "body"


@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "prompt", "input", "tools", "tool_choice", "stop", "logprobs", "response_format", "model",
             "structured_outputs", "guided_choice", "guided_json", "max_completion_tokens", "logit_bias", "other"]
        ),
        json_values | st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), json_values)),
    )
)  # fmt: skip
def test_no_document_raises_anything_but_an_invalid_request(body: dict[str, Any]) -> None:
    for read in (read_chat_request, read_completion_request, read_embeddings_request):
        with suppress(InvalidRequestError):
            read(body, "body")


def test_an_error_does_not_repeat_a_prompt() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_chat_request({"messages": [{"role": "user", "content": [{"type": "the secret prompt"}]}]})

    assert "secret" not in str(caught.value)


# -- replies -----------------------------------------------------------------------------------------------------

numbers = st.floats(-9, 0)
tokens = st.lists(
    st.builds(
        TokenLogprob,
        texts,
        numbers,
        st.none() | st.lists(st.integers(0, 255), max_size=3).map(tuple),
        st.lists(st.builds(TokenLogprob, texts, numbers), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
tallies = st.none() | st.integers(0, 999)
usages = st.builds(
    Usage, input_tokens=tallies, output_tokens=tallies, cached_tokens=tallies, reasoning_tokens=tallies,
    input_audio_tokens=tallies, output_audio_tokens=tallies,
)  # fmt: skip
ends = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "error"])


def replies(answers: st.SearchStrategy[Message], logprobs: st.SearchStrategy[Any]) -> st.SearchStrategy[Response]:
    choice = st.tuples(answers, ends, st.none() | logprobs)
    return st.builds(
        lambda choices, usage, model, id_: Response(
            choices=tuple(ResponseChoice(at, one[0], one[1], one[1], one[2]) for at, one in enumerate(choices)),
            usage=usage,
            model=model,
            request_id=id_,
        ),
        st.lists(choice, min_size=1, max_size=3),
        usages,
        words,
        words,
    )


answers = st.builds(
    Message, st.just("assistant"), texts, st.lists(calls, max_size=2, unique_by=lambda call: call.id).map(tuple),
    st.none(), st.none(), st.none() | texts.filter(bool), st.none() | texts.filter(bool),
)  # fmt: skip


def read_back(body: dict[str, Any]) -> Response:
    return msgspec.structs.replace(collect(read_reply(msgspec.json.encode(body))), body=None)


@given(replies(answers, tokens))
def test_any_reply_to_a_chat_that_is_written_is_read_as_the_same(response: Response) -> None:
    assert read_back(write_chat_reply(response)) == response


plain_tokens = st.lists(st.builds(TokenLogprob, texts, numbers), min_size=1, max_size=3).map(tuple)


@given(replies(st.builds(Message, st.just("assistant"), texts), plain_tokens))
def test_any_reply_to_a_completion_that_is_written_is_read_as_the_same(response: Response) -> None:
    assert read_back(write_completion_reply(response)) == response


@pytest.mark.parametrize("in_base64", [False, True])
def test_embeddings_that_are_written_are_read_as_the_same(in_base64: bool) -> None:
    embeddings = Embeddings(
        vectors=(array("f", [0.5, -1]), array("f", [0.25, 2])), usage=Usage(input_tokens=3), model="m"
    )

    body = msgspec.json.encode(write_embeddings_reply(embeddings, in_base64=in_base64))

    assert read_embeddings(body, count=2) == embeddings


def test_a_reply_has_the_fields_that_openais_has() -> None:
    response = Response(
        choices=(ResponseChoice(0, Message("assistant", "", (ToolCall("c", "f", "{}"),)), "tool_calls"),),
        usage=Usage(input_tokens=2, output_tokens=3, cached_tokens=1),
    )

    assert write_chat_reply(response, id_="chatcmpl-7", model="m", created=9) == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 9,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


def test_what_is_not_known_of_usage_is_left_out() -> None:
    answer = (ResponseChoice(0, Message("assistant", "a"), "stop"),)

    assert write_chat_reply(Response(choices=answer))["usage"] is None
    assert write_chat_reply(Response(choices=answer, usage=Usage(output_tokens=3)))["usage"] == {"completion_tokens": 3}


def test_the_tokens_of_a_completion_have_their_places_in_the_text() -> None:
    tokens = tuple(TokenLogprob(text, -1.0) for text in ("ab", "c", "def"))
    response = Response(choices=(ResponseChoice(0, Message("assistant", "abcdef"), "stop", None, tokens),))

    assert write_completion_reply(response)["choices"][0]["logprobs"]["text_offset"] == [0, 2, 3]


def test_a_word_for_the_end_that_has_no_other_is_kept() -> None:
    response = Response(choices=(ResponseChoice(0, Message("assistant", "a"), None, "pause_turn"),))

    assert write_chat_reply(response)["choices"][0]["finish_reason"] == "pause_turn"


# -- errors ------------------------------------------------------------------------------------------------------

KINDS = [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), AsyncLLMError)]
REFUSALS = [kind for kind in KINDS if issubclass(kind, APIStatusError) and kind is not APIStatusError]


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_that_is_written_is_read_as_the_same_kind(kind: type[APIStatusError]) -> None:
    body = msgspec.json.encode(write_error(kind("no", param="top_p")))

    error = rejection(status_of(kind("no")), {}, body)

    assert (type(error), error.message, error.param) == (kind, "no", "top_p")


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_status_that_is_one_of_an_error(kind: type[AsyncLLMError]) -> None:
    assert 400 <= status_of(kind("no")) <= 599


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("x"), 400),
        (UnsupportedError("x"), 400),
        (TotalTimeoutError("x"), 504),
        (RateLimitError("x"), 429),
        (RateLimitError("x", status=498), 498),
        (InternalServerError("x", status=200), 500),
        (AsyncLLMError("x"), 500),
    ],
)
def test_the_status_is_the_one_it_came_with_or_that_of_its_kind(error: AsyncLLMError, status: int) -> None:
    assert status_of(error) == status


def test_an_error_of_ours_names_the_field_as_its_param() -> None:
    assert write_error(InvalidRequestError("no", field="top_p")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "top_p", "code": None}
    }


# -- files of results --------------------------------------------------------------------------------------------


def line(**fields: Any) -> bytes:
    return json.dumps({"id": "b", "custom_id": "a", "response": None, "error": None, **fields}).encode()


REPLY = {"id": "c-1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hi"}}]}


def test_a_line_with_a_reply_is_an_answer() -> None:
    result = read_output_line(line(response={"status_code": 200, "request_id": "r", "body": REPLY}))

    assert (result.id, result.error) == ("a", None)
    assert isinstance(result.answer, Response)
    assert result.answer.text == "hi"


def test_a_line_with_vectors_is_embeddings() -> None:
    body = {"object": "list", "data": [{"index": 0, "embedding": [1, 2]}]}

    answer = read_output_line(line(response={"status_code": 200, "body": body})).answer

    assert answer == Embeddings(vectors=(array("f", [1, 2]),))


def test_a_line_with_a_refusal_is_what_its_status_and_code_mean() -> None:
    body = {"error": {"message": "too long", "code": "context_length_exceeded"}}

    error = read_output_line(line(response={"status_code": 400, "request_id": "r-1", "body": body})).error

    assert type(error) is ContextLengthExceededError
    assert (error.status, error.request_id, error.message) == (400, "r-1", "too long")


@pytest.mark.parametrize(
    ("code", "reason"), [("batch_expired", "expired"), ("batch_cancelled", "cancelled"), ("dead_letter", "dead_letter")]
)
def test_a_line_that_was_never_asked_is_abandoned(code: str, reason: str) -> None:
    error = read_output_line(line(error={"code": code, "message": "late"})).error

    assert type(error) is RowAbandonedError
    assert error.code == reason


def test_a_line_with_a_code_of_no_known_meaning_keeps_it() -> None:
    error = read_output_line(line(error={"code": "odd", "message": "m"})).error

    assert type(error) is APIError
    assert (error.code, error.message) == ("odd", "m")


@pytest.mark.parametrize(
    "error",
    [
        InputError("line 3: no", code="truncated_input"),
        TotalTimeoutError("slow"),
        RowAbandonedError("x", code="expired"),
    ],
)
def test_an_error_that_is_no_reply_is_read_as_it_was_written(error: AsyncLLMError) -> None:
    read = read_output_line(line(error=write_failure(error))).error

    assert (type(read), str(read)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("content", "id_"),
    [(b"{", None), (b"[]", None), (b"\xff", None), (b'{"custom_id":"a","response":5}', "a"), (b"[" * 100_000, None)],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_an_error_of_its_own(content: bytes, id_: str | None) -> None:
    result = read_output_line(content)

    assert (type(result.error), result.id) == (ResponseValidationError, id_)


def test_a_line_with_neither_reply_nor_error_has_no_result() -> None:
    error = read_output_line(line()).error

    assert error is not None
    assert error.code == "no_result"


@given(st.binary(max_size=60) | json_values.map(msgspec.json.encode))
def test_no_line_of_results_raises(content: bytes) -> None:
    result = read_output_line(content)

    assert (result.answer is None) != (result.error is None)
