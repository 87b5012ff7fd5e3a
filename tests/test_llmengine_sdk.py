"""The vendor's own client and ours, against one server: the same requests, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

import vendor_sdk
from asyncllm import Client, InvalidRequestError
from asyncllm.testing import FaultyServer, SeenRequest
from llmengine_server import gateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "scale-key"
SDK = """
import asyncio
from llmengine import Completion
def shown(reply):
    output = reply.output
    tokens = [[one.token, one.log_prob] for one in output.tokens or ()]
    return [reply.request_id, output.text, output.num_prompt_tokens, output.num_completion_tokens, tokens]
told = []
for call in given:
    options = {"model": "llama-2-7b", "prompt": "one two three", **call}
    told.append(shown(Completion.create(**options)))
    frames = list(Completion.create(**options, stream=True))
    told.append(["".join(frame.output.text for frame in frames), frames[-1].output.num_completion_tokens])
    told.append(shown(asyncio.run(Completion.acreate(**options))))
print(json.dumps(told))
"""
# What the vendor's client is told, and what ours is told for the same.
CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {
            "max_new_tokens": 2, "temperature": 0.5, "stop_sequences": ["x"], "return_token_log_probs": True,
            "presence_penalty": 0.5, "frequency_penalty": 0.25, "top_k": 5, "top_p": 0.5,
            "include_stop_str_in_output": True, "guided_regex": "a+",
        },
        {
            "max_tokens": 2, "temperature": 0.5, "stop": ["x"], "logprobs": True, "presence_penalty": 0.5,
            "frequency_penalty": 0.25, "top_k": 5, "top_p": 0.5, "include_stop_str_in_output": True,
            "extra": {"guided_regex": "a+"},
        },
    ),
    ({"guided_json": {"type": "object"}}, {"extra": {"guided_json": {"type": "object"}}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def python() -> Path:
    return vendor_sdk.environment("scale-llm-engine", "scale-llm-engine==0.0.0b45")


async def test_both_clients_send_the_same_and_read_the_same(python: Path) -> None:
    async with FaultyServer(gateway) as server:
        env = {
            "SCALE_API_KEY": KEY,
            "LLM_ENGINE_BASE_PATH": f"{server.url}/llm-engine/",
            "LLM_ENGINE_DISABLE_VERSION_CHECK": "1",
        }
        theirs = await vendor_sdk.run(python, SDK, [call for call, _ in CALLS], env)
        sent = [_sent(request) for request in server.requests]
        server.requests.clear()
        async with Client(model="llmengine:llama-2-7b", env=env) as client:
            ours = [
                await _told(client, options, streamed=streamed)
                for _, options in CALLS
                for streamed in (False, True, False)
            ]

    assert [_sent(request) for request in server.requests] == sent
    assert ours == theirs


async def test_what_the_vendors_types_refuse_is_refused_by_ours(python: Path) -> None:
    script = """
from llmengine.data_types import CompletionSyncV1Request
refused = []
for options in given:
    try:
        CompletionSyncV1Request(**{"prompt": "x", "max_new_tokens": 1, "temperature": 0.2, **options})
        refused.append(False)
    except ValueError:
        refused.append(True)
print(json.dumps(refused))
"""
    cases: list[dict[str, Any]] = [
        {name: value}
        for name in ("temperature", "presence_penalty", "frequency_penalty", "top_p")
        for value in (0, 0.5, 1, 1.5, 2)
    ]
    theirs = await vendor_sdk.run(python, script, cases, {})
    ours = []
    async with FaultyServer(gateway) as server:
        async with Client(model="llmengine:m", base_url=server.url, api_key=KEY, env={}) as client:
            for options in cases:
                try:
                    await client.complete("x", **options)
                except InvalidRequestError:
                    ours.append(True)
                else:
                    ours.append(False)

    assert ours == theirs
    assert any(ours)


def _sent(request: SeenRequest) -> tuple[str, list[tuple[str, str]], str, str, dict[str, Any]]:
    """A request without the nulls and the defaults that the vendor's client writes out."""
    path, _, query = request.path.partition("?")
    body = {name: value for name, value in request.json().items() if value is not None}
    for name, usual in (("skip_special_tokens", True), ("return_token_log_probs", False)):
        if body.get(name) == usual:
            del body[name]
    return path, parse_qsl(query), request.headers["x-api-key"], request.headers["authorization"], body


async def _told(client: Client, options: dict[str, Any], *, streamed: bool) -> list[Any]:
    if streamed:
        async with client.stream_complete("one two three", **options) as stream:
            assert [event async for event in stream]
        return [stream.response.text, stream.response.usage.output_tokens]
    reply = await client.complete("one two three", **options)
    tokens = [[one.token, one.logprob] for one in reply.logprobs or ()]
    return [reply.request_id, reply.text, reply.usage.input_tokens, reply.usage.output_tokens, tokens]
