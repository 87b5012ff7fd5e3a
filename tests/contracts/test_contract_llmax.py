"""What llmax does beside its providers: prices, hooks, deployments, fallback, helpers. Rows 71 to 95."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import (
    AfterCall,
    CallRecord,
    Client,
    Deployment,
    Finished,
    Gate,
    Message,
    Price,
    Retry,
    Settings,
    TextDelta,
    ToolCall,
    Totals,
    Usage,
    UsageReport,
    tokens,
)
from asyncllm.testing import FaultyServer, ScriptedBackend, Status, run_virtual
from asyncllm.testing.ops import Op
from asyncllm.transport import AiohttpTransport

TOKENS: dict[str, Any] = {"prompt_tokens": 8, "completion_tokens": 34}
PRICES = {"m": Price(input_usd=1_000_000, output_usd=2_000_000)}
ANSWER: list[asyncllm.Event] = [TextDelta("ok"), UsageReport(Usage(input_tokens=1, output_tokens=2)), Finished("stop")]


def answer(model: str = "gpt-4o", **usage: Any) -> Status:
    choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    body = {"id": "r-1", "model": model, "choices": [choice], "usage": usage or TOKENS}
    return Status(200, {"Content-Type": "application/json"}, msgspec.json.encode(body))


@asynccontextmanager
async def serving(*scripts: Sequence[Op], **options: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    async with FaultyServer(list(scripts)) as server:
        env = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": f"{server.url}/v1"}
        async with Client(**{"model": "openai:gpt-4o", "env": env, "retry": None, **options}) as client:
            yield server, client


def scripted(*scripts: Any, **options: Any) -> Client:
    return Client(backend=ScriptedBackend(scripts or (ANSWER,)), model="m", **{"prices": PRICES, **options})


# -- 71, 72: what is sent ----------------------------------------------------------------------------------------------


async def test_row_071_the_system_text_comes_first_and_the_callers_list_stays_as_it_is() -> None:
    messages = [Message("user", "hi"), Message("assistant", "hello"), Message("user", "again")]
    before = list(messages)

    async with serving([answer()]) as (server, client):
        for _ in range(2):
            await client.chat(messages, system="Be brief")

    assert messages == before
    for seen in server.requests:
        assert [one["role"] for one in seen.json()["messages"]] == ["system", "user", "assistant", "user"]
        assert seen.json()["messages"][0]["content"] == "Be brief"


async def test_row_072_options_and_names_that_nobody_knows_reach_the_body() -> None:
    async with serving([answer()]) as (server, client):
        await client.chat("hi", temperature=0.5, max_tokens=7, top_p=0.9, extra={"store": True, "odd": {"a": [1]}})

    body = server.requests[0].json()
    sent = {name: body[name] for name in ("temperature", "top_p", "store", "odd")}
    assert sent == {"temperature": 0.5, "top_p": 0.9, "store": True, "odd": {"a": [1]}}
    assert 7 in (body.get("max_tokens"), body.get("max_completion_tokens"))


# -- 73: tries and delay -----------------------------------------------------------------------------------------------


def limited() -> asyncllm.RateLimitError:
    return asyncllm.RateLimitError("slow down", status=429, retry_after_s=5, retryable=True)


def test_row_073_two_refusals_and_then_an_answer_with_waits_of_the_delay_at_least() -> None:
    async def main() -> None:
        backend = ScriptedBackend([limited(), limited(), ANSWER])
        async with Client(backend=backend, model="m", retry=Retry(attempts=3)) as client:
            started = asyncio.get_running_loop().time()
            reply = await client.chat("hi")
            took = asyncio.get_running_loop().time() - started

        assert reply.text == "ok"
        assert [one.error for one in reply.failures] == ["RateLimitError"] * 2
        assert took >= 2 * 5

    run_virtual(main())


def test_row_073_tries_that_are_used_up_are_a_rate_limit_error_with_no_wait_after_the_last() -> None:
    async def main() -> None:
        backend = ScriptedBackend([limited(), limited(), limited(), ANSWER])
        async with Client(backend=backend, model="m", retry=Retry(attempts=3)) as client:
            started = asyncio.get_running_loop().time()
            with pytest.raises(asyncllm.RateLimitError) as caught:
                await client.chat("hi")
            took = asyncio.get_running_loop().time() - started

        assert not isinstance(caught.value, ValueError)
        assert len(caught.value.attempts) == 3
        assert 2 * 5 <= took < 3 * 5

    run_virtual(main())


async def test_row_073_it_is_the_same_over_http() -> None:
    slow = Status(429, {"Retry-After-Ms": "10"}, b'{"error": {"message": "slow down"}}')

    async with serving([slow], [slow], [answer()], retry=Retry(attempts=3)) as (server, client):
        reply = await client.chat("hi")

    assert reply.text == "ok"
    assert len(server.requests) == 3


# -- 78, 79: deployments -----------------------------------------------------------------------------------------------


async def test_row_078_a_model_that_is_not_deployed_is_passed_over_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = ["claude", "eu", "openai:gpt-4o"]
    settings = Settings(deployments={"eu": Deployment(backend="openai", model="gpt-x", api_key_env="NOT_SET")})

    async with serving([answer()], config=settings, model=models) as (server, client):
        replies = [await client.chat("hi") for _ in range(2)]

    assert [reply.text for reply in replies] == ["ok"] * 2
    assert [seen.json()["model"] for seen in server.requests] == ["gpt-4o"] * 2
    passed = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(passed) == 2
    assert "'claude'" in passed[0]
    assert "NOT_SET" in passed[1]


async def test_row_078_a_list_within_an_alias_is_passed_over_in_the_same_way() -> None:
    settings = Settings(aliases={"fast": ["nowhere", "openai:gpt-4o"]})

    async with serving([answer()], config=settings, model="fast") as (_, client):
        assert (await client.chat("hi")).text == "ok"


@pytest.mark.parametrize("model", ["claude", ["claude", "nowhere"]])
async def test_row_078_a_model_that_is_not_there_is_an_error_where_no_other_is(model: Any) -> None:
    async with serving([answer()], model=model) as (server, client):
        for _ in range(2):
            with pytest.raises(asyncllm.ConfigError, match="claude"):
                await client.chat("hi")

    assert not server.requests


async def test_row_078_a_call_that_fails_retryably_goes_to_the_next_in_order_and_the_model_used_is_reported() -> None:
    settings = Settings(
        deployments={name: Deployment(backend="openai", model=f"gpt-{name}") for name in ("first", "second", "third")}
    )
    told: list[CallRecord] = []
    scripts = ([Status(503)], [Status(429)], [answer("gpt-third-2026")])

    async with serving(
        *scripts, config=settings, model=["first", "second", "third"], hooks=[AfterCall(record=told.append)]
    ) as (server, client):
        reply = await client.chat("hi")

    assert [seen.json()["model"] for seen in server.requests] == ["gpt-first", "gpt-second", "gpt-third"]
    assert (reply.model, reply.backend) == ("gpt-third-2026", "openai")
    assert [one.model for one in reply.failures] == ["gpt-first", "gpt-second"]
    assert [(one.deployment, one.model) for one in told] == [("third", "gpt-third")]


async def test_row_078_an_error_of_the_callers_own_is_not_tried_elsewhere() -> None:
    async with serving([Status(400)], model=["openai:a", "openai:b"]) as (server, client):
        with pytest.raises(asyncllm.BadRequestError):
            await client.chat("hi")

    assert len(server.requests) == 1


async def test_row_078_a_key_that_was_meant_for_a_model_that_is_not_there_goes_to_no_other() -> None:
    async with serving([answer()], model=["claude", "openai:gpt-4o"], api_key="sk-meant") as (server, client):
        await client.chat("hi")

    assert server.requests[0].headers["authorization"] == "Bearer sk-x"


async def test_row_078_deployments_come_from_a_variable_from_python_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "asyncllm.toml"
    file.write_text('[deployments.file]\nbackend = "echo"\nmodel = "from-file"\n')
    variable = {"env": {"backend": "echo", "model": "from-env"}, "file": {"backend": "x", "model": "loses"}}
    env = {
        "ASYNCLLM_CONFIG": str(file),
        "ASYNCLLM_SETTINGS": msgspec.json.encode({"deployments": variable}).decode(),
    }
    code = Settings(deployments={"code": Deployment(backend="echo", model="from-code")})

    async with Client(env=env) as configured, Client(config=code, env=env) as coded:
        models = [
            (await configured.chat("hi", model="file")).model,
            (await configured.chat("hi", model="env")).model,
            (await coded.chat("hi", model="code")).model,
        ]

    assert models == ["from-file", "from-env", "from-code"]


def test_row_079_a_model_is_resolved_without_a_client_of_its_backend() -> None:
    script = """
