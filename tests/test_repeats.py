"""Backends that fail at random, with retries and other models to fall back to: nobody ever sees a piece twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import cast

import asyncllm
from asyncllm import (
    Client,
    Finished,
    Hedge,
    ReasoningDelta,
    Retry,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from asyncllm.testing import Script, ScriptedBackend, Stall, Step, run_virtual
from leftovers import nothing_unseen

SEED = int(os.environ.get("ASYNCLLM_SEED") or random.randrange(2**32))
CASES = 5000
MODELS = ["one", "two", "three"]
ATTEMPTS = 3
ERRORS: list[type[asyncllm.APIError]] = [
    asyncllm.APIConnectionError,
    asyncllm.BadRequestError,
    asyncllm.FirstEventTimeoutError,
    asyncllm.InternalServerError,
    asyncllm.NotFoundError,
    asyncllm.OverloadedError,
    asyncllm.ProtocolError,
    asyncllm.QuotaExceededError,
    asyncllm.RateLimitError,
    asyncllm.StreamInterrupted,
]
PIECES = (TextDelta, ReasoningDelta, ToolCallDelta)


def scripts(draw: random.Random) -> list[Script]:
    """What a backend does at each attempt; each piece of text names the attempt that it is of, and its place."""
    return [script(draw, attempt) for attempt in range(ATTEMPTS * len(MODELS))]


def script(draw: random.Random, attempt: int) -> Script:
    error = draw.choice(ERRORS)("scripted")
    if draw.random() < 0.25:
        return error
    head: list[Step] = [Started("m"), UsageReport(Usage(input_tokens=1))]
    steps = draw.sample(head, draw.randrange(3))
    for place in range(draw.randrange(5)):
        steps.append(draw.choice([UsageReport(Usage(output_tokens=place)), 0.0, *pieces(f"{attempt}:{place} ")]))
    ending = draw.random()
    if ending < 0.7:
        steps.insert(draw.randrange(len(steps) + 1), error)
    elif ending < 0.9:
        steps.append(Finished("stop"))
    return steps


def pieces(text: str) -> list[Step]:
    return [TextDelta(text), TextDelta(text), ReasoningDelta(text), ToolCallDelta(0, "c", "f", text)]


async def run(case: list[Script], models: int) -> str:
    """Stream the answer of `case`, and return how it ended."""
    seen: list[object] = []
    failure: asyncllm.APIError | None = None
    attempts_when_seen: set[int] = set()
    backend = ScriptedBackend(case)
    outcome = "complete"
    async with Client(backend=backend, retry=Retry(attempts=ATTEMPTS, backoff_s=0, throttled_s=0)) as client:
        stream = client.stream("hi", model=MODELS[:models])
        try:
            async with stream:
                async for event in stream:
                    if isinstance(event, PIECES):
                        seen.append(event)
                        attempts_when_seen.add(backend.opened)
        except asyncllm.APIError as error:
            failure = error
            outcome = "broken off" if seen else "failed"
    assert backend.opened == backend.closed
    assert failure is None or not seen or failure.partial == stream.response, "the error does not hold what came"

    assert attempts_when_seen <= {backend.opened}, "a second attempt was made after the first piece"
    last = case[backend.opened - 1]
    sent = [] if isinstance(last, BaseException | Stall) else [step for step in last if isinstance(step, PIECES)]
    if outcome != "complete":
        assert seen == sent[: len(seen)]
    else:
        assert seen == sent
    if backend.opened > 1:
        outcome += " after other attempts"
    return outcome


async def run_hedged(case: list[Script]) -> str:
    """Stream the answer of `case` with a second request whenever the first is late, and return how it ended."""
    seen: list[object] = []
    failure: asyncllm.APIError | None = None
    backend = ScriptedBackend(case)
    retry = Retry(attempts=ATTEMPTS, backoff_s=0, throttled_s=0)
    async with Client(backend=backend, retry=retry, hedge=Hedge(after_s=0.5)) as client:
        stream = client.stream("hi", model="m")
        try:
            async with stream:
                async for event in stream:
                    if isinstance(event, PIECES):
                        seen.append(event)  # noqa: PERF401  # what came before a failure counts too
        except asyncllm.APIError as error:
            failure = error
    assert backend.opened == backend.closed

    if not seen:
        return "failed"
    attempt = int(text_of(seen[0]).split(":")[0])
    sent = [step for step in cast("list[Step]", case[attempt]) if isinstance(step, PIECES)]
    if failure is None:
        assert seen == sent
        return f"complete from {attempt}"
    assert seen == sent[: len(seen)]
    return "broken off"


def text_of(piece: object) -> str:
    """What a piece adds."""
    return piece.arguments if isinstance(piece, ToolCallDelta) else cast("TextDelta", piece).text


def test_two_requests_for_one_call_never_mix_their_pieces() -> None:
    draw = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    for _ in range(CASES // 10):
        case = scripts(draw)
        for one in case:
            if isinstance(one, list):
                one[:] = [step for part in one for step in (draw.choice([0.0, 0.2, 0.4]), part)]
        try:
            outcomes[run_virtual(run_hedged(case))] += 1
        except AssertionError as error:
            error.add_note(f"ASYNCLLM_SEED={SEED}: {case}")
            raise

    assert {"failed", "broken off", "complete from 0", "complete from 1"} <= set(outcomes)


def test_five_thousand_failing_backends_never_show_a_piece_twice() -> None:
    draw = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    with asyncio.Runner() as runner, nothing_unseen(runner.get_loop()):
        for _ in range(CASES):
            case, models = scripts(draw), draw.randrange(1, len(MODELS) + 1)
            try:
                outcomes[runner.run(run(case, models))] += 1
            except AssertionError as error:
                error.add_note(f"ASYNCLLM_SEED={SEED}, {models} models: {case}")
                raise

    print(f"seed {SEED}: {dict(outcomes)}")
    assert len(outcomes) == 6
    assert min(outcomes.values()) > CASES / 100
