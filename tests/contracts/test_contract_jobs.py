"""Rows 87 and 100 to 103: dubs, films, and runs that are asked after later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncllm
from asyncllm import AuthenticationError, JobFailedError, JobTimeoutError, Response
from asyncllm.batch.fanout import FanOut
from asyncllm.testing import ManualClock, Rst, Stall
from elevenlabs_server import serving as elevenlabs
from job_servers import FILM, AiXplainJobs, Dubs, OpenAIJobs, Operations, as_json, serving
from openai_media_server import MP3, WAV

DONE = {"completed": True, "data": "done", "details": {}}


async def test_row_087_a_voice_is_isolated_a_recording_dubbed_and_a_film_made() -> None:
    async with elevenlabs() as (_, client):
        voice = await client.isolate(WAV, duration_s=90)
    async with serving(Dubs("dubbing", "dubbed")) as (_, client):
        dub = await client.dub(WAV, "es", source_language="en")
    async with serving(Operations(False, True)) as (_, client):
        film = await client.generate_video("A lighthouse", seconds=6, aspect_ratio="16:9", resolution="720p")

    assert (voice.data, voice.usage.audio_s) == (MP3, 90)
    assert (dub.data, dub.usage.audio_s) == (FILM, 127.5)
    assert (film.data, film.usage.video_s) == (FILM, 6)


@pytest.mark.parametrize("service", [Dubs("dubbing"), Operations(False), OpenAIJobs("in_progress")], ids=type)
async def test_row_087_a_job_is_asked_after_to_its_deadline_and_no_further(service: Any) -> None:
    clock = ManualClock(instant=True)
    async with serving(service, clock=clock) as (_, client):
        job: Any = await (client.submit_dub(WAV, "es") if isinstance(service, Dubs) else client.submit_video("A"))
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=120, interval=5)

    assert 100 < clock.time() <= 120


@pytest.mark.parametrize(
    "service",
    [
        Dubs("dubbing", {"status": "failed", "error": "no speech"}),
        Operations(False, {"error": {"code": 13, "message": "no speech"}}),
        OpenAIJobs("queued", {"status": "failed", "error": {"code": "x", "message": "no speech"}}),
    ],
    ids=type,
)
async def test_row_087_a_job_that_failed_raises(service: Any) -> None:
    async with serving(service) as (_, client):
        call = client.dub(WAV, "es") if isinstance(service, Dubs) else client.generate_video("A")
        with pytest.raises(JobFailedError, match="no speech"):
            await call


async def test_row_100_a_run_is_submitted_and_its_result_had_later() -> None:
    async with serving(AiXplainJobs(None, None, "the answer")) as (server, client):
        job = await client.submit("Hello", temperature=0.2)
        url = f"{server.url}/api/v1/data/run-1"
        assert job.id.endswith(f":{url}")
        assert (job.is_over, job.state.result) == (False, None)

        answer = await job.result(interval=0.5, timeout=300)

    assert answer.text == "the answer"
    assert server.requests[0].path.startswith("/api/v1/execute/")
    assert server.requests[0].json() == {"data": "Hello", "temperature": 0.2}


async def test_row_100_a_run_is_asked_after_by_its_address_alone() -> None:
    async with serving(AiXplainJobs("the answer")) as (server, client):
        answer = await client.job(f"aixplain::{server.url}/api/v1/data/run-1").result()

    assert answer.text == "the answer"
    assert [seen.method for seen in server.requests] == ["GET"]


@pytest.mark.parametrize(
    ("look", "status"),
    [
        ({"completed": False}, "running"),
        ({"completed": False, "status": "IN_PROGRESS"}, "running"),
        (DONE, "succeeded"),
        ({"completed": False, "status": "SUCCESS", "data": "done"}, "succeeded"),
        (DONE | {"error_message": "no"}, "failed"),
        (DONE | {"supplierError": "no"}, "failed"),
        ({"completed": True, "status": "FAILED"}, "failed"),
    ],
)
async def test_row_101_one_look_tells_where_a_run_stands(look: Any, status: str) -> None:
    async with serving(AiXplainJobs(look)) as (server, client):
        job = await client.submit("Hello")
        state = await job.poll()

    assert (state.status, len(server.requests)) == (status, 2)
    if status == "succeeded":
        assert isinstance(state.result, Response)
        assert state.result.text == "done"
    assert (state.error is not None) == (status == "failed")


@pytest.mark.parametrize(("interval", "first"), [(0.05, 0.2), (0.5, 0.5)])
async def test_row_102_waits_grow_by_a_tenth_up_to_a_minute_with_jitter(interval: float, first: float) -> None:
    clock = ManualClock(instant=True)
    async with serving(AiXplainJobs(*[None] * 70, "done"), clock=clock) as (_, client):
        job = await client.submit("Hello")
        await job.wait(interval=interval)

    plain = [min(first * 1.1**position, 60) for position in range(71)]
    assert first <= clock.sleeps[0] <= first * 1.2
    for slept, wait in zip(clock.sleeps, plain, strict=True):
        assert max(first, wait * 0.8) - 1e-9 <= slept <= wait * 1.2 + 1e-9
    assert plain[-1] == 60


async def test_row_102_no_wait_goes_past_the_timeout() -> None:
    clock = ManualClock(instant=True)
    async with serving(AiXplainJobs(None), clock=clock) as (_, client):
        job = await client.submit("Hello")
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=300)

    assert 290 < clock.time() <= 300


async def test_row_102_a_question_without_an_answer_ends_with_the_timeout() -> None:
    async with serving(AiXplainJobs([Stall()]), clock=None) as (_, client):
        job = await client.submit("Hello")
        with pytest.raises(JobTimeoutError) as caught:
            await job.wait(timeout=0.5)

    assert (caught.value.elapsed_s or 9) <= 0.5 + 0.25


async def test_row_102_other_tasks_run_meanwhile() -> None:
    clock = ManualClock()
    async with serving(AiXplainJobs(None, "done"), clock=clock) as (_, client):
        job = await client.submit("Hello")
        waiting = asyncio.create_task(job.wait())
        ticks = 0
        while not clock.sleeping:
            await asyncio.sleep(0)
            ticks += 1
        waiting.cancel()

    assert ticks
    assert not job.is_over


async def test_row_102_many_jobs_are_waited_for_at_once() -> None:
    async with serving(AiXplainJobs(*[None] * 20, "done")) as (_, client):
        jobs = [await client.submit(f"question {number}") for number in range(8)]
        answers = await asyncio.gather(*(job.result() for job in jobs))

    assert [answer.text for answer in answers] == ["done"] * 8


async def test_row_102_jobs_are_fanned_out_as_any_requests_are() -> None:
    async with serving(OpenAIJobs(*["in_progress"] * 5, "completed")) as (_, client):

        async def make(index: int, prompt: str) -> tuple[int, bytes]:
            return index, (await client.generate_video(prompt)).data

        prompts = (f"film {number}" for number in range(12))
        films = [film async for film in FanOut(prompts, make, concurrency=4, window=8, ordered=True)]

    assert films == [(number, FILM) for number in range(12)]


async def test_row_103_a_key_that_is_refused_is_raised_at_once() -> None:
    async with serving(AiXplainJobs(None, as_json({"error": "no"}, 401))) as (server, client):
        job = await client.submit("Hello")
        with pytest.raises(AuthenticationError):
            await job.wait()

    assert len(server.requests) == 3


@pytest.mark.parametrize("failure", [as_json({"error": "bad gateway"}, 502), [Rst()]], ids=["502", "disconnect"])
async def test_row_103_one_failure_is_let_pass(failure: Any) -> None:
    async with serving(AiXplainJobs(None, failure, "done")) as (_, client):
        job = await client.submit("Hello")

        assert (await job.result()).text == "done"


async def test_row_103_the_timeout_carries_the_last_failure() -> None:
    async with serving(AiXplainJobs(None, as_json({"error": "bad gateway"}, 502))) as (_, client):
        job = await client.submit("Hello")
        with pytest.raises(JobTimeoutError) as caught:
            await job.wait(timeout=2)

    assert isinstance(caught.value.__cause__, asyncllm.InternalServerError)
    assert caught.value.__cause__.status == 502
