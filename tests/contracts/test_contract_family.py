"""What the seed systems do with Azure, OpenAI and the services that speak its API, done by asyncllm."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import Client, ConfigError, InvalidRequestError, Message, TextDelta
from asyncllm.sync import Client as SyncClient
from asyncllm.testing import (
    FaultyServer,
    Fin,
    ManualClock,
    Op,
    ScriptedReply,
    ScriptedTransport,
    SeenRequest,
    Sse,
    Stall,
    Status,
    openai_chunks,
    openai_reply,
)
from azure_server import BLOCKED, KEY, USAGE, Resource, refusal

REPLY = ScriptedReply(body=openai_reply("hello", usage=USAGE))
ROLES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
PROJECT = "0f3c2a9e-1b77-4c7e-9d55-5d1f6a7b8c9d"
QWEN = "qwen3-235b-a22b-instruct-2507"
FAMILY = ("azure", "openai", "openrouter", "gemini", "mistral", "scaleway", "groq", "ollama")


def azure(server: FaultyServer, **given: Any) -> Client:
    usual: dict[str, Any] = {"model": "azure:gpt-4o", "base_url": server.url, "api_key": KEY, "retry": None, "env": {}}
    return Client(**{**usual, **given})


async def test_row_010_azure_is_called_at_its_deployment_with_its_version_and_key() -> None:
    async with FaultyServer(Resource()) as server, azure(server) as client:
        reply = await client.chat("hi")

    (request,) = server.requests
    assert request.path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == KEY
    assert reply.text == "hello"


async def test_row_011_an_entra_token_is_asked_for_once_and_replaced_before_it_expires() -> None:
    count, clock = 0, ManualClock()

    async def provider() -> tuple[str, float]:
        nonlocal count
        count += 1
        token = f"token-{count}"
        await asyncio.sleep(0)
        return token, time.time() + 3600

    async with FaultyServer(Resource(tokens=["token-1", "token-2"])) as server:
        async with azure(server, api_key=None, options={"token_provider": provider}, clock=clock) as client:
            await asyncio.gather(*(client.chat("hi") for _ in range(5)))
            await clock.advance(3500)
            await asyncio.gather(*(client.chat("hi") for _ in range(5)))

    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer token-1"] * 5 + ["Bearer token-2"] * 5
    assert count == 2


async def test_row_012_an_unknown_model_is_an_error_that_names_the_known_ones() -> None:
    options = {"deployments": {"gpt-4": "d1", "gpt-4-32k": "d2"}}
    async with FaultyServer(Resource("d1", "d2")) as server, azure(server, options=options) as client:
        with pytest.raises(ValueError, match="gpt-4, gpt-4-32k") as caught:
            await client.chat("hi", model="azure:gpt-5-typo")

    assert isinstance(caught.value, ConfigError)
    assert not server.requests


@pytest.mark.parametrize("name", FAMILY)
async def test_row_015_all_roles_reach_the_server_in_order(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    async with Client(model=f"{name}:m", base_url="http://h", api_key="k", transport=transport) as client:
        await client.chat([*ROLES, {"role": "user", "content": "v"}])

    messages = msgspec.json.decode(transport.calls[0].body)["messages"]
    assert messages == [*ROLES, {"role": "user", "content": "v"}]


@pytest.mark.parametrize("name", ["azure", "openai", "ollama"])
async def test_row_016_a_list_of_messages_is_no_text_to_complete(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    async with Client(model=f"{name}:m", base_url="http://h", api_key="k", transport=transport) as client:
        with pytest.raises(InvalidRequestError, match="use chat for messages"):
            await client.complete(ROLES)  # type: ignore[arg-type]

    assert not transport.calls


ALIVE: dict[str, tuple[list[Op], bool]] = {
    "200": ([Status(body=b'{"data":[]}')], True),
    "401": (refusal(401, "401", "no"), False),
    "503": (refusal(503, "503", "no"), False),
    "closes": ([Fin()], False),
    "silence": ([Stall()], False),
}


@pytest.mark.parametrize("name", ALIVE)
async def test_row_019_azure_is_alive_if_it_answers_and_takes_the_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncllm.place._ALIVE_S", 0.3)
    script, alive = ALIVE[name]
    async with FaultyServer(script) as server, azure(server) as client:
        assert await client.is_alive() is alive

    assert server.requests[0].headers["api-key"] == KEY


async def test_row_019_nobody_there_is_not_alive() -> None:
    async with Client(model="azure:d", base_url="http://127.0.0.1:9", api_key="k", env={}) as client:
        assert not await client.is_alive()


async def test_row_020_azure_counts_a_prompt_by_a_tokenizer_against_a_table() -> None:
    transport = ScriptedTransport()
    options = {"tokenizer": str.split}
    async with Client(
        model="azure:gpt-4", base_url="http://h", api_key="k", options=options, transport=transport
    ) as client:
        fits, chat = await client.check_prompt("one two"), await client.check_prompt(ROLES)
        too_long = await client.check_prompt("word " * 8192)

    assert fits
    assert (fits.tokens, fits.limit) == (9, 8192)
    assert chat.tokens == 3 + 3 * 5
    assert not too_long
    assert not transport.calls


@pytest.mark.parametrize("name", ["azure", "openai"])
async def test_row_024_a_stream_has_deltas_and_usage_and_its_first_chunk_may_be_empty(name: str) -> None:
    verdict = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    script = [Sse([verdict, *openai_chunks(["hel", "lo"], usage=USAGE)])]
    async with FaultyServer(script) as server:
        async with Client(model=f"{name}:m", base_url=server.url, api_key="k", env={}) as client:
            async with client.stream("hi") as stream:
                texts = [event.text async for event in stream if isinstance(event, TextDelta)]

    assert texts == ["hel", "lo"]
    assert (stream.response.usage.input_tokens, stream.response.usage.output_tokens) == (8, 34)


@pytest.mark.parametrize("name", ["azure", "openai"])
async def test_row_024_an_error_in_a_stream_raises(name: str) -> None:
    error = {"error": {"message": "engine died", "type": "server_error", "code": 500}}
    script = [Sse([*openai_chunks(["hel"], finish=None), error])]
    async with FaultyServer(script) as server:
        async with Client(model=f"{name}:m", base_url=server.url, api_key="k", env={}, retry=None) as client:
            with pytest.raises(asyncllm.InternalServerError, match="engine died"):
                async with client.stream("hi") as stream:
                    async for _ in stream:
                        pass


async def test_row_025_a_prompt_that_a_filter_refuses_is_an_error_of_its_own() -> None:
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": BLOCKED}
    script = refusal(400, "content_filter", "Filtered.", innererror=inner)
    async with FaultyServer(script) as server, azure(server) as client:
        with pytest.raises(asyncllm.ContentFilterError, match="violence"):
            await client.chat("hi")


async def test_row_067_azure_without_an_endpoint_is_refused() -> None:
    transport = ScriptedTransport()
    async with Client(model="azure:gpt-4o", api_key="k", env={}, transport=transport) as client:
        with pytest.raises(ConfigError, match="AZURE_OPENAI_ENDPOINT"):
            await client.chat("hi")

    assert not transport.calls


@pytest.mark.parametrize("model", ["azure:", "azure"])
async def test_row_067_azure_without_a_deployment_is_refused(model: str) -> None:
    transport = ScriptedTransport()
    async with Client(model=model, base_url="http://h", api_key="k", env={}, transport=transport) as client:
        with pytest.raises(ConfigError):
            await client.chat("hi")

    assert not transport.calls


async def test_row_067_a_deployment_of_azure_without_a_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "asyncllm.toml"
    file.write_text('[deployments.eu]\nbackend = "azure"\nmodel = ""\nbase_url = "http://h"\napi_key = "k"\n')
    transport = ScriptedTransport()
    async with Client(model="eu", config=file, transport=transport, env={}) as client:
        with pytest.raises(ConfigError, match="deployment"):
            await client.chat("hi")

    assert not transport.calls


async def test_row_067_scaleway_without_a_project_or_an_endpoint_is_refused() -> None:
    transport = ScriptedTransport()
    async with Client(model="scaleway:m", api_key="k", env={}, transport=transport) as client:
        with pytest.raises(ConfigError, match="SCALEWAY_PROJECT_ID"):
            await client.chat("hi")

    assert not transport.calls


@pytest.mark.parametrize("name", FAMILY)
async def test_row_068_partly_the_text_of_the_first_choice_is_at_hand(name: str) -> None:
    """Where there is no text it is empty, and not `None`."""
    for content, text in ((["one", "two"], "one"), (None, "")):
        body = (
            openai_reply(content) if content else b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}'
        )
        transport = ScriptedTransport([ScriptedReply(body=body)])
        async with Client(model=f"{name}:m", base_url="http://h", api_key="k", transport=transport) as client:
            assert (await client.chat("hi")).text == text


async def test_row_069_a_call_gives_the_whole_response() -> None:
    transport = ScriptedTransport([REPLY])
    async with Client(model="azure:m", base_url="http://h", api_key="k", transport=transport) as client:
        reply = await client.chat("hi")

    assert reply.choices[0].message.content == "hello"
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (8, 34, 42)


def test_row_069_and_so_does_one_without_an_event_loop() -> None:
    transport = ScriptedTransport([REPLY])
    with SyncClient(model="scaleway:m", base_url="http://h", api_key="k", transport=transport) as client:
        reply = client.chat("hi")

    assert reply.choices[0].message.content == "hello"
    assert reply.usage.total_tokens == 42


@pytest.mark.parametrize("name", FAMILY)
async def test_row_070_a_stream_gives_its_pieces_in_order(name: str) -> None:
    async with FaultyServer([Sse(openai_chunks(["a", "b", "c"]))]) as server:
        async with Client(model=f"{name}:m", base_url=server.url, api_key="k") as client:
            assert [text async for text in client.stream_text("hi")] == ["a", "b", "c"]


@pytest.mark.parametrize("name", FAMILY)
async def test_row_070_an_error_of_a_stream_raises(name: str) -> None:
    scripts: list[list[Op]] = [
        [Status(400, body=b'{"error":{"message":"bad","code":"x"}}')],
        [Sse(openai_chunks(["a"], finish=None), "end")],
    ]
    async with FaultyServer(scripts) as server:
        async with Client(model=f"{name}:m", base_url=server.url, api_key="k", retry=None) as client:
            with pytest.raises(asyncllm.BadRequestError):
                async for _ in client.stream_text("hi"):
                    pass
            with pytest.raises(asyncllm.StreamInterrupted):
                async for _ in client.stream_text("hi"):
                    pass


@pytest.mark.parametrize("name", FAMILY)
async def test_row_072_options_and_unknown_keys_reach_the_body(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    async with Client(model=f"{name}:m", base_url="http://h", api_key="k", transport=transport) as client:
        await client.chat("hi", temperature=0.1, max_tokens=5, top_p=0.5, extra={"store": True, "x_new": {"deep": [1]}})

    body = msgspec.json.decode(transport.calls[0].body)
    assert (body["temperature"], body["top_p"]) == (0.1, 0.5)
    assert body.get("max_tokens", body.get("max_completion_tokens")) == 5
    assert (body["store"], body["x_new"]) == (True, {"deep": [1]})


async def test_row_074_a_scaleway_project_has_an_address_and_an_endpoint_wins_over_it() -> None:
    urls = []
    for base_url in (None, "https://mine/v1"):
        transport = ScriptedTransport([REPLY])
        env = {"SCALEWAY_PROJECT_ID": PROJECT, "SCALEWAY_API_KEY": "k"}
        async with Client(model="scaleway:m", base_url=base_url, transport=transport, env=env) as client:
            await client.chat("hi")
        urls.append(transport.calls[0].url)
        assert transport.calls[0].headers["Authorization"] == "Bearer k"

    assert urls == [f"https://api.scaleway.ai/v1/{PROJECT}/chat/completions", "https://mine/v1/chat/completions"]


async def test_row_075_the_json_mode_of_one_model_becomes_a_schema() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "mine", "schema": {"type": "array"}}}
    seen: list[Any] = []
    for model, form in ((QWEN, {"type": "json_object"}), ("other", {"type": "json_object"}), (QWEN, schema)):
        extra = {"response_format": form}
        before = msgspec.json.encode(extra)
        transport = ScriptedTransport([REPLY])
        async with Client(model=f"scaleway:{model}", base_url="http://h", api_key="k", transport=transport) as client:
            await client.chat("hi", extra=extra)
        assert msgspec.json.encode(extra) == before
        seen.append(msgspec.json.decode(transport.calls[0].body)["response_format"])

    assert seen[0]["type"] == "json_schema"
    assert seen[0]["json_schema"]["schema"]["type"] == "object"
    assert seen[1:] == [{"type": "json_object"}, schema]


DEPLOYMENTS = """
[deployments.azure]
backend = "azure"
model = "prod-4o"
base_url = "{url}/azure"
api_key = "k-azure"