import sys, asyncllm
from asyncllm import Client, Deployment, Settings
settings = Settings(
    aliases={"fast": ["gone", "eu"]},
    deployments={
        "eu": Deployment(backend="openai", model="gpt-x"),
        "locked": Deployment(backend="openai", model="gpt-x", api_key_env="NOT_SET"),
    },
)
client = Client(config=settings, env={})
print(client.resolve_model("fast"), client.resolve_model(["locked", "openai:gpt-y"]))
for unknown in ("gone", "locked", ["gone", "nobody:m"]):
    try:
        client.resolve_model(unknown)
    except asyncllm.ConfigError:
        print("refused")
print([name for name in ("asyncllm_openai", "aiohttp") if name in sys.modules])
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:5] == ["eu openai:gpt-y", "refused", "refused", "refused", "[]"]


# -- 88, 91: prices ----------------------------------------------------------------------------------------------------


async def test_row_088_a_deployment_has_the_price_of_its_own_provider() -> None:
    price = Price(input_usd=2.75, output_usd=11)
    settings = Settings(deployments={"azure-eu": Deployment(backend="openai", model="gpt-4o", price=price)})

    async with serving([answer()], config=settings) as (_, client):
        dear = await client.chat("hi", model="azure-eu")
        usual = await client.chat("hi", model="openai:gpt-4o")

    assert dear.cost_usd == 0.000396
    assert usual.cost_usd == pytest.approx(0.00036)


