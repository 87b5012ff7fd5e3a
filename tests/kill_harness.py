"""Kills batches with -9, runs them again, and looks at what is there in the end.

    python tests/kill_harness.py --named 500 --random 500 --seed 1

A run is a fork of this process, which has imported everything, and its calls go to a log that outlives it. It ends at a
place of `Points`, before or after a call of the system, or by a signal at any time; then the same batch is run again,
which may end the same way, and then to its end. What is found is printed as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import fcntl
import gc
import hashlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import apsw
from msgspec import Struct

from asyncllm import BadRequestError, Client, OverloadedError
from asyncllm.batch import held
from asyncllm.events import Event, Events, Finished, Started, TextDelta, UsageReport
from asyncllm.types import Request, Usage
from asyncllm.workspace.points import KILLED, Points

__all__ = ["Answers", "Case", "Fault", "check", "forked", "make_case", "run_case"]

FORMATS = ("openai", "jsonl", "csv", "requests")
_BEAT_S = 0.002
_REQUEST = {"method": "POST", "url": "/v1/chat/completions"}
_SYSTEM = ("os.fsync", "os.link", "os.replace", "os.unlink", "fcntl.flock")
"""Calls of the system before and after which a run can end, too."""


class Case(Struct, frozen=True):
    """One batch."""

    folder: Path
    format: str
    rows: tuple[str, ...]
    concurrency: int
    seed: int
    retries: bool = False
    """Whether it is run to its end first, by a backend that fails, and its failed rows are asked again after that."""
    pace_s: float = 0.001
    """A call takes no longer than this."""

    @property
    def calls(self) -> Path:
        """The log of calls: a line each, with the number of the run, the row and its idempotency key."""
        return self.folder / "calls.log"

    @property
    def output(self) -> Path:
        """Where the outcomes go."""
        return self.folder / f"out.{'csv' if self.format == 'csv' else 'jsonl'}"


class Fault(Struct, frozen=True):
    """How a run is to end."""

    point: str = ""
    """At the `times`-th time that this is reached."""
    times: int = 1
    after_s: float | None = None
    """By SIGKILL after so many seconds."""


class Answers:
    """A backend whose answer is a digest of the prompt, after a time that is drawn.

    `busy` fails first, `no` for good, and `die` ends the process. With `refuse`, everything fails for good.
    """

    def __init__(self, case: Case, run: int, *, refuse: bool = False) -> None:
        self._log = os.open(case.calls, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._run = run
        self._refuse = refuse
        self._random = random.Random(f"{case.seed}:{run}")
        self._pace_s = case.pace_s
        self._seen: set[str] = set()

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Answer."""
        prompt = request.messages[-1].text
        os.write(self._log, f"{self._run}\t{prompt}\t{request.idempotency_key}\n".encode())
        await asyncio.sleep(self._pace_s * self._random.choice((0, 0, 0.5, 1)))
        if prompt.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._refuse or prompt.startswith("no"):
            raise BadRequestError("refused", status=400)
        if prompt.startswith("busy") and prompt not in self._seen:
            self._seen.add(prompt)
            raise OverloadedError("busy", retry_after_s=0.0005)
        yield self._events(prompt)

    async def _events(self, prompt: str) -> AsyncGenerator[Event]:
        yield Started("m")
        yield TextDelta(answer(prompt))
        yield UsageReport(Usage(input_tokens=1, output_tokens=1))
        yield Finished("stop")

    async def aclose(self) -> None:
        """Nothing outlives a call."""
        os.close(self._log)


