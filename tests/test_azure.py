"""Azure OpenAI: where a call goes, what opens the resource, and what it says when it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import asyncllm
from asyncllm import Client, ConfigError, MediaFile, Message, TextDelta
from asyncllm.multipart import form_texts
from asyncllm.testing import (
    FaultyServer,
    ManualClock,
    ScriptedReply,
    ScriptedTransport,
    Sse,
    Stall,
    Status,
    openai_reply,
)
from asyncllm.testing.ops import Op
from azure_server import BLOCKED, KEY, SAFE, Resource, refusal

Scripts = Sequence[Op] | Callable[[Any], Sequence[Op]]


@asynccontextmanager
async def serving(scripts: Scripts | None = None, **given: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A resource, and a client of it that tries once."""
    async with FaultyServer(Resource() if scripts is None else scripts) as server:
        usual: dict[str, Any] = {"model": "azure:gpt-4o", "api_key": KEY, "retry": None, "env": {}}
        async with Client(**{**usual, "base_url": server.url, **given}) as client:
            yield server, client


async def test_a_deployment_is_part_of_the_address_and_the_version_its_query() -> None:
    async with serving() as (server, client):
        reply = await client.chat("hi")

    (request,) = server.requests
    assert request.path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.json()["model"] == "gpt-4o"
    assert (reply.text, reply.model) == ("hello", "gpt-4o-2024-11-20")


async def test_variables_that_people_have_set_are_enough() -> None:
    async with FaultyServer(Resource()) as server:
        env = {
            "AZURE_OPENAI_ENDPOINT": f"{server.url}/",
            "AZURE_OPENAI_API_KEY": KEY,
            "OPENAI_API_VERSION": "2025-04-01-preview",
        }
        async with Client(model="azure:gpt-4o", env=env) as client:
            await client.chat("hi")

    assert server.requests[0].path.endswith("?api-version=2025-04-01-preview")


async def test_a_deployment_may_have_any_name() -> None:
    async with serving(Resource("a b/c?d"), model="azure:a b/c?d") as (server, client):
        await client.chat("hi")

    assert server.requests[0].path.startswith("/openai/deployments/a%20b%2Fc%3Fd/chat/completions?")


@pytest.mark.parametrize("how", ["option", "variable", "address"])
async def test_the_v1_surface_has_no_version_and_the_deployment_is_the_model(how: str) -> None:
    async with FaultyServer(Resource()) as server:
        given: dict[str, Any] = {
            "option": {"base_url": server.url, "options": {"api_version": "v1"}, "env": {}},
            "variable": {"base_url": server.url, "env": {"OPENAI_API_VERSION": "v1"}},
            "address": {"base_url": f"{server.url}/openai/v1/", "env": {}},
        }[how]
        async with Client(model="azure:gpt-4o", api_key=KEY, **given) as client:
            await client.chat("hi")
            await client.list_models()

    assert [request.path for request in server.requests] == ["/openai/v1/chat/completions", "/openai/v1/models"]
    assert server.requests[0].json()["model"] == "gpt-4o"


async def test_models_may_have_deployments_of_other_names() -> None:
    options = {"deployments": {"gpt-4o": "prod 1"}}
    async with serving(Resource("prod 1"), options=options) as (server, client):
        await client.chat("hi")
        await client.embed("hi", model="azure:gpt-4o")

    assert [request.path.partition("?")[0] for request in server.requests] == [
        "/openai/deployments/prod%201/chat/completions",
        "/openai/deployments/prod%201/embeddings",
    ]


async def test_the_v1_surface_is_told_the_name_of_the_deployment() -> None:
    options = {"deployments": {"gpt-4o": "prod-1"}, "api_version": "v1"}
    async with serving(Resource("prod-1"), options=options) as (server, client):
        await client.chat("hi")
        await client.embed("hi", model="azure:gpt-4o")

    assert [request.json()["model"] for request in server.requests] == ["prod-1", "prod-1"]


async def test_models_that_are_deployed_are_listed_by_the_names_that_calls_take() -> None:
    async with serving(options={"deployments": {"gpt-4o": "a", "o3": "b"}}) as (server, client):
        assert [model.id for model in await client.list_models()] == ["gpt-4o", "o3"]

    assert not server.requests


