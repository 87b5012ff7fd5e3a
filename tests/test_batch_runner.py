"""`run_batch` as its callers see it: what goes in, what comes out, what is refused, and what stops it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import pytest

from asyncllm import (
    AuthenticationError,
    BadRequestError,
    BatchLockedError,
    Client,
    ConfigError,
    InputError,
    InternalServerError,
    InvalidRequestError,
    OutputExistsError,
    StoreError,
    Timeouts,
)
from asyncllm.batch import held, runner
from asyncllm.batch.report import BatchReport, RunProgress
from asyncllm.batch.runner import Runner
from asyncllm.errors import AsyncLLMError, BatchLostError, CorruptStoreError
from asyncllm.events import Event, Events, Finished, Started, TextDelta
from asyncllm.types import Request
from asyncllm.workspace import database, folder, writer
from asyncllm.workspace.batches import BatchStore
from leftovers import nothing_unseen, tasks
from steps import interrupted

Act: TypeAlias = Callable[[int], Awaitable[None]]
"""What happens at the n-th call of a row, from 1, before it is answered."""


class Told:
    """A backend that answers `say x` with `x`, unless it is told of a row to do something first."""

    def __init__(self, acts: dict[str, Act] | None = None) -> None:
        self.acts = acts or {}
        self.calls: Counter[str] = Counter()
        self.keys: dict[str, set[str | None]] = {}
        self.models: set[str] = set()

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        prompt = request.messages[-1].text
        self.calls[prompt] += 1
        self.keys.setdefault(prompt, set()).add(request.idempotency_key)
        self.models.add(request.model)
        act = self.acts.get(prompt)
        await (asyncio.sleep(0) if act is None else act(self.calls[prompt]))
        yield self._events(prompt)

    async def _events(self, prompt: str) -> AsyncIterator[Event]:
        yield Started("m")
        yield TextDelta(prompt.removeprefix("say "))
        yield Finished("stop")

    async def aclose(self) -> None:
        """Nothing outlives a call."""


def fails(error: AsyncLLMError, *, times: int = 1_000_000) -> Act:
    async def act(number: int) -> None:
        if number <= times:
            raise error

    return act


async def hang(_: int) -> None:
    await asyncio.Event().wait()


class Bench:
    """An input of rows in a folder, and what runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "in.jsonl"
        self.output = folder / "out.jsonl"
        self.store = folder / "out.jsonl.batch"
        self.backend = Told()
        self.write("a", "b", "c", "d")

    def write(self, *rows: str, ids: tuple[str, ...] = ()) -> None:
        names = ids or tuple(f"row-{row}" for row in rows)
        self.source.write_text("".join(line(row, name) for row, name in zip(rows, names, strict=True)))

    async def run(self, **options: Any) -> BatchReport:
        model = options.pop("model", "m")
        timeouts = options.pop("client_timeouts", Timeouts())
        async with Client(backend=self.backend, retry=None, timeouts=timeouts, env={}) as client:
            return await client.run_batch(
                options.pop("source", self.source), options.pop("sink", self.output), model=model, **options
            )

    def texts(self) -> dict[str, str]:
        """What stands in the output, by name of the row."""
        rows = map(json.loads, self.output.read_text().splitlines())
        return {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}

    def errors(self) -> dict[str, str]:
        """What stands in the file of errors: the code of each."""
        rows = map(json.loads, (self.folder / "out.errors.jsonl").read_text().splitlines())
        return {row["custom_id"]: str((row["error"] or row["response"]["body"]["error"])["code"]) for row in rows}

    async def cancel(self) -> None:
        """Ask for an end, as another process would."""
        async with BatchStore(self.store, env={}) as store:
            await store.cancel((await store.find(None)).id)

    async def left(self) -> dict[str, int]:
        """How many rows there are of each status."""
        async with BatchStore(self.store, env={}) as store:
            return {status.name: count for status, count in (await store.find(None)).counts.items()}


def line(row: str, name: str) -> str:
    body = {"messages": [{"role": "user", "content": f"say {row}"}]}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(held, "BEAT_S", 0.005)
    return Bench(tmp_path)


# -- what comes out


