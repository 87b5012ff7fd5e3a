"""Has several runners at once work on one batch, killing, stopping and waking them at random.

    python tests/rival_harness.py --schedules 30 --seed 1

Every runner is a process. A trigger in the store writes down each outcome with the fence that the store has at that
moment, and every runner logs the outcomes that were acknowledged to it, with the fence that it holds: no outcome may be
acknowledged that was not written under that fence, and fences only grow. What is found is printed as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import apsw

import kill_harness
from asyncllm import BatchLockedError, BatchLostError
from asyncllm.batch import held, runner
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import Lease
from kill_harness import Case, check, ended, forked, make_case

__all__: list[str] = []

LEASE_S = 0.12
_BEAT_S = 0.01
_LOCKED, _LOST = 10, 11
_ENDS = {0: "ended", _LOCKED: "locked", _LOST: "lost", -signal.SIGKILL: "killed"}
_AUDIT = """
    CREATE TABLE audit (id INTEGER PRIMARY KEY, fence INTEGER, row INTEGER);
    CREATE TRIGGER audited AFTER INSERT ON outcome BEGIN
        INSERT INTO audit (fence, row) SELECT fence, NEW.id & ((1 << 40) - 1) FROM batch WHERE id = NEW.id >> 40;
    END;
"""


def main() -> None:
    """Run as told by the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedules", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    held.BEAT_S = _BEAT_S
    runner._ALONE = runner._ABANDONED = sys.maxsize  # here runners die by the dozen, and no row is to blame
    _of(BatchStore.take)["lease_s"] = LEASE_S
    began = time.monotonic()
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rivals-", dir=scratch) as made:
        folder = Path(made)
        asyncio.run(kill_harness._run(make_case(folder / "import", asked.seed), 1, refuse=False))
        gc.collect()
        gc.freeze()
        for number in range(asked.schedules):
            case = make_case(folder / str(number), asked.seed * 100_000 + number, format_="jsonl", rows_=(10, 30))
            case = Case(case.folder, case.format, case.rows, case.concurrency, case.seed, pace_s=0.04)
            work = _zombie if number % 8 == 0 else _schedule
            wrong += [f"seed {case.seed}: {what}" for what in work(case, ends)]
            shutil.rmtree(case.folder)
    print(json.dumps({"seed": asked.seed, **ends, "seconds": round(time.monotonic() - began, 1), "wrong": wrong}))


def _of(method: Any) -> dict[str, Any]:
    return method.__kwdefaults__  # type: ignore[no-any-return]  # of a function that has some


def _schedule(case: Case, ends: Counter[str]) -> list[str]:
    """One schedule: what is wrong with it."""
    status = ended(forked(lambda: asyncio.run(_prepare(case))))
    assert not status, f"the store cannot be made: {status}"
    drawn = random.Random(case.seed)
    going: dict[int, int] = {}  # by process, the number of the run
    stopped: set[int] = set()
    found: list[int] = []
    number = 0
    for _ in range(drawn.randint(10, 40)):
        _reap(going, stopped, found)
        action = drawn.choice(("start", "start", "start", "kill", "stop", "stop", "wake"))
        if action == "start" and len(going) < 8:
            number += 1
            going[forked(_rival(case, number))] = number
        elif action == "kill" and going:
            os.kill(_victim(case, going, drawn), signal.SIGKILL)
        elif action == "stop" and going:
            pid = _victim(case, going, drawn)
            os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)
        elif action == "wake" and stopped:
            pid = drawn.choice(sorted(stopped))
            os.kill(pid, signal.SIGCONT)
            stopped.discard(pid)
        time.sleep(drawn.choice((0, 0, 0.005, 0.01, 0.02, LEASE_S * 1.2)))
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    found += [ended(pid) for pid in going]
    found.append(ended(forked(_rival(case, number + 1))))
    ends.update(_ENDS.get(status, "failed") for status in found)
    wrong = [f"a runner ends with {status}" for status in found if status not in _ENDS]
    if found[-1]:
        wrong.append(f"the last runner, which is alone, ends with {_ENDS.get(found[-1], found[-1])}")
        return wrong
    return [*wrong, *check(case, dict(_read(case, "taken"))), *_check_fences(case)]