async def test_without_names_the_service_lists_what_it_has() -> None:
    async with serving() as (server, client):
        assert [model.id for model in await client.list_models()] == ["gpt-4o-2024-11-20"]

    assert server.requests[0].path == "/openai/models?api-version=2024-10-21"


async def test_an_older_version_is_asked_in_the_words_that_it_knows() -> None:
    async with serving(options={"api_version": "2023-05-15"}) as (server, client):
        assert [text async for text in client.stream_text("hi", max_tokens=5)] == ["hel", "lo"]
    body = server.requests[0].json()

    assert body["max_tokens"] == 5
    assert not {"max_completion_tokens", "stream_options"}.intersection(body)


async def test_todays_version_is_asked_in_todays_words() -> None:
    async with serving() as (server, client):
        assert [text async for text in client.stream_text("hi", max_tokens=5)] == ["hel", "lo"]
    body = server.requests[0].json()

    assert body["max_completion_tokens"] == 5
    assert body["stream_options"] == {"include_usage": True}


RESPONSE = b"""{"id":"r","object":"response","status":"completed","model":"m","output":[{"type":"message","role":
"assistant","content":[{"type":"output_text","text":"hello"}]}]}"""


@pytest.mark.parametrize(
    ("version", "path"),
    [
        (None, "/openai/v1/responses"),
        ("2025-04-01-preview", "/openai/responses?api-version=2025-04-01-preview"),
    ],
)
async def test_the_responses_api_is_no_part_of_a_deployment_and_is_told_its_name(
    version: str | None, path: str
) -> None:
    options = {"api": "responses", "deployments": {"gpt-4o": "prod-1"}} | ({"api_version": version} if version else {})
    async with serving([Status(body=RESPONSE)], options=options) as (server, client):
        reply = await client.chat("hi")

    (request,) = server.requests
    assert (request.path, request.json()["model"]) == (path, "prod-1")
    assert request.headers["api-key"] == KEY
    assert reply.text == "hello"


SOUND = MediaFile(b"RIFF", name="a.wav", media_type="audio/wav")
PNG = MediaFile(b"\x89PNG", name="a.png", media_type="image/png")
MEDIA: dict[str, tuple[str, Callable[[Client], Any], bytes]] = {
    "transcribe": ("audio/transcriptions", lambda client: client.transcribe(SOUND), b'{"text":"hello"}'),
    "speak": ("audio/speech", lambda client: client.speak("hello", voice="alloy"), b"ID3"),
    "generate_image": (
        "images/generations",
        lambda client: client.generate_image("a cat"),
        b'{"data":[{"b64_json":"aQ=="}]}',
    ),
    "edit_image": ("images/edits", lambda client: client.edit_image(PNG, "a cat"), b'{"data":[{"b64_json":"aQ=="}]}'),
}


@pytest.mark.parametrize("surface", ["dated", "v1"])
@pytest.mark.parametrize("name", MEDIA)
async def test_sound_and_pictures_are_made_by_their_deployment(name: str, surface: str) -> None:
    path, ask, body = MEDIA[name]
    options = {"deployments": {"gpt-4o": "prod-1"}} | ({"api_version": "v1"} if surface == "v1" else {})
    headers = {"Content-Type": "audio/mpeg" if name == "speak" else "application/json"}
    async with serving([Status(200, headers, body)], options=options) as (server, client):
        await ask(client)

    (request,) = server.requests
    if surface == "v1":
        assert request.path == f"/openai/v1/{path}"
        assert b"prod-1" in request.body
    else:
        assert request.path == f"/openai/deployments/prod-1/{path}?api-version=2024-10-21"
    assert request.headers["api-key"] == KEY


async def test_what_azure_does_not_offer_is_no_call_of_it() -> None:
    async with serving() as (server, client):
        with pytest.raises(asyncllm.UnsupportedError):
            await client.moderate("hi")
        with pytest.raises(asyncllm.UnsupportedError):
            await client.rerank("hi", ["a"])

    assert not server.requests


