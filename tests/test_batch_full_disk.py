"""A disk that is full, or fails: a batch waits or ends with a word why, and goes on to its right end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from asyncllm.batch import held, runner
from asyncllm.batch.report import RunProgress
from asyncllm.errors import AuthenticationError, StoreError
from asyncllm.workspace import writer
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import Lease
from failing_vfs import Failing
from small_batches import SmallBatch, memory_folder, storing

WRITES = 200
ROWS = 28
UNDER_WAY = 2
VFS = "failing"
SAID = "as the test says"


@pytest.fixture
def batch() -> Iterator[SmallBatch]:
    with memory_folder() as folder:
        yield SmallBatch(folder, ROWS, width=700)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    monkeypatch.setattr(writer, "_FULL_S", (0.001, 0.01))
    disk = Failing(VFS)
    told = sys.unraisablehook

    def overlooked(what: sys.UnraisableHookArgs) -> None:
        """SQLite overlooks failures where they do no harm, and apsw tells of them here."""
        if SAID not in str(what.exc_value):
            told(what)

    monkeypatch.setattr(sys, "unraisablehook", overlooked)
    with storing(monkeypatch, vfs=VFS):
        yield disk
    disk.unregister()


async def writes_of_making(batch: SmallBatch, disk: Failing) -> int:
    """How often the disk is written to before there is a store."""
    batch.store().mkdir()
    async with BatchStore(batch.store(), vfs=VFS):
        return disk.writes


async def ended(batch: SmallBatch) -> int:
    """How often the batch had to be run until its end."""
    for runs in range(1, 4):
        try:
            await batch.run(concurrency=UNDER_WAY)
        except StoreError:
            continue
        return runs
    raise AssertionError("it does not come to its end")


def failing_at(number: int, error: Callable[[str], Exception]) -> Callable[[int], Exception | None]:
    return lambda at: error(SAID) if at == number else None


async def test_a_disk_that_is_full_at_any_one_write_costs_nothing(batch: SmallBatch, disk: Failing) -> None:
    for number in range(1, WRITES + 1):
        batch.put_back({})
        disk.writes = 0
        disk.fails = failing_at(number, apsw.FullError)

        await ended(batch)

        assert batch.results() == batch.expected()
        assert sorted(batch.asked) == list(range(ROWS)), number
        assert disk.writes >= number


async def test_a_disk_that_fails_at_any_one_write_costs_no_row_that_was_kept(batch: SmallBatch, disk: Failing) -> None:
    for number in range(1, WRITES + 1):
        batch.put_back({})
        disk.writes = 0
        disk.fails = failing_at(number, apsw.IOError)

        runs = await ended(batch)

        assert runs <= 2
        assert batch.results() == batch.expected()
        assert len(batch.asked) <= ROWS + UNDER_WAY, number  # those under way may be asked again
        assert disk.writes >= number


async def test_a_disk_that_stays_full_pauses_the_batch_until_there_is_room(
    batch: SmallBatch, disk: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LOOK_S", 0.005)
    monkeypatch.setattr(held, "BEAT_S", 0.01)
    made = await writes_of_making(batch, disk)
    for number in range(made + 10, made + 110, 10):
        batch.put_back({})
        disk.writes = 0
        disk.fails = lambda at, number=number: apsw.FullError(SAID) if at >= number else None  # type: ignore[misc]
        stages: list[str] = []

        def tell(progress: RunProgress, stages: list[str] = stages) -> None:
            stages.append(progress.stage)
            if progress.stage == "paused":
                disk.fails = lambda _: None

        report = await batch.run(concurrency=UNDER_WAY, progress=tell)

        assert report.status == "completed_with_errors"
        assert "paused" in stages
        assert stages[-1] != "paused"
        assert batch.results() == batch.expected()
        assert sorted(batch.asked) == list(range(ROWS))


async def test_a_disk_that_is_full_when_the_output_is_marked_pauses_the_batch_too(
    batch: SmallBatch, disk: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = BatchStore.mark_exported
    stages: list[str] = []

    async def mark_on_a_full_disk(store: BatchStore, *given: Any) -> None:
        disk.fails = lambda _: apsw.FullError(SAID)
        await mark(store, *given)

    def tell(progress: RunProgress) -> None:
        stages.append(progress.stage)
        if progress.stage == "paused":
            disk.fails = lambda _: None

    monkeypatch.setattr(runner, "_LOOK_S", 0.005)
    monkeypatch.setattr(held, "BEAT_S", 0.01)
    monkeypatch.setattr(BatchStore, "mark_exported", mark_on_a_full_disk)

    await batch.run(progress=tell)

    assert "paused" in stages
    assert batch.results() == batch.expected()


async def test_what_ended_a_run_is_told_even_if_the_disk_is_full_by_then(
    batch: SmallBatch, disk: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = BatchStore.leave

    async def leave_on_a_full_disk(store: BatchStore, lease: Lease, status: str, *, ended: bool) -> None:
        disk.fails = lambda _: apsw.FullError(SAID)
        await leave(store, lease, status, ended=ended)

    async def refuse(_: object) -> str:
        raise AuthenticationError("no", status=401)

    with monkeypatch.context() as patch:
        patch.setattr(BatchStore, "leave", leave_on_a_full_disk)
        patch.setattr(batch, "ask", refuse)
        with pytest.raises(AuthenticationError):
            await batch.run()
    disk.fails = lambda _: None

    assert await ended(batch) == 1
    assert batch.results() == batch.expected()


async def test_a_store_on_a_full_disk_can_be_closed_and_opened_again_later(batch: SmallBatch, disk: Failing) -> None:
    batch.store().mkdir()
    async with BatchStore(batch.store(), vfs=VFS) as store:
        record = await store.define("x", {}, {})
        lease = await store.take(record.id)
        disk.fails = lambda _: apsw.FullError(SAID)
        task = asyncio.create_task(store.leave(lease, "stopped", ended=False))
        while not store.is_full:  # noqa: ASYNC110  # a thread says so
            await asyncio.sleep(0)
    with pytest.raises(StoreError, match="disk is full"):
        await task
    disk.fails = lambda _: None

    async with BatchStore(batch.store(), vfs=VFS) as store:
        (record,) = await store.batches()

    assert record.status == "running"


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Runs tests/full_disk.py in a namespace of its own."""

    def run(what: str) -> dict[str, Any]:
        script = Path(__file__).with_name("full_disk.py")
        command = ["unshare", "-m", sys.executable, str(script), str(tmp_path), what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_a_real_disk_without_room_pauses_the_batch_until_there_is_some(
    on_a_small_disk: Callable[[str], dict[str, Any]],
) -> None:
    found = on_a_small_disk("0")

    assert found["status"] == "completed_with_errors"
    assert found["right"]
    assert found["asked"] == 100
    assert found["paused"]
    assert found["last"] != "paused"
    assert 0 < found["done_at_pause"][0] < 100


def test_a_reserve_pauses_the_batch_before_the_disk_is_full(
    on_a_small_disk: Callable[[str], dict[str, Any]],
) -> None:
    found = on_a_small_disk(str(2**20))  # more than there is at first

    assert found["status"] == "completed_with_errors"
    assert found["right"]
    assert found["asked"] == 100
    assert found["done_at_pause"] == [0]
    assert found["last"] != "paused"


def test_an_output_on_a_full_disk_is_an_error_after_which_it_can_be_written_again(
    on_a_small_disk: Callable[[str], dict[str, Any]],
) -> None:
    found = on_a_small_disk("output")

    assert found["code"] == "ENOSPC"
    assert found["left"] == []
    assert found["status"] == "completed_with_errors"
    assert found["right"]
    assert found["asked"] == 100