async def test_every_row_is_asked_once_and_stands_in_the_output_in_order(bench: Bench) -> None:
    report = await bench.run()
    assert (report.status, report.total, report.done, report.failed, report.left) == ("completed", 4, 4, 0, 0)
    assert list(bench.texts().items()) == [("row-a", "a"), ("row-b", "b"), ("row-c", "c"), ("row-d", "d")]
    assert set(bench.backend.calls.values()) == {1}


async def test_the_same_command_again_asks_nothing_and_writes_the_same(bench: Bench) -> None:
    await bench.run()
    before = bench.output.read_bytes()
    bench.output.unlink()
    report = await bench.run()
    assert report.done == 4
    assert bench.output.read_bytes() == before
    assert bench.backend.calls.total() == 4


async def test_requests_of_a_program_are_kept_like_rows_of_a_file(bench: Bench) -> None:
    async def requests() -> AsyncIterator[str]:
        for row in "abc":
            yield f"say {row}"

    for _ in range(2):
        report = await bench.run(source=requests(), output_format="openai")
        assert (report.status, report.total) == ("completed", 3)
    assert bench.backend.calls.total() == 3


async def test_each_row_has_an_idempotency_key_of_its_own_that_stays(bench: Bench) -> None:
    bench.backend.acts = {"say a": fails(InternalServerError("x", retry_after_s=0.001), times=2)}
    await bench.run()
    assert bench.backend.calls["say a"] == 3
    assert {len(keys) for keys in bench.backend.keys.values()} == {1}
    assert len(set().union(*bench.backend.keys.values())) == 4


async def test_a_run_counts_the_time_that_it_has_worked_to_its_end(bench: Bench) -> None:
    first = await bench.run(max_runtime_s=1000)
    assert first.ran_s > 0
    assert (await bench.run(max_runtime_s=1000)).ran_s > first.ran_s


async def test_progress_is_told_up_to_the_end(bench: Bench) -> None:
    told: list[RunProgress] = []
    await bench.run(progress=told.append)
    assert told[0].stage == "checking" or told[0].stage == "running"
    assert told[-1].total == 4


async def test_progress_that_raises_while_nothing_else_happens_ends_the_run(bench: Bench) -> None:
    class Mine(Exception):  # noqa: N818  # a caller's own
        pass

    def raise_later(progress: RunProgress) -> None:
        if progress.in_flight:
            raise Mine

    bench.backend.acts = {f"say {row}": hang for row in "abcd"}
    with pytest.raises(Mine):
        await bench.run(progress=raise_later)
    assert await bench.left() == {"PENDING": 4}


# -- what is refused


async def test_an_input_with_another_row_is_refused_by_its_line(bench: Bench) -> None:
    bench.backend.acts = {"say d": fails(AuthenticationError("x"))}
    with pytest.raises(AuthenticationError):
        await bench.run(concurrency=1)
    bench.write("a", "other", "c", "d")
    with pytest.raises(InputError, match=r"in\.jsonl, line 2: this row is not the one that the batch began with"):
        await bench.run()
    assert bench.backend.calls["say other"] == 0


async def test_an_input_that_has_lost_rows_is_refused(bench: Bench) -> None:
    await bench.run()
    bench.write("a", "b")
    with pytest.raises(InputError, match="fewer rows"):
        await bench.run()


async def test_an_input_that_loses_rows_between_the_check_and_the_calls_is_no_whole_batch(bench: Bench) -> None:
    def shorten(progress: RunProgress) -> None:
        if progress.stage == "running":
            bench.write("a", "b")

    with pytest.raises(InputError, match="fewer rows than when it was checked"):
        await bench.run(progress=shorten)
    assert not bench.output.exists()


async def test_an_input_that_gains_rows_between_the_check_and_the_calls_is_refused(bench: Bench) -> None:
    def lengthen(progress: RunProgress) -> None:
        if progress.stage == "running":
            bench.write("a", "b", "c", "d", "e")

    with pytest.raises(InputError, match="line 5: the input has grown"):
        await bench.run(progress=lengthen)
    assert bench.backend.calls["say e"] == 0


async def test_an_input_may_be_mended_as_long_as_nothing_was_asked(bench: Bench) -> None:
    bench.source.write_text(line("a", "row-a") + "{\n")
    with pytest.raises(InputError, match=r"in\.jsonl, line 2"):
        await bench.run()
    assert bench.backend.calls.total() == 0
    bench.write("x", "y", "z")
    assert (await bench.run()).done == 3


