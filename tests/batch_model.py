"""A store with several runners at it, beside a model of what it is to have: a few dictionaries.

Every operation is done to both, and raises `AssertionError` where they differ. Time is a number here, a runner that
dies drops its connection and its lock, and the disk is full while `is_full` says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest

from asyncllm import BatchLockedError, BatchLostError, InputError, StoreError
from asyncllm.workspace import batches, writer
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.points import Points
from asyncllm.workspace.records import Lease, NewRow, RowStatus

__all__ = ["Actor", "Row", "World", "simulated"]

T = TypeVar("T")

LEASE_S = 30.0


class Row:
    """A row as the model has it."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.status = RowStatus.PENDING
        self.attempts = 0
        self.crashes = 0
        self.body: bytes | None = None


class Actor:
    """A runner, which may hold a lease, or think so."""

    def __init__(self, store: BatchStore) -> None:
        self.store = store
        self.lease: Lease | None = None


class _Points(Points):
    """A disk that is full when the world says so."""

    def __init__(self, world: World) -> None:
        super().__init__({})
        self._world = world

    def reach(self, name: str) -> None:
        """Fail as SQLite does."""
        if self._world.is_full and name == "commit.before":
            raise apsw.FullError("the disk is full")


@contextmanager
def simulated(world_clock: list[float]) -> Generator[None]:
    """Have the store take its time from `world_clock`, and try a full disk again at once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batches, "now_s", lambda: world_clock[0])
        patched.setattr(writer, "_FULL_S", (0.0005, 0.001))
        yield


class World:
    """One batch in one store, on the disk or, with `in_memory`, in none."""

    def __init__(self, folder: Path, clock: list[float], *, in_memory: bool) -> None:
        self._loop = asyncio.new_event_loop()
        self._folder = folder
        self._vfs = "memdb" if in_memory else None
        # What is in memory is gone with the last connection to it.
        self._keeper = apsw.Connection(str(folder / "store.db"), vfs="memdb") if in_memory else None
        self.clock = clock
        self.is_full = False
        self.actors: list[Actor] = []
        self.rows: list[Row] = []
        self.fence = 0
        self.holder: Actor | None = None
        """Who took the lease last, alive, and has not given it back."""
        self.beat: float | None = None
        self.cancelled = False
        self.fences: list[int] = []
        first = self.open()
        record = self.run(first.store.define("out", {"a": 1}, {}))
        self.batch = record.id

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` to its end."""
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """End it all."""
        self.is_full = False
        for actor in list(self.actors):
            self.die(actor)
        if self._keeper is not None:
            self._keeper.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    # -- runners

    def open(self) -> Actor:
        """One more runner comes."""
        store = BatchStore(self._folder, env={}, vfs=self._vfs)
        store.points = store._writer._points = _Points(self)
        self.run(store.__aenter__())
        actor = Actor(store)
        self.actors.append(actor)
        return actor

    def die(self, actor: Actor) -> None:
        """A runner is killed: nobody gives anything back, and the kernel frees its lock."""
        self.run(actor.store.__aexit__())
        if actor.lease is not None and actor.lease.lock._file is not None:
            os.close(actor.lease.lock._file)
            actor.lease.lock._file = None
        self.actors.remove(actor)
        if self.holder is actor:
            self.holder = None

    def take(self, actor: Actor) -> None:
        """A runner wants the lease."""
        is_late = self.beat is None or self.clock[0] - self.beat > LEASE_S
        if not is_late and self.holder is not None:
            self._refused(actor.store.take(self.batch, lease_s=LEASE_S), BatchLockedError)
            return
        # A lease that the same process has had before is forgotten: a runner is made for one.
        lease = self.run(actor.store.take(self.batch, lease_s=LEASE_S))
        assert lease.fence == self.fence + 1, "a fence grows by one with each lease"
        if actor.lease is not None:
            actor.lease.lock.release()
        actor.lease = lease
        self.fence = lease.fence
        self.fences.append(lease.fence)
        self.holder, self.beat, self.cancelled = actor, self.clock[0], False
        for row in self.rows:
            if row.status is RowStatus.RUNNING:
                row.status, row.crashes = RowStatus.PENDING, row.crashes + 1

    def leads(self, actor: Actor) -> bool:
        """Whether what it writes counts. If not, all that it writes is refused."""
        return actor.lease is not None and actor.lease.fence == self.fence

    def _refused(self, work: Coroutine[Any, Any, Any], error: type[Exception]) -> None:
        try:
            self.run(work)
        except error:
            return
        raise AssertionError(f"this was to raise {error.__name__}")

    def _written(self, actor: Actor, work: Coroutine[Any, Any, T]) -> T | None:
        """What a write gives of a runner that leads; `None` of one that does not, which hears of it."""
        if self.leads(actor):
            return self.run(work)
        self._refused(work, BatchLostError)
        return None

    def _leased(self, actor: Actor) -> Lease:
        assert actor.lease is not None  # the caller has seen that it was given one
        return actor.lease

    def show_life(self, actor: Actor) -> None:
        """A runner beats."""
        told = self._written(actor, actor.store.beat(self._leased(actor), 1.0))
        if self.leads(actor):
            assert told is self.cancelled
            self.beat = self.clock[0]

    def leave(self, actor: Actor) -> None:
        """A runner gives the lease back."""
        self._written(actor, actor.store.leave(self._leased(actor), "stopped", ended=False))
        if self.leads(actor):
            self.holder, self.beat = None, None
            for row in self.rows:
                if row.status is RowStatus.RUNNING:
                    row.status, row.attempts = RowStatus.PENDING, max(0, row.attempts - 1)

    def cancel(self, actor: Actor) -> None:
        """Anyone asks for an end."""
        self.run(actor.store.cancel(self.batch))
        self.cancelled = True

    # -- rows

    def submit(self, actor: Actor, count: int) -> None:
        """A runner finds `count` more rows in the input, and one that it knows."""
        start = max(0, len(self.rows) - 1)
        new = [NewRow(start + at, b"k%d" % (start + at), None, "here") for at in range(count + 1)]
        self._written(actor, actor.store.index(self._leased(actor), new))
        if self.leads(actor):
            self.rows += [Row(row.key) for row in new[len(self.rows) - start :]]

    def submit_another(self, actor: Actor, index: int) -> None:
        """A runner finds another row than there was."""
        work = actor.store.index(self._leased(actor), [NewRow(index, b"another", None, "here")])
        self._refused(work, InputError if self.leads(actor) else BatchLostError)

    def begin(self, actor: Actor, index: int) -> None:
        """A call begins."""
        row = self.rows[index]
        work = actor.store.begin(self._leased(actor), index)
        if self.leads(actor) and row.status.is_final:
            self._refused(work, StoreError)
            return
        self._written(actor, work)
        if self.leads(actor):
            row.status, row.attempts = RowStatus.RUNNING, row.attempts + 1

    def put_back(self, actor: Actor, index: int, *, counts: bool) -> None:
        """A call fails in a way that may pass, or was not to be."""
        row = self.rows[index]
        self._written(actor, actor.store.release(self._leased(actor), index, counts=counts))
        if self.leads(actor) and row.status is RowStatus.RUNNING:
            row.status, row.attempts = RowStatus.PENDING, row.attempts - (not counts)

    def finish(self, actor: Actor, index: int, status: RowStatus, body: bytes) -> None:
        """A row has an outcome, unless it has one."""
        row = self.rows[index]
        self._written(actor, actor.store.finish(self._leased(actor), index, row.key, status, body))
        if self.leads(actor) and not row.status.is_final:
            row.status, row.body = status, body

    def finish_while_full(self, actor: Actor, index: int, body: bytes) -> None:
        """An outcome meets a full disk, and is kept when there is room."""
        row = self.rows[index]
        self.is_full = True
        work = actor.store.finish(self._leased(actor), index, row.key, RowStatus.DONE, body)

        async def wait() -> None:
            kept = asyncio.create_task(work)
            while not actor.store.is_full:  # noqa: ASYNC110  # a thread says so
                await asyncio.sleep(0)
            assert not kept.done()
            self.is_full = False
            await kept

        self._written(actor, wait())
        assert not actor.store.is_full
        if self.leads(actor) and not row.status.is_final:
            row.status, row.body = RowStatus.DONE, body

    def reopen(self, actor: Actor) -> None:
        """Rows that have failed are to be asked again."""
        count = self._written(actor, actor.store.reopen(self._leased(actor)))
        if self.leads(actor):
            failed = [row for row in self.rows if row.status in (RowStatus.FAILED, RowStatus.ABANDONED)]
            assert count == len(failed)
            for row in failed:
                row.status, row.attempts, row.crashes, row.body = RowStatus.PENDING, 0, 0, None

    # -- what is there

    def check(self, actor: Actor) -> None:
        """The store has what the model has, as anyone sees it."""
        states = self.run(actor.store.rows(self.batch, 0, 1000))
        found = [(row.index, row.key, row.status, row.attempts, row.crashes) for row in states]
        wanted = [(at, row.key, row.status, row.attempts, row.crashes) for at, row in enumerate(self.rows)]
        assert found == wanted
        kept = self.run(actor.store.outcomes(self.batch, 0, 1000))
        assert [(row.index, row.body) for row in kept] == [(at, row.body) for at, row in enumerate(self.rows)]
        assert all((row.body is not None) == row.status.is_final for row in kept)
        record = self.run(actor.store.record(self.batch))
        assert record.is_running is (self.holder is not None)
        assert sum(record.counts.values()) == len(self.rows)
        assert self.fences == sorted(set(self.fences))
