"""What a call costs: rates, the price library and its matching, and what becomes of a model that nobody knows."""

from __future__ import annotations

import datetime as dt
import json
import logging
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import Client, Finished, Price, PriceTier, Started, TextDelta, Usage, UsageReport, prices
from asyncllm.config import Deployment, Settings
from asyncllm.prices.library import Library, Model, matches
from asyncllm.testing import FaultyServer, ScriptedBackend, ScriptedReply, ScriptedTransport, Status, openai_reply

NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
NIGHT = dt.datetime(2026, 11, 25, 2, tzinfo=dt.UTC)


def reply(body: dict[str, Any]) -> Status:
    return Status(200, {"Content-Type": "application/json"}, msgspec.json.encode(body))


def answer(model: str, **usage: Any) -> Status:
    choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    return reply({"id": "r", "model": model, "choices": [choice], "usage": usage})


TOKENS = {"prompt_tokens": 8, "completion_tokens": 34}


def cost(price: Price, **counts: Any) -> float | None:
    return price.cost_usd(Usage(**counts))


# -- rates -------------------------------------------------------------------------------------------------------------


def test_kinds_of_tokens_have_rates_of_their_own() -> None:
    price = Price(
        input_usd=10, output_usd=20, cached_usd=1, cache_write_usd=12, input_audio_usd=40, output_audio_usd=80,
        reasoning_usd=30,
    )  # fmt: skip

    told = cost(
        price, input_tokens=100, cached_tokens=10, cache_write_tokens=20, input_audio_tokens=30,
        output_tokens=50, reasoning_tokens=5, output_audio_tokens=6,
    )  # fmt: skip

    expected = 40 * 10 + 10 * 1 + 20 * 12 + 30 * 40 + 39 * 20 + 5 * 30 + 6 * 80
    assert told == pytest.approx(expected / 1e6)


def test_a_kind_without_a_rate_costs_what_all_of_its_direction_does() -> None:
    price = Price(input_usd=10, output_usd=20)

    told = cost(price, input_tokens=100, cached_tokens=50, output_tokens=10, reasoning_tokens=9)

    assert told == pytest.approx(1200 / 1e6)


@pytest.mark.parametrize("odd", [{"cached_tokens": 10**9}, {"cached_tokens": -(10**9)}, {"reasoning_tokens": 10**9}])
def test_no_count_of_a_server_makes_a_call_pay_the_caller(odd: dict[str, int]) -> None:
    price = Price(input_usd=10, output_usd=20, cached_usd=1, reasoning_usd=2)

    told = cost(price, input_tokens=100, output_tokens=10, **odd)

    assert told is not None
    assert 0 < told <= (100 * 10 + 10 * 20) / 1_000_000


def test_a_count_below_zero_is_none() -> None:
    assert cost(Price(input_usd=10, output_usd=20), input_tokens=-100, output_tokens=10) is None


def test_sound_that_was_cached_is_charged_once() -> None:
    price = Price(input_usd=10, output_usd=0, cached_usd=1, input_audio_usd=40)

    told = cost(price, input_tokens=100, cached_tokens=60, input_audio_tokens=80, output_tokens=0)

    assert told == pytest.approx((60 * 1 + 40 * 40) / 1e6)


def test_sound_images_characters_and_calls_are_charged_by_their_own_measures() -> None:
    assert cost(Price(audio_usd_per_minute=0.6), audio_s=90) == pytest.approx(0.9)
    assert cost(Price(image_usd=0.04), images=3) == pytest.approx(0.12)
    assert cost(Price(characters_usd=15), characters=2_000) == pytest.approx(0.03)
    assert cost(Price(request_usd=0.005)) == 0.005
    assert cost(Price(input_usd=1, output_usd=1, request_usd=1), input_tokens=0, output_tokens=0) == 1


def test_what_has_a_price_by_the_image_is_not_charged_by_the_token_too() -> None:
    assert cost(Price(image_usd=0.04), images=1, input_tokens=10, output_tokens=4000) == pytest.approx(0.04)