async def test_row_088_minutes_of_sound_are_priced_by_the_library() -> None:
    entry = asyncllm.prices.library().find("whisper-1", "openai")

    assert entry is not None
    cost_usd = entry.prices[0].price.cost_usd(Usage(audio_s=789))
    assert cost_usd == pytest.approx(0.0789)


async def test_row_088_cached_tokens_are_discounted() -> None:
    usage: dict[str, Any] = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 60},
    }

    async with serving([answer(**usage)]) as (_, client):
        reply = await client.chat("hi")

    assert reply.cost_usd == pytest.approx((40 * 2.5 + 60 * 1.25 + 10 * 10) / 1e6)


async def test_row_091_a_missing_price_loses_no_answer_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving([answer("no-such-model")], model="openai:no-such-model") as (_, client):
        replies = [await client.chat("canary") for _ in range(3)]

    assert [(reply.text, reply.cost_usd) for reply in replies] == [("ok", None)] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "openai:no-such-model" in record.getMessage()
    assert "canary" not in record.getMessage()


# -- 89, 90, 92: hooks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_row_089_a_function_is_called_once_after_success_with_the_price_and_the_model(is_async: bool) -> None:
    told: list[tuple[float | None, str]] = []

    def increment_usage(price: float | None, model: str) -> None:
        told.append((price, model))

    async def increment_usage_later(price: float | None, model: str) -> None:
        await asyncio.sleep(0)
        told.append((price, model))

    hook = AfterCall(increment_usage_later if is_async else increment_usage)
    async with scripted(hooks=[hook]) as client:
        await client.chat("hi")
        assert told == [(5.0, "m")]
        async with client.stream("hi") as stream:
            assert len(told) == 1
            async for _ in stream:
                pass

    assert told == [(5.0, "m")] * 2


async def test_row_089_a_record_has_what_else_there_is_to_know() -> None:
    told: list[CallRecord] = []
    scripts = ([Status(500)], [answer(**TOKENS, prompt_tokens_details={"cached_tokens": 4})])

    async with serving(*scripts, retry=Retry(backoff_s=0), hooks=[AfterCall(record=told.append)]) as (_, client):
        reply = await client.chat("hi")

    (record,) = told
    assert (record.operation, record.model, record.backend, record.deployment) == ("chat", "gpt-4o", "openai", "openai")
    assert (record.usage.input_tokens, record.usage.output_tokens, record.usage.cached_tokens) == (8, 34, 4)
    assert record.cost_usd == reply.cost_usd
    assert 0 < (record.first_content_s or 0) <= record.duration_s
    assert (record.attempts, record.request_id, record.is_complete) == (2, reply.request_id, True)


