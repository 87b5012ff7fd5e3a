"""A store with flipped bits or spoilt pages: the batch ends as it has to, or says that the store is damaged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from asyncllm.errors import CorruptStoreError
from asyncllm.types import Request
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.database import Db
from small_batches import SmallBatch, memory_folder, storing

ROWS = 40
SAMPLE = 100
ALL = 1_000
PAGE = 4096
SEED = 6


class CarryingStore(BatchStore):
    """Carries its log over into the database often."""

    def _connect(self) -> Db:
        db = super()._connect()
        db.execute("PRAGMA wal_autocheckpoint=60").fetchall()
        return db


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


def carry_over(batch: SmallBatch) -> None:
    """Have what is in the log now in the database, however few commits it came in."""
    db = apsw.Connection(str(batch.store() / "store.db"))
    assert db.execute("PRAGMA wal_checkpoint").fetchall()
    db.close()


async def half_done(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a store whose process was killed: some of it in the database, some in the log."""
    files: dict[str, bytes] = {}
    ask = batch.ask

    async def answer(request: Request) -> str:
        if len(batch.asked) == ROWS // 2:
            carry_over(batch)
        if len(batch.asked) == ROWS * 3 // 4:
            files.update({name: (batch.store() / name).read_bytes() for name in ("store.db", "store.db-wal")})
        return await ask(request)

    with monkeypatch.context() as patch, storing(monkeypatch, CarryingStore):
        patch.setattr(batch, "ask", answer)
        await batch.run()
    assert all(files.values())
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
