"""Gateways that differ from OpenAI by address, key and a few fields: what the table says of each is what is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from asyncllm import (
    Client,
    ConfigError,
    ContextLengthExceededError,
    Grammar,
    JsonSchema,
    Message,
    Tool,
    UnsupportedError,
)
from asyncllm.registry import Registry
from asyncllm.testing import FaultyServer, ScriptedReply, ScriptedTransport, Sse, Status, openai_chunks, openai_reply
from asyncllm_openai.table import GATEWAYS

# name: its address, the variable of its key, whether it needs one
EXPECTED = {
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", True),
    "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", True),
    "deepseek": ("https://api.deepseek.com", "DEEPSEEK_API_KEY", True),
    "fireworks": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", True),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", True),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY", True),
    "huggingface": ("https://router.huggingface.co/v1", "HF_TOKEN", True),
    "llama-server": ("http://localhost:8080/v1", "LLAMA_API_KEY", False),
    "lmstudio": ("http://localhost:1234/v1", "LMSTUDIO_API_KEY", False),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY", True),
    "moonshot": ("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", True),
    "nvidia": ("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", True),
    "ollama": ("http://localhost:11434/v1", "OLLAMA_API_KEY", False),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", True),
    "perplexity": ("https://api.perplexity.ai", "PERPLEXITY_API_KEY", True),
    "sambanova": ("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", True),
    "sglang": ("http://localhost:30000/v1", "SGLANG_API_KEY", False),
    "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY", True),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY", True),
}

REPLY = ScriptedReply(body=openai_reply("hello"))
ONE_TOOL = [Tool("f", parameters={"type": "object"})]


def client_of(name: str, transport: ScriptedTransport, **env: str) -> Client:
    return Client(model=f"{name}:some/model", transport=transport, retry=None, env=env)


def keyed(name: str) -> dict[str, str]:
    return {EXPECTED[name][1]: "sk-its-own"} if name in EXPECTED else {"SCALEWAY_API_KEY": "k"}


async def sent(name: str, prompt: Any = "hi", **options: Any) -> dict[str, Any]:
    """The body of a chat."""
    transport = ScriptedTransport([REPLY])
    async with client_of(name, transport, **keyed(name)) as client:
        await client.chat(prompt, **options)
    body: dict[str, Any] = msgspec.json.decode(transport.calls[0].body)
    return body


def test_every_row_is_registered_and_expected_here() -> None:
    registered = {plugin.name for plugin in Registry().plugins() if plugin.target == "asyncllm_openai.gateways:connect"}

    assert set(EXPECTED) == GATEWAYS.keys() - {"scaleway"}
    assert registered == EXPECTED.keys() - {"llama-server"}  # which is more than a row


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_gateway_is_called_at_its_own_address_with_its_own_key(name: str) -> None:
    url, variable, _ = EXPECTED[name]
    transport = ScriptedTransport([REPLY])
    others = {"OPENAI_API_KEY": "sk-other", "OPENAI_ORG_ID": "org", "OPENAI_BASE_URL": "https://elsewhere/v1"}
    async with client_of(name, transport, **{variable: "sk-its-own"}, **others) as client:
        reply = await client.chat("hi")

    (call,) = transport.calls
    assert call.url == f"{url}/chat/completions"
    assert call.headers == {"Content-Type": "application/json", "Authorization": "Bearer sk-its-own"} | (
        {"Idempotency-Key": call.headers["Idempotency-Key"]} if "Idempotency-Key" in call.headers else {}
    )
    assert msgspec.json.decode(call.body)["model"] == "some/model"
    assert reply.text == "hello"
    assert reply.backend == name


@pytest.mark.parametrize("name", [name for name, (_, _, needs_key) in EXPECTED.items() if needs_key])
async def test_a_missing_key_is_named_before_anything_is_sent(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    async with client_of(name, transport, OPENAI_API_KEY="sk-other") as client:
        with pytest.raises(ConfigError, match=EXPECTED[name][1]) as caught:
            await client.chat("hi")

    assert (caught.value.backend, caught.value.field) == (name, "api_key")
    assert not transport.calls


@pytest.mark.parametrize("name", [name for name, (_, _, needs_key) in EXPECTED.items() if not needs_key])
async def test_a_server_of_ones_own_needs_no_key(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    async with client_of(name, transport, OPENAI_API_KEY="sk-other") as client:
        await client.chat("hi")

    assert "Authorization" not in transport.calls[0].headers


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_variable_moves_a_gateway_and_base_url_wins_over_it(name: str) -> None:
    env = keyed(name) | {GATEWAYS[name].address: "http://proxy/v9/"}
    for base_url, wanted in ((None, "http://proxy/v9"), ("http://mine/v1", "http://mine/v1")):
        transport = ScriptedTransport([REPLY])
        async with Client(model=f"{name}:m", base_url=base_url, transport=transport, env=env) as client:
            await client.chat("hi")
        assert transport.calls[0].url == f"{wanted}/chat/completions"


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_gateway_streams_and_answers_over_a_socket(name: str) -> None:
    def answer(request: Any) -> list[Any]:
        streamed = request.json().get("stream", False)
        return [Sse(openai_chunks(["hel", "lo"]))] if streamed else [Status(body=openai_reply("hello"))]

    async with FaultyServer(answer) as server, Client(model=f"{name}:m", base_url=server.url, api_key="k") as client:
        assert (await client.chat("hi")).text == "hello"
        assert [text async for text in client.stream_text("hi")] == ["hel", "lo"]


async def speech(client: Client) -> None:
    await client.speak("hello", voice="one")


async def picture(client: Client) -> None:
    await client.generate_image("a cat")


async def transcript(client: Client) -> None:
    await client.transcribe(b"RIFF")


async def ranking(client: Client) -> None:
    await client.rerank("cats", ["a dog", "a cat"])


SPOKEN: list[tuple[str, Callable[[Client], Awaitable[None]], str, bytes]] = [
    ("groq", transcript, "/audio/transcriptions", b'{"text": "hello"}'),
    ("llama-server", ranking, "/rerank", b'{"results": [{"index": 1, "relevance_score": 0.9}]}'),
    ("mistral", transcript, "/audio/transcriptions", b'{"text": "hello"}'),
    ("scaleway", transcript, "/audio/transcriptions", b'{"text": "hello"}'),
    ("together", picture, "/images/generations", b'{"data": [{"url": "https://pictures.example/1"}]}'),
    ("together", ranking, "/rerank", b'{"results": [{"index": 1, "relevance_score": 0.9}]}'),
    ("together", speech, "/audio/speech", b"RIFF"),
    ("vllm-server", ranking, "/rerank", b'{"results": [{"index": 1, "relevance_score": 0.9}]}'),
    ("vllm-server", transcript, "/audio/transcriptions", b'{"text": "hello"}'),
]


@pytest.mark.parametrize(("name", "call", "path", "body"), SPOKEN, ids=lambda value: getattr(value, "__name__", None))
async def test_sound_pictures_and_ranking_go_to_the_gateway_that_has_them(
    name: str, call: Callable[[Client], Awaitable[None]], path: str, body: bytes
) -> None:
    kind = "audio/mpeg" if path == "/audio/speech" else "application/json"
    async with (
        FaultyServer([Status(200, {"Content-Type": kind}, body)]) as server,
        Client(model=f"{name}:m", base_url=f"{server.url}/v1", api_key="sk-its-own") as client,
    ):
        await call(client)

    (request,) = server.requests
    assert request.path == f"/v1{path}"
    assert request.headers["authorization"] == "Bearer sk-its-own"


@pytest.mark.parametrize("name", ["azure", "llama-server", "ollama", "openai", "openrouter"])
async def test_a_schema_for_a_text_completion_is_refused_where_it_would_be_ignored(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    given: dict[str, Any] = {"base_url": "http://h"} if name == "azure" else {}
    async with Client(model=f"{name}:m", api_key="k", transport=transport, env={}, **given) as client:
        with pytest.raises(UnsupportedError, match="JsonSchema"):
            await client.complete("hi", constraint=JsonSchema({"type": "object"}))

    assert not transport.calls


@pytest.mark.parametrize("name", ["fireworks", "openai", "sglang", "vllm-server"])
async def test_a_schema_for_a_text_completion_is_sent_where_it_counts(name: str) -> None:
    transport = ScriptedTransport([REPLY])
    async with Client(model=f"{name}:m", api_key="k", transport=transport, env={}, base_url="http://h/v1") as client:
        await client.complete("hi", constraint=JsonSchema({"type": "object"}))

    assert b'"response_format"' in transport.calls[0].body


@pytest.mark.parametrize("name", ["llama-server", "vllm-server"])
async def test_an_error_in_place_of_a_count_is_raised_as_what_it_means(name: str) -> None:
    error = b'{"error": {"message": "the prompt is too long", "code": "context_length_exceeded"}}'
    async with (
        FaultyServer([Status(200, {"Content-Type": "application/json"}, error)]) as server,
        Client(model=f"{name}:m", base_url=f"{server.url}/v1", retry=None) as client,
    ):
        with pytest.raises(ContextLengthExceededError, match="too long"):
            await client.check_prompt("hi")


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("cerebras", "logit_bias", {"logit_bias": {"1": 1.0}}),
    ("deepseek", "JsonSchema", {"constraint": JsonSchema({"type": "object"})}),
    ("groq", "top_logprobs", {"top_logprobs": 2}),
    ("groq", "top_k", {"top_k": 2}),
    ("lmstudio", "n", {"n": 2}),
    ("mistral", "Grammar", {"constraint": Grammar("root ::= x")}),
    ("ollama", "logit_bias", {"logit_bias": {"1": 1.0}}),
    ("perplexity", "tools", {"tools": ONE_TOOL}),
    ("sambanova", "seed", {"seed": 1}),
]


@pytest.mark.parametrize(("name", "field", "options"), REFUSED, ids=lambda value: str(value)[:20])
async def test_what_a_gateway_has_no_place_for_is_refused_by_name(
    name: str, field: str, options: dict[str, Any]
) -> None:
    transport = ScriptedTransport([REPLY])
    async with client_of(name, transport, **keyed(name)) as client:
        with pytest.raises(UnsupportedError) as caught:
            await client.chat("hi", **options)

    assert (caught.value.backend, caught.value.field) == (name, field)
    assert not transport.calls


async def test_extra_travels_to_a_gateway_untouched() -> None:
    assert (await sent("groq", extra={"logit_bias": {"1": 2}, "service_tier": "flex"}))["service_tier"] == "flex"


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_gateway_has_the_calls_of_its_row_and_no_others(name: str) -> None:
    transport = ScriptedTransport([ScriptedReply(body=b'{"data":[{"id":"m","embedding":[1.0]}]}')])
    calls = GATEWAYS[name].calls
    async with client_of(name, transport, **keyed(name)) as client:
        for call, ask in (("embed", lambda: client.embed("hi")), ("list_models", lambda: client.list_models())):
            if call in calls:
                await ask()
            else:
                with pytest.raises(UnsupportedError):
                    await ask()
        if "complete" not in calls:
            with pytest.raises(UnsupportedError):
                await client.complete("hi")

    assert len(transport.calls) == len({"embed", "list_models"}.intersection(calls))


@pytest.mark.parametrize("name", ["llama-server", "lmstudio"])
async def test_llama_cpp_has_its_own_name_for_the_repetition_penalty(name: str) -> None:
    body = await sent(name, repetition_penalty=1.1)

    assert body["repeat_penalty"] == 1.1
    assert "repetition_penalty" not in body


async def test_a_grammar_goes_to_llama_cpps_server_under_its_own_name() -> None:
    assert (await sent("llama-server", constraint=Grammar("root ::= [a-z]")))["grammar"] == "root ::= [a-z]"


@pytest.mark.parametrize(("name", "field"), [("groq", "max_completion_tokens"), ("deepseek", "max_tokens")])
async def test_the_output_limit_has_the_name_that_the_service_knows(name: str, field: str) -> None:
    assert {key for key in await sent(name, max_tokens=5) if key.startswith("max_")} == {field}


@pytest.mark.parametrize(
    ("name", "field"), [("groq", "reasoning"), ("deepseek", "reasoning_content"), ("perplexity", None)]
)
async def test_reasoning_goes_back_in_the_field_that_the_service_knows(name: str, field: str | None) -> None:
    said = Message("assistant", "42", reasoning="because")
    body = await sent(name, [Message("user", "why?"), said, Message("user", "and?")])

    assert body["messages"][1] == {"role": "assistant", "content": "42"} | ({field: "because"} if field else {})


async def test_vectors_are_asked_for_in_base64_only_where_that_form_is_known() -> None:
    reply = ScriptedReply(body=b'{"data":[{"index":0,"embedding":[0.5,1.0]}]}')
    for name, form in (("together", None), ("sglang", "base64")):
        transport = ScriptedTransport([reply])
        async with client_of(name, transport, **keyed(name)) as client:
            vectors = await client.embed("hi")
        assert msgspec.json.decode(transport.calls[0].body).get("encoding_format") == form
        assert list(vectors[0]) == [0.5, 1.0]


MODELS = {
    "together": (b' [{"id":"m","context_length":4096}]', 4096),
    "groq": (b'{"data":[{"id":"m","context_window":8192}]}', 8192),
    "openrouter": (b'{"data":[{"id":"m","context_length":200}]}', 200),
    "mistral": (b'{"data":[{"id":"m","max_context_length":300}]}', 300),
    "sglang": (b'{"data":[{"id":"m","max_model_len":400}]}', 400),
    "ollama": (b'{"data":[{"id":"m"}]}', None),
}


@pytest.mark.parametrize("name", MODELS)
async def test_models_are_listed_with_the_context_that_the_service_tells(name: str) -> None:
    body, tokens = MODELS[name]
    async with client_of(name, ScriptedTransport([ScriptedReply(body=body)]), **keyed(name)) as client:
        (model,) = await client.list_models()

    assert (model.id, model.context_tokens) == ("m", tokens)


async def test_a_gateway_is_alive_if_it_takes_the_key() -> None:
    for status, alive in ((200, True), (401, False)):
        transport = ScriptedTransport([ScriptedReply(status=status, body=b'{"data":[]}')])
        async with client_of("groq", transport, **keyed("groq")) as client:
            assert await client.is_alive() is alive


async def test_a_gateway_that_cannot_be_asked_is_alive_once_connected() -> None:
    transport = ScriptedTransport()
    async with client_of("perplexity", transport, PPLX_API_KEY="k") as client:
        assert await client.is_alive()


async def test_the_first_of_several_key_variables_that_is_set_is_the_key() -> None:
    for env, key in (
        ({"GOOGLE_API_KEY": "second"}, "second"),
        ({"GOOGLE_API_KEY": "second", "GEMINI_API_KEY": "first"}, "first"),
    ):
        transport = ScriptedTransport([REPLY])
        async with client_of("gemini", transport, **env) as client:
            await client.chat("hi")
        assert transport.calls[0].headers["Authorization"] == f"Bearer {key}"


async def test_an_option_that_no_gateway_has_is_refused_by_name() -> None:
    async with Client(model="groq:m", api_key="k", options={"organization": "o"}, transport=ScriptedTransport()) as one:
        with pytest.raises(ConfigError) as caught:
            await one.chat("hi")

    assert caught.value.field == "organization"