BAD: list[tuple[str, dict[str, Any]]] = [
    ("api_version", {"options": {"api_version": "latest"}}),
    ("api_version", {"options": {"api_version": "2024-10-21&x=1"}}),
    ("api_version", {"base_url": "http://h/openai/v1", "options": {"api_version": "2024-10-21"}}),
    ("api_version", {"options": {"api": "responses", "api_version": "2024-10-21"}}),
    ("base_url", {"base_url": "http://h/openai/deployments/d?api-version=2024-10-21"}),
    ("base_url", {"base_url": None}),
    ("api_key", {"api_key": None}),
    ("ad_token", {"options": {"ad_token": "t"}}),
    ("token_provider", {"options": {"token_provider": lambda: "t"}}),
    ("token_provider", {"api_key": None, "options": {"token_provider": "t"}}),
    ("token_provider", {"api_key": None, "options": {"token_provider": lambda: "t", "ad_token": "t"}}),
    ("deployments", {"options": {"deployments": {"gpt-4o": ""}}}),
    ("deployments", {"options": {"deployments": ["gpt-4o"]}}),
    ("tokenizer", {"options": {"tokenizer": "o200k_base"}}),
    ("context_tokens", {"options": {"context_tokens": -1}}),
    ("organization", {"options": {"organization": "o"}}),
]


@pytest.mark.parametrize(("field", "given"), BAD)
async def test_what_cannot_be_right_is_named_before_anything_is_sent(field: str, given: dict[str, Any]) -> None:
    transport = ScriptedTransport()
    usual: dict[str, Any] = {
        "model": "azure:gpt-4o",
        "base_url": "http://h",
        "api_key": "k",
        "env": {},
        "transport": transport,
    }
    async with Client(**{**usual, **given}) as client:
        with pytest.raises(ConfigError) as caught:
            await client.chat("hi")

    assert (caught.value.backend, caught.value.field) == ("azure", field)
    assert not transport.calls


# -- tokens ------------------------------------------------------------------------------------------------------


class Provider:
    """Gives a new token each time, which is good for `lifetime_s`."""

    def __init__(self, lifetime_s: float | None = 3600) -> None:
        self.lifetime_s = lifetime_s
        self.count = 0

    async def __call__(self) -> object:
        self.count += 1
        token = f"token-{self.count}"
        await asyncio.sleep(0)
        return token if self.lifetime_s is None else (token, time.time() + self.lifetime_s)


def opened(
    provider: object, *, clock: ManualClock | None = None, replies: Any = None
) -> tuple[ScriptedTransport, Client]:
    transport = ScriptedTransport(replies or [ScriptedReply(body=openai_reply("hello"))])
    options = {"token_provider": provider}
    client = Client(
        model="azure:d", base_url="http://h", options=options, transport=transport, clock=clock, env={}, retry=None
    )
    return transport, client


def bearers(transport: ScriptedTransport) -> list[str]:
    return [call.headers["Authorization"].removeprefix("Bearer ") for call in transport.calls]


async def test_a_token_is_asked_for_once_however_many_calls_wait_for_it() -> None:
    provider = Provider()
    transport, client = opened(provider)
    async with client:
        await asyncio.gather(*(client.chat("hi") for _ in range(20)))

    assert provider.count == 1
    assert bearers(transport) == ["token-1"] * 20
    assert all("api-key" not in call.headers for call in transport.calls)


async def test_a_token_is_replaced_before_it_expires_and_once() -> None:
    provider, clock = Provider(lifetime_s=3600), ManualClock()
    transport, client = opened(provider, clock=clock)
    async with client:
        await client.chat("hi")
        await clock.advance(3200)
        await client.chat("hi")
        await clock.advance(150)
        await asyncio.gather(*(client.chat("hi") for _ in range(5)))

    assert bearers(transport) == ["token-1", "token-1", *["token-2"] * 5]


async def test_a_token_that_does_not_say_when_it_ends_is_asked_for_again() -> None:
    provider = Provider(lifetime_s=None)
    transport, client = opened(provider)
    async with client:
        await client.chat("hi")
        await client.chat("hi")

    assert bearers(transport) == ["token-1", "token-2"]


