"""Places that are asked how they are while a server runs, and left out while they do not answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from asyncllm import Client, ConfigError, Settings
from asyncllm.config import Group
from asyncllm.testing import run_virtual
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from fleet import Fleet, place
from served import served

PAIR = Settings(
    deployments={"one": place("one"), "two": place("two")},
    groups={"pair": Group(members=["one", "two"])},
    model=["one", "two"],
    probe_s=10,
)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def test_a_place_that_is_silent_twice_is_left_out_until_it_answers(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> list[str]:
        texts: list[str] = []
        async with Client(config=PAIR, env={}, retry=None) as client, client.probing():
            await asyncio.sleep(5)
            for is_up, seconds in ((True, 0), (False, 13), (False, 13), (True, 25)):
                fleet["one"].is_up = is_up
                await asyncio.sleep(seconds)
                before = fleet["one"].calls
                texts.append((await client.chat("hi")).text.split()[0])
                texts[-1] += f" {fleet['one'].calls - before}"
                await asyncio.sleep(0)
        return texts

    # Silent once, it is asked and fails; from then on nobody asks it, also when it is not cooling any more.
    assert run_virtual(main()) == ["one 1", "two 1", "two 0", "one 1"]
    assert [record.getMessage() for record in caplog.records] == [
        "one does not answer, and is left out until it does",
        "one answers again",
    ]


def test_a_place_that_is_down_is_asked_where_there_is_no_other_and_is_up_once_it_answers(fleet: Fleet) -> None:
    async def main() -> tuple[str, str]:
        async with Client(config=PAIR, env={}, retry=None) as client:
            await client.probe()
            fleet["one"].is_up = fleet["two"].is_up = False
            await client.probe()
            await client.probe()
            fleet["one"].is_up = True
            first = (await client.chat("hi")).text
            return first, (await client.chat("hi")).text

    assert run_virtual(main()) == ("one says so", "one says so")


def test_a_group_s_first_member_is_never_one_that_is_down(fleet: Fleet) -> None:
    async def main() -> set[str]:
        async with Client(config=PAIR, env={}, retry=None) as client:
            assert await client.probe() == {"one": True, "two": True}
            fleet["two"].is_up = False
            await client.probe()
            await client.probe()
            return {(await client.chat("hi", model="pair")).text for _ in range(20)}

    assert run_virtual(main()) == {"one says so"}
    assert fleet["two"].calls == 0


def test_nobody_is_asked_in_the_background_but_inside_the_block(fleet: Fleet) -> None:
    async def main() -> None:
        client = Client(config=PAIR, env={})
        assert not fleet.engines
        await client.chat("hi")
        await asyncio.sleep(100)
        assert fleet["one"].asked == 0
        async with client.probing():
            await asyncio.sleep(35)
        asked = fleet["one"].asked
        assert 3 <= asked <= 5
        await asyncio.sleep(100)
        assert fleet["one"].asked == asked
        async with client.probing(1):
            await client.aclose()
            await asyncio.sleep(100)
        assert fleet["one"].asked <= asked + 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


def test_without_a_time_between_them_there_are_no_probes(fleet: Fleet) -> None:
    async def main() -> None:
        async with Client(config=Settings(deployments=PAIR.deployments, model=["one", "two"]), env={}) as client:
            async with client.probing():
                await asyncio.sleep(100)
            with pytest.raises(ConfigError, match="every_s"):
                async with client.probing(0):
                    pass

    run_virtual(main())
    assert not fleet.engines


async def test_ready_asks_at_most_once_a_second_and_says_who_is_down(fleet: Fleet) -> None:
    async with Client(config=PAIR, env={}) as client, served(client, models={"m": "pair"}) as url:
        async with aiohttp.ClientSession() as http:

            async def ready() -> tuple[int, object]:
                async with http.get(f"{url}/ready") as reply:
                    return reply.status, await reply.json()

            answers = await asyncio.gather(*(ready() for _ in range(10)))
            assert fleet["one"].asked == fleet["two"].asked == 1
            fleet["one"].is_up = False
            await asyncio.sleep(1.05)
            half = await ready()
            fleet["two"].is_up = False
            await asyncio.sleep(1.05)
            none = await ready()

    up = {"status": "ready", "models": {"m": True}, "members": {"one": "up", "two": "up"}}
    assert answers == [(200, up)] * 10
    assert half == (200, {**up, "members": {"one": "down", "two": "up"}})
    assert none == (503, {"status": "down", "models": {"m": False}, "members": {"one": "down", "two": "down"}})


@pytest.mark.usefixtures("fleet")
async def test_where_keys_are_needed_only_an_administrator_is_told_which_places_there_are(tmp_path: Path) -> None:
    async with (
        ServerStore(tmp_path / "store") as store,
        Client(config=PAIR, env={}) as client,
        served(client, store=store, models={"m": "pair"}, needs_key=True) as url,
        aiohttp.ClientSession() as http,
    ):
        _, plain = await store.keys.add("plain")
        _, admin = await store.keys.add("admin", grants=Grants(scopes=("admin",)))
        told: list[set[str]] = []
        for key in ("", plain, admin):
            async with http.get(f"{url}/ready", headers={"authorization": f"Bearer {key}"} if key else {}) as reply:
                assert reply.status == 200
                told.append(set(await reply.json()))

    assert told == [{"status"}, {"status"}, {"status", "models", "members"}]
