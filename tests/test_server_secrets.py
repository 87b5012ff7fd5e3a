"""Keys, prompts and answers are planted wherever a server meets them, and looked for wherever they could show."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asyncllm import Client, LogCalls, Retry, Settings, Timeouts
from asyncllm.config import Deployment
from asyncllm.scrub import redact
from asyncllm.testing import FaultyServer, Fin, Rst, SeenRequest, Sse, Stall, Status
from asyncllm.workspace.served import ServerStore
from served import served
from sinks import Sinks

NAMES = [
    "upstream_key", "upstream_header", "authorization", "x_goog_api_key", "proxy_authorization", "cookie",
    "custom_header", "query", "idempotency_key", "user", "base_url", "prompt", "system", "tool", "arguments", "stop",
    "schema", "unknown_field", "embedded", "picture", "answer", "answer_arguments", "reasoning", "path",
]  # fmt: skip
C = {name: f"canary{number:02}{name.replace('_', '')}" for number, name in enumerate(NAMES)}
C["upstream_key"] = f"sk-{C['upstream_key']}"

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": C["system"]},
        {"role": "user", "content": [{"type": "text", "text": C["prompt"]}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c",
                    "type": "function",
                    "function": {"name": "f", "arguments": json.dumps({"a": C["arguments"]})},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": C["tool"]},
    ],
    "stop": [C["stop"]],
    "user": C["user"],
    "metadata": {"a": C["unknown_field"]},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"title": C["schema"]}}},
    "base_url": f"http://{C['base_url']}.invalid",
    "api_key": C["user"],
}
MESSAGES = {
    "model": "m",
    "max_tokens": 5,
    "system": C["system"],
    "messages": [{"role": "user", "content": C["prompt"]}],
    "metadata": {"user_id": C["user"]},
}
HEADERS = {
    "x-goog-api-key": C["x_goog_api_key"],
    "Proxy-Authorization": f"Basic {C['proxy_authorization']}",
    "Cookie": f"session={C['cookie']}",
    "X-Custom": C["custom_header"],
    "Idempotency-Key": C["idempotency_key"],
}
PICTURE = {
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://" + C["picture"]}}]}]
}
CALLS: dict[str, tuple[str, str, Any]] = {
    "chat": ("POST", "/v1/chat/completions", BODY),
    "stream": ("POST", "/v1/chat/completions", {**BODY, "stream": True}),
    "completion": ("POST", "/v1/completions", {"model": "m", "prompt": C["prompt"], "user": C["user"]}),
    "embedding": ("POST", "/v1/embeddings", {"model": "m", "input": [C["embedded"]], "user": C["user"]}),
    "message": ("POST", "/v1/messages", MESSAGES),
    "message stream": ("POST", "/v1/messages", {**MESSAGES, "stream": True}),
    "picture": ("POST", "/v1/chat/completions", PICTURE),
    "wrong type": ("POST", "/v1/chat/completions", {"messages": C["prompt"], "stop": {"a": C["stop"]}}),
    "no JSON": ("POST", "/v1/chat/completions", f'{{"messages": {C["prompt"]}'),
    "no route": ("POST", f"/v1/{C['path']}", BODY),
    "key in the address": ("POST", f"/v1/chat/completions?key={C['query']}", BODY),
    "query": ("GET", f"/v1/models?after={C['query']}", None),
    "models": ("GET", "/v1/models", None),
    "metrics": ("GET", "/metrics", None),
    "usage": ("GET", "/server/usage", None),
    "live": ("GET", "/server/live", None),
}


def echo(seen: SeenRequest) -> bytes:
    """An error that repeats all that was sent, as servers do."""
    headers = " ".join(f"{name}: {value}" for name, value in seen.headers.items())
    said = f"cannot serve {seen.path} for {C['upstream_key']} with {headers} and {seen.body.decode()}"
    return json.dumps({"error": {"message": said, "type": "server_error", "code": "broken"}}).encode()


def delta(**fields: Any) -> dict[str, Any]:
    return {"id": "r", "model": "secret-model", "choices": [{"index": 0, "delta": fields}]}


CALL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": C["answer_arguments"]}}
ANSWER = [delta(reasoning_content=C["reasoning"]), delta(content=C["answer"]), delta(tool_calls=[CALL])]
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
WHOLE = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": C["answer"]}}]}
ANSWERED = ("answer", "answer_arguments", "reasoning")
UPSTREAMS: dict[str, Any] = {
    "answers": lambda seen: [
        Sse([*ANSWER, END]) if b'"stream":true' in seen.body else Status(body=json.dumps(WHOLE).encode())
    ],
    **{
        f"refuses with {status}": lambda seen, status=status: [Status(status, {"Retry-After": "0"}, echo(seen))]
        for status in (400, 401, 404, 429, 500)
    },
    "breaks off with an error": lambda seen: [Sse([*ANSWER, echo(seen)], "end")],
    "is reset": lambda seen: [Sse(ANSWER, "fin", every_s=0.002), Rst()],
    "stalls": lambda seen: [Sse(ANSWER, "stall")],
    "never answers": lambda seen: [Stall()],
    "closes at once": lambda seen: [Fin()],
    "is no HTTP": lambda seen: [b"SSH-2.0 " + echo(seen) + b"\r\n\r\n", Fin()],
    "redirects": lambda seen: [Status(307, {"Location": f"http://elsewhere/?key={C['upstream_key']}"})],
    "sends nonsense": lambda seen: [Status(body=f'{{"choices":[{{"message":{{"content":"{C["answer"]}'.encode())],
}


def client_of(url: str) -> Client:
    place = Deployment(
        backend="openai",
        model="secret-model",
        base_url=url,
        api_key=C["upstream_key"],
        options={"headers": {"X-Team": C["upstream_header"]}},
    )
    return Client(
        model="m",
        config=Settings(deployments={"m": place}),
        retry=Retry(attempts=2, backoff_s=0, throttled_s=0),
        timeouts=Timeouts(first_event_s=0.05, event_idle_s=0.05),
        hooks=[LogCalls()],
        env={},
    )


@pytest.mark.parametrize("name", UPSTREAMS)
async def test_nothing_private_is_shown_or_kept_whatever_happens_to_a_call(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    async with ServerStore(folder) as store, FaultyServer(UPSTREAMS[name]) as upstream:
        _, token = await store.keys.add("phone")
        _, revoked = await store.keys.add("lost")
        await store.keys.revoke(revoked.split("_")[1])
        sinks = Sinks({**C, "key": token[16:], "revoked": revoked[16:], "folder": str(folder)})
        place = upstream.url.removeprefix("http://").removesuffix("/v1")
        keys = [
            {"Authorization": f"Bearer {token}"},
            {"x-api-key": revoked},
            {"Authorization": f"Bearer {C['authorization']}"},
        ]
        with sinks.listening(asyncio.get_running_loop(), logging.DEBUG):  # below it uvicorn logs paths
            async with client_of(upstream.url) as client:
                async with served(client, store=store, needs_key=True, keep_alive_s=0.01) as url:
                    for call in CALLS:
                        await ask(url, call, {**HEADERS, **keys[0]}, sinks, place)
                    for wrong in keys[1:]:
                        await ask(url, "chat", {**HEADERS, **wrong}, sinks, place)
                    sinks.live()
        keep(sinks, folder)
    keep(sinks, folder)

    assert upstream.requests
    assert sinks.searched > 100
    assert sorted(sinks.found) == []


async def ask(url: str, call: str, headers: dict[str, str], sinks: Sinks, upstream: str) -> None:
    """Make a call, and search its reply, all of it where it is an error."""
    method, path, body = CALLS[call]
    data = body if isinstance(body, str) or body is None else json.dumps(body)
    async with aiohttp.ClientSession() as http:
        async with http.request(method, f"{url}{path}", data=data, headers=headers) as reply:
            text = await reply.text()
            told = f"{dict(reply.headers)} {text}"
    if reply.status == 200 and call not in ("metrics", "usage", "live"):
        for name in ANSWERED:
            told = told.replace(C[name], "")  # the answer is what was asked for
    sinks.search(f"the reply to {call}", told)
    for hidden in (upstream, "Traceback", "asyncllm/", "elsewhere"):
        assert hidden not in told, told


def keep(sinks: Sinks, folder: Path) -> None:
    """Search what is kept."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        sinks.search(path.name, path.read_bytes())


