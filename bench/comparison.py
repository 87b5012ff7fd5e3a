"""One figure for each library: all of them in turn, for several rounds, every figure from a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from bench.peers import LIBRARIES, Library
from bench.processes import Lab
from bench.report import progress
from bench.workloads import Sample, Workload

_NEVER_WAITS = 0.9  # share of the time; interrupts and start-up leave a saturated client at 0.94 to 1
_QUIET = 0.05  # a share lost to other processes up to which a round counts as undisturbed


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A figure per library and round; a library that failed once has an error and no figures at all."""

    rounds: dict[Library, list[float]]
    busy: dict[Library, list[float]]
    """The share of the same rounds that a client had something to do: 1 if it never waited for the server."""
    shared: dict[Library, list[float]]
    """The share that a client could not run because its core was with another process: 0 on a quiet machine."""
    errors: dict[Library, str]

    def median(self, library: Library) -> float | None:
        """The library's figure, or None where it failed."""
        return median(self.rounds[library]) if self.rounds[library] else None

    def ratio(self, over: Library, under: Library, rounds: Sequence[int] | None = None) -> float | None:
        """The median of the rounds' own ratios, of all or of those named.

        A ratio within a round, because what slows the whole round down cancels out of it.
        """
        if not self.rounds[over] or not self.rounds[under]:
            return None
        ratios = [one / other for one, other in zip(self.rounds[over], self.rounds[under], strict=True)]
        chosen = ratios if rounds is None else [ratios[index] for index in rounds]
        return median(chosen) if chosen else None

    def waiting_rounds(self, *libraries: Library) -> list[int]:
        """The rounds in which each of `libraries` had time to wait, so that none was paced by the server."""
        busiest = zip(*(self.busy[library] for library in libraries), strict=True)
        return [index for index, busy in enumerate(busiest) if max(busy) < _NEVER_WAITS]

    def worst_shared(self) -> float:
        """The largest share of any round that was lost to other processes."""
        return max((share for shares in self.shared.values() for share in shares), default=0.0)

    def failures(self) -> list[str]:
        """One line for each library that failed."""
        return [f"{library}: {error}" for library, error in self.errors.items()]

    def remarks(self) -> list[str]:
        """What a reader must know beside the figures: that the machine was not quiet, and what failed."""
        worst = self.worst_shared()
        noisy = [f"not a quiet machine: other processes had the client's core for up to {worst:.0%} of a round"]
        return (noisy if worst > _QUIET else []) + self.failures()


def compare(lab: Lab, load: Workload, figure: Callable[[Sample], float], *, title: str, rounds: int) -> Figures:
    """Put `load` on each library in turn, `rounds` times, and keep `figure` of what each child saw."""
    figures: dict[Library, list[float]] = {library: [] for library in LIBRARIES}
    busy: dict[Library, list[float]] = {library: [] for library in LIBRARIES}
    shared: dict[Library, list[float]] = {library: [] for library in LIBRARIES}
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
                figures[library], busy[library], shared[library] = [], [], []
            else:
                figures[library].append(figure(outcome.sample))
                busy[library].append((outcome.sample.cpu_s + outcome.sample.queued_s) / outcome.sample.wall_s)
                shared[library].append(outcome.sample.queued_s / outcome.sample.wall_s)
    return Figures(rounds=figures, busy=busy, shared=shared, errors=errors)
