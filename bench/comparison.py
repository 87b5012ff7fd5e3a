"""One figure for each library: all of them in turn, for several rounds, every figure from a fresh process."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import msgspec

from bench.peers import LIBRARIES, Library
from bench.processes import Lab
from bench.report import progress
from bench.workloads import Sample, Workload


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A figure per library and round; a library that failed once has an error and no figures at all."""

    rounds: dict[Library, list[float]]
    errors: dict[Library, str]

    def median(self, library: Library) -> float | None:
        """The library's figure, or None where it failed."""
        return median(self.rounds[library]) if self.rounds[library] else None

    def ratio(self, over: Library, under: Library) -> float | None:
        """The median of the rounds' own ratios: what slows a whole round down cancels out of it."""
        if not self.rounds[over] or not self.rounds[under]:
            return None
        return median(one / other for one, other in zip(self.rounds[over], self.rounds[under], strict=True))

    def failures(self) -> list[str]:
        """One line for each library that failed."""
        return [f"{library}: {error}" for library, error in self.errors.items()]


def compare(lab: Lab, load: Workload, figure: Callable[[Sample], float], *, title: str, rounds: int) -> Figures:
    """Put `load` on each library in turn, `rounds` times, and keep `figure` of what each child saw."""
    figures: dict[Library, list[float]] = {library: [] for library in LIBRARIES}
    errors: dict[Library, str] = {}
    for number in range(rounds):
        progress(f"{title}: round {number + 1} of {rounds}")
        for library in LIBRARIES:
            if library in errors:
                continue
            outcome = lab.measure(library, load)
            if outcome.sample is None:
                # All its rounds go, or the rounds of a ratio would no longer belong together.
                errors[library] = outcome.error
                figures[library] = []
            else:
                figures[library].append(figure(outcome.sample))
    return Figures(rounds=figures, errors=errors)
