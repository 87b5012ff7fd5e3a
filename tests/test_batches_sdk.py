"""The vendors' own SDKs and ours, against the same batch service: the same requests, and the same results read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from anthropic import AsyncAnthropic
from openai import AsyncAzureOpenAI, AsyncOpenAI

from anthropic_batch_server import AnthropicBatchServer
from asyncllm.backend import BatchOutcome
from asyncllm.testing import SeenRequest
from batch_talks import KEY, batch, outcomes, serving
from openai_batch_server import OpenAIBatchServer

SAME_HEADERS = ("authorization", "api-key", "anthropic-version")
ASKED = batch("one", "refuse two", "late", "four")


def same(ours: Sequence[SeenRequest], theirs: Sequence[SeenRequest]) -> None:
    """Request by request, apart from the bodies of uploads, which the service has parsed."""
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert (one.method, one.path) == (two.method, two.path)
        for name in SAME_HEADERS:
            assert one.headers.get(name) == two.headers.get(name)
        if one.headers.get("content-type") == "application/json" and one.body:
            assert one.json() == two.json()


def told(outcome: BatchOutcome) -> Any:
    if outcome.response is not None:
        return outcome.response.text
    assert outcome.error is not None
    return outcome.error.code


async def _openai(theirs: Any, service: OpenAIBatchServer, lines: bytes, endpoint: str) -> dict[str, Any]:
    """What ours does, done by the vendor's SDK."""
    file = await theirs.files.create(file=("batch.jsonl", lines, "application/jsonl"), purpose="batch")
    made = await theirs.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"asyncllm_token": ASKED.token},
    )
    async for found in theirs.batches.list(limit=100):
        if found.metadata == {"asyncllm_token": ASKED.token}:
            break
    await theirs.batches.cancel(made.id)
    ended = await theirs.batches.retrieve(made.id)
    results: dict[str, Any] = {}
    for name in (ended.output_file_id, ended.error_file_id):
        content = await theirs.files.content(name)
        for line in map(msgspec.json.decode, content.content.splitlines()):
            answer = line["response"]
            body = answer and answer["body"]
            results[line["custom_id"]] = (
                line["error"]["code"]
                if answer is None
                else body["error"]["code"] if answer["status_code"] >= 400 else body["choices"][0]["message"]["content"]
            )  # fmt: skip
    return {"id": made.id, "found": found.id, "status": ended.status, "results": results}


async def _ours(backend: Any) -> dict[str, Any]:
    made = await backend.create_batch(ASKED)
    found = await backend.find_batch(ASKED.token)
    await backend.cancel_batch(made.id)
    results = {id_: told(one) for id_, one in (await outcomes(backend, made.id, ASKED)).items()}
    ended = await backend.get_batch(made.id)
    return {"id": made.id, "found": found.id, "status": ended.status_raw, "results": results}


def renamed(results: dict[str, Any]) -> dict[str, Any]:
    """Theirs with our words for items that were never reached."""
    words = {"batch_cancelled": "cancelled", "batch_expired": "expired"}
    return {id_: words.get(word, word) for id_, word in results.items()}


async def test_openai_batches() -> None:
    ours, theirs = OpenAIBatchServer(), OpenAIBatchServer()
    async with serving(ours, "openai", "/v1") as (server, backend):
        one = await _ours(backend)
    async with serving(theirs, "openai", "/v1") as (other, _):
        async with AsyncOpenAI(base_url=f"{other.url}/v1", api_key=KEY, max_retries=0) as sdk:
            two = await _openai(sdk, theirs, ours.files["file-0"], "/v1/chat/completions")

    same(server.requests[:-1], other.requests)
    assert ours.files == theirs.files
    assert one == {**two, "results": renamed(two["results"])}


async def test_azure_batches() -> None:
    ours, theirs = OpenAIBatchServer("/openai"), OpenAIBatchServer("/openai")
    async with serving(ours, "azure", api_version="2024-10-21") as (server, backend):
        one = await _ours(backend)
    async with serving(theirs, "azure") as (other, _):
        async with AsyncAzureOpenAI(
            azure_endpoint=other.url, api_key=KEY, api_version="2024-10-21", max_retries=0
        ) as sdk:
            two = await _openai(sdk, theirs, ours.files["file-0"], "/chat/completions")

    assert [(one.method, one.path.partition("?")[0]) for one in server.requests[:-1]] == [
        (two.method, two.path.partition("?")[0]) for two in other.requests
    ]
    assert all("api-version=2024-10-21" in seen.path for seen in (*server.requests, *other.requests))
    assert [seen.headers["api-key"] for seen in server.requests[:-1]] == [
        seen.headers["api-key"] for seen in other.requests
    ]
    assert ours.files == theirs.files
    assert one == {**two, "results": renamed(two["results"])}


async def test_anthropic_batches() -> None:
    asked = batch("one", "refuse two", "late", "stop")
    ours, theirs = AnthropicBatchServer(), AnthropicBatchServer()
    # What the SDK has by default: a version of its own, and the key as a bearer token.
    async with serving(ours, "anthropic", version="2026-10-21", bearer=True) as (server, backend):
        made = await backend.create_batch(asked)
        await backend.cancel_batch(made.id)
        ours.end(made.id)
        one = {id_: told(outcome) for id_, outcome in (await outcomes(backend, made.id, asked)).items()}
    async with serving(theirs, "anthropic") as (other, _):
        async with AsyncAnthropic(base_url=other.url, api_key=KEY, max_retries=0) as sdk:
            batch_ = await sdk.messages.batches.create(requests=server.requests[0].json()["requests"])
            await sdk.messages.batches.cancel(batch_.id)
            theirs.end(batch_.id)
            two: dict[str, Any] = {}
            async for line in await sdk.messages.batches.results(batch_.id):
                match line.result.type:
                    case "succeeded":
                        two[line.custom_id] = line.result.message.content[0].text  # type: ignore[union-attr]
                    case "errored":
                        two[line.custom_id] = line.result.error.error.type
                    case word:
                        two[line.custom_id] = {"canceled": "cancelled"}.get(word, word)

    same(server.requests, other.requests)
    assert made.id == batch_.id
    assert one == two
