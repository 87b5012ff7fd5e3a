"""`client.batch_jobs`: many jobs, each with a result of its own, and none lost. Time is virtual, sockets are real."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import (
    APIConnectionError,
    BatchProgress,
    Client,
    InternalServerError,
    InvalidRequestError,
    Job,
    JobFailedError,
    JobResult,
    JobTimeoutError,
    PermissionDeniedError,
    Price,
    RateLimitError,
    Retry,
    Usage,
    Video,
)
from asyncllm.backend import JobRequest, JobState, VideoRequest
from asyncllm.testing import ManualClock, Op, ScriptedJobs, SeenRequest, Stall, run_virtual
from job_servers import FILM, OpenAIJobs, as_json, serving

LOST = APIConnectionError("lost", maybe_billed=True)
MADE = Video(data=b"film", usage=Usage(video_s=8))


class Studio(ScriptedJobs):
    """Takes `name seconds`, so long from when it was submitted; accepts a job only after `accepts_s`.

    The film of a name that begins with `no` fails.
    """

    def __init__(self, accepts_s: float = 0) -> None:
        super().__init__()
        self._accepts_s = accepts_s
        self._due: dict[str, float] = {}
        self.inside = 0
        self.most = 0

    async def submit(self, request: JobRequest, /) -> JobState:
        assert isinstance(request, VideoRequest)
        self.submitted.append(request)
        await asyncio.sleep(self._accepts_s)
        name, _, takes = request.prompt.partition(" ")
        self._due[name] = asyncio.get_running_loop().time() + float(takes or 1)
        self.inside += 1
        self.most = max(self.most, self.inside)
        return JobState(id=name, status="queued")

    async def poll(self, job_id: str, /) -> JobState:
        if asyncio.get_running_loop().time() < self._due[job_id]:
            return JobState(id=job_id, status="running")
        self.inside -= 1
        failed = job_id.startswith("no")
        return JobState(id=job_id, status="failed" if failed else "succeeded", result=Video(data=job_id.encode()))

    @property
    def names(self) -> list[str]:
        """Of all that was submitted."""
        return [request.prompt.partition(" ")[0] for request in self.submitted if isinstance(request, VideoRequest)]


@asynccontextmanager
async def studio(**given: Any) -> AsyncGenerator[tuple[Client, Studio]]:
    backend = Studio(**given)
    async with Client(backend=backend, model="m", retry=None, env={}) as client:
        yield client, backend
        assert len(asyncio.all_tasks()) == 1
        assert backend.cancelled == []


def scripted(backend: ScriptedJobs, **given: Any) -> Client:
    settings: dict[str, Any] = {"model": "m", "retry": None, "env": {}, "clock": ManualClock(instant=True)}
    return Client(backend=backend, **{**settings, **given})


def id_of(name: str) -> str:
    return f"Studio:m:{name}"


def name_of(result: JobResult[Video]) -> str:
    """Of the job that has made it."""
    return result.unwrap().data.decode()


def ids(results: Sequence[JobResult[Any]]) -> list[str | None]:
    return [result.job_id for result in results]


def numbered(count: int) -> list[str]:
    return [f"w{number}" for number in range(count)]


# -- results -----------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_input_with_the_ids_of_their_jobs() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            results = [one async for one in client.batch_jobs(["a 30", "b 10", "c 20"], client.submit_video)]

            assert [(one.index, one.item) for one in results] == [(0, "a 30"), (1, "b 10"), (2, "c 20")]
            assert [name_of(one) for one in results] == ["a", "b", "c"]
            assert ids(results) == [id_of("a"), id_of("b"), id_of("c")]

    run_virtual(main())


def test_results_come_as_jobs_end_where_that_is_asked_for() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            batch = client.batch_jobs(["a 30", "b 10", "c 20"], client.submit_video, order="completion")

            assert [one.index async for one in batch] == [1, 2, 0]

    run_virtual(main())


def test_one_job_that_fails_is_one_error_among_many_results() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            items = [*numbered(20), "no", *numbered(20)]
            results = [one async for one in client.batch_jobs(items, client.submit_video)]

            (failed,) = [one for one in results if one.error is not None]
            assert (failed.index, failed.job_id, failed.result) == (20, id_of("no"), None)
            assert isinstance(failed.error, JobFailedError)
            with pytest.raises(JobFailedError):
                failed.unwrap()

    run_virtual(main())


def test_a_function_that_asks_for_more_may_make_the_job() -> None:
    async def main() -> None:
        async with studio() as (client, backend):

            async def submit(number: int) -> Job[Video]:
                await asyncio.sleep(1)
                return await client.submit_video(f"w{number}", seconds=4)

            results = [one async for one in client.batch_jobs(range(3), submit)]

            assert [one.item for one in results] == [0, 1, 2]
            assert [getattr(request, "seconds", None) for request in backend.submitted] == [4, 4, 4]

    run_virtual(main())


def test_a_result_shows_neither_what_was_asked_nor_what_was_made() -> None:
    assert "secret" not in repr(JobResult(index=0, item="secret", result="secret"))


def test_an_empty_batch_has_no_result() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            nothing: list[str] = []
            assert [one async for one in client.batch_jobs(nothing, client.submit_video)] == []

    run_virtual(main())


def test_an_item_that_cannot_be_right_is_the_error_of_its_result() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            wrong, right = [one async for one in client.batch_jobs(["", "a"], client.submit_video)]

            assert isinstance(wrong.error, InvalidRequestError)
            assert (wrong.job_id, name_of(right), backend.names) == (None, "a", ["a"])

    run_virtual(main())


# -- the window --------------------------------------------------------------------------------------------------


def test_a_job_is_under_way_until_it_is_over_and_no_more_are_than_asked_for() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            items = [f"w{number} 30" for number in range(40)]
            async for _ in client.batch_jobs(items, client.submit_video, concurrency=7):
                pass

            assert (backend.most, len(backend.submitted)) == (7, 40)

    run_virtual(main())


def test_an_endless_source_is_read_only_as_far_as_it_is_needed() -> None:
    async def main() -> None:
        taken = 0

        def source() -> Iterator[str]:
            nonlocal taken
            while True:
                taken += 1
                yield f"w{taken}"

        async with studio() as (client, backend):
            async with client.batch_jobs(source(), client.submit_video, concurrency=3) as batch:
                assert taken == 0
                for read in range(1, 10):
                    await anext(batch)
                    await asyncio.sleep(100)
                    assert taken <= read + 6
            assert len(backend.submitted) == taken

    run_virtual(main())


def test_what_an_async_source_raises_comes_after_the_results_of_what_it_gave() -> None:
    async def source() -> AsyncIterator[str]:
        yield "a 30"
        yield "b 10"
        raise KeyError("broken")

    async def main() -> None:
        async with studio() as (client, _):
            found: list[Any] = []
            with pytest.raises(KeyError, match="broken"):
                async for result in client.batch_jobs(source(), client.submit_video):
                    found.append(name_of(result))  # noqa: PERF401  # what came before it raises
            assert found == ["a", "b"]

    run_virtual(main())


# -- no job is lost ----------------------------------------------------------------------------------------------


def test_a_job_that_takes_longer_than_the_timeout_can_be_gone_on_with() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            slow, quick = [one async for one in client.batch_jobs(["a 90", "b 1"], client.submit_video, timeout=10)]

            assert isinstance(slow.error, JobTimeoutError)
            assert (slow.error.maybe_billed, name_of(quick)) == (True, "b")
            assert (await client.job(slow.job_id or "").result()).data == b"a"
            assert backend.names == ["a", "b"]

    run_virtual(main())


def test_the_timeout_of_a_job_begins_when_it_is_accepted() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            items = [f"w{number} 8" for number in range(10)]
            results = [one async for one in client.batch_jobs(items, client.submit_video, concurrency=1, timeout=12)]

            assert [one.error for one in results] == [None] * 10

    run_virtual(main())


async def test_a_job_that_cannot_be_asked_after_has_an_id() -> None:
    client = scripted(ScriptedJobs([PermissionDeniedError("no", status=403)]))

    (result,) = [one async for one in client.batch_jobs(["a"], client.submit_video)]

    assert isinstance(result.error, PermissionDeniedError)
    assert result.job_id == "ScriptedJobs:m:job-1"


async def test_a_result_that_cannot_be_fetched_can_be_fetched_by_the_id() -> None:
    client = scripted(ScriptedJobs(results=[LOST, MADE]))

    (result,) = [one async for one in client.batch_jobs(["a"], client.submit_video)]

    assert isinstance(result.error, APIConnectionError)
    assert (await client.job(result.job_id or "").result()).data == b"film"


async def test_a_submission_that_may_have_been_accepted_says_so_and_is_not_made_again() -> None:
    backend = ScriptedJobs(accepts=[LOST], results=[MADE])
    client = scripted(backend, retry=Retry())

    results = [one async for one in client.batch_jobs(["a", "b"], client.submit_video, concurrency=1)]

    assert results[0].error is not None
    assert (results[0].error.maybe_billed, results[0].job_id) == (True, None)
    assert (results[1].result, len(backend.submitted)) == (MADE, 2)


async def test_a_submission_that_was_refused_is_made_again_only_where_submit_does_that() -> None:
    busy = RateLimitError("busy", status=429)
    once, again = ScriptedJobs(accepts=[busy]), ScriptedJobs(accepts=[busy], results=[MADE])
    client = scripted(once)
    patient = scripted(again, retry=Retry())

    (refused,) = [one async for one in client.batch_jobs(["a"], client.submit_video)]
    (made,) = [one async for one in patient.batch_jobs(["a"], patient.submit_video)]

    assert isinstance(refused.error, RateLimitError)
    assert (made.unwrap(), len(once.submitted), len(again.submitted)) == (MADE, 1, 2)


def test_leaving_the_block_tells_the_ids_of_jobs_under_way_which_can_be_gone_on_with() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            async with client.batch_jobs(["a 1", "b 60", "c 90"], client.submit_video) as batch:
                async for _ in batch:
                    break

            assert [(one.index, one.item, one.job_id) for one in batch.unread] == [
                (1, "b 60", id_of("b")),
                (2, "c 90", id_of("c")),
            ]
            assert all(isinstance(one.error, JobTimeoutError) for one in batch.unread)

            left = [one.job_id or "" for one in batch.unread]
            assert [name_of(one) async for one in client.batch_jobs(left, client.job)] == ["b", "c"]
            assert backend.names == ["a", "b", "c"]

    run_virtual(main())


def test_results_that_nobody_has_read_are_told_before_the_jobs_that_were_left() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            async with client.batch_jobs(["a 90", "b 10", "c 90"], client.submit_video) as batch:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(30):
                        await anext(batch)

            assert [(one.item, one.error is None) for one in batch.unread] == [
                ("b 10", True),
                ("a 90", False),
                ("c 90", False),
            ]

    run_virtual(main())


def test_a_job_that_was_being_submitted_may_be_there() -> None:
    async def main() -> None:
        async with studio(accepts_s=5) as (client, _):
            with anyio.move_on_after(2):
                async with client.batch_jobs(["a"], client.submit_video) as batch:
                    await anext(batch)

            (left,) = batch.unread
            assert isinstance(left.error, APIConnectionError)
            assert (left.job_id, left.error.maybe_billed, left.error.retryable) == (None, True, False)

    run_virtual(main())


def test_a_drain_lets_submissions_come_to_an_id_and_jobs_to_their_end() -> None:
    async def main() -> None:
        async with studio(accepts_s=5) as (client, backend):
            with anyio.move_on_after(2):
                async with client.batch_jobs(
                    ["a 2", "b 90", "c 1"], client.submit_video, concurrency=2, drain_s=20
                ) as batch:
                    await anext(batch)

            assert [(one.job_id, one.error is None) for one in batch.unread] == [
                (id_of("a"), True),
                (id_of("b"), False),
            ]
            assert backend.names == ["a", "b"]

    run_virtual(main())


@pytest.mark.parametrize("way", ["task", "scope"])
def test_a_batch_that_is_cancelled_asks_after_nothing_any_more_and_tells_the_ids(way: str) -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            batch = client.batch_jobs(["a 60", "b 60"], client.submit_video)

            async def read() -> None:
                async with batch:
                    await anext(batch)

            if way == "task":
                reading = asyncio.create_task(read())
                await asyncio.sleep(5)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                with anyio.move_on_after(5):
                    await read()

            assert ids(batch.unread) == [id_of("a"), id_of("b")]
            assert (backend.inside, len(asyncio.all_tasks())) == (2, 1)

    run_virtual(main())


def test_a_task_that_is_cancelled_again_while_it_leaves_loses_no_id() -> None:
    async def main() -> None:
        async with studio() as (client, _):
            batch = client.batch_jobs(["a 1", "b 60"], client.submit_video, drain_s=5)

            async def read() -> None:
                async with batch:
                    await asyncio.wait_for(anext(batch), 0.1)

            reading = asyncio.create_task(read())
            await asyncio.sleep(2)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

            assert ids(batch.unread) == [id_of("a"), id_of("b")]

    run_virtual(main())


def test_breaking_out_of_a_batch_that_nobody_holds_leaves_nothing_running() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            async for _ in client.batch_jobs(["a 1", "b 900", "c 900"], client.submit_video):
                break
            gc.collect()
            await asyncio.sleep(1)

            assert len(asyncio.all_tasks()) == 1
            assert backend.cancelled == []

    run_virtual(main())


def test_a_batch_that_nobody_reads_submits_nothing() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            async with client.batch_jobs(numbered(5), client.submit_video) as batch:
                await asyncio.sleep(10)
            assert (backend.names, batch.unread) == ([], ())

    run_virtual(main())


def test_stopping_submits_nothing_more_and_waits_for_what_is_under_way() -> None:
    async def main() -> None:
        async with studio() as (client, backend):
            batch = client.batch_jobs(numbered(100), client.submit_video, concurrency=2)
            found = [(await anext(batch)).item]
            batch.stop()
            found += [result.item async for result in batch]

            assert found == backend.names
            assert len(found) <= 5

    run_virtual(main())


# -- what cannot be right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"items": "a lighthouse"}, "items"),
        ({"items": b"a lighthouse"}, "items"),
        ({"items": 5}, "items"),
        ({"submit": "video"}, "submit"),
        ({"submit": None}, "submit"),
        ({"timeout": 0}, "timeout"),
        ({"backoff": 0.5}, "backoff"),
        ({"patience": 5}, "patience"),
        ({"concurrency": 0}, "concurrency"),
        ({"order": "random"}, "order"),
        ({"drain_s": -1}, "drain_s"),
    ],
)
@pytest.mark.parametrize("kind", [Client, asyncllm.sync.Client])
def test_arguments_that_cannot_be_right_are_named_at_once(kind: Any, arguments: dict[str, Any], field: str) -> None:
    client = kind(backend=ScriptedJobs(), model="m", env={})
    with pytest.raises(InvalidRequestError) as caught:
        client.batch_jobs(**{"items": ["a"], "submit": client.submit_video, **arguments})

    assert caught.value.field == field
    if kind is asyncllm.sync.Client:
        client.close()


async def test_what_gives_no_job_ends_the_batch_before_it_is_asked_for_every_item() -> None:
    client = scripted(backend := ScriptedJobs(results=[MADE]))
    with pytest.raises(InvalidRequestError, match="not a Video") as caught:
        async for _ in client.batch_jobs(numbered(100), client.generate_video, concurrency=2):  # type: ignore[arg-type]
            pass

    assert caught.value.field == "submit"
    assert len(backend.submitted) <= 2


def test_what_submit_raises_of_its_own_ends_the_batch_which_tells_the_ids_of_the_others() -> None:
    async def main() -> None:
        async with studio() as (client, _):

            async def submit(name: str) -> Job[Video]:
                if name == "c":
                    await asyncio.sleep(5)
                    raise KeyError(name)
                return await client.submit_video(f"{name} 60")

            async with client.batch_jobs(["a", "b", "c"], submit) as batch:
                with pytest.raises(KeyError):
                    await anext(batch)

            assert ids(batch.unread) == [id_of("a"), id_of("b"), None]

    run_virtual(main())


# -- progress ----------------------------------------------------------------------------------------------------


def test_progress_is_told_after_each_result() -> None:
    async def main() -> None:
        told: list[BatchProgress] = []
        async with studio() as (client, _):
            items = ["a 10", "no 20", "b 30"]
            batch = client.batch_jobs(items, client.submit_video, concurrency=3, progress=told.append)
            async for _ in batch:
                pass

            assert [(one.done, one.failed, one.in_flight) for one in told] == [(1, 0, 2), (1, 1, 1), (2, 1, 0)]
            assert told[-1].errors == {"JobFailedError": 1}
            assert batch.progress == told[-1]

    run_virtual(main())


async def test_progress_adds_up_what_jobs_cost() -> None:
    prices = {"m": Price(video_usd_per_second=0.5)}
    client = scripted(ScriptedJobs(results=[MADE]), prices=prices)
    batch = client.batch_jobs(["a", "b"], client.submit_video)
    async for _ in batch:
        pass

    assert batch.progress.cost_usd == pytest.approx(8)


# -- whatever happens --------------------------------------------------------------------------------------------


@given(
    takes=st.lists(st.integers(0, 20), min_size=1, max_size=15),
    concurrency=st.integers(1, 5),
    left_at=st.integers(0, 40),
    drain_s=st.integers(0, 5),
    accepts_s=st.integers(0, 3),
)
def test_whenever_it_is_left_every_item_that_was_submitted_is_told_once(
    takes: list[int], concurrency: int, left_at: int, drain_s: int, accepts_s: int
) -> None:
    async def main() -> None:
        async with studio(accepts_s=accepts_s) as (client, backend):
            items = [f"w{index} {wait}" for index, wait in enumerate(takes)]
            found: list[JobResult[Any]] = []
            batch = client.batch_jobs(items, client.submit_video, concurrency=concurrency, drain_s=drain_s)
            with anyio.move_on_after(left_at):
                async with batch:
                    async for result in batch:
                        found.append(result)  # noqa: PERF401  # it may be left before the last
            found += batch.unread

            assert sorted(one.index for one in found) == list(range(len(backend.submitted)))
            accepted = {one.job_id for one in found if one.job_id is not None}
            assert accepted == {id_of(name) for name in backend._due}
            assert all(one.job_id or (one.error and one.error.maybe_billed) for one in found)

    run_virtual(main())


# -- over sockets ------------------------------------------------------------------------------------------------


class Films(OpenAIJobs):
    """Films that are asked after three times each; counts how many are under way. `refuse` in a prompt fails."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: dict[str, int] = {}
        self.failing: set[str] = set()
        self.under_way: set[str] = set()
        self.most = 0

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        if request.path.endswith("/content"):
            return super().__call__(request)
        if request.method == "POST":
            name = f"video_{len(self.looked) + 1}"
            self.looked[name] = 0
            self.under_way.add(name)
            self.most = max(self.most, len(self.under_way))
            if b"refuse" in request.body:
                self.failing.add(name)
            return as_json(self.film(name, "queued"))
        name = request.path.rpartition("/")[2]
        self.looked[name] += 1
        if self.looked[name] < 3:
            return as_json(self.film(name, "in_progress"))
        self.under_way.discard(name)
        return as_json(self.film(name, "failed" if name in self.failing else "completed"))

    def film(self, name: str, status: str) -> dict[str, Any]:
        return {"id": name, "object": "video", "created_at": 1, "model": "sora-2", "progress": 0, "seconds": "8",
                "size": "1280x720", "status": status}  # fmt: skip


