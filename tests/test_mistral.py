"""Mistral: its names for what OpenAI has under others, content in parts, and thoughts among them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from mistralai.client import Mistral

import asyncllm
from asyncllm import Client, Message, ToolCall, UnsupportedError
from asyncllm.multipart import form_texts
from asyncllm.testing import FaultyServer, ScriptedReply, ScriptedTransport, Sse, Status
from chunks import delta
from forms import fields_of

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def reply(content: Any, **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **message}}
    return msgspec.json.encode({"id": "r", "model": "m", "choices": [choice]})


def thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


async def sent(prompt: Any = "hi", *, stream: bool = False, **options: Any) -> dict[str, Any]:
    body = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    transport = ScriptedTransport([ScriptedReply(body=body if stream else reply("x"))])
    async with Client(model="mistral:m", api_key="k", transport=transport) as client:
        if stream:
            assert [piece async for piece in client.stream_text(prompt, **options)] == ["x"]
        else:
            await client.chat(prompt, **options)
    document: dict[str, Any] = msgspec.json.decode(transport.calls[0].body)
    return document


async def read(content: Any, **message: Any) -> asyncllm.Response:
    async with (
        FaultyServer([Status(body=reply(content, **message))]) as server,
        Client(model="mistral:m", base_url=server.url, api_key="k", retry=None) as client,
    ):
        return await client.chat("hi")


async def streamed(*contents: Any) -> asyncllm.Response:
    chunks = [*(delta(content=content) for content in contents), delta(finish="stop", content="")]
    async with (
        FaultyServer([Sse(chunks)]) as server,
        Client(model="mistral:m", base_url=server.url, api_key="k", retry=None) as client,
        client.stream("hi") as stream,
    ):
        async for _ in stream:
            pass
        return stream.response


async def test_the_output_limit_and_the_seed_have_its_own_names() -> None:
    body = await sent(max_tokens=5, seed=7)

    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "random_seed": 7}


async def test_a_stream_is_asked_for_without_options_that_it_does_not_know() -> None:
    assert await sent(stream=True) == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        ("required", "any"),
        ("auto", "auto"),
        ("none", "none"),
        ("f", {"type": "function", "function": {"name": "f"}}),
    ],
)
async def test_a_tool_that_must_be_called_is_any(choice: str, wire: object) -> None:
    assert (await sent(tools=[TOOL], tool_choice=choice))["tool_choice"] == wire


async def test_a_message_with_tool_calls_has_an_empty_text_and_no_null() -> None:
    turns = [
        Message("user", "hi"),
        Message("assistant", "", (ToolCall("abcdefghi", "f", "{}"),)),
        Message("tool", "42", tool_call_id="abcdefghi"),
    ]

    assert (await sent(turns))["messages"][1]["content"] == ""


async def test_content_in_parts_is_one_text_and_its_thoughts_are_reasoning() -> None:
    answer = await read([thinking("Let me see. "), thinking("Yes."), text("42"), text(" it is")])

    assert (answer.reasoning, answer.text) == ("Let me see. Yes.", "42 it is")


async def test_plain_content_stays_plain() -> None:
    answer = await read("42")

    assert (answer.reasoning, answer.text) == (None, "42")


async def test_a_part_beside_the_answer_costs_no_answer() -> None:
    answer = await read([text("see"), {"type": "reference", "reference_ids": [0]}])

    assert answer.text == "see"


async def test_thoughts_are_streamed_as_reasoning() -> None:
    answer = await streamed([thinking("Let me ")], [thinking("see.")], [text("4")], "2")

    assert (answer.reasoning, answer.text) == ("Let me see.", "42")


async def test_an_assistants_thoughts_go_back_as_a_part_before_its_text() -> None:
    turns = [Message("user", "hi"), Message("assistant", "42", reasoning="Hm."), Message("user", "and?")]

    assert (await sent(turns))["messages"][1]["content"] == [thinking("Hm."), text("42")]


async def test_thoughts_beside_tool_calls_go_back_without_an_empty_text() -> None:
    turns = [Message("user", "hi"), Message("assistant", "", (ToolCall("abcdefghi", "f", "{}"),), reasoning="Hm.")]

    assert (await sent(turns))["messages"][1]["content"] == [thinking("Hm.")]


async def test_arguments_that_come_decoded_are_json_again() -> None:
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": {"a": 1}}, "index": 0}
    answer = await read("", tool_calls=[call])

    assert answer.tool_calls == (ToolCall("abcdefghi", "f", '{"a":1}'),)


async def test_the_width_of_vectors_has_its_own_name() -> None:
    transport = ScriptedTransport([ScriptedReply(body=b'{"data":[{"embedding":[1.0]}]}')])
    async with Client(model="mistral:m", api_key="k", transport=transport) as client:
        await client.embed("hi", dimensions=1)

    body = msgspec.json.decode(transport.calls[0].body)
    assert body == {"model": "m", "input": ["hi"], "encoding_format": "base64", "output_dimension": 1}


async def test_a_validation_error_says_where() -> None:
    detail = [{"loc": ["body", "temperature"], "msg": "Input should be less than or equal to 1.5", "type": "x"}]
    body = msgspec.json.encode({"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"})
    async with (
        FaultyServer([Status(422, body=body)]) as server,
        Client(model="mistral:m", base_url=server.url, api_key="k", retry=None) as client,
    ):
        with pytest.raises(asyncllm.UnprocessableEntityError) as caught:
            await client.chat("hi")

    assert "temperature" in caught.value.message


HEARD = {
    "model": "voxtral", "text": "Hi.", "language": None,
    "segments": [{"type": "transcription_segment", "text": "Hi.", "start": 0.2, "end": 0.9}],
    "usage": {"prompt_audio_seconds": 4, "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}  # fmt: skip


async def test_a_recording_is_written_down_by_the_fields_that_mistral_has() -> None:
    body = msgspec.json.encode(HEARD)
    async with (
        FaultyServer([Status(200, {"Content-Type": "application/json"}, body)]) as server,
        Client(model="mistral:voxtral", base_url=f"{server.url}/v1", api_key="k", retry=None) as client,
    ):
        heard = await client.transcribe(b"RIFF", timestamps=["segment"], extra={"context_bias": ["tea", "cup"]})
        for options in ({"prompt": "Tea."}, {"verbose": True}):
            with pytest.raises(UnsupportedError, match=next(iter(options))):
                await client.transcribe(b"RIFF", **options)

        (seen,) = server.requests
        assert form_texts(seen.body) == [
            ("model", "voxtral"),
            ("timestamp_granularities", "segment"),
            ("context_bias", "tea"),
            ("context_bias", "cup"),
        ]
        assert heard.usage == asyncllm.Usage(input_tokens=7, output_tokens=5, audio_s=4)
        assert heard.duration_s == 4


async def test_mistrals_own_sdk_sends_the_same_form() -> None:
    body = msgspec.json.encode(HEARD)
    async with FaultyServer([Status(200, {"Content-Type": "application/json"}, body)]) as server:
        async with Mistral(api_key="k", server_url=server.url) as theirs:
            told = await theirs.audio.transcriptions.complete_async(
                model="voxtral",
                file={"file_name": "audio.wav", "content": b"RIFF"},
                timestamp_granularities=["segment"],
                temperature=0.5,
            )
        async with Client(model="mistral:voxtral", base_url=f"{server.url}/v1", api_key="k") as client:
            heard = await client.transcribe(b"RIFF", timestamps=["segment"], temperature=0.5)

    sent, ours = [  # the SDK writes its defaults out
        sorted((one.name, one.value) for one in await fields_of(seen) if one.name not in ("diarize", "stream"))
        for seen in server.requests
    ]
    assert ours == sent
    assert [seen.path for seen in server.requests] == ["/v1/audio/transcriptions"] * 2
    assert (heard.text, heard.usage.input_tokens) == (told.text, told.usage.prompt_tokens)
