"""One figure a library, all libraries in turn for several rounds: the part that `fanout` and `memory` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from bench import report
from bench.peers import LIBRARIES, Library
from bench.processes import open_lab
from bench.report import Judged
from bench.workloads import Sample, Workload


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A figure for each library, round by round, and what asyncllm's is judged by."""

    rounds: dict[Library, list[float]]
    median: dict[Library, float | None]
    judged: dict[str, Judged]
    errors: dict[Library, str]


def take(
    load: Workload, figure: Callable[[Sample], float], *, name: str, rounds: int
) -> tuple[dict[Library, list[float]], dict[Library, str]]:
    """Put `load` on each library in turn, `rounds` times; returns the figures and, where there are none, the reasons.

    One failure takes the whole library out: the rounds of a ratio have to belong together.
    """
    figures: dict[Library, list[float]] = {library: [] for library in LIBRARIES}
    errors: dict[Library, str] = {}
    with open_lab() as lab:
        for number in range(rounds):
            report.progress(f"{name}: round {number + 1} of {rounds}")
            for library in LIBRARIES:
                if library in errors:
                    continue
                outcome = lab.measure(library, load)
                if outcome.sample is None:
                    errors[library] = outcome.error
                    figures[library] = []
                else:
                    figures[library].append(figure(outcome.sample))
    return figures, errors
