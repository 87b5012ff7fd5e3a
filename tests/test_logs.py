"""The hook that writes one record a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import pytest

import asyncllm
from asyncllm import Finished, Started, TextDelta, UsageReport
from asyncllm.hooks.logs import LogCalls
from asyncllm.testing import FaultyServer, Pause, ScriptedBackend, Stall, Status, Step, openai_reply
from asyncllm.types import Usage

Records: TypeAlias = Callable[[], list[logging.LogRecord]]

CANARY = "CANARY"
USAGE = UsageReport(Usage(input_tokens=7, output_tokens=2, cached_tokens=3, reasoning_tokens=1))
ANSWER: list[Step] = [Started("m-1", "id-1"), Pause(0.01), TextDelta(CANARY), USAGE, Finished("stop")]


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Records:
    caplog.set_level(logging.DEBUG, "asyncllm.calls")
    return lambda: [record for record in caplog.records if record.name == "asyncllm.calls"]


def client(*scripts: Any, **options: Any) -> asyncllm.Client:
    return asyncllm.Client(backend=ScriptedBackend(scripts), model="m", hooks=[LogCalls()], **options)


def facts(record: logging.LogRecord) -> dict[str, Any]:
    return {name.removeprefix("llm_"): value for name, value in vars(record).items() if name.startswith("llm_")}


async def test_an_answered_call_is_one_record_with_every_fact(records: Records) -> None:
    async with client(ANSWER) as asked:
        await asked.chat(CANARY)

    (record,) = records()
    told = facts(record)
    assert (record.name, record.levelno) == ("asyncllm.calls", logging.INFO)
    assert record.getMessage().startswith("chat ScriptedBackend:m answered in 0.")
    assert len(told.pop("call")) > 8
    assert 0.005 < told.pop("first_content_s") <= told.pop("elapsed_s")
    assert told == {
        "outcome": "answered",
        "kind": "chat",
        "backend": "ScriptedBackend",
        "place": "ScriptedBackend",
        "model": "m",
        "stream": False,
        "cached": False,
        "attempts": 1,
        "queue_s": 0,
        "request_id": "id-1",
        "finish_reason": "stop",
        "input_tokens": 7,
        "output_tokens": 2,
        "cached_tokens": 3,
        "reasoning_tokens": 1,
        "cost_usd": None,
        "error": None,
        "status": None,
        "code": None,
    }


async def test_a_failed_call_is_one_warning_with_what_the_server_said(records: Records) -> None:
    failure = asyncllm.RateLimitError("no", status=429, code="slow_down", request_id="id-2", retry_after_s=0.01)

    async with client(failure, retry=asyncllm.Retry(attempts=2)) as asked:
        with pytest.raises(asyncllm.RateLimitError):
            await asked.chat(CANARY)

    (record,) = records()
    told = facts(record)
    assert record.levelno == logging.WARNING
    assert "failed (RateLimitError)" in record.getMessage()
    assert (told["outcome"], told["error"], told["attempts"]) == ("failed", "RateLimitError", 2)
    assert (told["status"], told["code"], told["request_id"]) == (429, "slow_down", "id-2")
    assert told["finish_reason"] is None


async def test_a_retried_call_counts_its_attempts(records: Records) -> None:
    async with client(asyncllm.OverloadedError("x", retry_after_s=0.01), ANSWER) as asked:
        await asked.chat(CANARY)

    assert facts(records()[0])["attempts"] == 2


async def test_a_stream_that_breaks_off_tells_how_far_it_came(records: Records) -> None:
    cut = [*ANSWER[:-1], asyncllm.StreamInterrupted("cut")]

    async with client(cut) as asked:
        with pytest.raises(asyncllm.StreamInterrupted):
            async with asked.stream(CANARY) as stream:
                async for _ in stream:
                    pass

    told = facts(records()[0])
    assert (told["outcome"], told["error"], told["stream"]) == ("failed", "StreamInterrupted", True)
    assert (told["output_tokens"], told["request_id"]) == (2, "id-1")


async def test_a_stream_that_is_left_early_is_left_and_no_failure(records: Records) -> None:
    async with client([*ANSWER[:3], Stall()]) as asked, asked.stream(CANARY) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break

    (record,) = records()
    assert (record.levelno, facts(record)["outcome"]) == (logging.INFO, "left")


async def test_a_cancelled_call_is_cancelled_and_no_failure(records: Records) -> None:
    async with client(Stall()) as asked:
        task = asyncio.create_task(asked.chat(CANARY))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (record,) = records()
    assert (record.levelno, facts(record)["outcome"]) == (logging.INFO, "cancelled")


async def test_a_call_without_an_answer_of_text_is_logged_too(records: Records) -> None:
    reply = b'{"object":"list","model":"e","data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":3}}'

    async with FaultyServer([Status(body=reply)]) as server:
        async with asyncllm.Client(
            model="openai:e", base_url=f"{server.url}/v1", api_key="sk-test", hooks=[LogCalls()], env={}
        ) as asked:
            await asked.embed(CANARY)

    told = facts(records()[0])
    assert (told["kind"], told["outcome"], told["input_tokens"]) == ("embed", "answered", 3)


async def test_logger_and_level_are_the_callers_choice(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mine")
    caplog.set_level(logging.INFO, "mine")
    quiet, loud = LogCalls(logger, logging.DEBUG), LogCalls(logger, logging.ERROR)
    backend = ScriptedBackend([ANSWER, asyncllm.BadRequestError("x")])

    async with asyncllm.Client(backend=backend, model="m", hooks=[quiet, loud]) as asked:
        await asked.chat(CANARY)
        with pytest.raises(asyncllm.BadRequestError):
            await asked.chat(CANARY)

    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING, logging.ERROR]


@pytest.fixture
async def leaky() -> AsyncIterator[FaultyServer]:
    """A server that says back what it was sent, the key and the prompt."""
    told = f'{{"error":{{"message":"{CANARY} sk-{CANARY}","code":"bad","type":"x"}}}}'.encode()
    good = openai_reply(CANARY)
    async with FaultyServer([[Status(400, body=told)], [Status(body=good)]]) as server:
        yield server


async def test_no_prompt_answer_or_key_is_in_any_record(
    leaky: FaultyServer, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncllm.Client(
        model="openai:m", base_url=f"{leaky.url}/v1", api_key=f"sk-{CANARY}", hooks=[LogCalls()], env={}
    ) as asked:
        with pytest.raises(asyncllm.BadRequestError):
            await asked.chat(CANARY)
        assert CANARY in (await asked.chat(CANARY, stop=[CANARY], extra={"user": CANARY})).text

    assert len(records()) == 2
    assert CANARY not in caplog.text
    assert CANARY not in "".join(str(vars(record)) for record in records())
