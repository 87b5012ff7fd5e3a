"""vLLM in the process: beside the naked engine, beside vLLM's own server, and from start to end.

Every way is a process of its own and all of them stand ready at once; the parent has them take short turns, and a ratio
is the median over pairs of neighbouring turns. Two models are made on the spot: a tiny one, whose engine is so quick
that what stands around it shows, and a small real one, whose engine sets the pace.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from asyncllm_vllm.machine import describe, is_for_processors
from bench import lifecycle, procfs
from bench.engines import Load, Role, Sample, Way
from bench.lifecycle import Ended, Started
from bench.models import models_folder, smollm2, tiny_llama
from bench.report import Judged, Target, heading, judge, number, progress, table
from bench.ways import Server, open_server, open_way

_IN_FLIGHT = (1, 8, 32)
_MOST = 32
_TOKENS = 64
_FEW_TOKENS = 8
_OPTIONS: dict[str, Any] = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20}
_MICRO, _MILLI = 1e6, 1e3

_THROUGHPUT = Target(bound=0.98, at_least=True)
_CPU = Target(bound=5, unit=" us")
_FIRST = Target(bound=0.3, unit=" ms")
_QUICKER = Target(bound=1.5, at_least=True)
_NOT_BEHIND = Target(bound=0.97, at_least=True)

_PAIRS: tuple[tuple[Way, Way], ...] = (
    ("stream", "naked stream"),
    ("chat", "naked chat"),
    ("naked stream", "naked stream"),  # how far two of the same are apart: the noise of this run
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure, and how often."""

    quick: bool = False
    times: int = 1
    """How often the usual number of turns is taken."""
    lifecycle: bool = False
    model: str | None = None
    """In place of the small real model."""
    options: Mapping[str, Any] = {}
    """vLLM's engine arguments, over those of this module."""

    def rounds(self, many: int) -> int:
        """How many turns each way takes."""
        return min(many, 3) if self.quick else many * self.times


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One way of ours beside the naked engine, at one load. Rates are tokens a second, costs are by output."""

    model: str
    way: str
    in_flight: int
    ours_per_s: float
    naked_per_s: float
    alone_per_s: float | None
    """Of a naked engine of its own, that keeps no statistics."""
    ratio: Judged
    naked_cpu_us: float
    more_cpu_us: Judged


class First(msgspec.Struct, frozen=True, kw_only=True):
    """Until the first text, one call in flight."""

    model: str
    ours_ms: float
    naked_ms: float
    more_ms: Judged


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """One way from a caller to an engine, in this process or behind a server."""

    model: str
    way: str
    per_s: float
    ours_over_it: Judged | None
    client_cpu_us: float
    """By token, as all below."""
    frontend_cpu_us: float
    engine_cpu_us: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen."""

    vllm: str
    pairs: list[Pair]
    firsts: list[First]
    apart: list[Apart]
    starts: Started
    ended: Ended | None


def measure(plan: Plan) -> Outcome:
    """Run everything; some minutes."""
    options = {**_OPTIONS, **plan.options}
    tiny = str(tiny_llama(models_folder() / "tiny-llama"))
    models = {"tiny": tiny}
    if plan.model is not None:
        models[Path(plan.model).name] = plan.model
    elif not plan.quick:
        models["SmolLM2-135M"] = str(smollm2(models_folder() / "smollm2"))
    pairs: list[Pair] = []
    firsts: list[First] = []
    apart: list[Apart] = []
    for name, model in models.items():
        is_tiny = model == tiny
        with ExitStack() as stack:
            progress(f"{name}: starts two engines and a server")
            turns = Turns(stack, model, options)
            pairs += _beside_naked(name, turns, plan.rounds(31 if is_tiny else 3), is_tiny=is_tiny)
            firsts.append(_first_tokens(name, turns, plan.rounds(150 if is_tiny else 20)))
            target = _QUICKER if is_tiny else _NOT_BEHIND
            apart += _beside_server(name, turns, plan.rounds(9 if is_tiny else 3), target)
    starts = lifecycle.starts(tiny, options, times=1 if plan.quick else 3)
    ended = lifecycle.ends(tiny, options, times=2 if plan.quick else 20) if plan.lifecycle else None
    return Outcome(vllm=describe(), pairs=pairs, firsts=firsts, apart=apart, starts=starts, ended=ended)


