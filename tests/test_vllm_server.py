"""The vllm-server backend: what it sends beside OpenAI's, what it asks vLLM's own routes, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import pytest

from asyncllm import (
    BadRequestError,
    Choice,
    Client,
    ConfigError,
    ContextLengthExceededError,
    Grammar,
    InvalidRequestError,
    JsonSchema,
    NotFoundError,
    Regex,
    Tool,
    UnsupportedError,
)
from asyncllm.backend import Config, Context, PromptChecker
from asyncllm.clock import LoopClock
from asyncllm.testing import FaultyServer, Op, ScriptedTransport, SeenRequest, Stall, Status
from asyncllm.types import Constraint, Message, Request
from asyncllm_openai.vllm_server import connect
from talks import paths, talking
from vllm_wire import LIMIT, vllm

SCHEMA = {"type": "object", "properties": {"answer": {"type": "boolean"}}}
CONSTRAINTS: Mapping[str, Constraint] = {
    "json": JsonSchema(SCHEMA),
    "regex": Regex("(yes|no)"),
    "choice": Choice(("yes", "no")),
    "grammar": Grammar('root ::= "yes"'),
}
VALUES: Mapping[str, object] = {
    "json": SCHEMA,
    "regex": "(yes|no)",
    "choice": ["yes", "no"],
    "grammar": 'root ::= "yes"',
}


def serving(
    script: Callable[[SeenRequest], Sequence[Op]] = vllm,
    *,
    model: str = "some-model",
    suffix: str = "/v1",
    **given: Any,
) -> AbstractAsyncContextManager[tuple[FaultyServer, Client]]:
    """A server, and a client of it that tries once."""
    return talking(script, f"vllm-server:{model}", suffix=suffix, **given)


def error_reply(status: int, kind: str, param: str | None) -> list[Op]:
    """An error in vLLM's shape, whose code is the status."""
    error = {"message": "no", "type": kind, "param": param, "code": status}
    return [Status(status, body=msgspec.json.encode({"error": error}))]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_end_in_v1_or_not(suffix: str) -> None:
    async with serving(suffix=suffix) as (server, client):
        await client.chat("Hello")
        assert await client.is_alive()
        await client.check_prompt("Hello")

    assert paths(server) == ["POST /v1/chat/completions", "GET /health", "POST /tokenize"]


async def test_the_address_of_a_proxy_keeps_its_path() -> None:
    async with serving(lambda _: [Status(200)], suffix="/team/vllm/v1") as (server, client):
        assert await client.is_alive()

    assert paths(server) == ["GET /team/vllm/health"]


async def test_no_key_is_needed_and_none_of_openais_is_sent() -> None:
    env = {"OPENAI_API_KEY": "sk-openai", "OPENAI_ORG_ID": "org", "OPENAI_BASE_URL": "http://127.0.0.1:9"}
    async with serving(env=env) as (server, client):
        await client.chat("Hello")
        await client.check_prompt("Hello")

    for seen in server.requests:
        assert "authorization" not in seen.headers
        assert "openai-organization" not in seen.headers


@pytest.mark.parametrize("how", ["argument", "environment"])
async def test_a_key_goes_with_every_route(how: str) -> None:
    given: dict[str, Any] = {"api_key": "k-123456"} if how == "argument" else {"env": {"VLLM_API_KEY": "k-123456"}}
    async with serving(**given) as (server, client):
        await client.chat("Hello")
        await client.check_prompt("Hello")
        await client.list_models()
        await client.is_alive()

    assert [seen.headers["authorization"] for seen in server.requests] == ["Bearer k-123456"] * 4


async def test_the_environment_names_the_address() -> None:
    async with FaultyServer(vllm) as server:
        env = {"VLLM_BASE_URL": f"{server.url}/v1"}
        async with Client(model="vllm-server:some-model", retry=None, env=env) as client:
            assert (await client.chat("Hello")).text == "Hello"