def answer(prompt: str) -> str:
    """What the backend answers."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def make_case(folder: Path, seed: int, *, format_: str | None = None, rows_: tuple[int, int] = (5, 10)) -> Case:
    """A batch drawn by `seed`."""
    drawn = random.Random(seed)
    kinds = drawn.choices(("say", "busy", "no"), (8, 1, 1), k=drawn.randint(*rows_))
    rows = tuple(f"{kind} {index}" for index, kind in enumerate(kinds))
    case = Case(folder, format_ or drawn.choice(FORMATS), rows, drawn.randint(1, 4), seed, drawn.random() < 0.1)
    folder.mkdir()
    if case.format == "csv":
        text = "word\n" + "".join(f"{row}\n" for row in rows)
    elif case.format == "jsonl":
        text = "".join(json.dumps({"word": row}) + "\n" for row in rows)
    else:
        text = "".join(
            json.dumps({"custom_id": f"row-{row}", **_REQUEST, "body": {"messages": [_user(row)]}}) + "\n"
            for row in rows
        )
    (folder / "in").write_text(text)
    return case


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def _run(case: Case, run: int, *, refuse: bool) -> None:
    options: dict[str, Any] = {"concurrency": case.concurrency, "max_attempts": 20, "overwrite": False}
    source: Any = case.folder / "in"
    if case.format == "requests":
        source = [{"messages": [_user(row)]} for row in case.rows]
        options["output_format"] = "openai"
    else:
        options["format"] = case.format
    if case.format in ("csv", "jsonl"):
        options["template"] = "{word}"
    if case.retries and not refuse:
        options["retry_failed"] = True
    async with Client(backend=Answers(case, run, refuse=refuse), retry=None, env={}) as client:
        await client.run_batch(source, case.output, model="m", **options)


# -- runs in processes of their own


def forked(work: Callable[[], object]) -> int:
    """Do `work` in a fork of this process, and return its number. What it raises is printed, and its status is 3."""
    pid = os.fork()
    if pid:
        return pid
    return _child(work)


def _child(work: Callable[[], object]) -> NoReturn:
    try:
        work()
    except BaseException:  # the parent is told by the status
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)
    os._exit(0)


def ended(pid: int) -> int:
    """How a process ended, waited for: its status, or the signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(case: Case, run: int, fault: Fault, *, refuse: bool = False) -> Callable[[], object]:
    def work() -> None:
        if fault.point:
            os.environ["ASYNCLLM_CRASH"] = f"{fault.point}:{fault.times}"
            _arm(Points(os.environ).reach)
        asyncio.run(_run(case, run, refuse=refuse))

    return work


def _arm(reach: Callable[[str], None]) -> None:
    """Have the calls of the system reach points of their own."""
    for name in _SYSTEM:
        module: Any = {"os": os, "fcntl": fcntl}[name.partition(".")[0]]
        setattr(module, name.partition(".")[2], _armed(getattr(module, name.partition(".")[2]), name, reach))


def _armed(call: Callable[..., Any], name: str, reach: Callable[[str], None]) -> Callable[..., Any]:
    def armed(*args: Any, **named: Any) -> Any:
        reach(f"{name}.before")
        result = call(*args, **named)
        reach(f"{name}.after")
        return result

    return armed


def recorded(case: Case) -> Counter[str]:
    """How often each point is reached in one whole run of a batch."""
    told = case.folder / "points"

    def work() -> None:
        counted: Counter[str] = Counter()

        def reach(_: Any, name: str) -> None:
            counted[name] += 1

        setattr(Points, "reach", reach)  # noqa: B010  # in this process alone
        _arm(lambda name: reach(None, name))
        asyncio.run(_run(case, 1, refuse=False))
        told.write_text(json.dumps(counted))

    first(case)
    status = ended(forked(work))
    assert status == 0, f"a run that nobody kills ends with {status}"
    return Counter(json.loads(told.read_text()))


def first(case: Case) -> None:
    """What has to be there before the run that is killed."""
    if case.retries:
        status = ended(forked(_work(case, 0, Fault(), refuse=True)))
        assert status == 0, f"a run whose rows fail ends with {status}"


def run_case(case: Case, faults: Iterable[Fault]) -> tuple[int, list[str]]:
    """Run a batch, once for each fault, and then to its end: how often it was killed, and what is wrong."""
    first(case)
    kills, wrong = 0, []
    numbers = itertools.count(1)
    for fault in faults:
        pid = forked(_work(case, next(numbers), fault))
        if fault.after_s is not None:
            _kill_after(pid, fault.after_s)
        status = ended(pid)
        kills += status in (-signal.SIGKILL, KILLED)
        if status not in (-signal.SIGKILL, KILLED, 0):
            wrong.append(f"a run that goes on ends with {status}")
    status = ended(forked(_work(case, next(numbers), Fault())))
    if status:
        wrong.append(f"the last run ends with {status}")
    return kills, [f"seed {case.seed}: {what}" for what in (*wrong, *check(case))]


