"""Jobs of any service: how they are submitted, asked after, waited for and ended. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import (
    APIConnectionError,
    APIError,
    AsyncLLMError,
    Budget,
    Client,
    Dub,
    InvalidRequestError,
    Job,
    JobFailedError,
    JobTimeoutError,
    Limits,
    NotFoundError,
    Price,
    Response,
    ResponseChoice,
    Retry,
    Timeouts,
    Totals,
    UnsupportedError,
    Usage,
    Video,
)
from asyncllm.backend import JobState
from asyncllm.jobs.looking import Waits, looks
from asyncllm.testing import ManualClock, ScriptedBackend, ScriptedJobs, ScriptedLook, Stall, run_virtual
from asyncllm.types import Message

DOWN = asyncllm.InternalServerError("down", status=502)
LOST = APIConnectionError("lost", maybe_billed=True)
DENIED = asyncllm.AuthenticationError("no", status=401)
FORBIDDEN = asyncllm.PermissionDeniedError("no", status=403)
NOWHERE = NotFoundError("no such job", status=404)
MALFORMED = asyncllm.ResponseValidationError("that is no state")
GOING: list[ScriptedLook] = ["running"]
DONE: list[ScriptedLook] = ["succeeded"]
FILM = Video(data=b"film", usage=Usage(video_s=8))


def client_of(backend: Any, **given: Any) -> Client:
    return Client(**{"backend": backend, "model": "m", "retry": None, "env": {}, **given})


async def submitted(backend: ScriptedJobs, **given: Any) -> Job[Video]:
    return await client_of(backend, **given).submit_video("A lighthouse")


# -- the way of a job --------------------------------------------------------------------------------------------


async def test_a_job_is_submitted_asked_after_and_gives_its_result() -> None:
    backend = ScriptedJobs(["queued", "running", "succeeded"], results=[FILM])
    job = await submitted(backend, clock=ManualClock(instant=True))
    assert (job.status, job.is_over) == ("queued", False)

    film = await job.result()

    assert (film.data, job.status, job.is_over) == (b"film", "succeeded", True)
    assert (backend.asked, backend.fetched) == (["job-1"] * 3, ["job-1"])


async def test_a_result_that_came_with_the_look_is_not_fetched() -> None:
    backend = ScriptedJobs([JobState(id="job-1", status="succeeded", result=FILM)])
    job = await submitted(backend, clock=ManualClock(instant=True))

    assert (await job.result()).data == b"film"
    assert backend.fetched == []


async def test_a_result_is_fetched_once_however_often_and_by_whom_it_is_asked_for() -> None:
    backend = ScriptedJobs(results=[FILM])
    job = await submitted(backend, clock=ManualClock(instant=True))

    made = await asyncio.gather(*(job.result() for _ in range(5)))

    assert all(one is made[0] for one in made)
    assert backend.fetched == ["job-1"]


async def test_a_result_that_could_not_be_fetched_can_be_asked_for_again() -> None:
    backend = ScriptedJobs(results=[LOST, FILM])
    job = await submitted(backend, clock=ManualClock(instant=True))

    with pytest.raises(APIConnectionError):
        await job.result()

    assert (await job.result()).data == b"film"


async def test_fetching_a_result_is_tried_again_as_other_calls_are() -> None:
    backend = ScriptedJobs(results=[DOWN, FILM])
    job = await submitted(backend, clock=ManualClock(instant=True), retry=Retry())

    assert (await job.result()).data == b"film"
    assert len(backend.submitted) == 1


async def test_another_client_goes_on_with_a_job_by_its_id() -> None:
    backend = ScriptedJobs(["running", "succeeded"], results=[FILM])
    job = await submitted(backend, clock=ManualClock(instant=True))

    again = client_of(backend, clock=ManualClock(instant=True)).job(job.id)

    assert again.id == job.id
    assert (await again.result()).data == b"film"


async def test_a_job_that_is_found_again_is_looked_at_before_anything_is_waited() -> None:
    clock = ManualClock(instant=True)
    client = client_of(ScriptedJobs(), clock=clock)

    await client.job("ScriptedJobs:m:job-1").wait()

    assert clock.sleeps == []


async def test_a_job_that_is_over_is_not_asked_after_any_more() -> None:
    backend = ScriptedJobs(["succeeded", "running"])
    job = await submitted(backend, clock=ManualClock(instant=True))

    states = [await job.poll(), await job.poll(), await job.wait()]

    assert [state.status for state in states] == ["succeeded"] * 3
    assert len(backend.asked) == 1


async def test_a_poll_is_one_question_and_waits_for_nothing() -> None:
    clock = ManualClock()
    backend = ScriptedJobs(["queued", "running"])
    job = await submitted(backend, clock=clock)

    assert [(await job.poll()).status, (await job.poll()).status] == ["queued", "running"]
    assert (len(backend.asked), clock.sleeps) == (2, [])


@pytest.mark.parametrize("error", [DOWN, LOST, DENIED, MALFORMED], ids=lambda one: type(one).__name__)
async def test_a_poll_raises_whatever_is_wrong(error: APIError) -> None:
    job = await submitted(ScriptedJobs([error]))

    with pytest.raises(type(error)):
        await job.poll()


async def test_a_status_never_goes_back() -> None:
    backend = ScriptedJobs(["running", "queued", JobState(id="job-1", status="queued", progress=0.5), "succeeded"])
    job = await submitted(backend, clock=ManualClock(instant=True))

    seen = [(await job.poll()).status for _ in range(4)]

    assert seen == ["running", "running", "running", "succeeded"]


@given(st.lists(st.sampled_from(["queued", "running", "succeeded", "failed", "cancelled", "expired"]), min_size=1))
def test_a_job_that_has_ended_stays_as_it_ended(words: list[Any]) -> None:
    async def main() -> None:
        job = await submitted(ScriptedJobs(words))
        seen = [(await job.poll()).status for _ in words]

        ranks = [("queued", "running").index(one) if one in ("queued", "running") else 2 for one in seen]
        assert ranks == sorted(ranks)
        assert len({one for one in seen if one not in ("queued", "running")}) <= 1

    run_virtual(main())


# -- how a job ends ----------------------------------------------------------------------------------------------


async def test_a_job_that_failed_raises_with_the_service_s_error_as_its_cause() -> None:
    cause = asyncllm.ContentFilterError("refused", status=400, code="moderation_blocked")
    backend = ScriptedJobs([JobState(id="job-1", status="failed", error=cause)])
    job = await submitted(backend, clock=ManualClock(instant=True))

    with pytest.raises(JobFailedError, match="refused") as caught:
        await job.result()

    assert caught.value.__cause__ is cause
    assert (caught.value.code, caught.value.status, caught.value.maybe_billed) == ("moderation_blocked", 400, True)
    assert caught.value.backend == "ScriptedJobs"


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
async def test_a_job_that_did_not_succeed_says_how_it_ended(status: Any) -> None:
    job = await submitted(ScriptedJobs([status]), clock=ManualClock(instant=True))

    assert (await job.wait()).status == status
    with pytest.raises(JobFailedError) as caught:
        await job.result()
    assert caught.value.code == status


async def test_a_job_is_cancelled_once() -> None:
    backend = ScriptedJobs(["running"])
    job = await submitted(backend)

    assert (await job.cancel()).status == "cancelled"
    await job.cancel()
    with pytest.raises(JobFailedError) as caught:
        await job.result()

    assert (backend.cancelled, caught.value.code) == (["job-1"], "cancelled")


# -- waiting -----------------------------------------------------------------------------------------------------


async def test_the_first_wait_is_not_shorter_than_asked_and_waits_grow_to_their_bound() -> None:
    clock = ManualClock(instant=True)
    job = await submitted(ScriptedJobs(GOING * 80 + DONE), clock=clock)

    await job.wait(interval=2, backoff=1.1, jitter=0.2, max_interval=60)

    assert 2 <= clock.sleeps[0] <= 2.4
    plain = [min(2 * 1.1**position, 60) for position in range(81)]
    for slept, wait in zip(clock.sleeps, plain, strict=True):
        assert max(2, wait * 0.8) <= slept <= wait * 1.2 + 1e-9
    assert len({round(slept, 6) for slept in clock.sleeps[-20:]}) > 1


async def test_without_jitter_waits_are_what_they_are() -> None:
    clock = ManualClock(instant=True)
    job = await submitted(ScriptedJobs(GOING * 4 + DONE), clock=clock)

    await job.wait(interval=1, backoff=2, jitter=0, max_interval=5)

    assert clock.sleeps == [1, 2, 4, 5, 5]


async def test_no_wait_is_shorter_than_a_fifth_of_a_second() -> None:
    clock = ManualClock(instant=True)
    job = await submitted(ScriptedJobs(["running", "succeeded"]), clock=clock)

    await job.wait(interval=0, jitter=0)

    assert clock.sleeps[0] == 0.2


async def test_what_the_service_wants_is_waited() -> None:
    clock = ManualClock(instant=True)
    busy = asyncllm.RateLimitError("busy", status=429, retry_after_s=30)
    told = JobState(id="job-1", status="running", retry_after_s=9)
    job = await submitted(ScriptedJobs([busy, told, "succeeded"]), clock=clock)

    await job.wait(jitter=0)

    assert clock.sleeps[1:] == [30, 9]


async def test_a_wait_ends_with_its_deadline_and_the_job_goes_on() -> None:
    clock = ManualClock(instant=True)
    job = await submitted(ScriptedJobs(GOING * 10 + DONE), clock=clock)

    with pytest.raises(JobTimeoutError) as caught:
        await job.wait(timeout=5)

    assert clock.time() <= 5
    assert (caught.value.retryable, caught.value.maybe_billed) == (False, True)
    assert job.id in str(caught.value)
    assert (await job.wait()).status == "succeeded"


@given(
    waits=st.builds(
        Waits,
        timeout=st.floats(0.01, 500),
        interval=st.floats(0, 50),
        backoff=st.floats(1, 3),
        jitter=st.floats(0, 0.9),
        max_interval=st.floats(0.1, 100),
    ),
    wanted=st.sampled_from([None, 1, 20, 1000]),
)
def test_no_wait_ever_goes_past_the_deadline(waits: Waits, wanted: float | None) -> None:
    clock = ManualClock(instant=True)
    timeout = waits.timeout or 0

    async def look(within_s: float) -> JobState:
        assert 0 < within_s <= timeout - clock.time() + 1e-9
        return JobState(id="j", status="running", retry_after_s=wanted)

    async def main() -> None:
        with pytest.raises(JobTimeoutError):
            async for _ in looks(look, waits, clock, told=JobState(id="j", status="queued"), name="j"):
                pass

    asyncio.run(main())

    assert clock.time() <= timeout


def test_a_question_that_is_not_answered_ends_with_the_deadline() -> None:
    async def main() -> float:
        job = await submitted(ScriptedJobs([Stall()]))
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=7)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) <= 7


def test_a_question_that_is_not_answered_is_given_up_and_asked_again() -> None:
    async def main() -> str:
        job = await submitted(ScriptedJobs([Stall(), "succeeded"]))
        return (await job.wait()).status

    assert run_virtual(main()) == "succeeded"


def test_other_tasks_run_while_a_job_is_waited_for() -> None:
    async def main() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(1)
                ticks += 1

        job = await submitted(ScriptedJobs(GOING * 20 + DONE))
        other = asyncio.create_task(tick())
        await job.wait()
        other.cancel()
        return ticks

    assert run_virtual(main()) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", 0), ("timeout", -1), ("timeout", "5"), ("interval", -1), ("backoff", 0.5), ("jitter", 1),
     ("jitter", None), ("max_interval", 0), ("max_interval", float("nan")), ("interval", float("inf")),
     ("wait_time", 1)],
)  # fmt: skip
async def test_a_wait_that_cannot_be_right_is_refused_by_name(name: str, value: Any) -> None:
    job = await submitted(ScriptedJobs())

    with pytest.raises(InvalidRequestError) as caught:
        await job.wait(**{name: value})

    assert caught.value.field == name


# -- failures on the way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DOWN, LOST, asyncllm.OverloadedError("busy", status=503)], ids=str)
async def test_failures_that_pass_are_let_pass(error: APIError) -> None:
    backend = ScriptedJobs([*[error] * 5, "running", *[error] * 5, "succeeded"])
    job = await submitted(backend, clock=ManualClock(instant=True))

    assert (await job.wait()).status == "succeeded"


async def test_failures_that_do_not_pass_are_raised_after_five_in_a_row_and_told() -> None:
    backend = ScriptedJobs([DOWN, LOST, DOWN, DOWN, DOWN, asyncllm.InternalServerError("still", status=500)])
    job = await submitted(backend, clock=ManualClock(instant=True))

    with pytest.raises(asyncllm.InternalServerError, match="still") as caught:
        await job.wait()

    assert [error.status for error in caught.value.attempts] == [502, None, 502, 502, 502, 500]
    assert len(backend.asked) == 6


@pytest.mark.parametrize("error", [DENIED, FORBIDDEN, MALFORMED], ids=lambda one: type(one).__name__)
async def test_failures_that_cannot_pass_are_raised_at_once(error: APIError) -> None:
    backend = ScriptedJobs([error])
    job = await submitted(backend, clock=ManualClock(instant=True))

    with pytest.raises(type(error)):
        await job.wait()

    assert len(backend.asked) == 1


async def test_the_timeout_carries_the_last_failure() -> None:
    job = await submitted(ScriptedJobs(["running", LOST, DOWN]), clock=ManualClock(instant=True))

    with pytest.raises(JobTimeoutError) as caught:
        await job.wait(timeout=1.8, jitter=0)

    assert caught.value.__cause__ is DOWN
    assert caught.value.attempts == (LOST, DOWN)


async def test_a_job_that_is_not_found_right_after_it_was_accepted_may_be_found_later() -> None:
    job = await submitted(ScriptedJobs([NOWHERE, NOWHERE, "succeeded"]), clock=ManualClock(instant=True))

    assert (await job.wait()).status == "succeeded"


async def test_a_job_that_is_not_found_for_a_minute_is_not_there() -> None:
    clock = ManualClock(instant=True)
    job = await submitted(ScriptedJobs([NOWHERE]), clock=clock)

    with pytest.raises(NotFoundError):
        await job.wait()

    assert 60 <= clock.time() < 75


@pytest.mark.parametrize("looked", [["running", NOWHERE], [NOWHERE]])
async def test_a_job_that_was_there_or_is_not_new_must_be_found(looked: Sequence[Any]) -> None:
    client = client_of(ScriptedJobs(looked), clock=ManualClock(instant=True))
    job = await client.submit_video("A lighthouse") if len(looked) > 1 else client.job("ScriptedJobs:m:x")

    with pytest.raises(NotFoundError):
        await job.wait()


@pytest.mark.parametrize("raised", [True, False])
async def test_no_error_repeats_the_prompt(raised: bool) -> None:  # a case
    prompt = "a canary that nobody may hear of"
    error = asyncllm.BadRequestError(f"cannot make {prompt}", status=400)
    look = error if raised else JobState(id="job-1", status="failed", error=error)
    job = await client_of(ScriptedJobs([look]), clock=ManualClock(instant=True)).submit_video(prompt)

    with pytest.raises(AsyncLLMError) as caught:
        await job.result()

    assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {job!r} {job.state!r}"


# -- events ------------------------------------------------------------------------------------------------------


async def test_each_status_comes_once() -> None:
    looked: list[ScriptedLook] = ["queued", "queued", "running", "queued", "running", "succeeded"]
    job = await submitted(ScriptedJobs(looked), clock=ManualClock(instant=True))

    assert [status async for status in job] == ["queued", "running", "succeeded"]


async def test_events_tell_of_progress_too() -> None:
    looked = [JobState(id="job-1", status="running", progress=done) for done in (0.1, 0.1, 0.7)]
    job = await submitted(ScriptedJobs([*looked, "succeeded"]), clock=ManualClock(instant=True))

    told = [(state.status, state.progress) async for state in job.events()]

    assert told == [("queued", None), ("running", 0.1), ("running", 0.7), ("succeeded", None)]


async def test_nothing_is_asked_while_nobody_wants_the_next_event() -> None:
    backend = ScriptedJobs(["running", "succeeded"])
    job = await submitted(backend, clock=ManualClock(instant=True))
    statuses = aiter(job)

    assert await anext(statuses) == "queued"
    assert backend.asked == []
    assert await anext(statuses) == "running"
    assert len(backend.asked) == 1


@pytest.mark.parametrize("steps", range(12))
def test_a_wait_that_is_cancelled_at_any_step_leaves_the_job_usable(steps: int) -> None:
    async def main() -> str:
        job = await submitted(ScriptedJobs(["running", "running", "succeeded"]))
        waiting = asyncio.create_task(job.wait())
        for _ in range(steps):
            await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return (await job.wait()).status

    assert run_virtual(main()) == "succeeded"


# -- what is submitted -------------------------------------------------------------------------------------------


REFUSALS = [
    asyncllm.ConnectTimeoutError("no connection"),
    APIConnectionError("refused"),
    asyncllm.RateLimitError("busy", status=429),
    asyncllm.OverloadedError("busy", status=503),
]
DOUBTS = [
    LOST,
    DOWN,
    asyncllm.InternalServerError("late", status=504),
    asyncllm.ByteIdleTimeoutError("silent", maybe_billed=True),
    asyncllm.ProtocolError("not HTTP", maybe_billed=True),
    asyncllm.APIStatusError("late", status=408, retryable=True),
    asyncllm.InternalServerError("broken off", retryable=True),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda one: type(one).__name__)
async def test_what_was_surely_not_accepted_is_submitted_again(error: APIError) -> None:
    backend = ScriptedJobs(accepts=[error])

    job = await submitted(backend, retry=Retry(), clock=ManualClock(instant=True))

    assert (job.state.id, len(backend.submitted)) == ("job-2", 2)


@pytest.mark.parametrize("error", DOUBTS, ids=lambda one: f"{type(one).__name__}-{one.status}")
async def test_what_may_have_been_accepted_is_never_submitted_again(error: APIError) -> None:
    backend = ScriptedJobs(accepts=[error])

    with pytest.raises(type(error)) as caught:
        await submitted(backend, retry=Retry(attempts=5), clock=ManualClock(instant=True))

    assert len(backend.submitted) == 1
    assert (caught.value.maybe_billed, caught.value.retryable) == (True, False)


@pytest.mark.parametrize("timeouts", [Timeouts(first_event_s=3), Timeouts(total_s=3)])
def test_a_submission_that_is_not_answered_is_late_and_not_sent_again(timeouts: Timeouts) -> None:
    backend = ScriptedJobs(accepts=[Stall()])

    async def main() -> float:
        with pytest.raises(asyncllm.APITimeoutError) as caught:
            await submitted(backend, retry=Retry(attempts=5), timeouts=timeouts)
        assert (caught.value.maybe_billed, caught.value.retryable) == (True, False)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(3)
    assert len(backend.submitted) == 1


async def test_a_refused_option_is_no_doubt() -> None:
    with pytest.raises(UnsupportedError) as caught:
        await submitted(ScriptedJobs(accepts=[UnsupportedError("no size", field="size")]))

    assert not caught.value.maybe_billed


async def test_what_is_asked_for_reaches_the_backend() -> None:
    backend = ScriptedJobs()
    client = client_of(backend)
    picture = b"\x89PNG\r\n\x1a\n" + b"0" * 20

    await client.submit_video("A", seconds=8, aspect_ratio="16:9", resolution="720p", image=picture,
                              references=[picture, picture], extra={"seed": 1})  # fmt: skip
    await client.submit_dub("https://films/one.mp4", "es", source_language="en", speakers=2, duration_s=60)
    await client.submit_dub(b"ID3 a recording", "fr")
    await client.submit("Hello", max_tokens=5, system="Be brief.")

    film, by_url, by_file, chat = backend.submitted
    assert isinstance(film, asyncllm.backend.VideoRequest)
    assert (film.model, film.prompt, film.seconds, film.aspect_ratio) == ("m", "A", 8, "16:9")
    assert isinstance(film.image, asyncllm.MediaFile)
    assert (film.image.data, film.image.name) == (picture, "image.png")
    assert isinstance(film.references, tuple)
    assert (len(film.references), film.extra) == (2, {"seed": 1})
    assert isinstance(by_url, asyncllm.backend.DubRequest)
    assert (by_url.url, by_url.file, by_url.target_language) == ("https://films/one.mp4", None, "es")
    assert (by_url.source_language, by_url.speakers, by_url.duration_s) == ("en", 2, 60)
    assert isinstance(by_file, asyncllm.backend.DubRequest)
    assert by_file.file is not None
    assert (by_file.file.name, by_file.url) == ("media.mp3", None)
    assert isinstance(chat, asyncllm.Request)
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert chat.sampling.max_tokens == 5


@pytest.mark.parametrize(
    ("field", "options"),
    [("seconds", {"seconds": 0}), ("size", {"size": "auto"}), ("aspect_ratio", {"size": "1x1", "aspect_ratio": "1:1"}),
     ("resolution", {"size": "16x16", "resolution": "720p"}), ("references", {"references": []}),
     ("image", {"image": 7}),
     ("references[1]", {"references": [b"x", b""]}), ("second", {"second": 8}), ("image", {"image": "no-such.png"}),
     ("last_image", {"last_image": None})],
)  # fmt: skip
async def test_a_film_that_cannot_be_right_is_refused_by_name(field: str, options: dict[str, Any]) -> None:
    backend = ScriptedJobs()

    with pytest.raises(InvalidRequestError) as caught:
        await client_of(backend).submit_video("A", **options)

    assert caught.value.field in (field, "size" if "size" in options else field)
    assert backend.submitted == []


@pytest.mark.parametrize(
    ("field", "source", "language", "options"),
    [("source", b"", "es", {}), ("source", 7, "es", {}), ("source", "no-such-file.mp3", "es", {}),
     ("target_language", b"x", "", {}), ("target_language", "https://films/one", 7, {}),
     ("speakers", b"x", "es", {"speakers": 0}), ("duration_s", b"x", "es", {"duration_s": -1})],
)  # fmt: skip
async def test_a_dub_that_cannot_be_right_is_refused_by_name(
    field: str, source: Any, language: Any, options: dict[str, Any]
) -> None:
    backend = ScriptedJobs()

    with pytest.raises(InvalidRequestError) as caught:
        await client_of(backend).submit_dub(source, language, **options)

    assert (caught.value.field, backend.submitted) == (field, [])


async def test_repairs_are_not_for_jobs() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await client_of(ScriptedJobs()).submit("Hello", output_type=int, repairs=1)

    assert caught.value.field == "repairs"


@pytest.mark.parametrize("call", ["submit", "submit_video", "submit_dub"])
async def test_a_backend_without_jobs_is_refused_by_name(call: str) -> None:
    client = client_of(ScriptedBackend([[]]))
    given = ("https://films/one", "es") if call == "submit_dub" else ("Hello",)

    with pytest.raises(UnsupportedError) as caught:
        await getattr(client, call)(*given)

    assert caught.value.field == call


async def test_a_backend_without_this_kind_of_job_is_refused_by_name() -> None:
    backend = ScriptedJobs()
    backend.job_calls = frozenset({"submit"})

    with pytest.raises(UnsupportedError) as caught:
        await client_of(backend).submit_video("A")

    assert (caught.value.field, backend.submitted) == ("submit_video", [])


@pytest.mark.parametrize("text", ["", "job-1", "openai:job-1", ":m:job-1", "openai:m:", 7, None])
async def test_an_id_that_is_none_is_refused(text: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client_of(ScriptedJobs()).job(text)

    assert caught.value.field == "id"


async def test_a_job_of_a_backend_that_is_not_there_is_a_config_error() -> None:
    with pytest.raises(asyncllm.ConfigError):
        Client(env={}).job("no-such-backend:m:job-1")


async def test_a_job_of_a_backend_without_jobs_is_refused() -> None:
    with pytest.raises(UnsupportedError):
        Client(env={}).job("echo:m:job-1")


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_an_id_is_read_as_it_was_written(label: str, model: str, service_id: str) -> None:
    from asyncllm.jobs.job import job_id, read_job_id

    parts = [part.encode("utf-8", "replace").decode() for part in (label, model, service_id)]

    assert list(read_job_id(job_id(*parts))) == parts


async def test_a_job_is_not_pickled() -> None:
    import pickle

    with pytest.raises(TypeError, match="id"):
        pickle.dumps(await submitted(ScriptedJobs()))


# -- whole calls -------------------------------------------------------------------------------------------------


async def test_a_film_is_made_in_one_call() -> None:
    client = client_of(ScriptedJobs(["running", "succeeded"], results=[FILM]), clock=ManualClock(instant=True))

    assert (await client.generate_video("A lighthouse")).data == b"film"


async def test_a_recording_is_dubbed_in_one_call() -> None:
    backend = ScriptedJobs(results=[Dub(data=b"doblado", language="es")])
    client = client_of(backend, clock=ManualClock(instant=True))

    assert (await client.dub(b"ID3 a recording", "es")).data == b"doblado"


def test_a_film_is_waited_for_as_long_as_the_call_may_take() -> None:
    backend = ScriptedJobs(["running"])

    async def main() -> float:
        with pytest.raises(JobTimeoutError) as caught:
            await client_of(backend).generate_video("A lighthouse", timeouts=Timeouts(total_s=90))
        assert "ScriptedJobs:m:job-1" in str(caught.value)
        return asyncio.get_running_loop().time()

    assert 80 < run_virtual(main()) <= 90


def test_a_film_is_waited_for_an_hour_where_nothing_else_is_said() -> None:
    async def main() -> float:
        with pytest.raises(JobTimeoutError):
            await client_of(ScriptedJobs(["running"])).generate_video("A lighthouse")
        return asyncio.get_running_loop().time()

    assert 3500 < run_virtual(main()) <= 3600


async def test_an_answer_in_the_background_is_of_its_type() -> None:
    told = Response(
        choices=(ResponseChoice(index=0, message=Message("assistant", '{"value": 7}'), finish_reason="stop"),)
    )
    job = await client_of(ScriptedJobs(results=[told]), clock=ManualClock(instant=True)).submit("7?", output_type=int)

    answer = await job.result()

    assert (answer.parsed, answer.backend) == (7, "ScriptedJobs")


# -- hooks, prices, budgets --------------------------------------------------------------------------------------


async def test_a_job_is_billed_as_its_result_is_taken() -> None:
    totals = Totals()
    prices = {"m": Price(video_usd_per_second=0.4)}
    client = client_of(ScriptedJobs(results=[FILM]), hooks=[totals], prices=prices, clock=ManualClock(instant=True))

    job = await client.submit_video("A lighthouse", seconds=8)
    assert totals.calls == 0
    film = await job.result()
    await job.result()

    assert film.cost_usd == pytest.approx(3.2)
    assert totals.cost_usd == pytest.approx(3.2)
    assert [record.operation for record in totals.records] == ["job_result"]


async def test_hooks_see_a_job_that_failed() -> None:
    class Seen:
        def __init__(self) -> None:
            self.errors: list[tuple[str, str]] = []

        def on_error(self, call: asyncllm.Trail, error: BaseException) -> None:
            self.errors.append((call.kind, type(error).__name__))

    seen = Seen()
    job = await submitted(ScriptedJobs(["failed"]), hooks=[seen], clock=ManualClock(instant=True))

    with pytest.raises(JobFailedError):
        await job.result()

    assert seen.errors == [("job_result", "JobFailedError")]


async def test_a_budget_holds_what_a_job_may_take_until_it_is_known() -> None:
    told = Response(choices=(), usage=Usage(input_tokens=2, output_tokens=3))
    budget = Budget(tokens=1000)
    client = client_of(ScriptedJobs(results=[told]), budget=budget, clock=ManualClock(instant=True))

    job = await client.submit("Hello there", max_tokens=600)
    assert budget.tokens == 0
    assert budget.left_tokens is not None
    assert 390 <= budget.left_tokens <= 400
    with pytest.raises(asyncllm.BudgetExceededError):
        await client.submit("Hello there", max_tokens=600)
    await job.result()

    assert (budget.tokens, budget.left_tokens) == (5, 995)


async def test_a_budget_that_is_spent_keeps_no_result_back() -> None:
    told = Response(choices=(), usage=Usage(input_tokens=20, output_tokens=30))
    budget = Budget(tokens=10)
    client = client_of(ScriptedJobs(results=[told]), budget=budget, clock=ManualClock(instant=True))

    await client.job("ScriptedJobs:m:elsewhere").result()

    assert budget.tokens == 50
    with pytest.raises(asyncllm.BudgetExceededError):
        await client.submit("Hello")


def test_limits_hold_for_submissions() -> None:
    async def main() -> float:
        client = client_of(ScriptedJobs(), limits=Limits(requests_per_minute=2), timeouts=Timeouts(pool_s=100))
        for _ in range(3):
            await client.submit("Hello")
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) >= 59


# -- without an event loop ---------------------------------------------------------------------------------------


def test_jobs_without_an_event_loop() -> None:
    backend = ScriptedJobs(["running", "succeeded"], results=[FILM])
    with asyncllm.sync.Client(
        backend=backend, model="m", retry=None, env={}, clock=ManualClock(instant=True)
    ) as client:
        job = client.submit_video("A lighthouse")
        assert (job.status, job.is_over, job.state.id) == ("queued", False, "job-1")
        assert list(job) == ["queued", "running", "succeeded"]
        assert job.result().data == b"film"
        assert client.job(job.id).poll().status == "succeeded"
        assert client.generate_video("A").data == b"film"
        assert client.dub("https://films/one", "es").data == b"film"
        assert client.submit("Hello").wait().status == "succeeded"
        assert client.submit_dub("https://films/one", "es").cancel().status == "cancelled"
        assert repr(job) == "<Job ScriptedJobs:m:job-1 succeeded>"


def test_a_job_without_an_event_loop_can_be_left_in_the_middle() -> None:
    with asyncllm.sync.Client(
        backend=ScriptedJobs(["running"]), model="m", retry=None, env={}, clock=ManualClock(instant=True)
    ) as client:
        job = client.submit_video("A lighthouse")
        for status in job:
            if status == "running":
                break

        assert job.status == "running"