async def test_row_089_a_call_that_fails_is_not_told() -> None:
    told: list[CallRecord] = []
    broken = [TextDelta("a"), asyncllm.OverloadedError("x")]

    async with scripted(
        asyncllm.BadRequestError("no"), broken, hooks=[AfterCall(record=told.append)], retry=None
    ) as client:
        with pytest.raises(asyncllm.BadRequestError):
            await client.chat("hi")
        with pytest.raises(asyncllm.OverloadedError):
            async for _ in client.stream_text("hi"):
                pass

    assert told == []


async def test_row_089_a_stream_that_is_left_is_told_with_what_the_backend_had_reported() -> None:
    told: list[CallRecord] = []
    early = [UsageReport(Usage(input_tokens=3, output_tokens=1)), TextDelta("a"), TextDelta("b"), Finished("stop")]

    async with scripted(early, hooks=[AfterCall(record=told.append)]) as client, client.stream("hi") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break

    (record,) = told
    assert (record.is_complete, record.usage.input_tokens, record.cost_usd) == (False, 3, 5.0)


async def test_row_089_a_function_that_fails_costs_nobody_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_price: float | None, _model: str) -> None:
        raise RuntimeError("canary")

    async with scripted(hooks=[AfterCall(broken)]) as client:
        assert (await client.chat("hi")).text == "ok"

    assert "AfterCall" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("said", "limit", "passes"), [(True, None, True), (False, None, False), (1.9, 2, True), (2.0, 2, False)]
)
async def test_row_090_a_gate_is_asked_before_the_call_and_blocks_it_without_http(
    said: Any, limit: float | None, passes: bool, is_async: bool
) -> None:
    async def later() -> Any:
        return said

    gate = Gate(later if is_async else lambda: said, limit=limit)
    totals = Totals()
    async with serving([answer()], hooks=[gate, totals]) as (server, client):
        if passes:
            await client.chat("hi")
        else:
            with pytest.raises(asyncllm.BudgetExceededError, match="gate"):
                await client.chat("hi")
            with pytest.raises(asyncllm.BudgetExceededError, match="gate"):
                async for _ in client.stream_text("hi"):
                    pass

    assert len(server.requests) == totals.calls == (1 if passes else 0)
    assert totals.failures == (0 if passes else 2)


async def test_row_090_a_gate_that_cannot_be_asked_lets_nothing_through() -> None:
    def broken() -> bool:
        raise LookupError("nobody is at home")

    async with serving([answer()], hooks=[Gate(broken)]) as (server, client):
        with pytest.raises(LookupError):
            await client.chat("hi")

    assert not server.requests


async def test_row_092_totals_and_records_add_up_under_concurrency() -> None:
    totals = Totals(keep=10)

    async with scripted(*[ANSWER] * 50, hooks=[totals]) as client:
        replies = await asyncio.gather(*(client.chat("hi") for _ in range(50)))

    assert totals.calls == 50
    assert totals.cost_usd == sum(reply.cost_usd or 0 for reply in replies) == 250
    assert (totals.input_tokens, totals.output_tokens, totals.unpriced) == (50, 100, 0)
    assert totals.cost_by_model == {"ScriptedBackend:m": 250}
    assert [record.cost_usd for record in totals.records] == [5.0] * 10


# -- 93: a transport of one's own --------------------------------------------------------------------------------------


async def test_row_093_clients_share_a_transport_that_was_given_to_them_and_leave_it_open() -> None:
    transport = AiohttpTransport()
    try:
        async with FaultyServer([answer()]) as server:
            env = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": f"{server.url}/v1"}
            for _ in range(2):
                async with Client(model="openai:gpt-4o", env=env, transport=transport) as client:
                    await client.chat("hi")
            assert server.connections == 1
    finally:
        await transport.aclose()


# -- 94: tokens --------------------------------------------------------------------------------------------------------


