"""Keys, prompts and answers are planted wherever they can be given, and looked for wherever they could show."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from asyncllm import (
    Client,
    FilePart,
    ImagePart,
    JsonSchema,
    LogCalls,
    Message,
    Retry,
    Settings,
    TextPart,
    Timeouts,
    Tool,
    ToolCall,
)
from asyncllm.backend import EmbedRequest, HttpCall
from asyncllm.config import BackendSettings, Deployment
from asyncllm.testing import FaultyServer, Fin, Op, Rst, SeenRequest, Sse, Stall, Status
from sinks import Sinks

NAMES = [
    "argument_key", "env_key", "file_key", "x_api_key", "api_key_header", "x_goog_api_key", "proxy_authorization",
    "cookie", "custom_header", "userinfo", "query", "extra", "prompt", "system", "tool_description", "tool_parameter",
    "tool_result", "tool_arguments", "schema", "file_name", "file_data", "image_url", "embedded", "answer",
    "answer_reasoning", "answer_arguments", "stop", "idempotency_key",
]  # fmt: skip
CANARIES = {name: f"canary{number:02}{name.replace('_', '')}" for number, name in enumerate(NAMES)}
CANARIES["file_data_as_sent"] = b64encode(CANARIES["file_data"].encode()).decode()
C = CANARIES

HEADERS = {
    "x-api-key": C["x_api_key"],
    "api-key": C["api_key_header"],
    "x-goog-api-key": C["x_goog_api_key"],
    "Proxy-Authorization": C["proxy_authorization"],
    "Cookie": f"session={C['cookie']}",
    "X-Custom": C["custom_header"],
}
PROMPT = [
    Message("system", C["system"]),
    Message(
        "user",
        [
            TextPart(C["prompt"]),
            ImagePart(url=f"http://images/{C['image_url']}"),
            FilePart(data=C["file_data"].encode(), media_type="text/plain", filename=C["file_name"]),
        ],
    ),
    Message("assistant", "", tool_calls=(ToolCall("c", "f", json.dumps({"a": C["tool_arguments"]})),)),
    Message("tool", C["tool_result"], tool_call_id="c"),
]
OPTIONS: dict[str, Any] = {
    "tools": [Tool("f", C["tool_description"], {"type": "object", "title": C["tool_parameter"]})],
    "constraint": JsonSchema({"type": "object", "title": C["schema"]}),
    "extra": {"user": C["extra"], "metadata": {"deep": [C["extra"]]}},
    "stop": [C["stop"]],
    "idempotency_key": C["idempotency_key"],
}


def echo(request: SeenRequest) -> bytes:
    """An error that repeats all that was sent, as servers do."""
    headers = " ".join(f"{name}: {value}" for name, value in request.headers.items())
    message = f"cannot serve {request.path} with {headers} and {request.body.decode()}"
    return json.dumps({"error": {"message": message, "type": "server_error", "code": "broken"}}).encode()


def delta(**fields: Any) -> dict[str, Any]:
    return {"id": "r", "model": "m", "choices": [{"index": 0, "delta": fields}]}


ANSWER = [
    delta(reasoning_content=C["answer_reasoning"]),
    delta(content=C["answer"]),
    delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": C["answer_arguments"]}}]),
]
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
WHOLE = {
    "id": "r",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "content": C["answer"],
                "reasoning_content": C["answer_reasoning"],
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": C["answer_arguments"]}}],
            },
        }
    ],
}


def ok(document: object) -> Status:
    return Status(200, {}, json.dumps(document).encode())


Server = Callable[[SeenRequest], Sequence[Op]]
STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 500, 501, 503, 529, 999)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def refuses(status: int) -> Server:
    return lambda seen: [Status(status, {"Retry-After": "0"}, echo(seen))]


# What a server may do, by its name.
SERVERS: dict[str, Server] = {
    "answers": lambda seen: [Sse([*ANSWER, END]) if b'"stream":true' in seen.body else ok(WHOLE)],
    **{f"refuses with {status}": refuses(status) for status in STATUSES},
    "redirects": lambda seen: [Status(307, {"Location": f"http://elsewhere/?key={C['argument_key']}"})],
    "answers with a page": lambda seen: [Status(200, {"Content-Type": "text/html"}, b"<title>" + echo(seen))],
    "answers with an error": lambda seen: [Status(200, {}, echo(seen))],
    "breaks off with an error": lambda seen: [Sse([*ANSWER, echo(seen)], "end")],
    "breaks off with an error event": lambda seen: [HEAD, b"event: error\ndata: " + echo(seen) + b"\n\n", Fin()],
    "breaks off with an error text": lambda seen: [
        HEAD,
        b"event: error\ndata: busy " + echo(seen)[9:] + b"\n\n",
        Fin(),
    ],
    "is cut": lambda seen: [Sse(ANSWER, "fin")],
    "is reset": lambda seen: [Sse(ANSWER, "fin", every_s=0.002), Rst()],
    "ends early": lambda seen: [Sse(ANSWER, "end")],
    "stalls": lambda seen: [Sse(ANSWER, "stall")],
    "never answers": lambda seen: [Stall()],
    "closes at once": lambda seen: [Fin()],
    "is no HTTP": lambda seen: [b"SSH-2.0 " + echo(seen) + b"\r\n\r\n", Fin()],
    "sends a bad chunk": lambda seen: [Sse([*ANSWER, f'{{"choices":[{{"delta":{{"content":"{C["answer"]}'])],
    "sends a chunk of another type": lambda seen: [
        Sse([*ANSWER, {"choices": [{"delta": {"content": [C["answer"]]}}]}])
    ],
    "sends a word for a number": lambda seen: [Sse([{"choices": [{"index": C["answer"], "delta": {}}]}])],
    "sends a bad document": lambda seen: [
        Status(200, {}, f'{{"choices":[{{"message":{{"content":"{C["answer"]}'.encode())
    ],
    "sends a document of another type": lambda seen: [ok({"choices": [{"message": {"content": {"a": C["answer"]}}}]})],
    "sends a list": lambda seen: [ok([C["answer"]])],
    "sends a broken length": lambda seen: [Status(200, {"Content-Length": "9999"}, json.dumps(WHOLE).encode()), Fin()],
}


async def chat(client: Client) -> None:
    reply = await client.chat(PROMPT, **OPTIONS)
    repr(reply)


async def stream(client: Client) -> None:
    async with client.stream(PROMPT, **OPTIONS) as stream:
        async for _ in stream:
            pass


async def parse(client: Client) -> None:
    await client.chat(PROMPT, output_type=int)


async def fall_back(client: Client) -> None:
    await client.chat(PROMPT, model=["openai:m", "eu"], **OPTIONS)


async def embed(client: Client) -> None:
    await client.embed([C["embedded"]], extra={"user": C["extra"]})


async def list_models(client: Client) -> None:
    await client.list_models()


CALLS = [chat, stream, parse, fall_back, embed, list_models]


def clients(url: str) -> list[Client]:
    """One client with its keys in arguments, and one with keys from the environment and from a file."""
    common: dict[str, Any] = {
        "model": "openai:m",
        "config": Settings(
            deployments={
                "eu": Deployment(
                    backend="openai", model="m", base_url=url, api_key=C["file_key"], options={"headers": HEADERS}
                )
            }
        ),
        "retry": Retry(attempts=2, backoff_s=0, throttled_s=0),
        "timeouts": Timeouts(first_event_s=0.05, event_idle_s=0.05),
        "hooks": [LogCalls()],
    }
    return [
        Client(base_url=url, api_key=C["argument_key"], options={"headers": HEADERS}, env={}, **common),
        Client(env={"OPENAI_API_KEY": C["env_key"], "OPENAI_BASE_URL": url}, **common),
    ]


@pytest.mark.parametrize("name", SERVERS)
async def test_whatever_a_server_does_nothing_private_is_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sinks = Sinks(CANARIES)
    with sinks.listening(asyncio.get_running_loop()):
        async with FaultyServer(SERVERS[name]) as server:
            for client in clients(server.url):
                async with client:
                    for call in CALLS:
                        try:
                            await call(client)
                        except asyncllm.AsyncLLMError as error:
                            sinks.error(error)
                    sinks.live()

    assert sorted(sinks.found) == []
    assert sinks.searched > 100
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  # an empty folder


async def test_an_open_stream_shows_nothing_of_what_it_was_told_and_tells() -> None:
    sinks = Sinks(CANARIES)
    with sinks.listening(asyncio.get_running_loop()):
        async with FaultyServer(SERVERS["answers"]) as server:
            for client in clients(server.url):
                async with (
                    client,
                    client.stream(PROMPT, **OPTIONS) as stream,
                    contextlib.aclosing(client.stream_text(PROMPT, **OPTIONS)) as texts,
                ):
                    async for event in stream:
                        sinks.thing(event)
                        sinks.thing(stream.response)
                    assert [text async for text in texts] == [C["answer"]]
                    sinks.live()
                    for thing in (client, stream, texts, asyncllm.Secret(C["argument_key"])):
                        with pytest.raises(TypeError):
                            pickle.dumps(thing)

    assert stream.response.text == C["answer"]
    assert sorted(sinks.found) == []


async def test_a_call_without_an_event_loop_shows_as_little() -> None:
    sinks = Sinks(CANARIES)

    def call(url: str) -> None:
        arguments: dict[str, Any] = {"base_url": url, "api_key": C["argument_key"], "options": {"headers": HEADERS}}
        with asyncllm.sync.Client(model="openai:m", env={}, retry=None, **arguments) as client:
            with pytest.raises(asyncllm.AuthenticationError) as caught:
                client.chat(PROMPT, **OPTIONS)
            sinks.error(caught.value)
            sinks.thing(client)

    with sinks.listening(asyncio.get_running_loop()):
        async with FaultyServer(SERVERS["refuses with 401"]) as server:
            await asyncio.to_thread(call, server.url)

    assert sinks.searched > 10
    assert sorted(sinks.found) == []


WRONG: dict[str, dict[str, Any]] = {
    "a key of two lines": {"api_key": f"{C['argument_key']}\n"},
    "a key from the environment of two words": {"env": {"OPENAI_API_KEY": f"{C['env_key']} x"}},
    "a header of two lines": {"options": {"headers": {"X-Api-Key": f"{C['x_api_key']}\r\n"}}},
    "a header that is no text": {"options": {"headers": {"X-Api-Key": [C["x_api_key"]]}}},
    "headers that are no table": {"options": {"headers": C["x_api_key"]}},
    "an address with a password": {"base_url": f"http://user:{C['userinfo']}@127.0.0.1:1"},
    "an address with a query": {"base_url": f"http://127.0.0.1:1/v1?key={C['query']}"},
    "an address that is none": {"base_url": f"{C['query']}://x"},
    "an address that cannot be parsed": {"base_url": f"http://[{C['query']}"},
    "an address with a port that is none": {"base_url": f"http://127.0.0.1:{C['query']}"},
    "a place where nobody listens": {"base_url": "http://127.0.0.1:1/" + C["query"]},
    "a name that does not exist": {"base_url": f"http://nowhere.invalid/{C['query']}"},
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_given_wrongly_is_not_repeated(name: str) -> None:
    sinks = Sinks(CANARIES)
    wrong = {"model": "openai:m", "env": {}, "retry": None, **WRONG[name]}
    with sinks.listening(asyncio.get_running_loop()):
        with pytest.raises(asyncllm.AsyncLLMError) as caught:
            async with Client(**wrong) as client:
                await client.chat(PROMPT)
        sinks.error(caught.value)

    assert sorted(sinks.found) == []


def test_settings_do_not_show_what_an_address_may_hold() -> None:
    sinks = Sinks(CANARIES)
    url = f"http://user:{C['userinfo']}@host/v1?key={C['query']}"
    place = Deployment(backend="openai", model="m", base_url=url, api_key=C["file_key"], options={"headers": HEADERS})

    for thing in (
        Settings(deployments={"eu": place}, backends={"openai": BackendSettings(base_url=url, api_key=C["file_key"])}),
        place,
        place.config("openai", {}, "eu"),
        HttpCall(url=url, headers=HEADERS, body=C["prompt"].encode()),
        EmbedRequest(model="m", texts=(C["embedded"],), extra={"user": C["extra"]}),
    ):
        sinks.thing(thing)

    assert sorted(sinks.found) == []


@pytest.mark.parametrize("name", ["answers", "refuses with 401", "breaks off with an error", "is no HTTP"])
async def test_the_command_line_shows_the_answer_and_nothing_else(name: str, tmp_path: Path) -> None:
    sinks = Sinks({key: canary for key, canary in CANARIES.items() if not key.startswith("answer")})
    async with FaultyServer(SERVERS[name]) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-m", "asyncllm", "chat", "-m", "openai:m"),
            env={
                "PATH": os.environ["PATH"],
                "TMPDIR": str(tmp_path),
                "HOME": str(tmp_path),
                "OPENAI_API_KEY": C["env_key"],
                "OPENAI_BASE_URL": server.url,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()  # noqa: ASYNC240  # no disk
        sinks.search("the arguments of the process", arguments)
        output, errors = await process.communicate(C["prompt"].encode())

    assert len(server.requests) >= 1
    assert C["prompt"].encode() in server.requests[0].body
    sinks.search("stdout", output)
    sinks.search("stderr", errors)
    assert sorted(sinks.found) == []
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  # an empty folder
