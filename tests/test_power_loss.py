"""A loss of power, at any moment: what was acknowledged is there, and the batch goes on to its right end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from asyncllm.batch.codec import decode_outcome
from asyncllm.errors import AuthenticationError, CorruptStoreError
from asyncllm.types import Request, Response
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.database import Db
from asyncllm.workspace.records import Lease, RowStatus
from crash_vfs import Disk, Op, Recorder
from small_batches import SmallBatch, memory_folder, storing

ROWS = 40
IMAGES = 500
MANY = 5_000
SEED = 6


class Acked(NamedTuple):
    """`row` was acknowledged when `ops` things had been done to the disk."""

    ops: int
    row: int


class NotingStore(BatchStore):
    """Says when an outcome was acknowledged, and carries its log over into the database often."""

    recorder: Recorder
    acked: list[Acked]
    synchronous = "FULL"

    def _connect(self) -> Db:
        db = super()._connect()
        db.execute("PRAGMA wal_autocheckpoint=12").fetchall()
        db.execute(f"PRAGMA synchronous={self.synchronous}")
        return db

    async def finish(self, lease: Lease, index: int, key: bytes, status: RowStatus, body: bytes) -> None:
        await super().finish(lease, index, key, status, body)
        self.acked.append(Acked(len(self.recorder.ops), index))


class Recording(NamedTuple):
    """A batch as it was run, and all that this did to the disk."""

    batch: SmallBatch
    ops: list[Op]
    acked: list[Acked]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


async def record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Two runs, the first of which ends on the way."""
    batch = SmallBatch(folder, ROWS, width=700)
    recorder = Recorder(f"recorder-{folder.name}")
    NotingStore.recorder = recorder
    NotingStore.acked = []

    answer = batch.ask

    async def ask(request: Request) -> str:
        if len(batch.asked) == ROWS // 2:
            batch.asked.append(-1)
            raise AuthenticationError("no", status=401)
        return await answer(request)

    with monkeypatch.context() as patch, storing(monkeypatch, NotingStore, vfs=f"recorder-{folder.name}"):
        patch.setattr(batch, "ask", ask)
        with pytest.raises(AuthenticationError):
            await batch.run()
        await batch.run()
    assert batch.results() == batch.expected()
    return Recording(batch, recorder.ops, NotingStore.acked)


async def check(image: dict[str, bytes], acked: set[int], batch: SmallBatch) -> None:
    """The image opens, has what was acknowledged and nothing wrong, and leads to the right end."""
    batch.put_back(image)

    async with BatchStore(batch.store()) as store:
        records = await store.batches()
        kept = await store.outcomes(records[0].id, 0, batch.count) if records else []
    there = {row.index: text_of(row.body) for row in kept if row.body is not None}
    assert acked <= there.keys()
    assert all(batch.bodies()[index] == text for index, text in there.items())

    await batch.run()
    assert batch.results() == batch.expected()
    assert sorted(batch.asked) == sorted(set(range(batch.count)) - there.keys())
    database = apsw.Connection(str(batch.store() / "store.db"))
    assert database.pragma("integrity_check") == "ok"
    database.close()


def text_of(body: bytes | None) -> str | None:
    assert body is not None
    told = decode_outcome(body, index=0).answer
    return told.text if isinstance(told, Response) else None


async def images(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> dict[str, int]:
    """Check so many images of a recording, and say what they were."""
    chance = random.Random(SEED)
    own = folder / f"{NotingStore.synchronous}-{count}"
    own.mkdir()
    recording = await record(own, monkeypatch)
    cuts = sorted(chance.choices(range(1, len(recording.ops) + 1), k=count))
    disk, done = Disk({"store.db": b""}), 0
    for cut in cuts:
        for op in recording.ops[done:cut]:
            disk.do(op)
        done = cut
        acked = {ack.row for ack in recording.acked if ack.ops <= cut}
        await check(disk.after_power_loss(chance), acked, recording.batch)
    return {"images": count, "moments": len(set(cuts)), "ops": len(recording.ops)}


async def test_after_a_loss_of_power_what_was_acknowledged_is_there_and_the_batch_ends_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = await images(folder, monkeypatch, IMAGES)

    assert seen["images"] == IMAGES
    assert seen["moments"] > IMAGES // 4


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
async def test_a_store_that_syncs_less_is_found_out(
    synchronous: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NotingStore, "synchronous", synchronous)

    with pytest.raises((AssertionError, CorruptStoreError)):
        await images(folder, monkeypatch, 100)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_many_more_images_of_a_loss_of_power(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(await images(folder, monkeypatch, MANY))