class Turns:
    """The processes of one model, each warm and waiting for its turn."""

    def __init__(self, stack: ExitStack, model: str, options: Mapping[str, Any]) -> None:
        on_cpu = is_for_processors()
        given = dict(options)
        self.inside = stack.enter_context(open_way(Role(kind="in-process", model=model, options=given)))
        self.naked = stack.enter_context(open_way(Role(kind="naked", model=model, options=given, on_cpu=on_cpu)))
        self.server: Server = stack.enter_context(open_server(model, given, on_cpu=on_cpu))
        self.over = [
            stack.enter_context(open_way(Role(kind=kind, model=self.server.model, base_url=self.server.url)))
            for kind in ("asyncllm over HTTP", "openai over HTTP")
        ]
        warm = Load(way="stream", in_flight=2, calls=1, tokens=_FEW_TOKENS)
        for way in (self.inside, *self.over):
            way.run(warm)
        for way in (self.inside, self.naked):
            way.run(msgspec.structs.replace(warm, way="naked stream"))


def _beside_naked(name: str, turns: Turns, rounds: int, *, is_tiny: bool) -> list[Pair]:
    found: list[Pair] = []
    for ours, naked in _PAIRS if is_tiny else _PAIRS[:1]:
        for in_flight in _IN_FLIGHT:
            progress(f"{name}: {ours}, {in_flight} in flight")
            load = Load(way=ours, in_flight=in_flight, calls=1, tokens=_TOKENS)
            bare = msgspec.structs.replace(load, way=naked)
            taken: list[tuple[Sample, Sample]] = []
            alone: list[Sample] = []
            for turn in range(rounds):
                both = [turns.inside.run(one) for one in ((load, bare) if turn % 2 else (bare, load))]
                taken.append((both[0], both[1]) if turn % 2 else (both[1], both[0]))
                if is_tiny and load.way == "stream" and in_flight == _MOST:
                    alone.append(turns.naked.run(bare))
            found.append(_pair(name, load, taken, alone))
    return found


def _pair(name: str, load: Load, taken: Sequence[tuple[Sample, Sample]], alone: Sequence[Sample]) -> Pair:
    is_ours = not load.way.startswith("naked")
    return Pair(
        model=name,
        way=load.way,
        in_flight=load.in_flight,
        ours_per_s=statistics.median(_per_s(ours) for ours, _ in taken),
        naked_per_s=statistics.median(_per_s(naked) for _, naked in taken),
        alone_per_s=statistics.median(map(_per_s, alone)) if alone else None,
        ratio=judge(
            statistics.median(_per_s(ours) / _per_s(naked) for ours, naked in taken), _THROUGHPUT if is_ours else None
        ),
        naked_cpu_us=statistics.median(naked.cpu_s / naked.outputs * _MICRO for _, naked in taken),
        more_cpu_us=judge(
            statistics.median((ours.cpu_s - naked.cpu_s) / naked.outputs * _MICRO for ours, naked in taken),
            _CPU if is_ours and load.way == "stream" else None,
        ),
    )


def _per_s(sample: Sample) -> float:
    return sample.tokens / sample.wall_s


def _first_tokens(name: str, turns: Turns, rounds: int) -> First:
    progress(f"{name}: first tokens")
    ours_s: list[float] = []
    naked_s: list[float] = []
    ours = Load(way="stream", in_flight=1, calls=1, tokens=_FEW_TOKENS)
    naked = msgspec.structs.replace(ours, way="naked stream")
    for turn in range(rounds):
        for load in (ours, naked) if turn % 2 else (naked, ours):
            (ours_s if load is ours else naked_s).extend(turns.inside.run(load).first_s)
    # The first tokens may be parts of a character: a call that ended before it was whole says nothing.
    ours_ms, naked_ms = (statistics.median(filter(None, times)) * _MILLI for times in (ours_s, naked_s))
    return First(model=name, ours_ms=ours_ms, naked_ms=naked_ms, more_ms=judge(ours_ms - naked_ms, _FIRST))