async def test_headers_of_the_configuration_go_with_every_route() -> None:
    async with serving(headers={"X-Team": "blue"}) as (server, client):
        await client.chat("Hello")
        await client.check_prompt("Hello")
        await client.is_alive()

    assert [seen.headers["x-team"] for seen in server.requests] == ["blue"] * 3


# -- constraints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["regex", "choice", "grammar"])
@pytest.mark.parametrize("chat", [True, False])
async def test_a_constraint_is_a_structured_output(kind: str, chat: bool) -> None:
    async with serving() as (server, client):
        ask = client.chat if chat else client.complete
        await ask("Hello", constraint=CONSTRAINTS[kind])

    sent = server.requests[0].json()
    assert sent["structured_outputs"] == {kind: VALUES[kind]}
    assert not any(name.startswith("guided_") or name in ("grammar", "response_format") for name in sent)


async def test_a_schema_is_openais_response_format() -> None:
    async with serving() as (server, client):
        await client.chat("Hello", constraint=CONSTRAINTS["json"])

    sent = server.requests[0].json()
    assert sent["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert "structured_outputs" not in sent


@pytest.mark.parametrize("kind", CONSTRAINTS)
async def test_an_older_server_gets_the_older_spelling(kind: str) -> None:
    async with serving(structured_outputs="guided") as (server, client):
        await client.chat("Hello", constraint=CONSTRAINTS[kind])

    sent = server.requests[0].json()
    assert sent[f"guided_{kind}"] == VALUES[kind]
    assert not {"structured_outputs", "response_format", "grammar"} & sent.keys()


@pytest.mark.parametrize(
    ("spelling", "extra"),
    [
        ("structured_outputs", {"guided_json": SCHEMA}),
        ("structured_outputs", {"guided_choice": ["yes"]}),
        ("guided", {"structured_outputs": {"regex": "yes"}}),
    ],
)
async def test_a_constraint_that_the_server_would_ignore_is_refused_by_name(
    spelling: str, extra: dict[str, Any]
) -> None:
    async with serving(structured_outputs=spelling) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.chat("Hello", extra=extra)

    (name,) = extra
    assert caught.value.field == f"extra.{name}"
    assert "structured_outputs=" in caught.value.message
    assert not server.requests


@pytest.mark.parametrize(
    ("constraint", "extra"),
    [
        (Regex("yes"), {"structured_outputs": {"choice": ["yes"]}}),
        (JsonSchema(SCHEMA), {"structured_outputs": {"regex": "yes"}}),
        (JsonSchema(SCHEMA), {"response_format": {"type": "json_object"}}),
        (None, {"structured_outputs": {"regex": "yes", "choice": ["yes"]}}),
        (None, {"structured_outputs": {"json": SCHEMA}, "response_format": {"type": "json_object"}}),
    ],
)
async def test_two_constraints_are_refused_before_anything_is_sent(constraint: Any, extra: dict[str, Any]) -> None:
    async with serving() as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.chat("Hello", extra=extra, **({} if constraint is None else {"constraint": constraint}))

    assert caught.value.field == "constraint"
    assert not server.requests


async def test_what_is_no_constraint_travels_untouched() -> None:
    extra = {"structured_outputs": {"choice": ["yes"], "disable_any_whitespace": True}, "priority": 3}
    async with serving() as (server, client):
        await client.chat("Hello", extra=extra, top_k=5, min_p=0.1, stop_token_ids=[7], ignore_eos=True)

    sent = server.requests[0].json()
    assert {name: sent[name] for name in extra} == extra
    assert (sent["top_k"], sent["min_p"], sent["stop_token_ids"], sent["ignore_eos"]) == (5, 0.1, [7], True)


async def test_how_a_constraint_is_kept_goes_along_with_it() -> None:
    extra = {"structured_outputs": {"disable_any_whitespace": True}}
    async with serving() as (server, client):
        await client.chat("Hello", constraint=Regex("yes"), extra=extra)

    assert server.requests[0].json()["structured_outputs"] == {"disable_any_whitespace": True, "regex": "yes"}


async def test_another_spelling_is_refused_with_those_there_are() -> None:
    async with serving(structured_outputs="outlines") as (_, client):
        with pytest.raises(ConfigError, match="'guided'") as caught:
            await client.chat("Hello")

    assert caught.value.field == "structured_outputs"


async def test_a_completion_has_no_reasoning_effort() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.complete("Hello", reasoning_effort="low")

    assert caught.value.field == "reasoning_effort"
    assert not server.requests


# -- counting --------------------------------------------------------------------------------------------------------


async def test_a_chat_is_counted_with_its_tools_and_template_options() -> None:
    tool = Tool("look_up", "Look a word up.", {"type": "object", "properties": {}})
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "priority": 3}
    async with serving() as (server, client):
        check = await client.check_prompt(
            "one two three", system="Be brief", tools=[tool], extra=extra, max_tokens=9, temperature=0.5
        )

    assert (check.tokens, check.limit, check.max_tokens) == (3, LIMIT, 9)
    sent = server.requests[0].json()
    assert sent.keys() == {"model", "messages", "tools", "chat_template_kwargs"}
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["tools"][0]["function"]["name"] == "look_up"
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


