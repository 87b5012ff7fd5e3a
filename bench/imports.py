"""What `import asyncllm` costs: wall time, modules, distributions; the openai SDK beside it.

A figure is the wall time of a fresh interpreter that imports the package and ends, less that of one that imports
nothing, both medians. It is taken twice: with bytecode cached, which is what an installed wheel gives on every start
but the first, and as this environment is, where a checkout may have to be compiled at every start. The first is
judged. asyncllm loads its client when it is first named, so the price of `from asyncllm import Client` stands beside
it: that is what a program pays that makes a call. Imports take turns, so a slow moment of the machine meets them all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires
from statistics import median

import msgspec

from bench.processes import bytecode_cache, without_paths
from bench.report import Judged, Target, heading, judge, number, progress, table

_STATEMENTS = {
    "nothing": "pass",
    "asyncllm": "import asyncllm",
    "openai": "import openai",
    "asyncllm client": "from asyncllm import Client",
    "openai client": "from openai import AsyncOpenAI",
}
_HEAVY = ("aiohttp", "starlette", "vllm", "torch", "apsw", "pydantic")
_WALL = Target(bound=60, unit=" ms")
_NO_HEAVY = Target(bound=0, unit="")
_DISTRIBUTIONS = Target(bound=5, unit="")

_LIST_MODULES = "import sys; before = set(sys.modules); import {0}; print(*sorted(set(sys.modules) - before))"


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """What importing one package costs."""

    wall_ms: float | None
    """With bytecode cached, less the interpreter's own start."""
    wall_uncached_ms: float | None
    """As this environment is, less the interpreter's own start."""
    client_ms: float | None
    """The same with the client named: `from asyncllm import Client`, `from openai import AsyncOpenAI`."""
    modules: int
    heavy: list[str]
    """Which of the packages that must not be loaded are loaded."""
    distributions: list[str]
    """What the package itself requires, extras left out."""
    all_distributions: list[str]
    """Those and what they require in turn, as installed here."""
    error: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of both imports, and asyncllm's next to its targets."""

    interpreter_ms: float
    asyncllm: Import
    openai: Import
    wall: Judged
    heavy: Judged
    distributions: Judged


def measure(*, rounds: int) -> Outcome:
    """Start every interpreter `rounds` times with bytecode cached, and a third as often without."""
    # An empty folder: what lies in the current one must not be what is imported.
    with bytecode_cache() as cached, tempfile.TemporaryDirectory() as folder:
        as_is = dict(os.environ)
        errors = {name: _fails(statement, cached, folder) for name, statement in _STATEMENTS.items()}
        works = [name for name, error in errors.items() if not error]
        progress(f"import: {rounds} starts of {', '.join(works)}, with bytecode cached")
        with_cache = _start_times(works, cached, folder, rounds)
        progress("import: as this environment is")
        without_cache = _start_times(works, as_is, folder, max(3, rounds // 3))
        found = {
            name: _found(name, errors[name], with_cache, without_cache, _loaded(name, cached, folder))
            for name in ("asyncllm", "openai")
        }
    ours = found["asyncllm"]
    return Outcome(
        interpreter_ms=with_cache["nothing"],
        asyncllm=ours,
        openai=found["openai"],
        wall=judge(ours.wall_ms, _WALL),
        heavy=judge(None if ours.error else len(ours.heavy), _NO_HEAVY),
        distributions=judge(len(ours.distributions), _DISTRIBUTIONS),
    )


def _python(statement: str, environment: Mapping[str, str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", statement],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def _fails(statement: str, environment: Mapping[str, str], folder: str) -> str:
    """Why `statement` fails, or an empty string. This first run also fills the bytecode cache."""
    done = _python(statement, environment, folder)
    return without_paths(done.stderr.strip().splitlines()[-1]) if done.returncode else ""


def _start_times(names: Sequence[str], environment: Mapping[str, str], folder: str, rounds: int) -> dict[str, float]:
    """The median wall time in ms of an interpreter that runs each of the named statements."""
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            started = time.perf_counter()
            _python(_STATEMENTS[name], environment, folder)
            times_ms[name].append((time.perf_counter() - started) * 1e3)
    return {name: median(times) for name, times in times_ms.items()}


def _loaded(name: str, environment: Mapping[str, str], folder: str) -> list[str]:
    return _python(_LIST_MODULES.format(name), environment, folder).stdout.split()


def _found(
    name: str, error: str, cached: Mapping[str, float], uncached: Mapping[str, float], loaded: Sequence[str]
) -> Import:
    packages = {module.partition(".")[0] for module in loaded}
    return Import(
        wall_ms=None if error else cached[name] - cached["nothing"],
        wall_uncached_ms=None if error else uncached[name] - uncached["nothing"],
        client_ms=cached[client] - cached["nothing"] if (client := f"{name} client") in cached else None,
        modules=len(loaded),
        heavy=[package for package in _HEAVY if package in packages],
        distributions=_required_by(name),
        all_distributions=sorted(_closure(name)),
        error=error,
    )


def _required_by(distribution: str) -> list[str]:
    """The names of what an installed distribution requires without any extra."""
    try:
        requirements = requires(distribution) or []
    except PackageNotFoundError:
        return []
    plain = (text for text in requirements if "extra ==" not in text)
    return sorted({re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0].lower() for text in plain})


def _closure(distribution: str) -> set[str]:
    """Everything an installation of `distribution` brings, as far as it is installed here.

    Other markers are not read: what they rule out is, as a rule, not installed.
    """
    seen: set[str] = set()
    waiting = _required_by(distribution)
    while waiting:
        name = waiting.pop()
        if name not in seen and _is_installed(name):
            seen.add(name)
            waiting += _required_by(name)
    return seen


def _is_installed(distribution: str) -> bool:
    try:
        requires(distribution)
    except PackageNotFoundError:
        return False
    return True


def text(outcome: Outcome) -> str:
    """The outcome as a table, asyncllm and the openai SDK side by side."""
    ours, theirs = outcome.asyncllm, outcome.openai
    rows = [
        ("import, bytecode cached", _ms(ours.wall_ms), _ms(theirs.wall_ms), *_verdict(outcome.wall)),
        ("import, as this environment is", _ms(ours.wall_uncached_ms), _ms(theirs.wall_uncached_ms), "", ""),
        ("import of the client, cached", _ms(ours.client_ms), _ms(theirs.client_ms), "", ""),
        ("modules loaded", str(ours.modules), str(theirs.modules), "", ""),
        (f"of {', '.join(_HEAVY)}", _names(ours.heavy), _names(theirs.heavy), *_verdict(outcome.heavy)),
        ("distributions required", *map(_count, (ours, theirs)), *_verdict(outcome.distributions)),
        ("and all they bring", str(len(ours.all_distributions)), str(len(theirs.all_distributions)), "", ""),
    ]
    return "\n".join(
        (
            heading("A fresh interpreter that imports the package, less one that imports nothing; medians."),
            table(("", "asyncllm", "openai", "target for ours", ""), rows),
            f"the interpreter itself: {_ms(outcome.interpreter_ms)}; asyncllm requires {_names(ours.distributions)}",
            *(f"{name}: {found.error}" for name, found in (("asyncllm", ours), ("openai", theirs)) if found.error),
        )
    )


def _ms(figure: float | None) -> str:
    return number(figure, 1, " ms")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _count(found: Import) -> str:
    return str(len(found.distributions))


def _verdict(judged: Judged) -> tuple[str, str]:
    return judged.target, judged.verdict
