"""Servers drawn at random, over real sockets: an answer is whole and as it was meant, or there is one typed error.

A case that fails is printed whole, as a call that can be copied into a test.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

import asyncllm
from asyncllm import Client, Response, Retry, TextDelta, Timeouts
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status, openai_reply
from leftovers import in_use, lag, nothing_unseen, settle, tasks
from scripted_replies import Fault, Reply, plans

SEED = int(os.environ.get("ASYNCLLM_SEED") or random.randrange(2**32))
IMPATIENT = Timeouts(first_event_s=0.1, event_idle_s=0.1, byte_idle_s=0.1, total_s=0.6)
PATIENT = Timeouts(total_s=30)
GRACE_S = 0.25

Plan = Sequence[Reply]
outcomes: Counter[str] = Counter()


async def chat(client: Client, seen: list[str]) -> Response:
    return await client.chat("chat")


async def stream(client: Client, seen: list[str]) -> Response:
    async with client.stream("stream") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                seen.append(event.text)  # noqa: PERF401  # what came before an error is looked at too
    return stream.response


async def stream_text(client: Client, seen: list[str]) -> Response:
    stream = client.stream_text("stream_text")
    async for text in stream:
        seen.append(text)  # noqa: PERF401  # the same
    return stream.response


CALLS: dict[str, Callable[[Client, list[str]], Awaitable[Response]]] = {
    "chat": chat,
    "stream": stream,
    "stream_text": stream_text,
}


class Server:
    """Answers each kind of call with the replies of a plan, in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.asked: Counter[str] = Counter()

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        prompt = request.json()["messages"][0]["content"]
        if prompt not in CALLS:
            return [Status(200, {}, openai_reply("the next answer"))]
        self.asked[prompt] += 1
        return self.last(prompt).ops()

    def last(self, prompt: str) -> Reply:
        """The reply that was given last."""
        return self.plan[min(self.asked[prompt], len(self.plan)) - 1]


async def check(plan: Plan, attempts: int) -> None:
    """Make each kind of call to a server that follows `plan`, and see that none of them is lied to."""
    server = Server(plan)
    before = tasks()
    async with FaultyServer(server) as faulty:
        async with Client(
            model="openai:m",
            base_url=faulty.url,
            env={},
            retry=Retry(attempts=attempts, backoff_s=0, throttled_s=0),
            timeouts=PATIENT if all(reply.fault == Fault() and reply.status == 200 for reply in plan) else IMPATIENT,
        ) as client:
            await asyncio.gather(*(check_call(name, client, server) for name in CALLS))
            await settle(client, before)
            await check_next(client)
            assert in_use(client) == 0


async def check_call(name: str, client: Client, server: Server) -> None:
    seen: list[str] = []
    time = asyncio.get_running_loop().time
    begun = time()
    error: asyncllm.APIError | None = None
    async with lag() as held_up:
        try:
            response = await CALLS[name](client, seen)
        except asyncllm.APIError as caught:
            error = caught
    took_s = time() - begun
    limit_s = client._timeouts.total_s or 0
    assert took_s < limit_s + GRACE_S + held_up.worst_s, f"{name} took {took_s} seconds"
    assert server.asked[name], f"{name} ended with {error!r} before it reached the server"
    reply = server.last(name)
    if error is None:
        outcomes["complete"] += 1
        assert reply.equals(response), (
            f"{name} gives {response.text!r}, {response.finish_reason}, {response.tool_calls}"
        )
        assert name == "chat" or "".join(seen) == reply.text
    else:
        outcomes[type(error).__name__] += 1
        assert not reply.is_sound(stream=name != "chat"), f"{name} fails on a sound reply: {error!r}"
        assert reply.text.startswith("".join(seen)), f"{name} has shown {seen}"
        assert not seen or (error.partial is not None and error.partial.text == "".join(seen)), "what came is not kept"


async def check_next(client: Client) -> None:
    """Whatever a server has left in its connections, the next call gets its own answer."""
    for _ in range(4):
        try:
            answer = await client.chat("another call", timeouts=PATIENT)
        except asyncllm.APIError as error:
            assert error.retryable, f"the next call fails with {error!r}"  # noqa: PT017
            continue
        assert answer.text == "the next answer", f"the next call gets {answer.text!r}"
        return
    raise AssertionError("no further call works")


def run(plan: Plan, attempts: int) -> None:
    note(f"seed {SEED}: set ASYNCLLM_SEED to it to draw the same cases again")
    with asyncio.Runner() as runner, nothing_unseen(runner.get_loop()):
        runner.run(check(plan, attempts))


def generated(count: int) -> settings:
    """Without shrinking: a failure is small as it is, and one that depends on timing would shrink for ever."""
    phases = [phase for phase in Phase if phase is not Phase.shrink and phase is not Phase.explain]
    return settings(
        max_examples=count, deadline=None, phases=phases, print_blob=True, suppress_health_check=list(HealthCheck)
    )


@seed(SEED)
@generated(150)
@given(plans, st.integers(1, 3))
def test_an_answer_is_whole_and_as_meant_or_there_is_one_typed_error(plan: Plan, attempts: int) -> None:
    run(plan, attempts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_thousand_servers_drawn_at_random_give_no_silent_truncation_and_no_hang() -> None:
    outcomes.clear()

    seed(SEED)(generated(2000)(given(plans, st.integers(1, 3))(run)))()

    print(f"\nseed {SEED}: {outcomes.total()} calls, {dict(outcomes.most_common())}")
    assert outcomes["complete"] > 1000
    assert len(outcomes) > 8, "the cases drawn die in too few ways to prove anything"
