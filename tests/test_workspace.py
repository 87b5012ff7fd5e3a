"""The store itself: its files, its versions, whose it is, and who may use it at the same time."""
# ruff: noqa: ASYNC240  # the files are a test's own, and nothing else runs meanwhile

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from asyncllm.errors import ConfigError, CorruptStoreError, StoreError
from asyncllm.workspace import folder as folders
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.database import APPLICATION_ID, FILE, connect
from asyncllm.workspace.points import KILLED, Points
from asyncllm.workspace.records import MIGRATIONS, Lease, NewRow, RowStatus

NOWHERE = Points({})
KEY = b"k" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def filled(folder: Path, rows: int = 4) -> int:
    """A store with a batch whose rows are all done but the last; returns its number."""
    async with BatchStore(folder) as store:
        record = await store.define("out.jsonl", {"source": "in.jsonl"}, {})
        lease = await store.take(record.id)
        await store.index(lease, [new(index) for index in range(rows)])
        await store.close_index(lease, rows, "f")
        for index in range(rows - 1):
            await store.begin(lease, index)
            await store.finish(lease, index, KEY, RowStatus.DONE, b"answer %d" % index)
        await store.leave(lease, "stopped", ended=False)
        return record.id


def new(index: int) -> NewRow:
    return NewRow(index, KEY, f"row-{index}", f"in.jsonl, line {index + 1}")


async def run_code(
    code: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def change(folder: Path, *statements: str) -> None:
    """What nobody but a damaged disk does."""
    database = apsw.Connection(str(folder / FILE))
    for statement in statements:
        database.execute(statement)
    database.close()


# -- files


async def test_a_store_is_for_its_owner_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        async with BatchStore(folder / "deep") as store:
            await store.define("x", {}, {})
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "deep").iterdir()}
    finally:
        os.umask(before)

    assert stat.S_IMODE((folder / "deep").stat().st_mode) == 0o700
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}


async def test_the_lock_of_a_runner_is_for_its_owner_alone(folder: Path) -> None:
    async with BatchStore(folder) as store:
        record = await store.define("x", {}, {})
        lease = await store.take(record.id)
        mode = stat.S_IMODE(lease.lock.path.stat().st_mode)
        await store.leave(lease, "stopped", ended=False)

    assert mode == 0o600
    assert not lease.lock.path.exists()


async def test_names_of_a_new_store_outlive_a_loss_of_power(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def fsync(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)

    async with BatchStore(folder / "deep"):
        pass

    assert {(path).stat().st_ino for path in (folder.parent, folder, folder / "deep")} <= set(synced)


async def test_a_store_that_is_not_to_be_made_is_not(folder: Path) -> None:
    with pytest.raises(StoreError, match="there is no workspace here"):
        async with BatchStore(folder, create=False):
            pass

    assert not folder.exists()


async def test_a_file_in_the_place_of_the_folder_is_named(folder: Path) -> None:
    folder.write_text("mine")

    with pytest.raises(StoreError, match="store: the folder of the workspace cannot be made"):
        async with BatchStore(folder):
            pass


async def test_a_folder_that_is_gone_is_told(folder: Path) -> None:
    with pytest.raises(StoreError, match="not there any more"):
        folders.free_bytes(folder)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "ceph", "lustre"])
async def test_a_network_file_system_is_refused_by_name(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:1 - {kind} server:/x rw\n")
    monkeypatch.setattr(folders, "_MOUNTS", mounts)

    with pytest.raises(StoreError, match=rf"network file system \({kind}\)"):
        async with BatchStore(folder):
            pass


async def test_a_local_file_system_is_fine_among_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "23 1 0:99 / /remote rw - nfs4 server:/x rw\n"
        f"22 1 {os.major(device)}:{os.minor(device)} / / rw,relatime - ext4 /dev/vda rw\n"
    )
    monkeypatch.setattr(folders, "_MOUNTS", mounts)

    async with BatchStore(folder) as store:
        assert await store.batches() == []


# -- versions and owners


async def test_apsw_that_is_missing_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apsw", None)

    with pytest.raises(ConfigError, match=r"asyncllm\[batch\]"):
        async with BatchStore(folder):
            pass


async def test_apsw_that_is_too_old_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", 3_040_001)

    with pytest.raises(ConfigError, match="too old"):
        async with BatchStore(folder):
            pass


async def test_a_store_of_a_newer_version_is_refused(folder: Path) -> None:
    await filled(folder)
    change(folder, "PRAGMA user_version=9", "ALTER TABLE row ADD COLUMN more TEXT")

    with pytest.raises(StoreError, match=r"newer asyncllm \(its version 9, here \d+\)") as caught:
        async with BatchStore(folder):
            pass

    assert not isinstance(caught.value, CorruptStoreError)


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE theirs (x)"],
        ["PRAGMA user_version=3"],
        ["PRAGMA application_id=77"],
        ["CREATE TABLE theirs (x)", "PRAGMA user_version=1", "PRAGMA application_id=77"],
    ],
)
async def test_another_programs_database_is_refused_and_left_as_it_is(folder: Path, statements: list[str]) -> None:
    folder.mkdir()
    database = sqlite3.connect(folder / FILE)
    for statement in ("CREATE TABLE x (y)", "DROP TABLE x", *statements):
        database.execute(statement)
    database.close()
    before = (folder / FILE).read_bytes()

    with pytest.raises(StoreError, match="another program's database") as caught:
        async with BatchStore(folder):
            pass

    assert not isinstance(caught.value, CorruptStoreError)
    assert (folder / FILE).read_bytes() == before


