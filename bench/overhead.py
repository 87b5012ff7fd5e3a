"""Client CPU per plain call and per streamed event: bare aiohttp+msgspec, asyncllm and the openai SDK in one run.

A figure is the process CPU (user and system) of a client that does nothing else, after a warm-up, divided by the calls
or content events it handled. The mock server has the other core. Every figure of every round comes from a fresh
process, the libraries take turns within a round, and a ratio is the median of the rounds' own ratios.

What the workloads stand for:

- `plain`: a 200-token reply in one JSON body, 32 calls in flight.
- `burst`: 16 streams, one event a write, as fast as the server can. How many of them a client finds at each read is
  left to chance, and there is a trap: a client that never waits catches up by reading several events at once, until
  its cost per event is the server's time per event (7 to 8 us), the same for any client that is not slower than that.
  Such rounds say nothing about ours/bare; only rounds in which both clients waited are judged, and the others are
  counted below the table. Where none is left, the verdict is "server-bound".
- `coalesced`: 16 streams, 16 events a write: decoding and handing out, with next to no I/O.
- `paced`: 64 streams, an event each 20 ms: mostly the price of being woken up.
- `lockstep`: 32 streams, one event a write, the next as soon as the client has taken an earlier one (see
  `bench.lockstep`): each event is a read of its own and the client sets the pace, so unlike `burst` it has no trap and
  hides nothing. The issue names no target for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.comparison import Figures, compare
from bench.peers import LIBRARIES
from bench.processes import Lab, open_lab
from bench.report import Judged, Target, heading, judge, number, table
from bench.workloads import Sample, Workload


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """A workload with its sizes and what it must reach."""

    title: str
    load: Workload
    quick: Workload
    over_bare: Target | None = None
    under_openai: Target | None = None
    waiting_only: bool = False
    """Judge ours/bare by the rounds in which both clients waited; see `burst` above."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One workload's outcome: microseconds of client CPU per call or event, and the two ratios that are judged."""

    workload: str
    cpu_us: Figures
    ours_over_bare: Judged
    openai_over_ours: Judged
    note: str = ""


def _at_least(bound: float) -> Target:
    return Target(bound=bound, at_least=True)


_CASES = {
    "plain": _Case(
        title="plain call",
        load=Workload(manner="plain", in_flight=32, calls=2000, tokens=200),
        quick=Workload(manner="plain", in_flight=32, calls=300, tokens=200),
        over_bare=Target(bound=1.5),
        under_openai=_at_least(10),
    ),
    "burst": _Case(
        title="burst event",
        load=Workload(manner="burst", in_flight=16, calls=32, tokens=1000),
        quick=Workload(manner="burst", in_flight=16, calls=16, tokens=250),
        over_bare=Target(bound=1.25),
        under_openai=_at_least(10),
        waiting_only=True,
    ),
    "coalesced": _Case(
        title="coalesced event",
        load=Workload(manner="coalesced", in_flight=16, calls=48, tokens=1000),
        quick=Workload(manner="coalesced", in_flight=16, calls=16, tokens=500),
        over_bare=Target(bound=1.5),
        under_openai=_at_least(20),
    ),
    "paced": _Case(
        title="paced event",
        load=Workload(manner="paced", in_flight=64, calls=64, tokens=200),
        quick=Workload(manner="paced", in_flight=64, calls=64, tokens=60),
        over_bare=Target(bound=1.1),
        under_openai=_at_least(3),
    ),
    "lockstep": _Case(
        title="lockstep event",
        load=Workload(manner="lockstep", in_flight=32, calls=32, tokens=1000),
        quick=Workload(manner="lockstep", in_flight=32, calls=32, tokens=200),
    ),
}

WORKLOADS = tuple(_CASES)
"""The names `--workload` takes."""


def measure(*, quick: bool, rounds: int, workloads: Sequence[str]) -> list[Row]:
    """Run the workloads named, `rounds` times, the libraries in turn."""
    with open_lab() as lab:
        return [_row(lab, _CASES[name], quick=quick, rounds=rounds) for name in workloads]


def _row(lab: Lab, case: _Case, *, quick: bool, rounds: int) -> Row:
    load = case.quick if quick else case.load
    figures = compare(lab, load, _cpu_us, title=case.title, rounds=rounds)
    ours_over_bare, note = judge(figures.ratio("asyncllm", "bare"), case.over_bare), ""
    if case.waiting_only and ours_over_bare.figure is not None:
        ours_over_bare, note = _judge_waiting(figures, case, ours_over_bare)
    return Row(
        workload=case.title,
        cpu_us=figures,
        ours_over_bare=ours_over_bare,
        openai_over_ours=judge(figures.ratio("openai", "asyncllm"), case.under_openai),
        note=note,
    )


def _judge_waiting(figures: Figures, case: _Case, over_all: Judged) -> tuple[Judged, str]:
    """Judge ours/bare by the rounds in which neither client was paced by the server, and say how many those are."""
    waiting = figures.waiting_rounds("asyncllm", "bare")
    note = (
        f"{case.title}: ours/bare is judged by the {len(waiting)} of {len(figures.rounds['bare'])} rounds in which "
        f"both clients waited for the server; over all rounds it is {number(over_all.figure)}"
    )
    if not waiting:
        return Judged(figure=over_all.figure, target=over_all.target, verdict="server-bound"), note
    return judge(figures.ratio("asyncllm", "bare", waiting), case.over_bare), note


def _cpu_us(sample: Sample) -> float:
    return sample.cpu_s / sample.units * 1e6


def text(rows: Sequence[Row]) -> str:
    """The rows as a table, remarks below it."""
    header = ("client CPU, us", *LIBRARIES, "ours/bare", "target", "", "openai/ours", "target", "")
    cells = [
        (
            row.workload,
            *(number(row.cpu_us.median(library)) for library in LIBRARIES),
            *row.ours_over_bare.cells(),
            *row.openai_over_ours.cells(),
        )
        for row in rows
    ]
    notes = [row.note for row in rows if row.note]
    remarks = [f"{row.workload}: {remark}" for row in rows for remark in row.cpu_us.remarks()]
    title = "Client CPU per call or event, median of the rounds; the mock server has a core of its own."
    return "\n".join((heading(title), table(header, cells), *notes, *remarks))