async def test_rows_that_cannot_be_asked_fail_alone_if_that_is_wished(bench: Bench) -> None:
    bench.source.write_text(line("a", "row-a") + "{\n" + line("c", "row-c"))
    report = await bench.run(on_bad_row="fail")
    assert (report.status, report.done, report.failed) == ("completed_with_errors", 2, 1)
    assert bench.texts() == {"row-a": "a", "row-c": "c"}


async def test_two_rows_of_one_custom_id_are_named_both(bench: Bench) -> None:
    bench.write("a", "b", "c", ids=("one", "two", "one"))
    with pytest.raises(InputError, match=r"in\.jsonl, line 3: its custom_id is that of row 1;"):
        await bench.run()
    assert bench.backend.calls.total() == 0


async def test_an_empty_input_is_refused(bench: Bench) -> None:
    bench.source.write_text("\n")
    with pytest.raises(InputError, match="there is no row in it"):
        await bench.run()


async def test_a_missing_input_is_named(bench: Bench) -> None:
    bench.source.unlink()
    with pytest.raises(InputError, match=r"in\.jsonl cannot be read: nothing is there"):
        await bench.run()
    assert not bench.store.exists()


@pytest.mark.parametrize("name", ["format", "output_format"])
async def test_an_unknown_format_is_named(bench: Bench, name: str) -> None:
    with pytest.raises(ConfigError, match="openai"):
        await bench.run(**{name: "tsv"})
    assert not bench.store.exists()


async def test_an_output_that_is_there_already_is_refused_before_anything_is_asked(bench: Bench) -> None:
    bench.output.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"out\.jsonl"):
        await bench.run()
    assert bench.output.read_text() == "precious"
    assert bench.backend.calls.total() == 0


async def test_an_output_may_be_written_over_if_that_is_wished(bench: Bench) -> None:
    bench.output.write_text("precious")
    await bench.run(overwrite=True)
    assert len(bench.texts()) == 4


async def test_an_output_that_comes_to_stand_there_at_the_last_moment_is_kept_also_by_the_next_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = BatchStore.mark_exported

    async def marked(self: BatchStore, *what: Any, **named: Any) -> None:
        await mark(self, *what, **named)
        bench.output.write_text("precious")

    monkeypatch.setattr(BatchStore, "mark_exported", marked)
    for _ in range(2):
        with pytest.raises(OutputExistsError):
            await bench.run()
        assert bench.output.read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "named"), [({"model": "n"}, "model"), ({"temperature": 0.5}, "options"), ({"format": "jsonl"}, None)]
)
async def test_another_batch_for_the_same_output_is_refused(
    bench: Bench, options: dict[str, Any], named: str | None
) -> None:
    await bench.run()
    if named is None:
        options["template"], named = "{custom_id}", "format, template"
    with pytest.raises(StoreError, match=f"it differs in {named}"):
        await bench.run(**options)


async def test_settings_may_differ_from_run_to_run(bench: Bench) -> None:
    await bench.run(concurrency=1)
    assert (await bench.run(concurrency=7, max_attempts=9, labels={"a": "b"})).done == 4