def _zombie(case: Case, ends: Counter[str]) -> list[str]:
    """One runner stands still as soon as it has the lease, another does all the work, and the first wakes up."""
    status = ended(forked(lambda: asyncio.run(_prepare(case))))
    assert not status, f"the store cannot be made: {status}"
    first = forked(_rival(case, 1))
    while not _read(case, "taken"):
        time.sleep(0.001)
    _stop_between_writes(case, first)
    time.sleep(LEASE_S * 1.5)
    second = ended(forked(_rival(case, 2)))
    os.kill(first, signal.SIGCONT)
    woken = ended(first)
    ends.update(_ENDS.get(status, "failed") for status in (second, woken))
    wrong = [] if second == 0 else [f"who takes over ends with {_ENDS.get(second, second)}"]
    if woken != _LOST:
        wrong.append(f"who stood still ends with {_ENDS.get(woken, woken)}")
    return wrong or [*check(case, dict(_read(case, "taken"))), *_check_fences(case)]


def _stop_between_writes(case: Case, pid: int) -> None:
    """Stop a process when it writes nothing: SQLite lets nobody else write before a write has ended."""
    db = apsw.Connection(str(_folder(case) / "store.db"))
    with contextlib.closing(db):
        while True:
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED)
            try:
                db.execute("BEGIN IMMEDIATE; ROLLBACK")
            except apsw.BusyError:
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.001)
            else:
                return


def _victim(case: Case, going: dict[int, int], drawn: random.Random) -> int:
    """For the most part the one that has the lease."""
    leading = dict(_read(case, "taken")[-1:])
    return drawn.choice([pid for pid in going if going[pid] in leading and drawn.random() < 0.8] or sorted(going))


def _reap(going: dict[int, int], stopped: set[int], found: list[int]) -> None:
    for pid in sorted(going):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            del going[pid]
            stopped.discard(pid)
            found.append(ended(pid))


async def _prepare(case: Case) -> None:
    """Make the store, with the trigger in it."""
    async with BatchStore(_folder(case)):
        pass
    db = apsw.Connection(str(_folder(case) / "store.db"))
    db.execute(_AUDIT)
    db.close()


def _folder(case: Case) -> Path:
    return case.folder / f"{case.output.name}.batch"


def _rival(case: Case, number: int) -> Callable[[], object]:
    """A runner, which logs what was acknowledged to it."""

    def work() -> None:
        finish, take = BatchStore.finish, BatchStore.take

        async def finished(self: BatchStore, lease: Lease, index: int, *rest: Any) -> None:
            await finish(self, lease, index, *rest)
            _write(case, "acknowledged", lease.fence, index)

        async def taken(self: BatchStore, batch: int) -> Lease:
            lease = await take(self, batch)
            _write(case, "taken", number, lease.fence)
            return lease

        vars_of: Any = BatchStore  # in this process alone
        vars_of.finish, vars_of.take = finished, taken
        try:
            asyncio.run(kill_harness._run(case, number, refuse=False))
        except BatchLockedError:
            os._exit(_LOCKED)
        except BatchLostError:
            os._exit(_LOST)

    return work


def _write(case: Case, log: str, first: int, second: int) -> None:
    file = os.open(case.folder / f"{log}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(file, f"{first}\t{second}\n".encode())
    os.close(file)


def _read(case: Case, log: str) -> list[tuple[int, int]]:
    file = case.folder / f"{log}.log"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(first), int(second)) for first, second in (line.split("\t") for line in lines)]


def _check_fences(case: Case) -> Iterable[str]:
    db = apsw.Connection(str(_folder(case) / "store.db"))
    with contextlib.closing(db):
        audit: list[Any] = db.execute("SELECT fence, row FROM audit ORDER BY id").fetchall()
    fences = [fence for fence, _ in audit]
    if fences != sorted(fences):
        yield f"an outcome was written under an old fence: {fences}"
    acknowledged = _read(case, "acknowledged")
    if not set(acknowledged) <= set(audit):
        yield f"acknowledged under another fence than written: {sorted(set(acknowledged) - set(audit))}"
    if len(acknowledged) != len(set(acknowledged)) or len(audit) != len({row for _, row in audit}):
        yield "an outcome was acknowledged or written twice"


if __name__ == "__main__":
    main()
