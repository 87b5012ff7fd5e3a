"""Wall time of 1,000 concurrent calls that take the server 0.5 s each.

Each library gets a fresh process and, after one call to warm up, makes all calls at once; the time counts the opening
of a connection per call. Nothing can be faster than 0.5 s. A client that queues behind a connection limit shows here,
and so does one whose setup of a call is so slow that the last calls leave late.
"""

from __future__ import annotations

import msgspec

from bench.comparison import Figures, compare
from bench.peers import LIBRARIES
from bench.processes import open_lab
from bench.report import Judged, Target, heading, judge, number, table
from bench.workloads import Workload

_LOAD = Workload(manner="slow", in_flight=1000, calls=1000, tokens=200)
_QUICK = Workload(manner="slow", in_flight=200, calls=200, tokens=200)
_OVER_BARE = Target(bound=1.1)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of wall time for all calls together."""

    calls: int
    wall_s: Figures
    ours_over_bare: Judged


def measure(*, quick: bool, rounds: int) -> Outcome:
    """Run it `rounds` times, the libraries in turn."""
    load = _QUICK if quick else _LOAD
    with open_lab() as lab:
        figures = compare(lab, load, lambda sample: sample.wall_s, title="fanout", rounds=rounds)
    return Outcome(
        calls=load.calls, wall_s=figures, ours_over_bare=judge(figures.ratio("asyncllm", "bare"), _OVER_BARE)
    )


def text(outcome: Outcome) -> str:
    """The outcome as a table of one row, remarks below it."""
    header = ("wall time, s", *LIBRARIES, "ours/bare", "target", "")
    cells = (
        f"{outcome.calls:,} calls of 0.5 s",
        *(number(outcome.wall_s.median(library)) for library in LIBRARIES),
        *outcome.ours_over_bare.cells(),
    )
    title = "Concurrent calls, all started at once, median of the rounds."
    return "\n".join((heading(title), table(header, [cells]), *outcome.wall_s.remarks()))
