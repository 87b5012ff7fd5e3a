"""Batches: what a store costs a row, what the fan-out adds to the slowest call, and vLLM's own batch beside ours.

- `store`: rows of a JSONL file through `client.run_batch` with the echo backend, from the first look at the input to
  the finished output, on the disk of the temporary folder and in memory; `memory`: the same through `client.batch`.
- `fan-out`: 1,000 rows over HTTP that take the server 0.5 s each, all at once, beside as many calls of bare aiohttp.
- `vLLM`: the same prompts through `client.batch` and through `LLM.generate`, each with an engine of its own, in turn,
  with short answers, of which the time to hand the prompts over is a large part, and with longer ones.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from bench.batched import Job, Kind
from bench.engines import Load, Role, Way
from bench.engines import Sample as Turn
from bench.models import models_folder, tiny_llama
from bench.processes import Lab, open_lab
from bench.report import Judged, Target, heading, judge, number, progress, table
from bench.ways import Engine, open_way
from bench.workloads import Sample, Workload

_ROWS, _QUICK_ROWS = 20_000, 2_000
_SLOW, _QUICK_SLOW = 1_000, 200
_PROMPTS, _QUICK_PROMPTS = 256, 32
_TOKENS, _QUICK_TOKENS = (64, 256), (16,)
_MICRO = 1e6
_OPTIONS: dict[str, Any] = {
    "max_model_len": 2048,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 << 20,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
}

_STORE = Target(bound=3000, at_least=True, unit="/s")
_FAN_OUT = Target(bound=1.1)
_ENGINE = Target(bound=0.98, at_least=True)


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """One way of a batch with the echo backend."""

    way: str
    per_s: Judged
    cpu_us: float
    """By row."""
    over_memory: float
    """Its CPU over that in memory."""


class Engines(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM, with answers of one length."""

    tokens: int
    """By answer."""
    batch_per_s: float
    """Tokens a second."""
    generate_per_s: float
    ratio: Judged


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen; medians of the rounds."""

    rows: list[Rows]
    ours_s: float
    bare_s: float
    fan_out: Judged
    engines: list[Engines]
    """None where vLLM is not installed."""


def measure(*, quick: bool, rounds: int) -> Outcome:
    """Run everything `rounds` times, the ways in turn."""
    with open_lab() as lab:
        rows = _rows(lab, _QUICK_ROWS if quick else _ROWS, rounds)
        bare_s, ours_s, fan_out = _fan_out(lab, _QUICK_SLOW if quick else _SLOW, rounds)
    return Outcome(
        rows=rows,
        ours_s=ours_s,
        bare_s=bare_s,
        fan_out=judge(fan_out, _FAN_OUT),
        engines=_engines(_QUICK_PROMPTS if quick else _PROMPTS, _QUICK_TOKENS if quick else _TOKENS, rounds),
    )


_WAYS: tuple[tuple[str, Kind, bool], ...] = (
    ("memory", "memory", False),
    ("store in memory", "store", False),
    ("store on disk", "store", True),
)


def _rows(lab: Lab, rows: int, rounds: int) -> list[Rows]:
    taken: dict[str, list[Sample]] = {way: [] for way, _, _ in _WAYS}
    for turn in range(rounds):
        progress(f"rows: round {turn + 1} of {rounds}")
        for way, kind, on_disk in _WAYS:
            taken[way].append(_sample(lab, Job(kind=kind, rows=rows, on_disk=on_disk, core=None)))
    return [
        Rows(
            way=way,
            per_s=judge(_median(samples, _rate), _STORE if kind == "store" else None),
            cpu_us=_median(samples, _cpu_us),
            over_memory=statistics.median(
                _cpu_us(one) / _cpu_us(other) for one, other in zip(samples, taken["memory"], strict=True)
            ),
        )
        for (way, kind, _), samples in zip(_WAYS, taken.values(), strict=True)
    ]


def _fan_out(lab: Lab, rows: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of bare aiohttp and of ours, and the ratio."""
    load = Workload(manner="slow", in_flight=rows, calls=rows, tokens=200)
    job = Job(kind="http", rows=rows, concurrency=rows, base_url=lab.url + load.path, core=lab.client_core)
    bare: list[float] = []
    ours: list[float] = []
    for turn in range(rounds):
        progress(f"fan-out: round {turn + 1} of {rounds}")
        outcome = lab.measure("bare", load)
        if outcome.sample is None:
            raise RuntimeError(outcome.error)
        bare.append(outcome.sample.wall_s)
        ours.append(_sample(lab, job).wall_s)
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    return statistics.median(bare), statistics.median(ours), ratio


