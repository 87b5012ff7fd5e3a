"""OpenAI's wire format, each way: what is sent, what is read, and what servers get wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import (
    AudioPart,
    FilePart,
    ImagePart,
    InvalidRequestError,
    JsonSchema,
    Message,
    Request,
    ResponseValidationError,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from asyncllm.backend import EmbedRequest
from asyncllm.collect import collect
from asyncllm.dialect import (
    Flavor,
    message_from_dict,
    read_embeddings,
    read_models,
    read_reply,
    tool_from_dict,
    write_chat,
    write_completion,
    write_embeddings,
)


def chat(*messages: Message, **fields: Any) -> dict[str, Any]:
    """What is sent for a request, decoded again."""
    flavor = fields.pop("flavor", Flavor())
    request = Request(model="gpt-x", messages=messages or (Message("user", "hi"),), **fields)
    return json.loads(write_chat(request, flavor))  # type: ignore[no-any-return]


def test_a_plain_chat_sends_model_and_messages_and_nothing_else() -> None:
    assert chat() == {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}


def test_a_stream_asks_for_its_usage() -> None:
    assert chat(stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in chat(stream=True, flavor=Flavor(include_usage=False))


def test_every_role_reaches_the_server_in_order() -> None:
    sent = chat(
        Message("system", "s"),
        Message("developer", "d"),
        Message("user", "u", name="ann"),
        Message("assistant", "", (ToolCall("c1", "f", "{}"),)),
        Message("tool", "42", tool_call_id="c1"),
    )["messages"]

    assert [message["role"] for message in sent] == ["system", "developer", "user", "assistant", "tool"]
    assert sent[2]["name"] == "ann"
    assert sent[3] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert sent[4] == {"role": "tool", "content": "42", "tool_call_id": "c1"}


def test_parts_become_openais_parts() -> None:
    parts: list[asyncllm.ContentPart] = [
        TextPart("look"),
        ImagePart(url="https://x/y.png", detail="low"),
        ImagePart(data=b"png", media_type="image/jpeg"),
        AudioPart(b"wav", "mp3"),
        FilePart(file_id="file-1"),
        FilePart(data=b"pdf", filename="a.pdf"),
    ]

    assert chat(Message("user", parts))["messages"][0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,cG5n"}},
        {"type": "input_audio", "input_audio": {"data": "d2F2", "format": "mp3"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,cGRm", "filename": "a.pdf"}},
    ]


def test_tools_and_their_choice_are_sent() -> None:
    sent = chat(tools=(Tool("f", "does", {"type": "object"}, True),), tool_choice="f", parallel_tool_calls=False)

    assert sent["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does", "parameters": {"type": "object"}, "strict": True},
        }
    ]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert sent["parallel_tool_calls"] is False
    assert chat(tool_choice="required")["tool_choice"] == "required"


def test_a_schema_becomes_a_response_format() -> None:
    sent = chat(constraint=JsonSchema({"type": "object"}, "thing", strict=True))

    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": {"type": "object"}, "strict": True},
    }


def test_sampling_goes_out_as_given_and_extra_untouched() -> None:
    sent = chat(
        sampling=Sampling(temperature=0.0, stop=("a", "b"), top_logprobs=2, n=2), extra={"seed": None, "x": {"y": 1}}
    )

    assert sent["temperature"] == 0.0
    assert sent["stop"] == ["a", "b"]
    assert (sent["logprobs"], sent["top_logprobs"], sent["n"]) == (True, 2, 2)
    assert sent["seed"] is None
    assert sent["x"] == {"y": 1}


def test_openais_own_name_for_the_output_limit_is_used_where_asked() -> None:
    sent = chat(sampling=Sampling(max_tokens=5), flavor=Flavor(max_tokens="max_completion_tokens"))

    assert sent["max_completion_tokens"] == 5
    assert "max_tokens" not in sent


def test_reasoning_is_sent_back_only_where_there_is_a_field_for_it() -> None:
    message = Message("assistant", "so", reasoning="because")

    assert chat(message)["messages"][0]["reasoning_content"] == "because"
    assert "reasoning_content" not in chat(message, flavor=Flavor(reasoning=""))["messages"][0]


def test_a_completion_takes_text_or_tokens_and_counts_logprobs() -> None:
    request = Request(model="m", prompt=(1, 2), sampling=Sampling(top_logprobs=3))

    assert json.loads(write_completion(request)) == {"model": "m", "prompt": [1, 2], "logprobs": 3}


def test_a_completion_is_limited_by_the_one_name_that_it_knows() -> None:
    request = Request(model="m", prompt="hi", sampling=Sampling(max_tokens=5))

    assert json.loads(write_completion(request, Flavor(max_tokens="max_completion_tokens")))["max_tokens"] == 5
    assert json.loads(write_completion(request, Flavor(max_tokens="max_new_tokens")))["max_new_tokens"] == 5


def test_a_completion_without_logprobs_has_no_count_of_them() -> None:
    request = Request(model="m", prompt="hi", sampling=Sampling(logprobs=False))

    assert json.loads(write_completion(request)) == {"model": "m", "prompt": "hi"}


def test_embeddings_ask_for_the_compact_form() -> None:
    sent = json.loads(write_embeddings(EmbedRequest(model="m", texts=("a",), dimensions=2, extra={"user": "u"})))

    assert sent == {"model": "m", "input": ["a"], "encoding_format": "base64", "dimensions": 2, "user": "u"}


WIRE = {
    "role": "user",
    "content": [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "input_audio", "input_audio": {"data": "d2F2", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}},
    ],
}


def test_message_dicts_are_read_as_openai_writes_them() -> None:
    message = message_from_dict(WIRE)

    assert message.content == (
        TextPart("look"),
        ImagePart(url="https://x/y.png"),
        AudioPart(b"wav", "wav"),
        FilePart(data=b"hi", filename="a.txt", media_type="text/plain"),
    )


def test_an_assistant_message_survives_the_way_out_and_back() -> None:
    message = Message("assistant", "so", (ToolCall("1", "f", "{}"),), reasoning="because", refusal="no")

    assert message_from_dict(chat(message)["messages"][0]) == message


@pytest.mark.parametrize(
    ("wire", "place"),
    [
        ({}, "role"),
        ({"role": "usr", "content": "canary"}, "unknown role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "contents": "canary"}, "contents"),
        ({"role": "user", "content": [{"type": "video", "text": "canary"}]}, "type"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_data": "canary"}}]}, "file_data"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_data": "data:x;base64,%"}}]}, "base64"),
    ],
)
def test_a_bad_message_dict_is_refused_by_its_place_and_not_repeated(wire: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequestError, match=place) as caught:
        message_from_dict(wire, "prompt[3]")

    assert "prompt[3]" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_tool_dicts_are_read_and_bad_ones_refused_by_place() -> None:
    wire = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

    assert tool_from_dict(wire) == Tool("f", parameters={"type": "object"})
    with pytest.raises(InvalidRequestError, match=r"tools\[1\].*name"):
        tool_from_dict({"type": "function", "function": {}}, "tools[1]")


# -- whole replies -----------------------------------------------------------------------------------------------


def test_a_whole_reply_is_read_to_its_last_field() -> None:
    body = msgspec.json.encode(
        {
            "id": "r-1",
            "model": "gpt-x",
            "choices": [
                {
                    "index": 1,
                    "message": {"role": "assistant", "content": None, "refusal": "no"},
                    "finish_reason": "content_filter",
                },
                {
                    "index": 0,
                    "message": {
                        "content": "hi",
                        "reasoning_content": "hm",
                        "tool_calls": [
                            {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
                        ],
                    },
                    "finish_reason": "tool_calls",
                    "logprobs": {
                        "content": [
                            {
                                "token": "hi",
                                "logprob": -0.1,
                                "bytes": [104, 105],
                                "top_logprobs": [{"token": "ho", "logprob": -2}],
                            }
                        ]
                    },
                },
            ],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        }
    )

    reply = collect(read_reply(body))

    assert (reply.text, reply.reasoning, reply.model, reply.request_id) == ("hi", "hm", "gpt-x", "r-1")
    assert reply.tool_calls == (ToolCall("c", "f", '{"a":1}'),)
    assert [choice.finish_reason for choice in reply.choices] == ["tool_calls", "content_filter"]
    assert reply.choices[1].message.refusal == "no"
    assert reply.usage == Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=2)
    assert reply.logprobs is not None
    assert reply.logprobs[0].top[0].token == "ho"
    assert reply.raw["usage"]["prompt_tokens"] == 10


def test_a_completion_reply_reads_text_and_its_own_logprobs() -> None:
    body = (
        b'{"id":"r","model":"m","choices":[{"index":0,"text":" there","finish_reason":"length","logprobs":'
        b'{"tokens":[" there"],"token_logprobs":[-0.2],"top_logprobs":[{" you":-1.5}],"text_offset":[0]}}]}'
    )

    reply = collect(read_reply(body))

    assert reply.text == " there"
    assert reply.logprobs == (asyncllm.TokenLogprob(" there", -0.2, None, (asyncllm.TokenLogprob(" you", -1.5),)),)


WORDS = [
    ("stop", "stop"), ("eos_token", "stop"), ("stop_sequence", "stop"), ("end_turn", "stop"), ("length", "length"),
    ("max_tokens", "length"), ("tool_use", "tool_calls"), ("function_call", "tool_calls"), ("abort", "error"),
    ("brand_new_word", None), ("null", None), (None, None),
]  # fmt: skip


@pytest.mark.parametrize(("word", "reason"), WORDS)
def test_finish_reasons_are_normalised_and_the_servers_word_kept(word: str | None, reason: str | None) -> None:
    body = msgspec.json.encode({"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": word}]})

    choice = collect(read_reply(body)).choices[0]

    assert choice.finish_reason == reason
    assert choice.finish_reason_raw == (None if word in (None, "null") else word)


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"choices":[{"index":"0","message":{"content":"hi"}}]}',
        b'{"choices":[{"index":0,"message":{"content":"hi"},"logprobs":{"content":[{"token":"hi","logprob":NaN}]}}]}',
        b'{"choices":[{"index":0,"message":{"content":"hi"}}],"usage":{"prompt_tokens":1e999}}',
        b'\n\n {"choices":[{"index":0,"message":{"content":"hi","extra":"\\ud83d"}}]}',
        b'{"choices":[{"index":0.0,"message":{"content":"hi"}}],"x":"\xff"}',
    ],
)
def test_one_odd_field_does_not_cost_the_answer(body: bytes) -> None:
    assert collect(read_reply(body)).text == "hi"


@pytest.mark.parametrize(
    "body", [b"", b"<html>canary</html>", b"[]", b'{"id":"x"}', b'{"choices":5,"x":"canary"}', b'"canary"']
)
def test_a_reply_that_is_none_is_refused_without_repeating_it(body: bytes) -> None:
    with pytest.raises(ResponseValidationError) as caught:
        read_reply(body)

    assert "canary" not in str(caught.value)
    assert caught.value.body in (body, None)


@pytest.mark.parametrize(
    "odd",
    [
        '"usage":"much"',
        '"usage":{"prompt_tokens":"many","completion_tokens":{}}',
        '"usage":[]',
        '"id":{},"model":[],"object":5',
        '"choices":[{"index":null,"message":{"content":"hi","refusal":[]},"logprobs":5,"finish_reason":{}}]',
        '"choices":[{"message":{"content":"hi","reasoning":{"effort":"low"},"tool_calls":{}},"delta":[]}]',
        '"choices":[{"message":{"content":[{"type":"text","text":"h"},{"type":"text","text":"i"}]}}]',
    ],
)
def test_a_field_beside_the_answer_that_is_of_the_wrong_type_is_left_out_and_kept_in_raw(odd: str) -> None:
    body = ('{"choices":[{"index":0,"message":{"content":"hi"}}],"new":{"x":1},' + odd + "}").encode()

    reply = collect(read_reply(body))

    assert (reply.text, reply.usage) == ("hi", Usage())
    assert reply.raw["new"] == {"x": 1}
    assert reply.body == body


@pytest.mark.parametrize(
    "choice",
    [
        "5",
        '{"message":"canary"}',
        '{"message":{"content":5}}',
        '{"message":{"content":{"canary":1}}}',
        '{"message":{"content":[{"type":"image_url","image_url":"canary"}]}}',
        '{"message":{"tool_calls":"canary"}}',
        '{"message":{"tool_calls":[{"function":"canary"}]}}',
        '{"message":{"tool_calls":[{"function":{"name":"f","arguments":["canary"]}}]}}',
        '{"text":["canary"]}',
    ],
)
def test_an_answer_of_the_wrong_type_is_refused_with_its_body(choice: str) -> None:
    body = b'{"choices":[%b]}' % choice.encode()

    with pytest.raises(ResponseValidationError) as caught:
        read_reply(body)

    assert caught.value.body == body
    assert "canary" not in str(caught.value)


def test_answers_under_one_index_are_told_apart() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("a", "b", "c")]

    for body in ({"choices": choices}, {"choices": [{**choice, "index": 0} for choice in choices]}):
        assert [one.message.text for one in collect(read_reply(msgspec.json.encode(body))).choices] == ["a", "b", "c"]


@pytest.mark.parametrize("same", [{"id": "c"}, {"id": "c", "index": 0}, {"index": 0}, {}])
def test_calls_of_a_whole_reply_are_told_apart(same: dict[str, Any]) -> None:
    calls = [{**same, "function": {"name": "f", "arguments": text}} for text in ('{"a":1}', '{"a":2}')]
    body = msgspec.json.encode({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]})

    assert [call.arguments for call in collect(read_reply(body)).tool_calls] == ['{"a":1}', '{"a":2}']


def test_half_of_a_character_in_a_whole_reply_is_replaced_wherever_it_stands() -> None:
    body = (
        b'{"id":"\\ud83d","model":"m\\udc00","choices":[{"message":{"content":"a\\ud83db","tool_calls":[{"id":"\\ud83d",'
        b'"function":{"name":"\\ud83d","arguments":{"text":"\\ud83d"}}}]},"finish_reason":"\\ud83d"}]}'
    )

    reply = collect(read_reply(body))

    assert reply.text == "a\ufffdb"
    assert reply.tool_calls == (ToolCall("\ufffd", "\ufffd", '{"text":"\ufffd"}'),)
    msgspec.json.encode(reply)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"choices":' * 100_000, b'{"choices":[{"index":%b}]}' % (b"9" * 5000)]
)
def test_a_reply_that_no_parser_takes_is_refused(body: bytes) -> None:
    with pytest.raises(ResponseValidationError) as caught:
        read_reply(body)

    assert caught.value.body == body[:65536]


def test_a_reply_below_blank_lines_is_read() -> None:
    assert collect(read_reply(b"\n\r\n  \n" * 100 + b'{"choices":[{"message":{"content":"hi"}}]}')).text == "hi"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"message":"boom","code":429}}', asyncllm.RateLimitError),
        (b'{"error":"boom"}', asyncllm.InternalServerError),
        (b'{"error":["boom"],"choices":[]}', asyncllm.InternalServerError),
        (b'{"object":"error","message":"boom","code":400}', asyncllm.BadRequestError),
        (b'{"code":"InvalidApiKey","message":"boom"}', asyncllm.InternalServerError),
        (b'{"detail":"boom"}', asyncllm.InternalServerError),
        (b'{"error":"boom","n":NaN}', asyncllm.InternalServerError),
        (b'{"error":"boom","choices":[{"message":{"content":"half"}}]}', asyncllm.InternalServerError),
    ],
)
def test_an_error_in_a_good_reply_is_raised(body: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="boom"):
        read_reply(body)


def test_an_error_in_place_of_vectors_or_models_is_raised() -> None:
    body = b'{"error":{"message":"boom of sk-secret about tea","code":429}}'

    with pytest.raises(asyncllm.RateLimitError, match=r"boom of \*\*\*") as caught:
        read_embeddings(body, count=1, sent=b'{"input":["about tea"]}', secrets=("sk-secret",))
    assert "tea" not in caught.value.message
    for document in (body, b"[%b]" % body):
        with pytest.raises(asyncllm.RateLimitError, match=r"boom of \*\*\*"):
            read_models(document, secrets=("sk-secret",))


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": ""}, {"index": 1, "embedding": [1.0]}],
    ],
)
def test_a_vector_without_numbers_is_refused(data: object) -> None:
    with pytest.raises(ResponseValidationError, match="no numbers"):
        read_embeddings(msgspec.json.encode({"data": data}), count=2)


def test_two_vectors_for_one_text_are_refused_unless_no_vector_says_which_it_is_for() -> None:
    data = [{"index": index, "embedding": [1.0 + index]} for index in (0, 0, 1)]

    with pytest.raises(ResponseValidationError, match="for the same"):
        read_embeddings(msgspec.json.encode({"data": data}), count=3)
    bare = [{"embedding": item["embedding"]} for item in data]
    assert [list(vector) for vector in read_embeddings(msgspec.json.encode({"data": bare}), count=3)] == [[1], [1], [2]]


@pytest.mark.parametrize("size", [1, 3, 6])
def test_a_vector_that_is_no_array_of_floats_is_refused(size: int) -> None:
    body = msgspec.json.encode({"data": [{"embedding": b"x" * size}]})

    with pytest.raises(ResponseValidationError, match=f"{size} bytes"):
        read_embeddings(body, count=1)


def test_vectors_come_in_the_order_of_their_texts_in_either_encoding() -> None:
    body = (
        b'{"model":"e","usage":{"prompt_tokens":2},"data":'
        b'[{"index":1,"embedding":[1.0,0.5]},{"index":0,"embedding":"AACAPwAAAD8="}]}'
    )

    vectors = read_embeddings(body, count=2)

    assert [list(vector) for vector in vectors] == [[1.0, 0.5], [1.0, 0.5]]
    assert vectors.usage.input_tokens == 2
    with pytest.raises(ResponseValidationError, match="3 texts"):
        read_embeddings(body, count=3)


def test_models_are_listed_with_their_limit() -> None:
    body = b'{"object":"list","data":[{"id":"a/b:c","object":"model","owned_by":"vllm","max_model_len":2048}]}'

    assert read_models(body) == [asyncllm.ModelInfo(id="a/b:c", owned_by="vllm", context_tokens=2048)]


@pytest.mark.parametrize("extra", [{}, {"x": object()}])
def test_what_has_no_wire_form_is_refused_by_name(extra: dict[str, Any]) -> None:
    text = "hi" if extra else "half a face: \ud83d"

    with pytest.raises(InvalidRequestError, match="JSON" if extra else "half of a surrogate"):
        chat(Message("user", text), extra=extra)
