"""Several places for one call: order, groups, cool-down, hedging, and what the reply says of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import asyncllm
from asyncllm import Client, Finished, Hedge, Limits, Retry, Settings, TextDelta, Usage, UsageReport
from asyncllm.config import Deployment, Group, load_settings
from asyncllm.events import Events
from asyncllm.testing import FaultyServer, Stall, Status, openai_reply, run_virtual
from asyncllm.types import Request

DOWN = Status(503, body=b'{"error": {"message": "down"}}')


def answer(text: str) -> Status:
    return Status(body=openai_reply(text))


def deployments(**urls: str) -> dict[str, Deployment]:
    return {name: Deployment(backend="openai", model="m", base_url=url, api_key="k") for name, url in urls.items()}


def client(settings: Settings, **options: Any) -> Client:
    options.setdefault("retry", None)
    return Client(config=settings, env={}, **options)


async def test_the_reply_says_who_answered_and_who_failed() -> None:
    async with FaultyServer([DOWN]) as bad, FaultyServer([answer("fine")]) as good:
        async with client(Settings(deployments=deployments(bad=bad.url, good=good.url))) as asked:
            reply = await asked.chat("hi", model=["bad", "good"])

    assert reply.text == "fine"
    assert [(one.error, one.status, one.backend) for one in reply.failures] == [("OverloadedError", 503, "openai")]


async def test_a_place_that_failed_is_asked_last_for_a_while_and_then_first_again() -> None:
    async with FaultyServer([[DOWN], [answer("first")]]) as first, FaultyServer([answer("second")]) as second:
        settings = Settings(deployments=deployments(first=first.url, second=second.url), cool_down_s=0.3)
        async with client(settings, model=["first", "second"]) as asked:
            texts = [(await asked.chat("hi")).text for _ in range(3)]
            await asyncio.sleep(0.35)
            texts.append((await asked.chat("hi")).text)

    assert texts == ["second", "second", "second", "first"]
    assert len(first.requests) == 2


async def test_a_place_that_is_cooling_is_asked_all_the_same_where_the_others_fail_too() -> None:
    async with FaultyServer([[DOWN], [answer("recovered")]]) as first, FaultyServer([[answer("ok")], [DOWN]]) as second:
        async with client(Settings(deployments=deployments(a=first.url, b=second.url)), model=["a", "b"]) as asked:
            texts = [(await asked.chat("hi")).text for _ in range(2)]

    assert texts == ["ok", "recovered"]


@pytest.mark.parametrize("status", [400, 401, 422])
async def test_an_error_of_the_callers_own_cools_nobody(status: int) -> None:
    async with FaultyServer([[Status(status)], [answer("ok")]]) as first, FaultyServer([answer("second")]) as second:
        async with client(Settings(deployments=deployments(a=first.url, b=second.url)), model=["a", "b"]) as asked:
            with pytest.raises(asyncllm.APIStatusError):
                await asked.chat("hi")
            assert (await asked.chat("hi")).text == "ok"

    assert not second.requests


async def test_after_the_first_piece_no_other_place_is_asked() -> None:
    class Breaks:
        @asynccontextmanager
        async def open(self, _: Request, /) -> AsyncGenerator[Events]:
            async def events() -> AsyncGenerator[asyncllm.Event]:
                yield TextDelta("half")
                raise asyncllm.OverloadedError("too late")

            yield events()

        async def aclose(self) -> None:
            pass

    async with Client(backend=Breaks(), model=["one", "other"]) as asked:
        with pytest.raises(asyncllm.OverloadedError) as caught:
            await asked.chat("hi")

    assert caught.value.partial is not None
    assert caught.value.partial.text == "half"


async def test_a_weighted_group_shares_the_calls_by_weight() -> None:
    async with FaultyServer([answer("big")]) as big, FaultyServer([answer("small")]) as small:
        settings = Settings(
            deployments=deployments(big=big.url, small=small.url),
            groups={"spread": Group(members={"big": 9, "small": 1})},
        )
        async with client(settings, model="spread") as asked:
            counts = Counter([(await asked.chat("hi")).text for _ in range(200)])

    assert 150 <= counts["big"] <= 198
    assert counts["small"] == 200 - counts["big"]


async def test_the_least_busy_member_is_asked() -> None:
    async with FaultyServer([Stall()]) as one, FaultyServer([Stall()]) as other:
        settings = Settings(
            deployments=deployments(one=one.url, other=other.url),
            groups={"spread": Group(members=["one", "other"], pick="least-busy")},
        )
        async with client(settings, model="spread") as asked:
            calls = []
            for count in range(1, 7):
                calls.append(asyncio.create_task(asked.chat("hi")))
                async with asyncio.timeout(10):
                    while len(one.requests) + len(other.requests) < count:  # noqa: ASYNC110  # two servers at once
                        await asyncio.sleep(0.001)
            assert len(one.requests) == len(other.requests) == 3
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


async def test_a_group_falls_back_to_its_other_members_and_then_to_what_follows() -> None:
    async with FaultyServer([DOWN]) as bad, FaultyServer([answer("last")]) as good:
        settings = Settings(
            deployments=deployments(a=bad.url, b=bad.url, c=good.url),
            groups={"pair": Group(members=["a", "b"])},
            aliases={"fast": ["pair", "c"]},
        )
        async with client(settings, model="fast") as asked:
            reply = await asked.chat("hi")

    assert reply.text == "last"
    assert len(reply.failures) == 2


async def test_a_group_goes_on_without_a_member_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    away = Deployment(backend="openai", model="m", base_url="http://127.0.0.1:1", api_key_env="NOT_SET")
    settings = Settings(deployments={"away": away}, groups={"pair": Group(members=["away", "echo:x"])})

    async with client(settings, model="pair") as asked:
        assert asked.resolve_model() == "pair"
        assert {(await asked.chat("hi")).backend for _ in range(5)} == {"echo"}

    (told,) = caplog.messages
    assert "'away' is passed over" in told


def test_a_group_of_which_no_member_is_there_says_why() -> None:
    settings = Settings(groups={"pair": Group(members=["first", "second"])})

    with pytest.raises(asyncllm.ConfigError, match="'first'"):
        client(settings, model="pair").resolve_model()


async def test_a_key_that_is_given_needs_no_variable() -> None:
    async with FaultyServer([answer("yes")]) as server:
        place = Deployment(backend="openai", model="m", base_url=server.url, api_key_env="NOT_SET")
        settings = Settings(deployments={"eu": place, "other": place})
        async with client(settings, model="eu", api_key="given") as asked:
            assert asked.resolve_model() == "eu"
            assert (await asked.chat("hi")).text == "yes"
            with pytest.raises(asyncllm.ConfigError, match="NOT_SET"):
                await asked.chat("hi", model="other")

    assert server.requests[0].headers["authorization"] == "Bearer given"


@pytest.mark.parametrize("model", [[], 5, {"echo:x"}, ["echo:x", 5]])
async def test_what_names_no_model_is_refused(model: Any) -> None:
    async with Client(model="echo:x", env={}) as asked:
        with pytest.raises(asyncllm.ConfigError) as caught:
            await asked.chat("hi", model=model)

    assert caught.value.field == "model"


def test_limits_prices_and_groups_come_from_the_file(tmp_path: Any) -> None:
    path = tmp_path / "asyncllm.toml"
    path.write_text("""
        cool_down_s = 5
        [deployments.eu]
        backend = "openai"
        model = "m"
        limits = { concurrency = 8, tokens_per_minute = 1000 }
        price = { input_usd = 2.0, output_usd = 8 }
        [groups.spread]
        members = { eu = 3, "echo:x" = 1 }
        pick = "least-busy"
        [prices]
        "echo:x" = { input_usd = 0, output_usd = 0 }
    """)

    settings = load_settings(path)

    assert settings.deployments["eu"].limits == Limits(concurrency=8, tokens_per_minute=1000)
    assert settings.groups["spread"].weights == {"eu": 3, "echo:x": 1}
    assert settings.prices["echo:x"].output_usd == 0


@pytest.mark.parametrize(
    "text",
    [
        '[deployments.eu]\nbackend="openai"\nmodel="m"\nlimits={concurrency=0}',
        '[deployments.eu]\nbackend="openai"\nmodel="m"\nlimits={concurency=1}',
        '[deployments.eu]\nbackend="openai"\nmodel="m"\nprice={input_usd=-1, output_usd=1}',
        "[groups.g]\nmembers=[]",
        "[groups.g]\nmembers={a=0}",
        '[groups.g]\nmembers=["a"]\npick="fastest"',
        '[groups.g]\nmembers=["h"]\n[groups.h]\nmembers=["a"]',
        "cool_down_s=-1",
    ],
)
def test_what_cannot_be_right_in_the_file_is_refused(tmp_path: Any, text: str) -> None:
    path = tmp_path / "asyncllm.toml"
    path.write_text(text)

    with pytest.raises(asyncllm.ConfigError, match=r"asyncllm\.toml"):
        load_settings(path)


# -- hedging -----------------------------------------------------------------------------------------------------


class Slowly:
    """Answers each call after the next of its delays, and counts what is under way and what was given up."""

    def __init__(self, *delays: float | asyncllm.APIError) -> None:
        self._delays = delays
        self.requests: list[Request] = []
        self.inside = 0
        self.given_up = 0

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        number = len(self.requests)
        delay = self._delays[min(number, len(self._delays) - 1)]
        self.requests.append(request)
        self.inside += 1
        try:
            if isinstance(delay, Exception):
                await asyncio.sleep(2)
                raise delay
            yield self._events(number, delay)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.inside -= 1

    async def _events(self, number: int, delay: float) -> AsyncGenerator[asyncllm.Event]:
        await asyncio.sleep(delay)
        yield TextDelta(f"{number} ")
        await asyncio.sleep(1)
        yield TextDelta("says so")
        yield UsageReport(Usage(input_tokens=10, output_tokens=3))
        yield Finished("stop")

    async def aclose(self) -> None:
        pass


def hedged(backend: Slowly, use: Callable[[Client], Any], policy: Hedge = Hedge(after_s=1)) -> Any:
    async def main() -> Any:
        async with Client(backend=backend, hedge=policy, retry=None) as asked:
            result = await use(asked)
        await asyncio.sleep(0)
        assert backend.inside == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result, asyncio.get_running_loop().time()

    return run_virtual(main())


def test_a_call_that_is_quick_enough_is_sent_once() -> None:
    backend = Slowly(0.5)

    reply, took_s = hedged(backend, lambda asked: asked.chat("hi"))

    assert (reply.text, took_s, len(backend.requests)) == ("0 says so", 1.5, 1)
    assert reply.usage.input_tokens == 10


def test_a_late_call_is_sent_again_and_the_first_to_begin_wins() -> None:
    backend = Slowly(50, 2)

    reply, took_s = hedged(backend, lambda asked: asked.chat("hi"))

    assert (reply.text, took_s) == ("1 says so", 4)
    assert backend.given_up == 1
    assert reply.usage == Usage(input_tokens=20, output_tokens=3)  # the one that lost has read its prompt
    assert backend.requests[0].idempotency_key != backend.requests[1].idempotency_key


def test_the_first_request_may_still_win() -> None:
    backend = Slowly(2, 50)

    reply, took_s = hedged(backend, lambda asked: asked.chat("hi"))

    assert (reply.text, took_s, backend.given_up) == ("0 says so", 3, 1)


def test_a_hedged_stream_gives_every_piece_once() -> None:
    async def texts(asked: Client) -> list[str]:
        return [text async for text in asked.stream_text("hi")]

    assert hedged(Slowly(50, 2), texts)[0] == ["1 ", "says so"]


def test_when_one_fails_the_other_is_waited_for_and_when_both_fail_the_error_is_raised() -> None:
    async def fails(asked: Client) -> str:
        with pytest.raises(asyncllm.OverloadedError):
            await asked.chat("hi")
        return "failed"

    assert hedged(Slowly(asyncllm.OverloadedError("x"), 5), lambda asked: asked.chat("hi"))[0].text == "1 says so"
    assert hedged(Slowly(asyncllm.OverloadedError("x")), fails)[0] == "failed"


def test_leaving_or_cancelling_a_hedged_call_ends_both_requests() -> None:
    async def leave(asked: Client) -> None:
        async with asked.stream("hi") as stream:
            async for _ in stream:
                break

    async def cancel(asked: Client) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asked.chat("hi")

    backend = Slowly(50)
    assert hedged(Slowly(50, 2), leave)[1] == 3
    assert hedged(backend, cancel)[1] == 5
    assert backend.given_up == 2


def test_without_a_delay_of_its_own_a_hedge_learns_what_is_late() -> None:
    backend = Slowly(*[0.1] * 18, 0.3, 0.3, *[0.1] * 5, 50, 0.1)

    async def many(asked: Client) -> float:
        for _ in range(25):
            await asked.chat("hi")
        began = asyncio.get_running_loop().time()
        await asked.chat("hi")
        return asyncio.get_running_loop().time() - began

    assert hedged(backend, many, Hedge())[0] == pytest.approx(1.4)
    assert len(backend.requests) == 27


@pytest.mark.parametrize("after_s", [0, -1, float("nan"), True, "1"])
def test_a_hedge_that_cannot_be_right_is_refused(after_s: Any) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        Hedge(after_s=after_s)

    assert caught.value.field == "after_s"


def test_a_hedged_call_is_retried_as_any_other() -> None:
    backend = Slowly(asyncllm.OverloadedError("x"), 0.1)

    async def main() -> str:
        async with Client(backend=backend, hedge=Hedge(after_s=100), retry=Retry(throttled_s=0)) as asked:
            return (await asked.chat("hi")).text

    assert run_virtual(main()) == "1 says so"


async def test_a_list_of_which_nothing_is_there_raises_the_first_error_each_time_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Client(model=["first", "second"], env={}) as client:
        for _ in range(2):
            with pytest.raises(asyncllm.ConfigError, match="'first'"):
                await client.chat("hi")

    assert not caplog.records


async def test_a_model_that_is_passed_over_is_an_error_where_it_is_asked_for_alone() -> None:
    async with Client(model=["gone", "echo:x"], env={}) as client:
        assert (await client.chat("hi")).text == "hi"
        with pytest.raises(asyncllm.ConfigError, match="'gone'"):
            await client.chat("hi", model="gone")
