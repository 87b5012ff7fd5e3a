"""Rows 36 to 41 and 47: batches of Scale's LLM Engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from asyncllm import InvalidRequestError, Message, Sampling, UnsupportedError
from asyncllm.backend import BatchItem, BatchRequest, BatchState
from asyncllm.batch.parts import VendorSettings
from asyncllm.batch.vendor import wait
from asyncllm.errors import APIError, AsyncLLMError, JobFailedError, NotFoundError, TotalTimeoutError
from asyncllm.testing import ManualClock, Status
from asyncllm.types import Request
from batch_talks import serving
from llmengine_server import Jobs

OUT = "s3://bucket/out.json"
CONFIG: dict[str, Any] = {"checkpoint_path": "s3://checkpoint", "labels": {"team": "my-team", "product": "my-product"}}


def completions(*prompts: str, extra: Mapping[str, Any] = {}, **fields: Any) -> BatchRequest:
    sampling = Sampling(max_tokens=10, temperature=0.0, stop=("x",), logprobs=True)
    items = [
        BatchItem(f"row-{at}", Request(model="", prompt=prompt, sampling=sampling)) for at, prompt in enumerate(prompts)
    ]
    return BatchRequest(
        **{"model": "llama-2-7b", "items": items, "token": "t-1", "output": OUT, "extra": dict(extra), **fields}
    )


def chats(*texts: str, extra: Mapping[str, Any] = {}, **fields: Any) -> BatchRequest:
    items = [
        BatchItem(f"row-{at}", Request(model="", messages=(Message("user", text),))) for at, text in enumerate(texts)
    ]
    return BatchRequest(model="llama-2-7b", items=items, token="t-1", output=OUT, extra=dict(extra), **fields)


async def refusal(asked: BatchRequest, **options: Any) -> AsyncLLMError:
    """What a batch is refused with, before anything is sent."""
    async with serving(Jobs(), "llmengine", **options) as (server, backend):
        with pytest.raises((InvalidRequestError, UnsupportedError)) as caught:
            await backend.create_batch(asked)
    assert not server.requests
    return caught.value


async def test_row_036_a_batch_of_v1_has_its_prompts_and_one_set_of_options() -> None:
    tool = {"name": "code_evaluator", "max_iterations": 3}
    async with serving(Jobs(), "llmengine") as (server, backend):
        state = await backend.create_batch(
            completions("one", "two", extra={"model_config": CONFIG, "tool_config": tool}, max_runtime_s=3600)
        )

    (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/v1/llm/batch-completions")
    assert seen.json() == {
        "output_data_path": OUT,
        "model_config": {"model": "llama-2-7b", **CONFIG},
        "content": {
            "prompts": ["one", "two"], "max_new_tokens": 10, "temperature": 0.0, "stop_sequences": ["x"],
            "return_token_log_probs": True,
        },
        "max_runtime_sec": 3600,
        "tool_config": tool,
    }  # fmt: skip
    assert (state.id, state.status) == ("job_1", "queued")


async def test_row_036_prompts_with_options_of_their_own_are_refused_for_v1() -> None:
    items = [
        BatchItem(f"row-{limit}", Request(model="", prompt="x", sampling=Sampling(max_tokens=limit)))
        for limit in (1, 2)
    ]
    error = await refusal(BatchRequest(model="m", items=items, token="t", output=OUT))

    assert isinstance(error, UnsupportedError)
    assert "api='v2'" in error.message


async def test_row_036_a_tool_that_is_not_the_one_there_is_is_refused() -> None:
    error = await refusal(completions("x", extra={"tool_config": {"name": "web_search"}}))

    assert error.field == "tool_config"
    assert "code_evaluator" in error.message


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_row_037_items_may_be_in_a_file(api: str) -> None:
    path = "s3://bucket/in.json"
    async with serving(Jobs(), "llmengine") as (server, backend):
        state = await backend.create_batch(completions(extra={"input_data_path": path, "api": api}))

    body = server.requests[0].json()
    assert body == {"output_data_path": OUT, "input_data_path": path, "model_config": {"model": "llama-2-7b"}}
    assert state.id == "job_1"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (completions(), "input_data_path"),
        (completions("x", extra={"input_data_path": "s3://bucket/in.json"}), "input_data_path"),
        (completions(extra={"input_data_path": ""}), "input_data_path"),
        (completions("x", output=None), "output"),
        (completions("x", output=7), "output"),
        (completions("x", extra={"output_data_path": OUT}), "output_data_path"),
    ],
    ids=["neither", "both", "empty", "no output", "odd output", "two outputs"],
)
async def test_row_037_neither_and_both_are_refused(asked: BatchRequest, field: str) -> None:
    error = await refusal(asked)

    assert isinstance(error, InvalidRequestError)
    assert error.field == field


async def test_row_038_a_batch_of_v2_has_chats_each_with_options_of_its_own() -> None:
    items = [
        BatchItem("a", Request(model="", messages=(Message("user", "hi"),), sampling=Sampling(max_tokens=5))),
        BatchItem("b", Request(model="", messages=(Message("user", "ho"),), stream=True)),
    ]
    async with serving(Jobs(), "llmengine") as (server, backend):
        state = await backend.create_batch(
            BatchRequest(model="m", items=items, token="t", output=OUT, extra={"data_parallelism": 2})
        )

    (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/v2/batch-completions")
    assert seen.json() == {
        "output_data_path": OUT,
        "model_config": {"model": "m"},
        "data_parallelism": 2,
        "content": [
            {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
            {"model": "m", "messages": [{"role": "user", "content": "ho"}]},
        ],
    }
    assert (state.id, state.status, state.status_raw) == ("job_1", "queued", "queued")
    assert state.result["output_data_path"] == OUT


async def test_row_038_completions_go_to_v2_where_that_is_asked_for() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        await backend.create_batch(completions("one", extra={"api": "v2"}))
    async with serving(Jobs(), "llmengine", completions="v2") as (other, backend):
        await backend.create_batch(completions("one"))

    assert server.requests[0].path == other.requests[0].path == "/v2/batch-completions"
    assert server.requests[0].json() == other.requests[0].json()
    assert server.requests[0].json()["content"][0]["prompt"] == "one"


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("queued", "queued"), ("running", "running"), ("completed", "succeeded"), ("failed", "failed"),
        ("cancelled", "cancelled"), ("unknown", "running"), ("paused", "running"),
    ],
)  # fmt: skip
async def test_row_038_each_status_has_its_meaning(word: str, status: str) -> None:
    async with serving(Jobs(word), "llmengine") as (_, backend):
        await backend.create_batch(chats("hi"))
        state = await backend.get_batch("job_1")

    assert (state.status, state.status_raw) == (status, word)


async def test_row_039_a_job_is_looked_at_and_its_odd_fields_do_no_harm() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        made = await backend.create_batch(chats("hi"))
        state = await backend.get_batch(made.id)
        with pytest.raises(NotFoundError):
            await backend.get_batch("none")

    assert (server.requests[1].method, server.requests[1].path) == ("GET", "/v2/batch-completions/job_1")
    assert (state.id, state.status) == ("job_1", "running")
    assert isinstance(state.result["model_config"], str)
    assert state.result["output_data_path"] == OUT


async def test_row_039_a_job_is_cancelled() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        made = await backend.create_batch(chats("hi"))
        state = await backend.cancel_batch(made.id)
        with pytest.raises(JobFailedError, match="did not cancel"):
            await backend.cancel_batch("none")

    assert (server.requests[1].method, server.requests[1].path) == (
        "POST", "/v2/batch-completions/job_1/actions/cancel"
    )  # fmt: skip
    assert state.status == "cancelled"


async def test_row_040_waiting_goes_on_until_the_job_is_over() -> None:
    seen: list[BatchState] = []
    async with serving(Jobs("queued", "unknown", "running", "completed"), "llmengine") as (_, backend):
        made = await backend.create_batch(chats("hi"))
        clock = ManualClock(instant=True)
        state = await wait(backend, made, clock=clock, tell=seen.append)

    assert [one.status for one in seen] == ["running", "running", "succeeded"]
    assert state.status == "succeeded"
    assert len(clock.sleeps) == 3


@pytest.mark.parametrize("word", ["failed", "cancelled"])
async def test_row_040_waiting_ends_with_whatever_becomes_of_the_job(word: str) -> None:
    async with serving(Jobs("queued", "running", word), "llmengine") as (_, backend):
        made = await backend.create_batch(chats("hi"))
        state = await wait(backend, made, clock=ManualClock(instant=True))

    assert state.status == word
    assert (state.error is not None) == (word == "failed")


async def test_row_040_waiting_has_a_deadline_that_tells_the_last_failure() -> None:
    jobs = Jobs("queued")

    def broken(request: Any) -> Any:
        return [Status(503)] if request.method == "GET" else jobs(request)

    async with serving(broken, "llmengine") as (_, backend):
        made = await backend.create_batch(chats("hi"))
        clock = ManualClock(instant=True)
        with pytest.raises(TotalTimeoutError, match="timeout_s=5") as caught:
            await wait(backend, made, clock=clock, settings=VendorSettings(timeout_s=5))

    assert clock.time() == pytest.approx(5)
    assert isinstance(caught.value.__cause__, APIError)
    assert caught.value.__cause__.status == 503


@pytest.mark.parametrize("value", [0, 65, 1.5, "2", True])
async def test_row_041_data_parallelism_is_from_1_to_64(value: object) -> None:
    error = await refusal(chats("x", extra={"data_parallelism": value}))

    assert isinstance(error, InvalidRequestError)
    assert (error.field, "1 to 64" in error.message) == ("data_parallelism", True)


@pytest.mark.parametrize("value", [1, 64])
async def test_row_041_data_parallelism_may_be_its_bounds(value: int) -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        await backend.create_batch(chats("x", extra={"data_parallelism": value}))

    assert server.requests[0].json()["data_parallelism"] == value


@pytest.mark.parametrize("seconds", [0, 172_801])
async def test_row_041_the_limit_of_time_is_from_1_to_172800_seconds(seconds: int) -> None:
    error = await refusal(chats("x", max_runtime_s=seconds))

    assert isinstance(error, InvalidRequestError)
    assert (error.field, "172800" in error.message) == ("max_runtime_s", True)


@pytest.mark.parametrize("seconds", [1, 172_800])
async def test_row_041_the_limit_of_time_may_be_its_bounds(seconds: int) -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        await backend.create_batch(chats("x", max_runtime_s=seconds))

    assert server.requests[0].json()["max_runtime_sec"] == seconds


async def test_row_041_what_one_version_lacks_is_refused_and_not_dropped() -> None:
    split = await refusal(completions("x", extra={"data_parallelism": 2}))
    tool = await refusal(chats("x", extra={"tool_config": {"name": "code_evaluator"}}))
    chat = await refusal(chats("x", extra={"api": "v1"}))
    other = await refusal(chats("x", extra={"api": "v3"}))

    assert isinstance(split, UnsupportedError)
    assert isinstance(tool, UnsupportedError)
    assert [error.field for error in (split, tool, chat, other)] == ["data_parallelism", "tool_config", "api", "api"]


async def test_row_047_labels_of_v1_go_into_the_configuration_of_the_model() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        await backend.create_batch(
            completions("x", labels={"team": "t"}, extra={"model_config": {"labels": {"a": "b"}}})
        )

    body = server.requests[0].json()
    assert body["model_config"]["labels"] == {"a": "b", "team": "t"}
    assert "labels" not in body


async def test_row_047_labels_of_v2_are_its_own_or_those_of_the_model() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        await backend.create_batch(chats("x", labels={"team": "t"}))
        await backend.create_batch(chats("x", extra={"model_config": CONFIG}))

    own, fallen_back = (seen.json() for seen in server.requests)
    assert own["labels"] == {"team": "t"}
    assert fallen_back["labels"] == CONFIG["labels"]
    assert "labels" not in fallen_back["model_config"]


async def test_row_047_a_priority_is_sent() -> None:
    async with serving(Jobs(), "llmengine") as (server, backend):
        await backend.create_batch(chats("x", priority="high"))
        await backend.create_batch(chats("x"))

    assert server.requests[0].json()["priority"] == "high"
    assert "priority" not in server.requests[1].json()
