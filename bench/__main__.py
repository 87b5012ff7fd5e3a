"""`python -m bench`: list the benchmarks; `python -m bench NAME`: run one and print what it saw."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from bench import (
    admission,
    batch,
    contracts,
    embedded,
    fanout,
    gateway,
    imports,
    layers,
    memory,
    models,
    overhead,
    proxy,
    report,
    sandbox,
    vllm,
)

_NAMES = {
    "overhead": "client CPU per plain call and per streamed event: bare aiohttp+msgspec, asyncllm, openai",
    "layers": "what each layer between caller and backend costs a call and an event, without sockets",
    "memory": "resident memory per open stream, 1,000 open at once",
    "embedded": "the embedded model in-process and over its own port: first token and throughput by load",
    "vllm": "vLLM in-process beside the naked engine and beside its own server: throughput, first token, CPU, start",
    "batch": "batches: rows a second through a store, the fan-out over HTTP, and vLLM's own batch beside ours",
    "fanout": "wall time of 1,000 concurrent calls of 0.5 s",
    "server": "events a second through our server, beside sse_starlette's stock response and a bare ASGI application",
    "proxy": "CPU of an event and wait for the first, of our server between a client and an HTTP service",
    "admission": "what letting a call in and keeping its account costs our server, by what limits its key has",
    "import": "wall time of `import asyncllm`, modules loaded, distributions required",
    "sandbox": "wall time of a snippet in the sandbox, from start to end, beside a plain Python",
    "contracts": "no figure: what the five systems can do and asyncllm too, row by row, from the tests' results",
    "models": "no figure: make the models that benchmarks and tests of vLLM run, and name their folders",
}
# Of any other, one.
_ROUNDS = {
    "overhead": 5,
    "layers": 9,
    "memory": 3,
    "fanout": 3,
    "batch": 3,
    "server": 3,
    "proxy": 3,
    "admission": 9,
    "import": 31,
    "sandbox": 31,
}
_QUICK_ROUNDS = {"layers": 3, "import": 5, "sandbox": 5}


class _Options(argparse.Namespace):
    name: str | None
    json: bool
    quick: bool
    rounds: int | None
    workload: list[str]
    model: str | None
    option: list[str]
    lifecycle: bool
    litellm: str | None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures asyncllm beside its peers. Only ratios within one run travel between machines.",
    )
    names = parser.add_subparsers(dest="name", metavar="NAME", title="benchmarks")
    for name, line in _NAMES.items():
        one = names.add_parser(name, help=line, description=line)
        one.add_argument("--json", action="store_true", help="print JSON, every round's figure included")
        one.add_argument("--quick", action="store_true", help="small sizes: to see that it works, not to quote")
        one.add_argument("--rounds", type=int, help=f"how often each figure is taken ({_ROUNDS.get(name, 1)})")
        if name == "overhead":
            one.add_argument(
                "--workload", action="append", choices=overhead.WORKLOADS, help="only this one; may be repeated"
            )
        if name == "proxy":
            one.add_argument("--litellm", metavar="PROGRAM", help="LiteLLM's, to have its proxy measured beside ours")
        if name == "vllm":
            one.add_argument("--model", help="a folder or hub id, in place of the small real model")
            one.add_argument(
                "--option",
                action="append",
                default=[],
                metavar="NAME=VALUE",
                help="an engine argument; may be repeated",
            )
            one.add_argument(
                "--lifecycle", action="store_true", help="what starts, stops and kills leave; minutes more"
            )
    return parser


def _engine_options(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE as a mapping; a value that is no JSON is a text."""
    found: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


def _run(options: _Options, name: str) -> tuple[object, str]:
    """The outcome of the benchmark `name`, and the same as text."""
    quick = options.quick
    rounds = max(1, options.rounds or (_QUICK_ROUNDS if quick else _ROUNDS).get(name, 1))
    match name:
        case "overhead":
            rows = overhead.measure(quick=quick, rounds=rounds, workloads=options.workload or overhead.WORKLOADS)
            return rows, overhead.text(rows)
        case "layers":
            costs = layers.measure(quick=quick, rounds=rounds)
            return costs, layers.text(costs)
        case "memory":
            grown = memory.measure(quick=quick, rounds=rounds)
            return grown, memory.text(grown)
        case "embedded":
            answered = embedded.measure(quick=quick)
            return answered, embedded.text(answered)
        case "vllm":
            plan = vllm.Plan(
                quick=quick,
                times=rounds,
                lifecycle=options.lifecycle,
                model=options.model,
                options=_engine_options(options.option),
            )
            seen = vllm.measure(plan)
            return seen, vllm.text(seen)
        case "fanout":
            waited = fanout.measure(quick=quick, rounds=rounds)
            return waited, fanout.text(waited)
        case "sandbox":
            boxed = sandbox.measure(rounds=rounds)
            return boxed, sandbox.text(boxed)
        case "batch":
            worked = batch.measure(quick=quick, rounds=rounds)
            return worked, batch.text(worked)
        case "server":
            served = gateway.measure(quick=quick, rounds=rounds)
            return served, gateway.text(served)
        case "proxy":
            passed = proxy.measure(quick=quick, rounds=rounds, litellm=options.litellm)
            return passed, proxy.text(passed)
        case "admission":
            let_in = admission.measure(quick=quick, rounds=rounds)
            return let_in, admission.text(let_in)
        case "contracts":
            shown = contracts.measure(quick=quick)
            return shown, contracts.text(shown)
        case "models":
            folders = [str(folder) for folder in models.build_all()]
            return folders, "\n".join(folders)
        case _:
            imported = imports.measure(rounds=rounds)
            return imported, imports.text(imported)


def main() -> int:
    """Run the benchmark named on the command line. The status says that it ran, never how fast."""
    parser = _parser()
    options = parser.parse_args(namespace=_Options())
    if options.name is None:
        parser.print_help()
        return 0
    outcome, text = _run(options, options.name)
    if options.json:
        found = {"benchmark": options.name, "on": report.surroundings(), "outcome": outcome}
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        print(f"{text}\nquick sizes: they show that it works, and are not to be quoted" if options.quick else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
