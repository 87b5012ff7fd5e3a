"""llmax's own client beside ours: the same deployments, the same requests, the same answers and the same price."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vendor_sdk
from asyncllm import AfterCall, Client, Deployment, Price, Settings
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status, openai_reply
from asyncllm.types import Usage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPLY = openai_reply("hello", usage=Usage(input_tokens=8, output_tokens=34), model="gpt-4o")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
SCRIPT = """
import asyncio
from llmax.clients import MultiAIClient
from llmax.models import Deployment

told = []

async def increment_usage(price, model, *_):
    told.append([price, model])
    return True

async def main():
    deployments = {one["model"]: Deployment(**one) for one in given["deployments"]}
    client = MultiAIClient(deployments, {}, increment_usage=increment_usage)
    said = []
    for model in deployments:
        text = await client.ainvoke(given["messages"], [model], "test", temperature=0.5, max_tokens=20)
        said.append(text.choices[0].message.content)
    print(json.dumps({"said": said, "told": told}))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return vendor_sdk.environment("delos-llmax", "delos-llmax==1.50.0")


def answer(_: SeenRequest) -> list[Op]:
    return [Status(200, {"Content-Type": "application/json"}, REPLY)]


def asked(server: FaultyServer) -> list[tuple[str, str, dict[str, Any]]]:
    """Where each request went, with which key, and its body; then they are forgotten."""
    seen = [
        (one.path, one.headers.get("api-key") or one.headers["authorization"], json.loads(one.body))
        for one in server.requests
    ]
    server.requests.clear()
    return seen


async def test_both_ask_the_same_of_the_same_deployments_and_tell_the_same_price(python: Path) -> None:
    told: list[tuple[float | None, str]] = []
    async with FaultyServer(answer) as server:
        theirs = await vendor_sdk.run(
            python,
            SCRIPT,
            {
                "messages": MESSAGES,
                "deployments": [
                    {
                        "model": "gpt-4o", "provider": "azure", "api_key": "k-azure", "endpoint": server.url,
                        "deployment_name": "prod-1", "api_version": "2024-10-21",
                    },
                    {
                        "model": "gpt-oss-120b", "provider": "scaleway", "api_key": "k-scaleway",
                        "endpoint": f"{server.url}/v1",
                    },
                ],
            },
            {},
        )  # fmt: skip
        asked_by_them = asked(server)
        settings = Settings(
            deployments={
                "gpt-4o": Deployment(
                    backend="azure", model="prod-1", base_url=server.url, api_key="k-azure",
                    options={"api_version": "2024-10-21"}, price=Price(input_usd=2.75, output_usd=11),
                ),
                "gpt-oss-120b": Deployment(
                    backend="scaleway", model="gpt-oss-120b", base_url=f"{server.url}/v1", api_key="k-scaleway",
                ),
            }
        )  # fmt: skip
        hook = AfterCall(cost=lambda price, model: told.append((price, model)))
        async with Client(config=settings, hooks=[hook], env={}) as client:
            ours = [
                (await client.chat(MESSAGES, model=name, temperature=0.5, max_tokens=20)).text
                for name in settings.deployments
            ]
        asked_by_us = asked(server)

    assert ours == theirs["said"] == ["hello", "hello"]
    for (path, key, body), (their_path, their_key, their_body) in zip(asked_by_us, asked_by_them, strict=True):
        assert (path, key) == (their_path, their_key)
        assert body["messages"] == their_body["messages"] == MESSAGES
        assert body["temperature"] == their_body["temperature"]
    assert told[0][0] == pytest.approx(theirs["told"][0][0]) == pytest.approx(0.000396)