def test_the_output_of_a_call_that_made_images_has_its_rate() -> None:
    price = Price(input_usd=1, output_usd=10, output_image_usd=30)

    assert cost(price, input_tokens=0, output_tokens=100) == pytest.approx(0.001)
    assert cost(price, input_tokens=0, output_tokens=100, images=1) == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("price", "usage"),
    [
        (Price(input_usd=1, output_usd=1), {}),
        (Price(input_usd=1, output_usd=1), {"input_tokens": 5}),
        (Price(input_usd=1), {"input_tokens": 5, "output_tokens": 5}),
        (Price(audio_usd_per_minute=1), {"input_tokens": 5, "output_tokens": 5}),
        (Price(input_usd=1, output_usd=1, request_usd=1), {}),
    ],
)
def test_a_cost_that_cannot_be_told_is_none_and_not_too_little(price: Price, usage: dict[str, Any]) -> None:
    assert cost(price, **usage) is None


def test_an_embedding_needs_no_rate_for_output() -> None:
    assert cost(Price(input_usd=2), input_tokens=10) == pytest.approx(20e-6)


def test_a_long_prompt_is_charged_at_the_rates_of_its_tier_as_a_whole() -> None:
    tiers = (
        PriceTier(above_tokens=200, input_usd=4, output_usd=6),
        PriceTier(above_tokens=100, input_usd=2),
    )
    price = Price(input_usd=1, output_usd=3, tiers=tiers)

    told = [cost(price, input_tokens=tokens, output_tokens=10) for tokens in (100, 101, 201)]

    assert told == pytest.approx([130e-6, 232e-6, 864e-6])


def test_tiers_and_rates_are_read_from_the_configuration_file() -> None:
    told = {"input_usd": 1, "output_usd": 2, "tiers": [{"above_tokens": 100, "input_usd": 2}], "image_usd": 0.1}

    price = msgspec.convert(told, Price)

    assert price.tiers == (PriceTier(above_tokens=100, input_usd=2),)
    with pytest.raises(msgspec.ValidationError, match="prompt_usd"):
        msgspec.convert({"prompt_usd": 1}, Price)


def test_a_price_of_nothing_is_refused() -> None:
    with pytest.raises(asyncllm.ConfigError, match="audio_usd_per_minute"):
        Price(cached_usd=1)


# -- the library -------------------------------------------------------------------------------------------------------


def test_the_library_tells_its_version_its_day_and_its_licence() -> None:
    library = prices.library()

    assert prices.version == library.version == "0.2.3"
    assert dt.date.fromisoformat(prices.date) >= dt.date(2026, 11, 1)
    assert "MIT License" in library.licence
    assert library.source.startswith("https://")


def test_the_library_is_read_neither_on_import_nor_by_a_client_that_has_called_nobody() -> None:
    script = (
        "import asyncllm, asyncllm.client\n"
        "asyncllm.Client(model='openai:gpt-4o', env={})\n"
        "from asyncllm import prices\n"
        "print(prices.library.cache_info().currsize)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "0"


def test_every_model_of_the_library_can_be_read_and_has_a_price() -> None:
    library = prices.library()

    models = [line.model() for one in library.providers for line in library.lines(one)]

    assert len(models) > 2000
    assert all(isinstance(model.price(NOON), Price) for model in models)


@pytest.mark.parametrize(
    ("model", "backend", "url", "found"),
    [
        ("gpt-4o", "openai", None, ("openai", "gpt-4o")),
        ("GPT-4o-2024-08-06", "openai", None, ("openai", "gpt-4o")),
        ("gpt-4o-20240806", "openai", None, ("openai", "gpt-4o")),
        ("gpt-4o", "azure", None, ("azure", "gpt-4o")),
        ("claude-opus-4-6-20260101", "anthropic", None, ("anthropic", "claude-opus-4-6")),
        ("llama-3.3-70b-versatile", "openai", "https://api.groq.com/openai/v1", ("groq", "llama-3.3-70b-versatile")),
        ("gpt-4o", "openai", "http://127.0.0.1:4000/v1", ("openai", "gpt-4o")),
        ("gemini-2.5-flash", "gemini", None, ("google", "gemini-2.5-flash")),
        ("eu.anthropic.claude-opus-4-6-v1", "bedrock", None, ("aws", "regional.anthropic.claude-opus-4-6-v1:0")),
        ("openai/gpt-4o", "openrouter", None, ("openrouter", "openai/gpt-4o")),
    ],
)
def test_a_model_is_found_by_the_rules_of_the_library(
    model: str, backend: str, url: str | None, found: tuple[str, str]
) -> None:
    library = prices.library()

    entry, provider = library.find(model, backend, url), library.provider(backend, url)

    assert provider is not None
    assert entry is not None
    assert (provider.id, entry.id) == found


def test_a_model_or_a_provider_that_the_library_lacks_is_not_found() -> None:
    assert prices.library().find("no-such-model", "openai") is None
    assert prices.library().find("gpt-4o", "scaleway") is None


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"equals": "abc"}, True),
        ({"starts_with": "ab"}, True),
        ({"ends_with": "bc"}, True),
        ({"contains": "b"}, True),
        ({"regex": "^a.c$"}, True),
        ({"regex": "^b"}, False),
        ({"or": [{"equals": "x"}, {"contains": "c"}]}, True),
        ({"and": [{"contains": "a"}, {"contains": "x"}]}, False),
    ],
)
def test_rules_of_matching(rule: dict[str, Any], fits: bool) -> None:
    assert matches(rule, "abc") is fits


