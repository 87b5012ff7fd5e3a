"""Resident memory per open stream, with 1,000 open at once.

Each library gets a fresh process and opens a first twentieth of the streams. From there, what the resident set grows by
until all are open and have shown their first events, divided by the streams it took, is the figure: connection,
buffers, decoder, tasks and what the allocator rounds up. The streams then wait for more, as streams mostly do.
"""

from __future__ import annotations

import msgspec

from bench.comparison import Figures, compare
from bench.peers import LIBRARIES
from bench.processes import open_lab
from bench.report import Judged, Target, heading, judge, number, table
from bench.workloads import Sample, Workload

_LOAD = Workload(manner="hold", in_flight=1000, calls=1000, tokens=4)
_QUICK = Workload(manner="hold", in_flight=200, calls=200, tokens=4)
_PER_STREAM = Target(bound=25, unit=" KiB")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """KiB of resident memory per open stream."""

    streams: int
    per_stream_kib: Figures
    ours: Judged


def measure(*, quick: bool, rounds: int) -> Outcome:
    """Run it `rounds` times, the libraries in turn."""
    load = _QUICK if quick else _LOAD
    with open_lab() as lab:
        figures = compare(lab, load, _per_stream_kib, title="memory", rounds=rounds)
    return Outcome(streams=load.calls, per_stream_kib=figures, ours=judge(figures.median("asyncllm"), _PER_STREAM))


def _per_stream_kib(sample: Sample) -> float:
    return sample.rss_bytes / sample.units / 1024


def text(outcome: Outcome) -> str:
    """The outcome as a table of one row, remarks below it."""
    header = ("KiB per stream", *LIBRARIES, "target for ours", "")
    cells = (
        f"{outcome.streams:,} open streams",
        *(number(outcome.per_stream_kib.median(library), 1) for library in LIBRARIES),
        outcome.ours.target,
        outcome.ours.verdict,
    )
    title = "Resident memory of the client per open stream, median of the rounds."
    return "\n".join((heading(title), table(header, [cells]), *outcome.per_stream_kib.remarks()))