def _beside_server(name: str, turns: Turns, rounds: int, target: Target) -> list[Apart]:
    """The same load in this process and over vLLM's server, in turn."""
    progress(f"{name}: beside vLLM's server")
    load = Load(way="stream", in_flight=_MOST, calls=4 if target is _QUICKER else 1, tokens=_TOKENS)
    ways = [turns.inside, *turns.over]
    samples: list[list[Sample]] = [[] for _ in ways]
    frontend_s, engine_s = [0.0] * len(ways), [0.0] * len(ways)
    for _ in range(rounds):
        for index, way in enumerate(ways):
            served = way is not turns.inside
            frontend, host = turns.server.pid, turns.server.pid if served else way.pid
            before = procfs.cpu_s(frontend), sum(map(procfs.cpu_s, procfs.descendants(host)))
            samples[index].append(way.run(load))
            if served:
                frontend_s[index] += procfs.cpu_s(frontend) - before[0]
            engine_s[index] += sum(map(procfs.cpu_s, procfs.descendants(host))) - before[1]
    rows: list[Apart] = []
    for index, way in enumerate(ways):
        tokens = sum(sample.tokens for sample in samples[index])
        ratios = [_per_s(ours) / _per_s(its) for ours, its in zip(samples[0], samples[index], strict=True)]
        rows.append(
            Apart(
                model=name,
                way=way.role.kind,
                per_s=statistics.median(map(_per_s, samples[index])),
                ours_over_it=judge(statistics.median(ratios), target) if index else None,
                client_cpu_us=sum(sample.cpu_s for sample in samples[index]) / tokens * _MICRO,
                frontend_cpu_us=frontend_s[index] / tokens * _MICRO,
                engine_cpu_us=engine_s[index] / tokens * _MICRO,
            )
        )
    return rows


def text(outcome: Outcome) -> str:
    """The outcome as tables."""
    parts = [
        heading("vLLM in the process. Medians; ways take turns, and only ratios of neighbours are judged."),
        outcome.vllm,
        "\nBeside the naked engine, the same one in the same process; 64 tokens a call, tokens a second",
        table(
            ("", "naked", "asyncllm", "ratio", "target", "", "CPU us an output", "more", "target", ""),
            [_pair_cells(pair) for pair in outcome.pairs],
        ),
        *(_alone_line(pair) for pair in outcome.pairs if pair.alone_per_s is not None),
        "\nUntil the first text, one in flight, ms",
        table(
            ("", "naked", "asyncllm", "more", "target", ""),
            [(one.model, number(one.naked_ms), number(one.ours_ms), *one.more_ms.cells()) for one in outcome.firsts],
        ),
        f"\nBeside vLLM's own server, {_MOST} in flight, {_TOKENS} tokens a call; CPU in us a token",
        table(
            ("", "tokens/s", "in-process over it", "target", "", "client", "+ frontend", "= outside", "engine"),
            [_apart_cells(row) for row in outcome.apart],
        ),
        "",
        lifecycle.starts_text(outcome.starts),
        *(["", lifecycle.ends_text(outcome.ended)] if outcome.ended is not None else []),
    ]
    return "\n".join(parts)


_LABELS = {"stream": "stream", "chat": "chat", "naked stream": "naked twice"}


def _pair_cells(pair: Pair) -> Sequence[str]:
    return (
        f"{pair.model}, {_LABELS[pair.way]}, {pair.in_flight} in flight",
        number(pair.naked_per_s, 0),
        number(pair.ours_per_s, 0),
        number(pair.ratio.figure, 3),
        *pair.ratio.cells()[1:],
        number(pair.naked_cpu_us),
        *pair.more_cpu_us.cells(),
    )


def _alone_line(pair: Pair) -> str:
    return (
        f"{pair.model}: a naked engine of its own, which keeps no statistics: {number(pair.alone_per_s, 0)} at "
        f"{pair.in_flight} in flight, in turn with these"
    )


def _apart_cells(row: Apart) -> Sequence[str]:
    return (
        f"{row.model}, {row.way}",
        number(row.per_s, 0),
        *(("", "", "") if row.ours_over_it is None else row.ours_over_it.cells()),
        number(row.client_cpu_us),
        number(row.frontend_cpu_us),
        number(row.client_cpu_us + row.frontend_cpu_us),
        number(row.engine_cpu_us),
    )