[deployments.openai]
backend = "openai"
model = "gpt-4o"
base_url = "{url}/openai/v1"
api_key = "k-openai"

[deployments.openrouter]
backend = "openrouter"
model = "x/y"
base_url = "{url}/openrouter/api/v1"
api_key = "k-openrouter"

[deployments.gemini]
backend = "gemini"
model = "gemini-3-pro"
base_url = "{url}/gemini/v1beta/openai"
api_key = "k-gemini"

[deployments.mistral]      # of Azure's, with an endpoint of its own
backend = "mistral"
model = "mistral-large"
base_url = "{url}/mistral/v1"
api_key = "k-mistral"

[deployments.meta]         # the same
backend = "openai"
model = "llama-4"
base_url = "{url}/meta/v1"
api_key = "k-meta"
"""
PLACES = {
    "azure": ("/azure/openai/deployments/prod-4o/chat/completions?api-version=2024-10-21", "prod-4o"),
    "openai": ("/openai/v1/chat/completions", "gpt-4o"),
    "openrouter": ("/openrouter/api/v1/chat/completions", "x/y"),
    "gemini": ("/gemini/v1beta/openai/chat/completions", "gemini-3-pro"),
    "mistral": ("/mistral/v1/chat/completions", "mistral-large"),
    "meta": ("/meta/v1/chat/completions", "llama-4"),
}


@pytest.mark.parametrize("name", PLACES)
async def test_row_076_a_deployment_is_called_at_its_place_with_its_key_and_name(name: str, tmp_path: Path) -> None:
    path, model = PLACES[name]
    file = tmp_path / "asyncllm.toml"
    async with FaultyServer([Status(body=openai_reply("hello"))]) as server:
        file.write_text(DEPLOYMENTS.replace("{url}", server.url))
        async with Client(model=name, config=file, env={}) as client:
            assert (await client.chat("hi")).text == "hello"

    (request,) = server.requests
    assert (request.path, request.json()["model"]) == (path, model)
    if name == "azure":
        assert request.headers["api-key"] == "k-azure"
        assert "authorization" not in request.headers
    else:
        assert request.headers["authorization"] == f"Bearer k-{name}"


@pytest.mark.parametrize("name", ["azure", "openai", "mistral", "scaleway", "together"])
async def test_row_083_vectors_come_in_order_with_their_usage(name: str) -> None:
    def answer(request: SeenRequest) -> list[Op]:
        rows = [
            {"index": index, "embedding": [float(len(text)), 0.5]} for index, text in enumerate(request.json()["input"])
        ]
        body = {"data": rows[::-1], "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        return [Status(body=msgspec.json.encode(body))]

    async with FaultyServer(answer) as server:
        async with Client(model=f"{name}:e", base_url=server.url, api_key="k", env={}) as client:
            vectors = await client.embed(["a", "bb", "ccc"])

    assert [list(vector) for vector in vectors] == [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]]
    assert vectors.usage.input_tokens == 3


async def test_row_015_a_conversation_of_messages_is_the_same_as_one_of_dicts() -> None:
    transport = ScriptedTransport([REPLY])
    async with Client(model="azure:m", base_url="http://h", api_key="k", transport=transport) as client:
        await client.chat([Message("system", "s"), Message("user", "u"), Message("assistant", "a")])

    assert msgspec.json.decode(transport.calls[0].body)["messages"] == ROLES