def _engines(prompts: int, lengths: Sequence[int], rounds: int) -> list[Engines]:
    try:
        from asyncllm_vllm.machine import is_for_processors

        on_cpu = is_for_processors()
    except ImportError:
        progress("vLLM is not installed")
        return []
    model = str(tiny_llama(models_folder() / "tiny-llama"))
    with ExitStack() as stack:
        progress("vLLM: starts two engines")
        inside = stack.enter_context(open_way(Role(kind="in-process", model=model, options=_OPTIONS)))
        offline = stack.enter_context(open_way(Role(kind="offline", model=model, options=_OPTIONS, on_cpu=on_cpu)))
        return [_lengthy(inside, offline, prompts, tokens, rounds) for tokens in lengths]


def _lengthy(inside: Engine, offline: Engine, prompts: int, tokens: int, rounds: int) -> Engines:
    ours: list[Turn] = []
    theirs: list[Turn] = []
    for turn in range(2 * rounds + 1):
        progress(f"vLLM, {tokens} tokens: turn {turn + 1} of {2 * rounds + 1}")
        seed = random.random()
        both: list[tuple[Way, Engine, list[Turn]]] = [("batch", inside, ours), ("generate", offline, theirs)]
        for way, engine, turns in both if turn % 2 else reversed(both):
            turns.append(engine.run(Load(way=way, in_flight=prompts, calls=1, tokens=tokens, seed=seed)))
    pairs = list(zip(ours, theirs, strict=True))[1:]  # the first is to warm up
    return Engines(
        tokens=tokens,
        batch_per_s=statistics.median(_tokens_per_s(turn) for turn, _ in pairs),
        generate_per_s=statistics.median(_tokens_per_s(turn) for _, turn in pairs),
        ratio=judge(statistics.median(_tokens_per_s(one) / _tokens_per_s(other) for one, other in pairs), _ENGINE),
    )


def _tokens_per_s(turn: Turn) -> float:
    return turn.tokens / turn.wall_s


def _sample(lab: Lab, job: Job) -> Sample:
    outcome = lab.run("bench.batched", job)
    if outcome.sample is None:
        raise RuntimeError(outcome.error)
    return outcome.sample


def _median(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> float:
    return statistics.median(map(figure, samples))


def _rate(sample: Sample) -> float:
    return sample.units / sample.wall_s


def _cpu_us(sample: Sample) -> float:
    return sample.cpu_s / sample.units * _MICRO


def text(outcome: Outcome) -> str:
    """The outcome as tables."""
    return "\n".join(
        (
            heading("Batches with the echo backend: rows a second, and CPU us a row of all threads."),
            table(
                ("", "rows/s", "target", "", "CPU us a row", "over memory"),
                [
                    (row.way, *row.per_s.cells(), number(row.cpu_us), number(row.over_memory, unit="x"))
                    for row in outcome.rows
                ],
            ),
            "\nFan-out over HTTP and in vLLM",
            table(
                ("", "bare", "asyncllm", "ours/bare", "target", ""),
                [
                    ("all rows of 0.5 s, s", number(outcome.bare_s), number(outcome.ours_s), *outcome.fan_out.cells()),
                    *(
                        (
                            f"vLLM, {one.tokens} tokens an answer, tokens/s",
                            number(one.generate_per_s),
                            number(one.batch_per_s),
                            *one.ratio.cells(),
                        )
                        for one in outcome.engines
                    ),
                ],
            ),
        )
    )