async def test_the_end_of_a_token_is_read_from_it_where_it_tells() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600}).encode()).decode().rstrip("=")
    asked: list[str] = []

    def provider() -> str:
        asked.append("")
        return f"e30.{claims}.c2ln"

    transport, client = opened(provider)
    async with client:
        await client.chat("hi")
        await client.chat("hi")

    assert len(asked) == 1
    assert len(transport.calls) == 2


@pytest.mark.parametrize("token", ["a.b.c", "a.!.c", "a.e30.c", "..", "e30.bnVsbA.c"])
async def test_a_token_that_is_no_jwt_is_used_all_the_same(token: str) -> None:
    transport, client = opened(lambda: token)
    async with client:
        await client.chat("hi")

    assert bearers(transport) == [token]


async def test_a_function_that_gives_a_coroutine_is_awaited() -> None:
    provider = Provider()
    transport, client = opened(lambda: provider())
    async with client:
        await client.chat("hi")

    assert bearers(transport) == ["token-1"]


async def test_a_refused_token_is_not_used_again() -> None:
    provider = Provider()
    bad = ScriptedReply(401, body=b'{"error":{"code":"401","message":"expired"}}')
    transport, client = opened(provider, replies=[bad, ScriptedReply(body=openai_reply("hello"))])
    async with client:
        with pytest.raises(asyncllm.AuthenticationError):
            await client.chat("hi")
        await client.chat("hi")

    assert bearers(transport) == ["token-1", "token-2"]


async def test_a_call_that_is_cancelled_while_it_asks_leaves_the_others_their_token() -> None:
    started, go = asyncio.Event(), asyncio.Event()
    count = 0

    async def provider() -> tuple[str, float]:
        nonlocal count
        count += 1
        started.set()
        await go.wait()
        return f"token-{count}", time.time() + 3600

    transport, client = opened(provider)
    async with client:
        first, second = asyncio.create_task(client.chat("hi")), asyncio.create_task(client.chat("hi"))
        await started.wait()
        first.cancel()
        go.set()
        assert (await second).text == "hello"
        with pytest.raises(asyncio.CancelledError):
            await first

    assert bearers(transport) == ["token-2"]


async def test_a_provider_that_fails_is_an_error_of_authentication() -> None:
    def provider() -> str:
        raise RuntimeError("no identity here: secret-1")

    transport, client = opened(provider)
    async with client:
        with pytest.raises(asyncllm.AuthenticationError, match="RuntimeError") as caught:
            await client.chat("hi")

    assert "secret-1" not in str(caught.value)
    assert not transport.calls


async def test_a_provider_that_fails_in_time_leaves_the_token_in_use_until_its_end() -> None:
    provider, clock, fails = Provider(lifetime_s=3600), ManualClock(), False

    async def shaky() -> object:
        if fails:
            raise OSError("unreachable")
        return await provider()

    transport, client = opened(shaky, clock=clock)
    async with client:
        await client.chat("hi")
        fails = True
        await clock.advance(3400)
        await client.chat("hi")
        await clock.advance(300)
        with pytest.raises(asyncllm.AuthenticationError):
            await client.chat("hi")

    assert bearers(transport) == ["token-1", "token-1"]


@pytest.mark.parametrize("told", [None, 5, "", ("token",), (b"token", 1.0), ["token", 1.0]])
async def test_what_is_no_token_is_an_error_of_the_provider(told: object) -> None:
    transport, client = opened(lambda: told)
    async with client:
        with pytest.raises(ConfigError) as caught:
            await client.chat("hi")

    assert caught.value.field == "token_provider"
    assert not transport.calls


async def test_a_token_shows_in_no_error_of_a_stream() -> None:
    error = b'data: {"error":{"message":"bad token token-1"}}\n\n'
    _, client = opened(Provider(), replies=[ScriptedReply(body=error)])
    async with client:
        with pytest.raises(asyncllm.APIStatusError) as caught:
            await client.stream("hi").__aenter__()

    assert caught.value.message == "bad token ***"


