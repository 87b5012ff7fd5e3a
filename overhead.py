"""Client CPU per plain call and per streamed event: bare aiohttp+msgspec, asyncllm and the openai SDK in one run.

A figure is the process CPU (user and system) of a client that does nothing else, after a warm-up, divided by the calls
or content events it handled. The mock server has the other core. Every figure of every round comes from a fresh
process, the libraries take turns within a round, and a ratio is the median of the rounds' own ratios.

What the workloads stand for:

- `plain`: a 200-token reply in one JSON body, 32 calls in flight.
- `burst`: 16 streams, one event a write, as fast as the server can. A client that keeps up is woken for every few
  events, and its cost per event settles near the server's own time per event; read it together with `single`.
- `coalesced`: 16 streams, 16 events a write: decoding and handing out, with next to no I/O.
- `paced`: 64 streams, an event each 20 ms: mostly the price of being woken up.
- `single`: 64 streams, an event each 3 ms, so that (unlike in `burst`) each event is a read of its own on a client that
  is busy but never behind. Has no target; it is the strictest comparison with the hand-written client.
"""

from __future__ import annotations

import msgspec

from bench import report
from bench.peers import LIBRARIES, Library
from bench.processes import Lab, open_lab
from bench.report import Judged, Target
from bench.workloads import Workload


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """A workload with its sizes and what it must reach."""

    title: str
    load: Workload
    quick: Workload
    over_bare: Target | None = None
    under_openai: Target | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One workload's outcome: microseconds of client CPU per call or event, round by round, and what follows."""

    workload: str
    rounds_us: dict[Library, list[float]]
    median_us: dict[Library, float | None]
    ours_over_bare: Judged | None
    openai_over_ours: Judged | None
    errors: dict[Library, str]


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
    "single": _Case(
        title="single-read event",
        load=Workload(manner="single", in_flight=64, calls=64, tokens=500),
        quick=Workload(manner="single", in_flight=64, calls=64, tokens=200),
    ),
}

WORKLOADS = tuple(_CASES)
"""The names `--workload` takes."""


def measure(*, quick: bool, rounds: int, workloads: tuple[str, ...]) -> list[Row]:
    """Run the workloads named, `rounds` times, the libraries in turn."""
    with open_lab() as lab:
        return [_row(lab, name, quick=quick, rounds=rounds) for name in workloads]


def _row(lab: Lab, name: str, *, quick: bool, rounds: int) -> Row:
    case = _CASES[name]
    load = case.quick if quick else case.load
    costs: dict[Library, list[float]] = {library: [] for library in LIBRARIES}
    errors: dict[Library, str] = {}
    for number in range(rounds):
        report.progress(f"{name}: round {number + 1} of {rounds}")
        for library in LIBRARIES:
            if library in errors:
                continue
            outcome = lab.measure(library, load)
            if outcome.sample is None:
                # The whole library, or the rounds of a ratio would no longer belong together.
                errors[library] = outcome.error
                costs[library] = []
            else:
                costs[library].append(outcome.sample.cpu_s / outcome.sample.units * 1e6)
    return _judged(case, costs, errors)


def _judged(case: _Case, costs: dict[Library, list[float]], errors: dict[Library, str]) -> Row:
    over_bare = report.ratio(costs["asyncllm"], costs["bare"])
    under_openai = report.ratio(costs["openai"], costs["asyncllm"])
    return Row(
        workload=case.title,
        rounds_us=costs,
        median_us={library: report.middle(costs[library]) for library in LIBRARIES},
        ours_over_bare=_beside(over_bare, case.over_bare),
        openai_over_ours=_beside(under_openai, case.under_openai),
        errors=errors,
    )


def _beside(figure: float | None, target: Target | None) -> Judged:
    return Judged(figure=figure, target="", verdict="") if target is None else report.judge(figure, target)


def text(rows: list[Row]) -> str:
    """The rows as a table."""
    header = ("client CPU, us", *LIBRARIES, "ours/bare", "target", "", "openai/ours", "target", "")
    cells = [
        (
            row.workload,
            *(report.number(row.median_us[library]) for library in LIBRARIES),
            *_verdict_cells(row.ours_over_bare),
            *_verdict_cells(row.openai_over_ours),
        )
        for row in rows
    ]
    failures = [f"{row.workload}: {library}: {error}" for row in rows for library, error in row.errors.items()]
    title = "Client CPU per call or event, median of the rounds; the mock server has a core of its own."
    return "\n".join((report.heading(title), report.table(header, cells), *failures))


def _verdict_cells(judged: Judged | None) -> tuple[str, str, str]:
    return ("-", "", "") if judged is None else (report.number(judged.figure), judged.target, judged.verdict)