async def test_tokens_are_told_by_the_server_and_read_again() -> None:
    async with serving() as (server, client):
        plain = await client.tokenize("one three", extra={"add_special_tokens": False})
        chat = await client.tokenize([Message("user", "one two")], tools=[Tool("f")])
        text = await client.detokenize(plain.ids)

    assert (plain.ids, plain.limit, chat.ids, text) == ((0, 2), LIMIT, (0, 1), "one three")
    assert server.requests[0].json() == {"model": "some-model", "prompt": "one three", "add_special_tokens": False}
    assert server.requests[1].json()["tools"][0]["function"]["name"] == "f"


async def test_a_text_is_counted_as_a_completion() -> None:
    async with serving_backend() as (server, backend):
        check = await backend.check_prompt(Request(model="some-model", prompt="one two three"))

    assert (check.tokens, check.limit) == (3, LIMIT)
    assert server.requests[0].json() == {"model": "some-model", "prompt": "one two three"}


async def test_token_ids_are_counted_by_themselves_against_the_models_limit() -> None:
    async with serving_backend() as (server, backend):
        check = await backend.check_prompt(Request(model="some-model", prompt=(1, 2, 3)))

    assert (check.tokens, check.limit) == (3, LIMIT)
    assert paths(server) == ["GET /v1/models"]


@asynccontextmanager
async def serving_backend() -> AsyncIterator[tuple[FaultyServer, PromptChecker]]:
    from asyncllm.transport import AiohttpTransport

    async with FaultyServer(vllm) as server:
        transport = AiohttpTransport()
        context = Context(transport=transport, clock=LoopClock(), env={})
        backend = connect(Config(backend="vllm-server", base_url=server.url), context)
        assert isinstance(backend, PromptChecker)
        yield server, backend
        await transport.aclose()


async def test_a_prompt_and_its_answer_must_fit_together() -> None:
    async with serving() as (_, client):
        assert await client.check_prompt("word " * 1000, max_tokens=24)
        assert not await client.check_prompt("word " * 1000, max_tokens=25)
        assert not await client.check_prompt("word " * 1025)


@pytest.mark.parametrize("body", [b"{}", b'{"count": "many"}', b"[]", b"<html>", b""])
async def test_a_count_that_cannot_be_read_is_an_error(body: bytes) -> None:
    async with serving(lambda _: [Status(200, body=body)]) as (_, client):
        with pytest.raises(Exception, match="a token count") as caught:
            await client.check_prompt("Hello")

    assert type(caught.value).__name__ == "ResponseValidationError"


# -- models and health -----------------------------------------------------------------------------------------------