async def test_every_call_carries_the_token() -> None:
    async with FaultyServer(Resource("d", tokens=["token-1"])) as server:
        options = {"token_provider": Provider()}
        async with Client(model="azure:d", base_url=server.url, options=options, env={}) as client:
            await client.embed("hi")
            await client.list_models()
            assert await client.is_alive()
            assert [text async for text in client.stream_text("hi")] == ["hel", "lo"]


@pytest.mark.parametrize(
    ("env", "given", "header"),
    [
        ({"AZURE_OPENAI_AD_TOKEN": "t", "AZURE_OPENAI_API_KEY": "k"}, {}, ("Authorization", "Bearer t")),
        ({"AZURE_OPENAI_AD_TOKEN": "t"}, {"api_key": "mine"}, ("api-key", "mine")),
        ({"AZURE_OPENAI_API_KEY": "k"}, {"options": {"ad_token": "mine"}}, ("Authorization", "Bearer mine")),
        ({"AZURE_OPENAI_API_KEY": "k"}, {}, ("api-key", "k")),
    ],
)
async def test_what_is_configured_wins_and_then_a_token(
    env: dict[str, str], given: dict[str, Any], header: tuple[str, str]
) -> None:
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("hello"))])
    async with Client(model="azure:d", base_url="http://h", transport=transport, env=env, **given) as client:
        await client.chat("hi")

    auth = {name: value for name, value in transport.calls[0].headers.items() if name in ("Authorization", "api-key")}
    assert auth == dict([header])


# -- what it says ------------------------------------------------------------------------------------------------


async def test_the_verdict_on_the_prompt_is_no_piece_of_the_answer() -> None:
    async with serving() as (_, client), client.stream("hi") as stream:
        events = [event async for event in stream]
        reply = stream.response

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["hel", "lo"]
    assert (reply.text, reply.model, reply.usage.output_tokens) == ("hello", "gpt-4o-2024-11-20", 34)


async def test_an_answer_that_a_filter_cut_says_so() -> None:
    chunk = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter", "content_filter_results": BLOCKED}]
    }
    first = {"id": "r", "model": "m", "choices": [{"index": 0, "delta": {"content": "par"}}]}
    async with serving([Sse([first, chunk])]) as (_, client), client.stream("hi") as stream:
        async for _event in stream:
            pass
        reply = stream.response

    assert (reply.text, reply.finish_reason) == ("par", "content_filter")


@pytest.mark.parametrize("place", ["content_filter_result", "content_filter_results"])
async def test_a_filter_that_refuses_the_prompt_is_an_error_of_its_own_and_says_which(place: str) -> None:
    inner = {"code": "ResponsibleAIPolicyViolation", place: BLOCKED}
    script = refusal(400, "content_filter", "The prompt was filtered.", param="prompt", innererror=inner)
    async with serving(script) as (_, client):
        with pytest.raises(asyncllm.ContentFilterError) as caught:
            await client.chat("hi")

    error = caught.value
    assert error.message == "The prompt was filtered. [filtered: jailbreak, violence (high)]"
    assert (error.code, error.param, error.request_id) == ("content_filter", "prompt", "apim-1")
    assert not error.retryable


@pytest.mark.parametrize("inner", [None, [], {"content_filter_result": [1]}, {"content_filter_result": SAFE}])
async def test_a_refusal_without_a_reason_is_the_same_error(inner: object) -> None:
    async with serving(refusal(400, "content_filter", "Filtered.", innererror=inner)) as (_, client):
        with pytest.raises(asyncllm.ContentFilterError) as caught:
            await client.chat("hi")

    assert caught.value.message == "Filtered."


async def test_a_deployment_that_does_not_exist_is_not_found() -> None:
    async with serving(model="azure:typo") as (_, client):
        with pytest.raises(asyncllm.NotFoundError) as caught:
            await client.chat("hi")

    assert (caught.value.code, caught.value.model) == ("DeploymentNotFound", "typo")


async def test_a_wrong_key_is_an_error_of_authentication() -> None:
    async with serving(api_key="wrong-key-1") as (_, client):
        with pytest.raises(asyncllm.AuthenticationError) as caught:
            await client.chat("hi")

    assert caught.value.code == "401"