async def test_films_are_made_over_sockets_with_bounded_concurrency_and_one_failure() -> None:
    service = Films()
    async with serving(service) as (_, client):
        prompts = [f"film {number}" if number != 5 else "refuse" for number in range(16)]
        batch = client.batch_jobs(prompts, lambda prompt: client.submit_video(prompt, seconds=8), concurrency=4)
        results = [result async for result in batch]

    assert [result.index for result in results] == list(range(16))
    assert {result.result.data for result in results if result.result} == {FILM}
    assert [result.index for result in results if result.error] == [5]
    assert isinstance(results[5].error, JobFailedError)
    assert {result.job_id for result in results} == {f"openai:sora-2:videos/{name}" for name in service.looked}
    assert (service.most, service.under_way) == (4, set())


# -- without a loop ----------------------------------------------------------------------------------------------


def waiting(backend: ScriptedJobs, **given: Any) -> asyncllm.sync.Client:
    settings: dict[str, Any] = {"model": "m", "retry": None, "env": {}, "clock": ManualClock(instant=True)}
    return asyncllm.sync.Client(backend=backend, **{**settings, **given})


def test_jobs_are_fanned_out_without_a_loop() -> None:
    backend = ScriptedJobs(["running", "succeeded"], results=[MADE])
    with waiting(backend) as client:
        batch = client.batch_jobs(numbered(100), lambda name: client.submit_video(name, seconds=8), concurrency=50)
        results = list(batch)

        assert [result.item for result in results] == numbered(100)
        assert {result.unwrap().data for result in results} == {b"film"}
        assert (batch.progress.done, batch.unread) == (100, ())
        assert [one.unwrap().data for one in client.batch_jobs(["ScriptedJobs:m:x"], client.job)] == [b"film"]


