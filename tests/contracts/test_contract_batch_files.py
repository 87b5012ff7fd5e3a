"""Rows 42 and 43: the files of LLM Engine's batches, and what they say of single items."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncllm.backend import BatchOutcome
from asyncllm.batch.formats import find_format
from asyncllm.batch.formats.protocol import Reading
from asyncllm.batch.rows import Outcome, Row, asked_of
from asyncllm.dialect import write_chat, write_completion
from asyncllm.errors import BadRequestError, ContextLengthExceededError, InternalServerError, TotalTimeoutError
from asyncllm.types import Message, Request, Response, ResponseChoice, Sampling, TokenLogprob, Usage
from batch_talks import serving
from llmengine_server import Jobs

V1 = {
    "prompts": ["one", "two", "three"], "max_new_tokens": 8, "temperature": 0.0, "stop_sequences": ["\n"],
    "return_token_log_probs": True, "presence_penalty": 0.5, "frequency_penalty": 0.25, "top_k": -1, "top_p": 1.0,
    "skip_special_tokens": True,
}  # fmt: skip


async def rows_of(content: bytes, format_: str | None = None) -> list[Row]:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 7):
            yield content[start : start + 7]

    reader = find_format(format_, "input.json", content[:4096])
    return [row async for row in reader.read(pieces(), Reading(name="input.json"))]


def output_of(format_: str, *outcomes: Outcome) -> bytes:
    writer = find_format(format_, "output.json", b"").writer()
    items = [writer.write(outcome, {})[0] for outcome in outcomes]
    return writer.begin() + b"".join(items) + writer.end()


def asked(rows: list[Row]) -> list[Request]:
    return [row.request for row in rows if isinstance(row.request, Request)]


async def read(output: bytes, *requests: Request) -> list[BatchOutcome]:
    """What an output says of the requests that it is of."""
    async with serving(Jobs(), "llmengine") as (_, backend):
        return list(backend.read_outcomes(output, {f"row-{index}": one for index, one in enumerate(requests)}))


def answer(text: str) -> Response:
    tokens = (TokenLogprob(text, -0.5),)
    return Response(
        choices=(ResponseChoice(0, Message("assistant", text), "stop", None, tokens),),
        usage=Usage(input_tokens=3, output_tokens=1),
    )


async def test_row_042_an_object_of_version_1_is_read_with_its_options() -> None:
    rows = await rows_of(json.dumps(V1).encode())

    assert [row.request for row in rows] == [
        Request(
            model="",
            prompt=prompt,
            sampling=Sampling(
                max_tokens=8, temperature=0, stop=("\n",), logprobs=True, presence_penalty=0.5, frequency_penalty=0.25,
                top_k=-1, top_p=1,
            ),
            extra={"skip_special_tokens": True},
        )
        for prompt in ("one", "two", "three")
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_row_042_a_list_of_version_2_is_written_and_read_as_the_same_requests(stream: bool) -> None:
    chats = [
        Request(model="m", messages=(Message("user", text),), sampling=Sampling(max_tokens=4), stream=stream)
        for text in ("one", "two")
    ]
    texts = [Request(model="", prompt=text) for text in ("one", "two")]

    for bodies, requests in (([*map(write_chat, chats)], chats), ([*map(write_completion, texts)], texts)):
        rows = await rows_of(b"[" + b",".join(bodies) + b"]", "llmengine")

        assert [(row.index, row.request) for row in rows] == [
            (index, Request(model=one.model, messages=one.messages, prompt=one.prompt, sampling=one.sampling))
            for index, one in enumerate(requests)
        ]


async def test_row_042_an_output_of_version_1_has_a_result_at_the_index_of_each_prompt() -> None:
    rows = await rows_of(json.dumps(V1).encode())

    output = output_of(
        "llmengine-v1",
        *(Outcome(index=row.index, answer=answer(f"to {row.index}")) for row in rows),
    )

    assert json.loads(output) == [
        {
            "text": f"to {index}",
            "num_prompt_tokens": 3,
            "num_completion_tokens": 1,
            "tokens": [{"token": f"to {index}", "log_prob": -0.5}],
        }
        for index in range(3)
    ]
    answers = [outcome.response for outcome in await read(output, *asked(rows))]
    assert [(answer.text, answer.finish_reason) for answer in answers if answer is not None] == [
        ("to 0", "stop"), ("to 1", "stop"), ("to 2", "stop"),
    ]  # fmt: skip


async def test_row_042_an_output_of_version_2_has_a_reply_at_the_index_of_each_request() -> None:
    bodies: list[Any] = [
        {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        {"model": "m", "prompt": "hi"},
    ]
    rows = await rows_of(json.dumps(bodies).encode())

    output = output_of(
        "llmengine-v2",
        *(
            Outcome(index=row.index, answer=answer(f"to {row.index}"), asked=asked_of(row.request))
            for row in rows
            if row.request is not None
        ),
    )

    chat, text = json.loads(output)
    assert (chat["object"], chat["choices"][0]["message"]["content"]) == ("chat.completion", "to 0")
    assert (text["object"], text["choices"][0]["text"]) == ("text_completion", "to 1")
    outcomes = await read(output, *asked(rows))
    assert [(one.id, one.response and one.response.text) for one in outcomes] == [("row-0", "to 0"), ("row-1", "to 1")]


async def test_row_043_an_error_object_and_a_null_are_failures_of_their_items_and_the_others_are_answers() -> None:
    reply = {
        "id": "c-1", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    }  # fmt: skip
    failed = {"error": {"message": "too many", "type": "BadRequestError", "param": "max_tokens", "code": 400}}
    too_long = {"error": {"message": "too long", "type": "BadRequestError", "param": "input_tokens", "code": 400}}

    hi = Request(model="m", messages=(Message("user", "hi"),))
    outcomes = await read(json.dumps([reply, failed, None, too_long, reply]).encode(), *[hi] * 5)

    assert [outcome.id for outcome in outcomes] == [f"row-{index}" for index in range(5)]
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None), BadRequestError, InternalServerError, ContextLengthExceededError, type(None),
    ]  # fmt: skip
    assert isinstance(outcomes[1].error, BadRequestError)
    assert (outcomes[1].error.status, outcomes[1].error.param) == (400, "max_tokens")
    assert [outcome.response.text for outcome in outcomes if outcome.response is not None] == ["hi", "hi"]


async def test_row_043_failed_rows_are_written_in_the_same_form() -> None:
    rows = await rows_of(json.dumps([{"prompt": "a"}, {"prompt": 5}, {"prompt": "c"}]).encode())
    late = TotalTimeoutError("too late")

    output = output_of(
        "llmengine-v2",
        Outcome(index=0, asked="complete", answer=answer("hi")),
        Outcome(index=1, error=rows[1].error),
        Outcome(index=2, error=late),
    )

    good, invalid, slow = json.loads(output)
    assert good["choices"][0]["text"] == "hi"
    assert (invalid["error"]["param"], invalid["error"]["code"]) == ("prompt", 400)
    assert slow == {"error": {"message": "too late", "type": "server_error", "param": None, "code": 504}}
    text = Request(model="m", prompt="a")
    assert [type(outcome.error) for outcome in await read(output, text, text, text)] == [
        type(None),
        BadRequestError,
        InternalServerError,
    ]