async def test_a_rate_limit_says_how_long_to_the_millisecond() -> None:
    headers = {"retry-after": "2", "retry-after-ms": "1250"}
    async with serving(refusal(429, "429", "Slow down", headers)) as (_, client):
        with pytest.raises(asyncllm.RateLimitError) as caught:
            await client.chat("hi")

    assert (caught.value.retry_after_s, caught.value.retryable) == (1.25, True)


async def test_a_dead_resource_is_not_alive() -> None:
    async with Client(model="azure:d", base_url="http://127.0.0.1:9", api_key="k") as client:
        assert not await client.is_alive()


# -- counting ----------------------------------------------------------------------------------------------------


async def test_a_prompt_is_counted_by_the_tokenizer_that_one_brings() -> None:
    async with serving(options={"tokenizer": str.split}) as (server, client):
        check = await client.check_prompt([Message("user", "one two three", name="ann")], max_tokens=10)

    # three for the answer, three for the message, one for the role, three words, one for having a name, one of it
    assert (check.tokens, check.limit, check.max_tokens) == (12, 128_000, 10)
    assert check
    assert not server.requests


async def test_a_limit_of_ones_own_is_for_models_that_the_table_lacks() -> None:
    async with serving(model="azure:mine", options={"tokenizer": len, "context_tokens": 10}) as (_, client):
        assert not await client.check_prompt("hello")
    async with serving(model="azure:mine", options={"tokenizer": len}) as (_, client):
        with pytest.raises(ConfigError, match="gpt-4o") as caught:
            await client.check_prompt("hello")

    assert caught.value.field == "context_tokens"


async def test_without_a_tokenizer_nothing_is_counted() -> None:
    async with serving() as (_, client):
        with pytest.raises(asyncllm.UnsupportedError):
            await client.check_prompt("hello")


IMAGE = Message("user", [asyncllm.ImagePart(url="http://i/1.png")])
CALLS = Message("assistant", "", (asyncllm.ToolCall("c", "f", "{}"),))


@pytest.mark.parametrize(("prompt", "options"), [([IMAGE], {}), ([CALLS], {}), ("hi", {"tools": [asyncllm.Tool("f")]})])
async def test_what_no_tokenizer_counts_is_refused_and_not_guessed_at(prompt: Any, options: dict[str, Any]) -> None:
    async with serving(options={"tokenizer": len}) as (_, client):
        with pytest.raises(asyncllm.UnsupportedError) as caught:
            await client.check_prompt(prompt, **options)

    assert caught.value.field == "check_prompt"


async def test_a_key_shows_in_no_repr() -> None:
    async with serving([Stall()], options={"ad_token": "tok-1"}, api_key=None) as (_, client):
        assert "tok-1" not in repr(client)


async def test_a_deployment_of_a_whisper_is_asked_for_all_that_it_tells() -> None:
    options = {"deployments": {"whisper-1": "prod"}, "api_version": "v1"}
    script = [Status(200, {"Content-Type": "application/json"}, b'{"text":"hello"}')]
    async with serving(script, model="azure:whisper-1", options=options) as (server, client):
        await client.transcribe(SOUND)

    fields = dict(form_texts(server.requests[0].body) or [])
    assert (fields["model"], fields["response_format"]) == ("prod", "verbose_json")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_in_place_of_a_sound_does_not_repeat_the_token(stream: bool) -> None:
    body = b'{"error": {"message": "no good: tok-canary-1"}}'
    options = {"token_provider": lambda: "tok-canary-1"}
    script = [Status(200, {"Content-Type": "application/json"}, body)]
    async with serving(script, api_key=None, options=options) as (server, client):
        with pytest.raises(asyncllm.APIError, match="no good") as caught:
            if stream:
                async with client.stream_speech("hello", voice="alloy") as made:
                    _ = [data async for data in made]
            else:
                await client.speak("hello", voice="alloy")

    assert server.requests[0].headers["authorization"] == "Bearer tok-canary-1"
    assert "canary" not in str(caught.value)
