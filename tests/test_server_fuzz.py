"""Whatever a body is, the server answers with an answer or with an error of its API, and never fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Scope

from anything_backend import Anything
from asyncllm import Client
from asyncllm.server import app
from asyncllm.server.settings import ServerSettings

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk=", "filename": "a.pdf"}}
SAMPLING = {
    "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "stop": ["a"], "seed": 1, "presence_penalty": 0.5, "n": 2,
    "logit_bias": {"5": 1.5}, "top_k": 3, "min_p": 0.1, "stop_token_ids": [1], "ignore_eos": True, "min_tokens": 1,
    "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": False},
}  # fmt: skip
TEXT = {"type": "text", "text": "e"}
SHOWN = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PAPER = {"type": "document", "title": "a", "source": {"type": "text", "data": "b", "media_type": "text/plain"}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": "a", "name": "b"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, IMAGE, AUDIO, FILE]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "reasoning_content": "d"},
            {"role": "tool", "tool_call_id": "c", "content": "e"},
        ],
        "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}, "logprobs": True,
        "top_logprobs": 2, "parallel_tool_calls": True, "guided_json": {"type": "object"},
        "response_format": {"type": "text"}, "thinking": {"type": "enabled"}, **SAMPLING,
    },
    "/v1/completions": {"prompt": ["a"], "logprobs": 2, "structured_outputs": {"choice": ["a"]}, **SAMPLING},
    "/v1/embeddings": {"input": ["a", "b"], "dimensions": 2, "encoding_format": "base64", "model": ""},
    "/v1/messages": {
        "max_tokens": 5, "temperature": 0.5, "top_k": 1, "top_p": 0.5, "stop_sequences": ["a"], "stream": True,
        "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "b"}, SHOWN, PAPER]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "c", "signature": "d"},
                {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Paris"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [TEXT]},
            ]},
        ],
        "tools": [{"name": "weather", "description": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "thinking": {"type": "enabled", "budget_tokens": 2},
    },
}  # fmt: skip
BODIES["/v1/messages/count_tokens"] = BODIES["/v1/messages"]
DEEP: Any = 0
for _ in range(60):
    DEEP = [{"a": DEEP}]
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "a", "\0",
    "\ud800", "\udc00\ud800", "\u2028", "data:,", "data:image/png;base64,!", "x" * 5000, [], [[]], [None], ["\ud800"],
    {}, {"type": None}, {"type": "text"}, {"": ""}, {"\ud800": 1}, {"$ref": "#"}, [0] * 3000, DEEP,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document, itself included."""
    yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The document with something else at a place."""
    if not path:
        return new
    if isinstance(value, dict):
        return {key: put(item, path[1:], new) if key == path[0] else item for key, item in value.items()}
    return [put(item, path[1:], new) if at == path[0] else item for at, item in enumerate(value)]


PLACES = {route: list(places(body)) for route, body in BODIES.items()}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route and a body for it, wrong in a place or two."""
    route = draw(st.sampled_from(sorted(BODIES)))
    body: Any = BODIES[route]
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(PLACES[route]))
        try:
            body = put(body, path, draw(st.sampled_from(NASTY) | anything))
        except (TypeError, AttributeError):
            break  # it is gone with what stood around it
    if isinstance(body, dict):
        for name in draw(st.lists(st.sampled_from(sorted(body)), max_size=6)) if body else ():
            body = {key: value for key, value in body.items() if key != name}
    text = json.dumps(body).encode()
    kind = draw(st.integers(0, 19))
    if kind == 0:
        text = text[: draw(st.integers(0, len(text)))]
    elif kind == 1:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=4)) + text[at:]
    elif kind == 2 and isinstance(body, dict) and len(text) > 2:
        text = b"{" + text[1:-1] + b", " + text[1:-1] + b"}"  # every name twice
    return route, text


def ask(application: Any, route: str, body: bytes) -> tuple[int, bytes]:
    """What the application answers."""
    sent: list[Message] = []
    took = False
    scope: Scope = {
        "type": "http", "method": "POST", "path": route, "raw_path": route.encode(), "query_string": b"", "headers": [],
        "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("x", 80), "client": ("x", 1),
    }  # fmt: skip

    async def receive() -> Message:
        nonlocal took
        if took:
            await asyncio.Event().wait()
        took = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        async with asyncio.timeout(30):
            await application(scope, receive, send)

    LOOP.run(run())
    assert sent
    assert not sent[-1].get("more_body", False)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


LOOP = asyncio.Runner()


@pytest.fixture(scope="module")
def application() -> Iterator[Any]:
    client = Client(backend=Anything())
    yield app(client, ServerSettings(models={"m": ""}, max_body_bytes=100_000))
    LOOP.run(client.aclose())
    LOOP.close()


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@example(("/v1/chat/completions", b"[" * 90_000))
@example(("/v1/messages", b'{"a":' * 15_000))
@example(("/v1/completions", b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}"))
@example(("/v1/embeddings", b'{"input": "\\ud800"}'))
@example(("/v1/embeddings", b'{"input": "\xff"}'))
@example(("/v1/chat/completions", b"\xef\xbb\xbf{}"))
@given(asked())
def test_no_body_makes_the_server_fail(application: Any, asked: tuple[str, bytes]) -> None:
    status, reply = ask(application, *asked)

    assert status in (200, 400, 404, 413), reply
    if status != 200:
        told = json.loads(reply)["error"]
        assert told["message"]
        assert told["type"] in ("invalid_request_error", "not_found_error", "request_too_large")
    elif reply.startswith(b"{"):
        json.loads(reply)
    else:
        assert reply.endswith((b"data: [DONE]\n\n", b'"type":"message_stop"}\n\n'))
        assert b'"error"' not in reply