async def test_what_is_no_database_is_told_as_damage(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(b"no database at all" * 1000)

    with pytest.raises(CorruptStoreError, match=r"Keep a copy"):
        async with BatchStore(folder):
            pass


@pytest.mark.parametrize("point", ["store.migrate.before", "store.migrate.within", "store.migrate.after"])
@pytest.mark.parametrize("step", range(1, len(MIGRATIONS) + 1))
async def test_a_process_that_ends_while_it_migrates_leaves_a_store_that_opens(
    point: str, step: int, folder: Path
) -> None:
    code = (
        "import asyncio, os, sys\nfrom asyncllm.workspace.batches import BatchStore\n"
        "async def main():\n    async with BatchStore(sys.argv[1]): pass\nasyncio.run(main())"
    )
    environment = {**os.environ, "ASYNCLLM_CRASH": f"{point}:{step}"}
    done = await run_code(code, folder, environment)
    assert done.returncode == KILLED

    await filled(folder)
    database = apsw.Connection(str(folder / FILE))

    assert database.pragma("user_version") == len(MIGRATIONS)
    assert database.pragma("application_id") == APPLICATION_ID
    assert database.pragma("integrity_check") == "ok"
    database.close()


async def test_a_store_of_an_older_version_is_brought_to_this_one(folder: Path) -> None:
    folder.mkdir()
    connect(folder, MIGRATIONS, NOWHERE).close()
    step = "ALTER TABLE batch ADD COLUMN note TEXT"
    database = connect(folder, (*MIGRATIONS, step), NOWHERE)

    assert database.pragma("user_version") == len(MIGRATIONS) + 1
    database.close()


# -- damage that is no damage to SQLite

_DAMAGE = {
    "a row's status": "UPDATE row SET status = 0 WHERE id % 4 = 1",
    "a row's name": "UPDATE row SET name = 'other' WHERE id % 4 = 1",
    "a row's key": "UPDATE row SET key = x'00' WHERE id % 4 = 1",
    "a row's attempts": "UPDATE row SET attempts = 2 WHERE id % 4 = 1",
    "a row's crashes": "UPDATE row SET crashes = 9 WHERE id % 4 = 1",
    "a row's number": "UPDATE row SET id = id + 64 WHERE id % 4 = 1",
    "a row that is gone": "DELETE FROM row WHERE id % 4 = 1",
    "the last row that is gone": "DELETE FROM row WHERE id % 4 = 3",
    "an outcome": "UPDATE outcome SET body = x'00' WHERE id % 4 = 1",
    "an outcome that is gone": "DELETE FROM outcome WHERE id % 4 = 1",
    "an outcome of another row": "UPDATE outcome SET id = id + 2 WHERE id % 4 = 1",
    "a batch's definition": "UPDATE batch SET definition = x'7b'",
    "a batch's name": "UPDATE batch SET name = 'other.jsonl'",
    "a batch's total": "UPDATE batch SET total = 3",
    "a batch's process": "UPDATE batch SET process = 'x'",
    "the application": "PRAGMA application_id=1",
    "the version": "PRAGMA user_version=77",
    "no version": "PRAGMA user_version=0",
    "an index that is gone": "DROP INDEX row_name",
    "a column": "ALTER TABLE row RENAME COLUMN crashes TO crashms",
}


@pytest.mark.parametrize("what", _DAMAGE)
async def test_what_was_not_written_by_us_is_never_taken_for_an_outcome(what: str, folder: Path) -> None:
    batch = await filled(folder)
    change(folder, "PRAGMA foreign_keys=OFF", _DAMAGE[what])

    with pytest.raises(CorruptStoreError, match=r"damaged, and nothing was changed"):
        async with BatchStore(folder) as store:
            record = await store.define("out.jsonl", {"source": "in.jsonl"}, {})
            start = 0
            while rows := await store.outcomes(batch, start, 3):
                start += len(rows)
            assert record.id == batch


@pytest.mark.parametrize("what", ["a row's status", "a row's attempts", "a row's name"])
async def test_a_damaged_row_is_neither_asked_nor_opened_again(what: str, folder: Path) -> None:
    batch = await filled(folder)
    change(folder, _DAMAGE[what])

    async with BatchStore(folder) as store:
        lease = await store.take(batch)
        with pytest.raises(CorruptStoreError, match="row 1 is damaged"):
            await store.begin(lease, 1)
        with pytest.raises(CorruptStoreError, match="row 1 is damaged"):
            await store.finish(lease, 1, KEY, RowStatus.DONE, b"answer")
        with pytest.raises(CorruptStoreError, match="row 1 is damaged"):
            await store.rows(batch, 0, 4)
        assert await store.reopen(lease) == 0
        await store.leave(lease, "stopped", ended=False)


async def test_outcomes_are_read_few_at_a_time_where_they_are_large(folder: Path) -> None:
    async with BatchStore(folder) as store:
        record = await store.define("x", {}, {})
        lease = await store.take(record.id)
        await store.index(lease, [new(index) for index in range(6)])
        for index in range(6):
            await store.finish(lease, index, KEY, RowStatus.DONE, bytes(3 * 2**20))

        sizes = [len(await store.outcomes(record.id, start, 500)) for start in (0, 2, 4, 6)]
        await store.leave(lease, "completed", ended=True)

    assert sizes == [2, 2, 2, 0]


# -- many at once


async def test_many_tasks_share_one_commit(folder: Path) -> None:
    async with BatchStore(folder) as store:
        record = await store.define("x", {}, {})
        lease = await store.take(record.id)
        await store.index(lease, [new(index) for index in range(200)])
        before = store._writer.commits
        await asyncio.gather(*(store.begin(lease, index) for index in range(200)))
        commits = store._writer.commits - before
        await store.leave(lease, "stopped", ended=False)

    assert commits < 20


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_many_loops_make_one_store_at_once(folder: Path) -> None:
    async def make(number: int) -> int:
        async with BatchStore(folder) as store:
            record = await store.define(f"batch-{number % 4}", {}, {})
            return record.id

    numbers = in_threads(8, lambda number: asyncio.run(make(number)))

    assert sorted(set(numbers)) == [1, 2, 3, 4]
    assert numbers[:4] == numbers[4:]


def test_one_store_serves_many_loops(folder: Path) -> None:
    async def work() -> list[int]:
        async with BatchStore(folder) as store:
            return await asyncio.to_thread(
                in_threads, 6, lambda number: asyncio.run(store.define(f"batch-{number}", {}, {})).id
            )

    assert sorted(asyncio.run(work())) == [1, 2, 3, 4, 5, 6]


async def test_what_was_asked_for_before_the_end_is_done(folder: Path) -> None:
    async with BatchStore(folder) as store:
        tasks = [asyncio.create_task(store.define(f"batch-{number}", {}, {})) for number in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    async with BatchStore(folder) as store:
        assert len(await store.batches()) == 50


async def test_a_closed_store_says_so(folder: Path) -> None:
    async with BatchStore(folder) as store:
        pass

    with pytest.raises(StoreError, match="closed"):
        await store.batches()


@pytest.mark.parametrize("times", [1, 2])
async def test_no_thread_outlives_a_store(times: int, folder: Path) -> None:
    for _ in range(times):
        async with BatchStore(folder):
            pass
    folder.joinpath(FILE).write_bytes(b"no database at all" * 1000)
    with pytest.raises(CorruptStoreError):
        await BatchStore(folder).__aenter__()

    assert "asyncllm-store" not in {thread.name for thread in threading.enumerate()}


async def test_a_writer_in_another_process_is_waited_for(folder: Path) -> None:
    await filled(folder)
    other = apsw.Connection(str(folder / FILE))
    other.execute("BEGIN IMMEDIATE")

    async with BatchStore(folder, create=False) as store:
        task = asyncio.create_task(store.define("more", {}, {}))
        async for _ in turns(20):
            assert not task.done()
        other.execute("ROLLBACK")
        record = await task
    other.close()

    assert record.name == "more"


async def turns(count: int) -> AsyncIterator[None]:
    for _ in range(count):
        await asyncio.sleep(0)
        yield


_FORK = """
import asyncio, os, sys, threading
from asyncllm.errors import StoreError
from asyncllm.workspace.batches import BatchStore

store = BatchStore(sys.argv[1])
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
def run(work):
    return asyncio.run_coroutine_threadsafe(work, loop).result()

run(store.__aenter__())
run(store.define("before", {}, {}))
if not (child := os.fork()):
    try:
        asyncio.run(store.batches())
    except StoreError as error:
        os._exit(7 if "forked" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
if not (child := os.fork()):
    sys.exit(0)  # with all that an interpreter does at its end
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
run(store.define("after", {}, {}))
print(len(run(store.batches())))
run(store.__aexit__())
"""


async def test_a_child_that_was_forked_cannot_use_the_store_and_does_it_no_harm(folder: Path) -> None:
    done = await run_code(_FORK, folder)

    assert done.stdout.split() == ["7", "0", "2"], done.stderr
    database = apsw.Connection(str(folder / FILE))
    assert database.pragma("integrity_check") == "ok"
    database.close()


async def test_a_lease_that_was_left_is_gone_with_its_lock(folder: Path) -> None:
    batch = await filled(folder)

    async with BatchStore(folder) as store:
        first: Lease = await store.take(batch)
        await store.leave(first, "stopped", ended=False)
        second = await store.take(batch)
        await store.leave(second, "stopped", ended=False)

    assert second.fence == first.fence + 1
    assert not list(folder.glob("*.lock"))