def test_a_price_can_depend_on_the_hour_and_on_the_day() -> None:
    told = {
        "id": "m",
        "prices": [
            {"price": {"input_usd": 1}},
            {"from": "2026-12-01", "price": {"input_usd": 2}},
            {"hours": ["22:00:00", "04:00:00"], "price": {"input_usd": 3}},
        ],
    }
    model = msgspec.convert(told, Model)

    rates = [model.price(moment).input_usd for moment in (NOON, NIGHT, dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC))]

    assert rates == [1, 3, 2]
    assert model.fixed() is None


def test_the_first_address_that_a_pattern_knows_counts_before_the_backends_name() -> None:
    told = b'{"library":"l","source":"s","version":"1","date":"d","licence":"l","providers":['
    told += b'{"id":"a","url":"https://a\\\\.test","models":[]},{"id":"b","url":"https://b\\\\.test","models":[]}]}'
    library = msgspec.json.decode(told, type=Library)

    found = library.provider("a", "https://b.test/v1")

    assert found is not None
    assert found.id == "b"


# -- calls -------------------------------------------------------------------------------------------------------------


async def test_a_call_is_priced_by_the_library_without_any_setting() -> None:
    async with (
        FaultyServer([answer("gpt-4o-2024-08-06", **TOKENS)]) as server,
        Client(model="openai:gpt-4o", base_url=f"{server.url}/v1", api_key="sk-x", env={}) as client,
    ):
        told = await client.chat("hi")

    assert told.cost_usd == pytest.approx(8 * 2.5e-6 + 34 * 10e-6)


async def test_a_name_that_is_not_known_is_priced_by_the_model_that_answers(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        FaultyServer([answer("gpt-4o-2024-08-06", **TOKENS)]) as server,
        Client(model="openai:our-best", base_url=f"{server.url}/v1", api_key="sk-x", env={}) as client,
    ):
        costs = [(await client.chat("hi")).cost_usd for _ in range(2)]

    assert costs == pytest.approx([0.00036] * 2)
    assert not caplog.records


async def test_who_charges_is_told_by_the_address_though_it_comes_from_a_variable() -> None:
    body = openai_reply("ok", usage=Usage(input_tokens=1000, output_tokens=0))
    env = {"OPENAI_BASE_URL": "https://api.groq.com/openai/v1", "OPENAI_API_KEY": "sk-x"}
    transport = ScriptedTransport([ScriptedReply(body=body)])

    async with Client(model="openai:llama-3.3-70b-versatile", env=env, transport=transport) as client:
        told = await client.chat("hi")

    assert told.cost_usd == pytest.approx(1000 * 0.59e-6)


async def test_own_prices_win_over_the_library_by_deployment_by_model_and_by_client() -> None:
    settings = Settings(
        deployments={"mine": Deployment(backend="openai", model="gpt-4o", price=Price(input_usd=1, output_usd=0))},
        prices={"openai:gpt-4o": Price(input_usd=2, output_usd=0), "openai:gpt-5": Price(input_usd=9, output_usd=9)},
    )
    given = {"openai:gpt-5": Price(input_usd=3, output_usd=0)}
    async with (
        FaultyServer([answer("gpt-4o", **TOKENS)]) as server,
        Client(
            config=settings, prices=given, env={"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": f"{server.url}/v1"}
        ) as client,
    ):
        models = ("mine", "openai:gpt-4o", "openai:gpt-5")
        costs = [(await client.chat("hi", model=model)).cost_usd for model in models]

    assert costs == pytest.approx([8e-6, 16e-6, 24e-6])