def conversation() -> list[Message]:
    return [
        Message("system", "s" * 40),
        Message("user", "a" * 400),
        Message("assistant", tool_calls=(ToolCall("c1", "look", "{}"),)),
        Message("tool", "b" * 400, tool_call_id="c1"),
        Message("assistant", "c" * 40),
        Message("user", "d" * 40),
        Message("assistant", "e" * 40),
        Message("user", "f" * 40),
    ]


async def test_row_094_tokens_are_counted_by_the_backend_or_else_estimated() -> None:
    async with Client(model="echo:x") as able, scripted() as unable:
        exact = await tokens.count("a b c", client=able)
        rough = await tokens.count("a b c d", client=unable)

    assert (exact.tokens, exact.is_exact) == (3, True)
    assert (rough.tokens, rough.is_exact) == (tokens.estimate("a b c d"), False)


async def test_row_094_the_oldest_turns_go_whole_and_instructions_and_the_last_turn_stay() -> None:
    messages = conversation()
    before = list(messages)

    short = await tokens.truncate(messages, 60)

    assert messages == before
    assert [message.content[:1] for message in short.messages] == ["s", "d", "e", "f"]
    assert short.dropped == tuple(before[1:5])
    assert short.tokens == tokens.estimate(short.messages) <= 60


@pytest.mark.parametrize("limit", [30, 40, 50, 60, 200, 300])
async def test_row_094_a_call_and_its_result_stay_together_and_no_turn_goes_without_need(limit: int) -> None:
    messages = conversation()

    short = await tokens.truncate(messages, limit)

    assert short.tokens <= limit
    assert (messages[2] in short.messages) is (messages[3] in short.messages)
    assert set(short.messages) | set(short.dropped) == set(messages)
    fits_whole = tokens.estimate(messages) <= limit
    assert (not short.dropped) is fits_whole


async def test_row_094_what_cannot_fit_is_an_error_that_names_the_bound() -> None:
    with pytest.raises(asyncllm.InvalidRequestError, match="max_tokens=5") as caught:
        await tokens.truncate(conversation(), 5)

    assert caught.value.field == "max_tokens"
    assert "ffff" not in str(caught.value)


# -- 95: what a page reads ---------------------------------------------------------------------------------------------


async def test_row_095_text_is_paced_word_by_word_and_nothing_of_it_is_lost() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    text = [TextDelta(" one two"), TextDelta(" three\n\nfour "), TextDelta("five")]
    async with scripted([*text, Finished("stop")]) as client:
        words = [word async for word in asyncllm.smooth(client.stream_text("hi"), pause_s=5, sleep=sleep)]

    assert words == [" one", " two", " three", "\n\nfour ", "five"]
    assert len(waits) == 4
    assert all(4 < seconds <= 5 for seconds in waits)


async def test_row_095_a_paced_stream_can_be_cancelled_while_it_waits() -> None:
    async with scripted() as client:
        stream = client.stream_text("hi there")
        task = asyncio.create_task(anext(asyncllm.smooth(stream, pause_s=60)))
        assert await task == "ok"

        async def rest() -> list[str]:
            return [word async for word in asyncllm.smooth(pieces(), pause_s=60)]

        waiting = asyncio.create_task(rest())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def pieces() -> AsyncIterator[str]:
    yield "a b c"


def test_row_095_a_piece_of_text_is_framed_as_a_line_of_the_data_stream() -> None:
    assert asyncllm.data_stream_part('say "hi"\n') == '0:"say \\"hi\\"\\n"\n'
    assert asyncllm.data_stream_part({"finishReason": "stop"}, "d") == 'd:{"finishReason":"stop"}\n'
    for value, code, field in ((object(), "0", "value"), ("a\ud800", "0", "value"), ("a", "0:1\n", "code")):
        with pytest.raises(asyncllm.InvalidRequestError) as caught:
            asyncllm.data_stream_part(value, code)
        assert caught.value.field == field


@pytest.mark.parametrize("pause_s", [-1, float("nan"), "0.1", True])
async def test_row_095_a_pause_that_cannot_be_is_refused(pause_s: Any) -> None:
    with pytest.raises(asyncllm.ConfigError, match="pause_s"):
        await anext(asyncllm.smooth(pieces(), pause_s=pause_s))