async def test_an_upstream_that_refuses_the_server_s_key_is_a_bad_gateway(tmp_path: Path) -> None:
    said = {
        "error": {
            "message": "Incorrect API key: sk-abc***xyz. See https://up.example.org/keys",
            "code": "bad",
        }
    }
    for status, expected in ((401, 502), (403, 502), (400, 400), (429, 429), (500, 500)):
        async with FaultyServer([Status(status, {}, json.dumps(said).encode())]) as upstream:
            async with client_of(upstream.url) as client, served(client) as url, aiohttp.ClientSession() as http:
                async with http.post(f"{url}/v1/chat/completions", json={"messages": BODY["messages"]}) as reply:
                    told = (await reply.json())["error"]
        assert reply.status == expected
        assert "sk-abc" not in told["message"]
        assert "example.org" not in told["message"]
        if expected == 502:
            assert told["code"] == "bad_gateway"


PLAIN = "max_tokens is above zero, basic rules, bearer of news, and an address begins with http:// or https://"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("key al_abcdefghijkl_" + "A" * 43 + " is bad", "key *** is bad"),
        ("Incorrect API key provided: sk-ab****yz.", "Incorrect API key provided: ***"),
        ("Authorization: Bearer abc.def-ghi; next", "***; next"),
        ('{"x-api-key": "abcdef"}', '{"***"}'),
        ("proxy-authorization=Basic eDp5 and Cookie: a=b", "*** and ***"),
        ("got bearer eyJhbGciOiJIUzI1NiJ9.e30.abc there", "got *** there"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("see https://user:pw@host/path?key=1 for more", "see *** for more"),
        (PLAIN, PLAIN),
        ("connect to 10.0.0.7:8000 or localhost:11434", "connect to *** or ***"),
        ("the model gpt-x takes no stop", "the model gpt-x takes no stop"),
    ],
)  # fmt: skip
def test_what_is_written_like_a_secret_is_taken_out_of_a_message_and_nothing_else(said: str, left: str) -> None:
    assert redact(said) == left