@pytest.mark.parametrize(("given", "configured"), [(False, True), (None, False)])
async def test_the_library_can_be_turned_off(
    given: bool | None, configured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FaultyServer([answer("gpt-4o", **TOKENS)]) as server,
        Client(
            model="openai:gpt-4o",
            base_url=f"{server.url}/v1",
            api_key="sk-x",
            price_library=given,
            config=Settings(price_library=configured),
            env={},
        ) as client,
    ):
        told = await client.chat("hi")

    assert told.cost_usd is None
    assert not caplog.records


async def test_what_runs_in_this_process_is_nobodys_bill(caplog: pytest.LogCaptureFixture) -> None:
    async with Client(model="echo:gpt-4o") as client:
        told = await client.chat("hi")

    assert told.cost_usd is None
    assert not caplog.records


async def test_one_place_and_model_is_missed_once_however_it_is_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(aliases={"short": "openai:nobody"})
    async with (
        FaultyServer([answer("nobody-1", **TOKENS)]) as server,
        Client(config=settings, env={"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": f"{server.url}/v1"}) as client,
    ):
        for model in ("short", "openai:nobody", "openai/nobody"):
            await client.chat("hi", model=model)

    assert [(one.levelno, one.name) for one in caplog.records] == [(logging.WARNING, "asyncllm")]
    assert "openai:nobody" in caplog.text


async def test_embeddings_have_their_cost() -> None:
    body = {"data": [{"index": 0, "embedding": [1.0]}], "model": "e", "usage": {"prompt_tokens": 1000}}
    async with (
        FaultyServer([reply(body)]) as server,
        Client(model="openai:text-embedding-3-small", base_url=f"{server.url}/v1", api_key="sk-x", env={}) as client,
    ):
        vectors = await client.embed("hi")

    assert vectors.cost_usd == pytest.approx(1000 * 0.02e-6)


async def test_a_budget_in_dollars_knows_the_library() -> None:
    async with (
        FaultyServer([answer("gpt-4o", **TOKENS)]) as server,
        Client(model="openai:gpt-4o", base_url=f"{server.url}/v1", api_key="sk-x", env={}) as client,
        asyncllm.budget(usd=1) as spent,
    ):
        told = await client.chat("hi")

    assert spent.usd == told.cost_usd == pytest.approx(0.00036)


async def test_a_budget_is_charged_what_the_model_costs_that_answered_in_the_end() -> None:
    settings = Settings(
        deployments={
            "dear": Deployment(backend="openai", model="a", price=Price(input_usd=100, output_usd=100)),
            "cheap": Deployment(backend="openai", model="b", price=Price(input_usd=1, output_usd=1)),
        }
    )
    replies = [[Status(404)], [answer("b", **TOKENS)]]
    async with (
        FaultyServer(replies) as server,
        Client(
            config=settings,
            model=["dear", "cheap"],
            env={"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": f"{server.url}/v1"},
        ) as client,
        asyncllm.budget(usd=1) as spent,
    ):
        told = await client.chat("hi")

    assert spent.usd == told.cost_usd == pytest.approx(42e-6)


async def test_a_stream_that_is_left_is_priced_by_what_was_reported_until_then() -> None:
    events: list[asyncllm.Event] = [
        Started("m"),
        UsageReport(Usage(input_tokens=10, output_tokens=1)),
        TextDelta("a"),
        TextDelta("b"),
    ]
    backend = ScriptedBackend([[*events, Finished("stop")]])

    async with (
        Client(backend=backend, model="m", prices={"m": Price(input_usd=1, output_usd=1)}) as client,
        client.stream("hi") as stream,
    ):
        async for event in stream:
            if isinstance(event, TextDelta):
                break

    assert stream.response.cost_usd == pytest.approx(11e-6)


# -- the release itself ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_library_and_the_release_it_was_made_of_name_the_same_costs() -> None:
    home = Path(__file__).parent.parent / ".cache" / "sdks" / "genai-prices"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", f"genai-prices=={prices.version}"]
        subprocess.run(command, check=True)
    peer = Path(__file__).parent / "price_library_peer.py"

    done = subprocess.run([python, peer, NIGHT.isoformat()], capture_output=True, text=True, check=True)

    same = 0
    for line in done.stdout.splitlines():
        provider, name, told = json.loads(line)
        model = prices.library().find(name, provider)
        for usage, theirs in told:
            ours = None if model is None else model.price(NIGHT).cost_usd(Usage(**usage))
            if ours is not None:
                assert ours == pytest.approx(theirs), (provider, name, usage)
                same += 1
    assert same > 5000
