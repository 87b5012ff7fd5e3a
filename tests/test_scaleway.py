"""Scaleway: a project's address or one's own, and the model that knows no JSON mode."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from asyncllm import Client, ConfigError, JsonSchema
from asyncllm.testing import ScriptedReply, ScriptedTransport, openai_reply

QWEN = "qwen3-235b-a22b-instruct-2507"
PROJECT = "0f3c2a9e-1b77-4c7e-9d55-5d1f6a7b8c9d"


async def called(model: str = "m", **options: Any) -> Any:
    """What is sent for one chat."""
    call_options = options.pop("call", {})
    transport = ScriptedTransport([ScriptedReply(body=openai_reply("x"))])
    async with Client(model=f"scaleway:{model}", api_key="k", transport=transport, **options) as client:
        await client.chat("hi", **call_options)
    return transport.calls[0]


@pytest.mark.parametrize("where", ["env", "option"])
async def test_a_project_has_an_address_of_its_own(where: str) -> None:
    given: dict[str, Any] = (
        {"env": {"SCALEWAY_PROJECT_ID": PROJECT}} if where == "env" else {"options": {"project_id": PROJECT}, "env": {}}
    )
    call = await called(**given)

    assert call.url == f"https://api.scaleway.ai/v1/{PROJECT}/chat/completions"
    assert call.headers["Authorization"] == "Bearer k"


@pytest.mark.parametrize("where", ["argument", "env"])
async def test_an_address_wins_over_a_project(where: str) -> None:
    env = {"SCALEWAY_PROJECT_ID": PROJECT} | ({"SCALEWAY_BASE_URL": "https://mine/v1"} if where == "env" else {})
    call = await called(env=env, **({"base_url": "https://mine/v1"} if where == "argument" else {}))

    assert call.url == "https://mine/v1/chat/completions"


async def test_without_either_there_is_nothing_to_call() -> None:
    with pytest.raises(ConfigError, match="SCALEWAY_PROJECT_ID") as caught:
        await called(env={})

    assert (caught.value.backend, caught.value.field) == ("scaleway", "project_id")


@pytest.mark.parametrize("project", ["a/b", "..", "x?y=1", " "])
async def test_what_is_no_project_id_gets_into_no_address(project: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await called(env={}, options={"project_id": project})

    assert caught.value.field == "project_id"


async def test_the_json_mode_of_the_model_that_has_none_becomes_a_schema() -> None:
    extra = {"response_format": {"type": "json_object"}}
    call = await called(QWEN, env={"SCALEWAY_PROJECT_ID": PROJECT}, call={"extra": extra})

    form = msgspec.json.decode(call.body)["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert extra == {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("llama-3.3-70b-instruct", {"type": "json_object"}),
        (QWEN, {"type": "json_schema", "json_schema": {"name": "mine", "schema": {"type": "array"}}}),
        (QWEN, {"type": "text"}),
    ],
)
async def test_other_models_and_other_forms_are_left_alone(model: str, form: dict[str, Any]) -> None:
    call = await called(model, env={"SCALEWAY_PROJECT_ID": PROJECT}, call={"extra": {"response_format": form}})

    assert msgspec.json.decode(call.body)["response_format"] == form


async def test_a_schema_of_ones_own_is_left_alone() -> None:
    call = await called(
        QWEN, env={"SCALEWAY_PROJECT_ID": PROJECT}, call={"constraint": JsonSchema({"type": "array"}, "mine")}
    )

    assert msgspec.json.decode(call.body)["response_format"]["json_schema"]["name"] == "mine"
