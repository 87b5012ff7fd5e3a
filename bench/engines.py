"""A process that puts loads on an engine in the ways it is asked for: `python -m bench.engines`.

A line of JSON on standard input says what stands between the caller and the engine, and each further one is a load that
is answered with a line on standard output. The parent can thus have several such processes take turns, so that whatever
else the machine does falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import msgspec

import asyncllm
from asyncllm.backend import Config
from asyncllm_vllm.engine import borrow, give_back
from asyncllm_vllm.options import read_options
from bench import naked
from bench.naked import Answer

_WORDS = ("river", "stone", "cloud", "paper", "green", "seven", "window", "table", "music", "forest", "quick", "garden")

Way: TypeAlias = Literal["stream", "chat", "naked stream", "naked chat", "batch", "generate"]


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is."""

    kind: Literal["in-process", "naked", "offline", "asyncllm over HTTP", "openai over HTTP"]
    """An engine of asyncllm's, which can be used naked too; one without asyncllm, for single calls or whole batches; or
    a client of a server."""
    model: str
    options: dict[str, Any] = {}
    base_url: str = ""
    on_cpu: bool = False


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`in_flight` callers that each make `calls` calls of `tokens` tokens, one after the other.

    `batch` and `generate` are one call with as many prompts.
    """

    way: Way
    in_flight: int
    calls: int
    tokens: int
    seed: float | None = None
    """Of the prompts, where they are to be those of another load."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a load."""

    tokens: int
    outputs: int
    """Of the engine, as far as they came singly; of asyncllm, events of text."""
    wall_s: float
    cpu_s: float
    """Of this process."""
    first_s: list[float]
    """Until the first text, by call."""


_Ask: TypeAlias = Callable[[str, int], Awaitable[Answer]]
_AskAll: TypeAlias = Callable[[list[str], int], Awaitable[list[Answer]]]
_ALL = ("batch", "generate")


@asynccontextmanager
async def _ways(role: Role) -> AsyncGenerator[dict[Way, Any]]:
    """The ways that a role has, each an `_Ask` or an `_AskAll`, for the length of the block."""
    match role.kind:
        case "in-process":
            options = read_options(Config(backend="vllm", options=role.options))
            async with asyncllm.Client(model=f"vllm:{role.model}", options=role.options) as client:
                engine = borrow(role.model, options)
                core: Any = await engine.ready()
                bare = naked.Naked(core._engine)  # noqa: SLF001  # the same one, without what is around it
                whole: dict[Way, Any] = {"batch": partial(_batch, client)}
                yield _asyncllm(client) | _naked(bare) | whole
                give_back(engine)
        case "naked":
            engine = naked.start(role.model, role.options, on_cpu=role.on_cpu)
            yield _naked(naked.Naked(engine))
            engine.shutdown()
            del engine
        case "offline":
            found: dict[Way, Any] = {"generate": naked.offline(role.model, role.options, on_cpu=role.on_cpu)}
            yield found
        case "asyncllm over HTTP":
            # What the server closes in a pause is opened again by the retry.
            async with asyncllm.Client(model=f"openai:{role.model}", base_url=role.base_url, api_key="k") as client:
                yield _asyncllm(client)
        case "openai over HTTP":
            from openai import AsyncOpenAI

            async with AsyncOpenAI(base_url=role.base_url, api_key="k") as sdk:
                yield {"stream": partial(_openai, sdk, role.model)}


def _asyncllm(client: asyncllm.Client) -> dict[Way, _Ask]:
    async def stream(prompt: str, tokens: int) -> Answer:
        first_s, events = 0.0, 0
        began = time.perf_counter()
        async with client.stream(prompt, max_tokens=tokens, temperature=0, ignore_eos=True) as answer:
            async for event in answer:
                if type(event) is asyncllm.TextDelta:
                    if not first_s:
                        first_s = time.perf_counter() - began
                    events += 1
        return Answer(answer.response.usage.output_tokens or 0, events, first_s)

    async def chat(prompt: str, tokens: int) -> Answer:
        began = time.perf_counter()
        response = await client.chat(prompt, max_tokens=tokens, temperature=0, ignore_eos=True)
        return Answer(response.usage.output_tokens or 0, 1, time.perf_counter() - began)

    return {"stream": stream, "chat": chat}


async def _batch(client: asyncllm.Client, prompts: list[str], tokens: int) -> list[Answer]:
    rows: list[Any] = [{"prompt": prompt} for prompt in prompts]
    results = client.batch(rows, concurrency=len(rows), max_tokens=tokens, temperature=0, ignore_eos=True)
    return [Answer(result.unwrap().usage.output_tokens or 0, 1, 0) async for result in results]


def _naked(engine: naked.Naked) -> dict[Way, _Ask]:
    return {"naked stream": partial(engine.ask, stream=True), "naked chat": partial(engine.ask, stream=False)}


async def _openai(sdk: Any, model: str, prompt: str, tokens: int) -> Answer:
    first_s, events, count = 0.0, 0, 0
    began = time.perf_counter()
    opened = await sdk.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=tokens,
        temperature=0,
        extra_body={"ignore_eos": True},
        stream=True,
        stream_options={"include_usage": True},
    )
    async with opened as chunks:
        async for chunk in chunks:
            for choice in chunk.choices:
                if choice.delta.content:
                    if not first_s:
                        first_s = time.perf_counter() - began
                    events += 1
            if chunk.usage:
                count = chunk.usage.completion_tokens
    return Answer(count, events, first_s)


def _prompt(chance: random.Random) -> str:
    """A new one for each call, so that no prefix is known already."""
    return f"{chance.random():.9f} " + " ".join(chance.choices(_WORDS, k=12))


async def _run(ask: _Ask | _AskAll, load: Load) -> Sample:
    chance = random.Random(load.seed)
    prompts = [[_prompt(chance) for _ in range(load.calls)] for _ in range(load.in_flight)]

    async def caller(own: list[str]) -> list[Answer]:
        one = cast("_Ask", ask)
        return [await one(prompt, load.tokens) for prompt in own]

    cpu_s, began = time.process_time(), time.perf_counter()
    if load.way in _ALL:
        rows = [await cast("_AskAll", ask)([prompt for own in prompts for prompt in own], load.tokens)]
    else:
        rows = await asyncio.gather(*map(caller, prompts))
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    answers = [answer for row in rows for answer in row]
    return Sample(
        tokens=sum(answer.tokens for answer in answers),
        outputs=sum(answer.outputs for answer in answers),
        wall_s=wall_s,
        cpu_s=cpu_s,
        first_s=[answer.first_s for answer in answers],
    )


async def _serve() -> None:
    """Answer loads until standard input ends, as it does when the parent goes."""
    role = msgspec.json.decode(sys.stdin.readline(), type=Role)
    async with _ways(role) as ways:
        while line := await asyncio.to_thread(sys.stdin.readline):
            load = msgspec.json.decode(line, type=Load)
            sample = await _run(ways[load.way], load)
            sys.stdout.write(msgspec.json.encode(sample).decode() + "\n")
            sys.stdout.flush()
    del ways
    gc.collect()  # an engine that is left to the end of the interpreter complains


if __name__ == "__main__":
    asyncio.run(_serve())