async def test_models_come_with_the_tokens_that_they_take() -> None:
    async with serving() as (_, client):
        models = await client.list_models()

    assert [(model.id, model.owned_by, model.context_tokens) for model in models] == [
        ("other-model", "vllm", LIMIT),
        ("some-model", "vllm", LIMIT),
    ]


async def test_a_model_that_is_served_is_asked_for_once_before_the_first_call() -> None:
    async with serving(verify_model=True) as (server, client):
        assert not server.requests
        await asyncio.gather(*(client.chat("Hello") for _ in range(5)))
        await client.complete("Hello")
        await client.check_prompt("Hello")

    assert paths(server)[0] == "GET /v1/models"
    assert paths(server).count("GET /v1/models") == 1
    assert len(server.requests) == 8


@pytest.mark.parametrize("call", ["chat", "complete", "check_prompt", "embed", "stream"])
async def test_a_model_that_is_not_served_is_an_error_that_names_those_that_are(call: str) -> None:
    async with serving(model="absent", verify_model=True) as (server, client):
        with pytest.raises(NotFoundError, match="'other-model', 'some-model'") as caught:
            if call == "stream":
                async with client.stream("Hello"):
                    pass
            else:
                await getattr(client, call)("Hello")

    assert (caught.value.model, caught.value.field) == ("absent", "model")
    assert paths(server) == ["GET /v1/models"]


async def test_an_adapter_that_is_loaded_later_is_found_at_the_next_call() -> None:
    served = ["base"]

    def script(request: SeenRequest) -> Sequence[Op]:
        if request.path == "/v1/models":
            return [Status(body=msgspec.json.encode({"data": [{"id": name} for name in served]}))]
        return vllm(request)

    async with serving(script, model="adapter", verify_model=True) as (_, client):
        with pytest.raises(NotFoundError):
            await client.chat("Hello")
        served.append("adapter")
        assert (await client.chat("Hello")).text == "Hello"


async def test_of_many_models_an_error_names_a_few() -> None:
    body = msgspec.json.encode({"data": [{"id": f"adapter-{number}"} for number in range(500)]})
    async with serving(lambda _: [Status(body=body)], verify_model=True) as (_, client):
        with pytest.raises(NotFoundError, match="'adapter-4' and 495 more"):
            await client.chat("Hello")


async def test_an_engine_that_is_dead_is_not_alive() -> None:
    async with serving(lambda _: [Status(503)]) as (_, client):
        assert await client.is_alive() is False


async def test_a_model_is_not_looked_for_unless_it_is_asked_for() -> None:
    async with serving() as (server, client):
        await client.chat("Hello")

    assert paths(server) == ["POST /v1/chat/completions"]


# -- errors ----------------------------------------------------------------------------------------------------------


async def test_a_prompt_that_is_too_long_is_told_by_the_parameter_that_vllm_blames() -> None:
    for param, kind in (("input_tokens", ContextLengthExceededError), ("max_tokens", BadRequestError)):
        async with serving(lambda _, param=param: error_reply(400, "BadRequestError", param)) as (_, client):  # type: ignore[misc]
            with pytest.raises(BadRequestError) as caught:
                await client.chat("Hello")

        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.param, caught.value.retryable) == (400, param, False)


async def test_a_chat_without_a_template_is_a_typed_error() -> None:
    async with serving(lambda _: error_reply(400, "BadRequestError", None)) as (_, client):
        with pytest.raises(BadRequestError):
            await client.chat("Hello")


async def test_leaving_while_the_model_is_looked_for_leaves_nothing() -> None:
    async with serving(lambda _: [Stall()], verify_model=True) as (server, client):
        task = asyncio.create_task(client.chat("Hello"))
        await server.received()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await server.aborted()


def test_connecting_opens_nothing_and_refuses_an_option_that_it_does_not_know() -> None:
    context = Context(transport=ScriptedTransport(()), clock=LoopClock(), env={})

    with pytest.raises(ConfigError) as caught:
        connect(Config(backend="vllm-server", options={"organization": "x"}), context)

    assert caught.value.field == "organization"