def test_what_gives_no_job_ends_the_batch_without_a_loop() -> None:
    with waiting(ScriptedJobs()) as client, pytest.raises(InvalidRequestError, match="not a str"):
        list(client.batch_jobs(["a"], lambda name: name))  # type: ignore[arg-type, return-value]


def test_a_failure_is_one_error_without_a_loop() -> None:
    down = InternalServerError("down", status=500, retryable=False)
    with waiting(ScriptedJobs(accepts=[down], results=[MADE])) as client:
        first, second = client.batch_jobs(["a", "b"], client.submit_video, concurrency=1)

    assert isinstance(first.error, InternalServerError)
    assert (first.error.maybe_billed, second.result) == (True, MADE)


def test_leaving_early_tells_the_ids_without_a_loop() -> None:
    backend = Studio()
    with waiting(backend, clock=None) as client:
        with client.batch_jobs(["a 0", "b 900"], client.submit_video, order="completion", interval=0) as batch:
            for _ in batch:
                break

        assert [(one.item, one.job_id) for one in batch.unread] == [("b 900", id_of("b"))]
        assert backend.cancelled == []


def test_a_submission_is_ended_with_its_batch_and_so_is_its_thread() -> None:
    backend = ScriptedJobs(accepts=[None, Stall()])
    with waiting(backend) as client:
        with client.batch_jobs(["a", "b"], client.submit_video, order="completion") as batch:
            for _ in batch:
                break
        (left,) = batch.unread
        assert left.error is not None
        assert (left.job_id, left.error.maybe_billed) == (None, True)

        threads = [thread for thread in threading.enumerate() if thread.name.startswith("asyncllm-submit")]
        del batch
        gc.collect()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)


def test_a_budget_around_a_batch_holds_for_its_submissions_without_a_loop() -> None:
    prices = {"m": Price(video_usd_per_second=0.5)}
    with waiting(ScriptedJobs(results=[MADE]), prices=prices) as client, asyncllm.budget(usd=3) as budget:
        list(client.batch_jobs(["a"], lambda name: client.submit_video(name, seconds=8)))
        (refused,) = client.batch_jobs(["b"], lambda name: client.submit_video(name, seconds=8))

    assert isinstance(refused.error, asyncllm.BudgetExceededError)
    assert budget.usd == 4