def _kill_after(pid: int, seconds: float) -> None:
    """Send SIGKILL to a process after so long, unless it has ended by itself."""
    process = os.pidfd_open(pid)
    try:
        if not select.select([process], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(process)


# -- what is there in the end


def check(case: Case, order: Mapping[int, int] | None = None) -> list[str]:
    """What is wrong with a batch that has come to its end. `order` says of runs by number which came when."""
    return [*_check_calls(case, order), *_check_output(case), *_check_store(case), *_check_folder(case)]


def _check_calls(case: Case, order: Mapping[int, int] | None) -> Iterable[str]:
    runs: dict[str, list[int]] = {row: [] for row in case.rows}
    keys: dict[str, set[str]] = {row: set() for row in case.rows}
    for line in case.calls.read_text().splitlines():
        run, row, key = line.split("\t")
        runs[row].append(int(run) if order is None else order[int(run)])
        keys[row].add(key)
    if not all(runs.values()):
        yield "a row was never asked"
    if any(len(found) != 1 for found in keys.values()):
        yield "a row was asked with more than one idempotency key"
    if len(set().union(*keys.values())) != len(case.rows):
        yield "two rows were asked with the same idempotency key"
    if case.retries:  # each run asks the rows again that have failed in the one before
        runs = {row: [run for run in found if run] for row, found in runs.items() if not row.startswith("no")}
    again = Counter(run for found in runs.values() for run in sorted(set(found))[:-1])
    for number, count in again.items():
        if count > case.concurrency:
            yield f"{count} rows that run {number} had asked were asked again, and {case.concurrency} were under way"


def _check_output(case: Case) -> Iterable[str]:
    read = _read_csv if case.format == "csv" else _read_jsonl if case.format == "jsonl" else _read_openai
    try:
        found = read(case)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"the output cannot be read: {error!r}"
        return
    wanted = [(index, None if row.startswith(("no", "die")) else answer(row)) for index, row in enumerate(case.rows)]
    if found != wanted:
        yield f"the output has {found}, and is to have {wanted}"


def _read_csv(case: Case) -> list[tuple[int, str | None]]:
    with case.output.open(newline="") as lines:
        return [_told(case, index, row["word"], row["text"] or None) for index, row in enumerate(csv.DictReader(lines))]


def _read_jsonl(case: Case) -> list[tuple[int, str | None]]:
    rows = [json.loads(line) for line in case.output.read_text().splitlines()]
    return [_told(case, index, row["word"], row["text"]) for index, row in enumerate(rows)]


def _told(case: Case, index: int, word: str, text: str | None) -> tuple[int, str | None]:
    return (index if word == case.rows[index] else -1), text


def _read_openai(case: Case) -> list[tuple[int, str | None]]:
    errors = case.output.with_name("out.errors.jsonl")
    found: list[tuple[int, str | None]] = []
    for file in (case.output, errors):
        lines = file.read_text().splitlines() if file.exists() else []
        numbers = [int(json.loads(line)["id"].removeprefix("batch_req_")) for line in lines]
        if numbers != sorted(numbers):
            raise ValueError("rows out of order")
        for number, line in zip(numbers, map(json.loads, lines), strict=True):
            if case.format == "openai" and line["custom_id"] != f"row-{case.rows[number]}":
                raise ValueError("a row by another name")
            body = line["response"]["body"]
            found.append((number, body["choices"][0]["message"]["content"] if file == case.output else None))
    return sorted(found)


def _check_store(case: Case) -> Iterable[str]:
    db = apsw.Connection(str(case.folder / f"{case.output.name}.batch" / "store.db"))
    try:
        if db.pragma("integrity_check") != "ok":
            yield "the store is damaged"
        told: list[Any] = db.execute("SELECT status, count(*) FROM row GROUP BY status").fetchall()
        counts = dict(told)
        wanted = Counter({"no": 3, "die": 4}.get(row.partition(" ")[0], 2) for row in case.rows)
        if counts != wanted:
            yield f"rows by status are {counts}, and are to be {dict(wanted)}"
        (outcomes,) = db.execute("SELECT count(*) FROM outcome").fetchone() or (0,)
        if outcomes != len(case.rows):
            yield f"there are {outcomes} outcomes of {len(case.rows)} rows"
    finally:
        db.close()


def _check_folder(case: Case) -> Iterable[str]:
    left = [file.name for file in case.folder.iterdir() if file.suffix == ".tmp"]
    if left:
        yield f"drafts are left: {left}"


# -- many of them


def named_faults(folder: Path, seed: int) -> Iterable[tuple[Case, list[Fault]]]:
    """Batches that end at points: every point of every format, and of those reached often, several; without end."""
    drawn = random.Random(f"named:{seed}")
    points: list[tuple[str, bool, str, int]] = []
    for format_, retries in itertools.product(FORMATS, (False, True)):
        case = make_case(folder / f"recorded-{format_}-{retries}", seed, format_=format_)
        case = Case(case.folder, format_, case.rows, case.concurrency, case.seed, retries)
        points += [(format_, retries, name, times) for name, times in sorted(recorded(case).items())]
    drawn.shuffle(points)
    for number, (format_, retries, name, times) in enumerate(itertools.cycle(points)):
        case = make_case(folder / f"named-{number}", seed * 100_000 + number, format_=format_)
        case = Case(case.folder, format_, case.rows, case.concurrency, case.seed, retries)
        faults = [Fault(name, drawn.randint(1, times) if number >= len(points) else 1)]
        if drawn.random() < 0.2:
            faults.append(Fault(*_another(drawn, points)))
        yield case, faults


def _another(drawn: random.Random, points: list[tuple[str, bool, str, int]]) -> tuple[str, int]:
    _, _, name, times = drawn.choice(points)
    return name, drawn.randint(1, times)


def random_faults(folder: Path, seed: int, usual: Usual) -> Iterable[tuple[Case, list[Fault]]]:
    """Batches that are killed once or twice, at any time of a run; without end."""
    drawn = random.Random(f"random:{seed}")
    for number in itertools.count():
        case = make_case(folder / f"random-{number}", seed * 100_000 + 50_000 + number)
        yield case, [Fault(after_s=drawn.uniform(0, usual.seconds)) for _ in range(drawn.choice((1, 1, 2)))]


def run_poisoned(folder: Path, seed: int) -> tuple[int, list[str]]:
    """Run a batch with one to three rows that end the process, until it has come to its end: as `run_case`."""
    drawn = random.Random(f"poison:{seed}")
    case = make_case(folder / f"poison-{seed}", seed, format_="jsonl", rows_=(6, 16))
    rows = list(case.rows)
    for index in drawn.sample(range(len(rows)), drawn.randint(1, 3)):
        rows[index] = f"die {index}"
    (case.folder / "in").write_text("".join(json.dumps({"word": row}) + "\n" for row in rows))
    case = Case(case.folder, case.format, tuple(rows), case.concurrency, seed)
    bound = 3 * sum(row.startswith("die") for row in rows)
    for run in range(bound + 1):
        status = ended(forked(_work(case, run + 1, Fault())))
        if status != -signal.SIGKILL:
            wrong = [f"it ends with {status}"] if status else check(case)
            return run, [f"seed {seed}: {what}" for what in wrong]
    return bound + 1, [f"seed {seed}: its rows have ended the process more than thrice each"]


class Usual:
    """How long a run takes on this machine as it is now, as kills that come too late tell."""

    def __init__(self) -> None:
        self.seconds = 0.05

    def note(self, kills: int, tries: int) -> None:
        """Of `tries` to kill a run, `kills` were in time."""
        self.seconds *= 1.05**kills * 0.85 ** (tries - kills)


def main() -> None:
    """Run as told by the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--named", type=int, default=500)
    parser.add_argument("--random", type=int, default=500)
    parser.add_argument("--poison", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    held.BEAT_S = _BEAT_S
    began = time.monotonic()
    kills = {"named": 0, "random": 0, "poison": 0}
    points: Counter[str] = Counter()
    wrong: list[str] = []
    scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a kill asks nothing of the disk, and this is faster
    with tempfile.TemporaryDirectory(prefix="kill-", dir=scratch) as made:
        folder = Path(made)
        # In this process, so that all is imported that a run imports.
        asyncio.run(_run(make_case(folder / "import", asked.seed), 1, refuse=False))
        gc.collect()
        gc.freeze()
        usual = Usual()
        if asked.named:
            for case, faults in named_faults(folder, asked.seed):
                count, found = run_case(case, faults)
                kills["named"] += bool(count)
                points.update(fault.point for fault in faults[:count])
                wrong += found
                shutil.rmtree(case.folder)
                if kills["named"] >= asked.named:
                    break
        if asked.random:
            for case, faults in random_faults(folder, asked.seed, usual):
                count, found = run_case(case, faults)
                usual.note(count, len(faults))
                kills["random"] += count
                wrong += found
                shutil.rmtree(case.folder)
                if kills["random"] >= asked.random:
                    break
        for number in range(asked.poison):
            count, found = run_poisoned(folder, asked.seed * 100_000 + number)
            kills["poison"] += count
            wrong += found
    told = {"seed": asked.seed, **kills, "points": len(points), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps({**told, "wrong": wrong, "reached": sorted(points)}))


if __name__ == "__main__":
    main()