@pytest.mark.parametrize(
    ("name", "value"), [("concurrency", 0), ("max_failure_rate", 2), ("max_runtime_s", 0), ("on_bad_row", "skip")]
)
async def test_a_setting_that_cannot_be_right_is_named(bench: Bench, name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await bench.run(**{name: value})
    assert caught.value.field == name


def spoil(bench: Bench, script: str) -> None:
    with contextlib.closing(apsw.Connection(str(bench.store / "store.db"))) as db:
        db.execute(script)


async def test_a_store_of_a_newer_version_is_refused(bench: Bench) -> None:
    await bench.run()
    spoil(bench, "PRAGMA user_version=99; ALTER TABLE row ADD COLUMN new INTEGER")
    with pytest.raises(StoreError, match="written by a newer asyncllm"):
        await bench.run()


async def test_a_database_of_another_program_is_refused(bench: Bench) -> None:
    await bench.run()
    spoil(bench, "PRAGMA application_id=1; ALTER TABLE row ADD COLUMN new INTEGER")
    with pytest.raises(StoreError, match="another program's database"):
        await bench.run()


async def test_a_store_that_is_damaged_is_refused(bench: Bench) -> None:
    await bench.run()
    (bench.store / "store.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(CorruptStoreError):
        await bench.run()


async def test_a_store_that_cannot_be_opened_leaves_no_thread(bench: Bench) -> None:
    bench.store.write_text("a file where the folder is to be")
    before = threading.enumerate()
    with pytest.raises(StoreError):
        await bench.run()
    assert [thread for thread in threading.enumerate() if thread.name == "asyncllm-store"] == []
    assert len(before) <= len(threading.enumerate())


# -- rows that fail


async def test_a_row_that_always_fails_fails_alone_after_its_attempts(bench: Bench) -> None:
    bench.backend.acts = {"say b": fails(InternalServerError("x", status=500, retry_after_s=0.001))}
    report = await bench.run(max_attempts=3)
    assert (report.status, report.done, report.failed) == ("completed_with_errors", 3, 1)
    assert bench.backend.calls["say b"] == 3
    assert set(bench.texts()) == {"row-a", "row-c", "row-d"}
    assert set(bench.errors()) == {"row-b"}


async def test_a_row_that_hangs_fails_alone_when_its_time_is_up(bench: Bench) -> None:
    bench.backend.acts = {"say b": hang}
    report = await bench.run(client_timeouts=Timeouts(total_s=0.05, connect_s=None), max_attempts=1)
    assert (report.done, report.failed) == (3, 1)
    assert "TotalTimeoutError" in report.errors


async def test_a_row_that_is_refused_is_asked_once(bench: Bench) -> None:
    bench.backend.acts = {"say b": fails(BadRequestError("x", status=400, code="bad"))}
    report = await bench.run()
    assert report.errors == {"BadRequestError": 1}
    assert bench.backend.calls["say b"] == 1
    assert bench.errors() == {"row-b": "bad"}


async def test_retry_failed_asks_again_what_has_failed_and_nothing_else(bench: Bench) -> None:
    bench.backend.acts = {"say b": fails(BadRequestError("x", status=400), times=1)}
    await bench.run()
    assert (await bench.run()).failed == 1
    report = await bench.run(retry_failed=True)
    assert (report.status, report.done) == ("completed", 4)
    assert bench.backend.calls == {"say a": 1, "say b": 2, "say c": 1, "say d": 1}
    assert (bench.folder / "out.errors.jsonl").read_text() == ""


async def test_too_many_failures_stop_the_run_and_the_rest_is_as_it_was(bench: Bench) -> None:
    rows = [f"r{number}" for number in range(60)]
    bench.write(*rows)
    bench.backend.acts = {f"say {row}": fails(BadRequestError("x", status=400)) for row in rows}
    report = await bench.run(max_failure_rate=0.5, concurrency=2)
    assert report.status == "stopped"
    assert 20 <= report.failed <= 22
    assert report.left == 60 - report.failed
    assert not bench.output.exists()
    bench.backend.acts.clear()
    report = await bench.run(retry_failed=True)
    assert (report.status, report.done) == ("completed", 60)


async def test_failures_up_to_the_last_row_do_not_stop_a_batch_that_is_done(bench: Bench) -> None:
    rows = [f"r{number}" for number in range(20)]
    bench.write(*rows)
    bench.backend.acts = {f"say {row}": fails(BadRequestError("x", status=400)) for row in rows}
    report = await bench.run(max_failure_rate=0.5)
    assert (report.status, report.failed) == ("completed_with_errors", 20)


async def test_a_key_that_is_refused_in_the_middle_stops_without_failing_a_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = asyncio.Event()
    stop = Runner._stop

    def stopping(self: Runner, why: Any) -> None:
        stop(self, why)
        stopped.set()

    async def refuse(number: int) -> None:
        if number == 1:
            raise AuthenticationError("x", status=401)

    async def fail_after_that(number: int) -> None:
        if number == 1:
            await stopped.wait()
            raise InternalServerError("x", status=500)

    monkeypatch.setattr(Runner, "_stop", stopping)
    bench.backend.acts = {"say b": refuse, "say a": fail_after_that}
    with pytest.raises(AuthenticationError):
        await bench.run(concurrency=2, max_attempts=5)
    left = await bench.left()
    assert set(left) == {"PENDING"}
    report = await bench.run()
    assert (report.status, report.done) == ("completed", 4)


async def test_a_row_that_waits_for_its_next_attempt_holds_no_stop_up(bench: Bench) -> None:
    failed = asyncio.Event()

    async def fail(number: int) -> None:
        if number == 1:
            failed.set()
            raise InternalServerError("x", status=500, retry_after_s=3600)

    async def refuse(number: int) -> None:
        if number == 1:
            await failed.wait()
            raise AuthenticationError("x", status=401)

    bench.backend.acts = {"say a": fail, "say b": refuse}
    with pytest.raises(AuthenticationError):
        await bench.run(concurrency=2)
    assert (await bench.run()).done == 4


# -- ends from outside


async def test_a_batch_whose_time_is_up_keeps_what_there_is_and_goes_on_with_more_time(bench: Bench) -> None:
    bench.backend.acts = {"say c": hang}
    report = await bench.run(max_runtime_s=0.1, drain_s=0, concurrency=1)
    assert (report.status, report.done, report.left) == ("expired", 2, 2)
    assert bench.errors() == {"row-c": "expired", "row-d": "expired"}
    bench.backend.acts.clear()
    again = await bench.run(max_runtime_s=0.1)
    assert (again.status, again.done) == ("expired", 2)
    assert bench.backend.calls["say d"] == 0
    report = await bench.run(max_runtime_s=3600)
    assert (report.status, report.done) == ("completed", 4)
    assert len(bench.texts()) == 4


async def test_a_batch_is_cancelled_from_elsewhere_and_lets_rows_under_way_finish(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Event()
    beat = BatchStore.beat

    async def beaten(self: BatchStore, lease: Any, ran_s: float) -> bool:
        is_cancelled = await beat(self, lease, ran_s)
        if is_cancelled:
            asyncio.get_running_loop().call_soon(told.set)  # once the runner has heard of it
        return is_cancelled

    async def act(number: int) -> None:
        if number == 1:
            await bench.cancel()
            await told.wait()

    monkeypatch.setattr(BatchStore, "beat", beaten)
    bench.backend.acts = {"say a": act}
    report = await bench.run(concurrency=1)
    assert (report.status, report.done, report.left) == ("cancelled", 1, 3)
    assert set(bench.errors().values()) == {"cancelled"}
    assert (await bench.run()).status == "completed"


async def test_a_batch_that_is_cancelled_while_its_input_is_checked_asks_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Event()
    index, beat = BatchStore.index, BatchStore.beat

    async def beaten(self: BatchStore, lease: Any, ran_s: float) -> bool:
        is_cancelled = await beat(self, lease, ran_s)
        if is_cancelled:
            asyncio.get_running_loop().call_soon(told.set)  # once the runner has heard of it
        return is_cancelled

    async def cancelled(self: BatchStore, lease: Any, rows: Any) -> None:
        await index(self, lease, rows)
        await self.cancel(lease.batch)
        await told.wait()

    monkeypatch.setattr(BatchStore, "beat", beaten)
    monkeypatch.setattr(BatchStore, "index", cancelled)
    report = await bench.run()
    assert (report.status, report.left) == ("cancelled", 4)
    assert bench.backend.calls.total() == 0


async def test_a_batch_that_waits_for_room_on_the_disk_can_be_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "free_bytes", lambda _: 0)

    cancelling: list[asyncio.Task[None]] = []

    def cancel(progress: RunProgress) -> None:
        if progress.stage == "paused" and not cancelling:
            cancelling.append(asyncio.create_task(bench.cancel()))

    report = await bench.run(progress=cancel)
    await cancelling[0]
    assert (report.status, report.left) == ("cancelled", 4)
    assert bench.backend.calls.total() == 0


async def test_a_batch_waits_for_room_on_the_disk_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    room = [0]
    monkeypatch.setattr(runner, "free_bytes", lambda path: room[0] and folder.free_bytes(path))
    stages: list[str] = []

    def make_room(progress: RunProgress) -> None:
        stages.append(progress.stage)
        if progress.stage == "paused":
            assert not bench.backend.calls
            room[0] = 1

    assert (await bench.run(progress=make_room, reserve_bytes=1)).done == 4
    assert "paused" in stages


async def test_a_second_runner_is_refused_while_the_first_is_at_work(bench: Bench) -> None:
    asked = asyncio.Event()

    async def act(_: int) -> None:
        asked.set()
        await asyncio.Event().wait()

    bench.backend.acts = {"say a": act}
    running = asyncio.create_task(bench.run(drain_s=0))
    await asked.wait()
    with pytest.raises(BatchLockedError, match=f"process {os.getpid()}"):
        await bench.run()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    bench.backend.acts.clear()
    assert (await bench.run()).done == 4


async def test_a_runner_that_has_stood_still_writes_no_output(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken over while it exports: what the other one has written stays."""
    took: list[Any] = []
    mark = BatchStore.mark_exported

    async def taken_over(self: BatchStore, batch: int, lease: Any, *, is_exported: bool = True) -> None:
        monkeypatch.setattr(BatchStore, "mark_exported", mark)
        async with BatchStore(bench.store, env={}) as other:
            took.append(await other.take(batch, lease_s=-1))  # as if its last beat were long ago
        await self.mark_exported(batch, lease, is_exported=is_exported)

    monkeypatch.setattr(BatchStore, "mark_exported", taken_over)
    with pytest.raises(BatchLostError):
        await bench.run()
    took[0].lock.release()
    assert not bench.output.exists()


@contextlib.contextmanager
def writing(bench: Bench) -> Generator[None]:
    """As a process that is stopped in the middle of a write to the store."""
    with contextlib.closing(apsw.Connection(str(bench.store / "store.db"))) as db:
        db.set_busy_timeout(5000)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")


async def test_a_store_that_another_process_does_not_let_go_of_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.run()
    monkeypatch.setattr(database, "_BUSY_MS", 1)
    monkeypatch.setattr(writer, "_BUSY_S", 0.05)
    with (
        writing(bench),
        pytest.raises(StoreError, match=r"store\.db: the store cannot be used: another process is writ"),
    ):
        await bench.run()


async def test_a_run_at_work_waits_for_another_process_that_writes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_MS", 1)
    monkeypatch.setattr(writer, "_BUSY_S", 0.0)
    tries: list[str] = []
    is_busy = writer._is_busy

    def seen(error: Exception) -> bool:
        tries.append(type(error).__name__)
        return is_busy(error)

    monkeypatch.setattr(writer, "_is_busy", seen)

    async def act(_: int) -> None:
        with writing(bench):
            while len(tries) < 3:  # noqa: ASYNC110  # a thread says so
                await asyncio.sleep(0.001)

    bench.backend.acts = {"say b": act}
    assert (await bench.run()).done == 4
    assert set(tries) == {"BusyError"}


STEPS = 400
"""More than a run has waits; the loop ends at the first that it does not reach."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("late", [False, True], ids=["waiting", "woken"])
@pytest.mark.parametrize("way", ["task", "scope"])
async def test_a_run_cancelled_at_any_step_leaves_a_batch_that_goes_on_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, late: bool
) -> None:
    monkeypatch.setattr(held, "BEAT_S", 0.005)
    before = tasks()
    reached = 0
    with nothing_unseen(asyncio.get_running_loop()):
        for step in range(1, STEPS):
            (tmp_path / str(step)).mkdir()
            bench = Bench(tmp_path / str(step))

            async def work(bench: Bench = bench) -> None:
                await bench.run(concurrency=2)

            struck = await interrupted[way](work(), step, late=late)
            assert [thread.name for thread in threading.enumerate() if thread.name == "asyncllm-store"] == []
            await no_more_than(before)
            report = await bench.run()
            assert (report.status, report.done) == ("completed", 4), f"cancelled in wait {step}"
            assert list(bench.texts().values()) == ["a", "b", "c", "d"]
            if not struck:
                break
            reached = step
    assert 10 < reached < STEPS - 1


async def no_more_than(before: set[asyncio.Task[Any]]) -> None:
    for _ in range(100):
        if not tasks() - before:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"left behind: {tasks() - before}")
