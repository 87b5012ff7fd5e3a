"""A store with flipped bits or spoilt pages: the batch ends as it has to, or says that the store is damaged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncllm.errors import CorruptStoreError
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.database import Db
from asyncllm.workspace.records import Lease, RowStatus
from small_batches import SmallBatch, memory_folder, storing

ROWS = 40
SAMPLE = 100
ALL = 1_000
PAGE = 4096
SEED = 6


class CopiedStore(BatchStore):
    """Carries its log over into the database when half of the rows are done, and is copied after three quarters.

    The copy is made by the thread that writes, so that it is of one moment, as what a kill leaves.
    """

    files: dict[str, bytes]
    done = 0

    def _connect(self) -> Db:
        db = super()._connect()
        db.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        return db

    async def finish(self, lease: Lease, index: int, key: bytes, status: RowStatus, body: bytes) -> None:
        await super().finish(lease, index, key, status, body)
        self.done += 1
        if self.done == ROWS // 2:
            await self._writer.read(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        if self.done == ROWS * 3 // 4:
            await self._writer.read(lambda _: self._copy())

    def _copy(self) -> None:
        self.files.update({name: (self.folder / name).read_bytes() for name in ("store.db", "store.db-wal")})


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


async def half_done(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a store whose process was killed: some of it in the database, some in the log."""
    CopiedStore.files = {}
    with storing(monkeypatch, CopiedStore):
        await batch.run()
    files = CopiedStore.files
    assert all(len(content) > 4 * PAGE for content in files.values())
    batch.put_back(files)
    assert await outcome(batch) == "right"
    assert len(batch.asked) <= ROWS // 4
    return files


def spoilt(files: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """One of the files with 1 to 64 bits flipped, or a page or two of it put out of order."""
    name = chance.choice(sorted(files))
    content = bytearray(files[name])
    what = chance.choice(("bits", "bits", "near bits", "zeros", "noise", "swapped", "short"))
    pages = range(0, len(content) - PAGE + 1, PAGE)
    if what == "bits":
        for bit in (chance.randrange(8 * len(content)) for _ in range(chance.randint(1, 64))):
            content[bit // 8] ^= 1 << bit % 8
    elif what == "near bits":
        start = chance.randrange(len(content) - 64)
        for bit in (chance.randrange(8 * 64) for _ in range(chance.randint(1, 64))):
            content[start + bit // 8] ^= 1 << bit % 8
    elif what == "short":
        del content[chance.randrange(len(content)) :]
    else:
        first, second = chance.choice(pages), chance.choice(pages)
        page = bytes(content[first : first + PAGE])
        other = bytes(content[second : second + PAGE])
        content[first : first + PAGE] = {"zeros": bytes(PAGE), "noise": chance.randbytes(PAGE), "swapped": other}[what]
        if what == "swapped":
            content[second : second + PAGE] = page
    return {**files, name: bytes(content)}


async def outcome(batch: SmallBatch) -> str:
    """How the batch ends. Fails unless that is right."""
    try:
        await batch.run()
    except CorruptStoreError:
        # It is so again, and not a different thing each time.
        with pytest.raises(CorruptStoreError):
            await batch.run()
        return "damaged"
    assert batch.results() == batch.expected()
    return "right"


async def spoil(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> Counter[str]:
    (folder / str(count)).mkdir()
    batch = SmallBatch(folder / str(count), ROWS, width=700)
    files = await half_done(batch, monkeypatch)
    seen: Counter[str] = Counter()
    for seed in range(count):
        batch.put_back(spoilt(files, random.Random(seed)))
        try:
            seen[await outcome(batch)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    return seen


async def test_a_damaged_store_leads_to_the_right_end_or_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = await spoil(folder, monkeypatch, SAMPLE)

    assert seen.total() == SAMPLE
    assert seen["damaged"] > SAMPLE // 10
    assert seen["right"] > SAMPLE // 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_thousand_damaged_stores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(await spoil(folder, monkeypatch, ALL))
