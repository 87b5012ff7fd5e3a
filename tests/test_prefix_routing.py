"""Groups that send prompts of one beginning to one member: who it is, who gives way, and what it gains."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

import asyncllm
from asyncllm import Client, Message, Request, Settings
from asyncllm.config import Deployment, Group, load_settings
from asyncllm.place import Place, Target
from asyncllm.spread import Member, Spread, beginning
from asyncllm.testing import FaultyServer, Pause, SeenRequest, Status, openai_reply
from asyncllm.types import ImagePart, TextPart, Tool

NAMES = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=2, unique=True)


class Desk:
    """What of a place a spread looks at."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting = 0
        self.has_gone = False

    @property
    def limiter(self) -> Desk:
        return self

    def is_away(self, _: float) -> bool:
        return self.has_gone


class Team:
    """A group of members that count what they are given."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.desks = {name: Desk() for name in weights}
        self._names = {id(desk): name for name, desk in self.desks.items()}
        members = [
            Member(name, [Target(cast(Place, self.desks[name]), "m")], weight) for name, weight in weights.items()
        ]
        self.spread = Spread(Group(members=weights, pick="prefix"), members)

    async def order(self, text: str) -> list[str]:
        return [self._names[id(target.place)] for target in self.spread.order(chat(text))]


def chat(text: str, *more: Message, system: str = "") -> Request:
    turns = [*([Message("system", system)] if system else []), Message("user", text), *more]
    return Request(model="m", messages=tuple(turns))


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.5, 8), min_size=2), st.integers(0, 2**32))
def test_beginnings_are_shared_out_by_weight(weights: dict[str, float], seed: int) -> None:
    async def firsts() -> Counter[str]:
        team = Team(weights)
        return Counter([(await team.order(f"{seed} {number}"))[0] for number in range(1000)])

    counts = asyncio.run(firsts())

    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(counts[name] / 1000 - share) < 5 * math.sqrt(share * (1 - share) / 1000)


@settings(max_examples=30)
@given(NAMES, st.data())
def test_a_member_that_goes_moves_no_beginning_but_its_own(names: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(names))

    async def orders(names: Sequence[str]) -> list[list[str]]:
        team = Team(dict.fromkeys(names, 1.0))
        return [await team.order(str(number)) for number in range(50)]

    before = asyncio.run(orders(names))
    after = asyncio.run(orders([name for name in names if name != gone]))

    assert after == [[name for name in order if name != gone] for order in before]


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=120),
)
def test_no_member_has_more_than_a_quarter_over_its_share(
    weights: dict[str, float], calls: list[tuple[int, bool]]
) -> None:
    async def play() -> None:
        team = Team(weights)
        under_way: list[Desk] = []
        for beginning_, ends in calls:
            if ends and under_way:
                under_way.pop(0).in_flight -= 1
                continue
            desk = team.desks[(await team.order(str(beginning_)))[0]]
            desk.in_flight += 1
            under_way.append(desk)
            (weight,) = (weights[name] for name, one in team.desks.items() if one is desk)
            assert desk.in_flight <= math.ceil(1.25 * len(under_way) * weight / sum(weights.values()))

    asyncio.run(play())


async def test_who_is_away_gives_way_and_has_its_beginnings_back() -> None:
    team = Team({"a": 1.0, "b": 1.0, "c": 1.0})
    before = {str(number): await team.order(str(number)) for number in range(30)}

    team.desks["b"].has_gone = True
    meanwhile = {text: await team.order(text) for text in before}
    team.desks["b"].has_gone = False

    assert {order[-1] for order in meanwhile.values()} == {"b"}
    assert meanwhile == {text: [*(name for name in order if name != "b"), "b"] for text, order in before.items()}
    assert {text: await team.order(text) for text in before} == before


def test_a_conversation_begins_alike_in_every_turn_and_another_does_not() -> None:
    first = chat("What is this?", system="Be brief")
    later = chat("What is this?", Message("assistant", "A cat"), Message("user", "Sure?"), system="Be brief")

    assert beginning(first, 4096) == beginning(later, 4096)
    assert beginning(first, 4096) != beginning(chat("What is that?", system="Be brief"), 4096)
    assert beginning(first, 4096) != beginning(chat("What is this?"), 4096)


def test_what_comes_after_so_many_characters_tells_nothing_apart() -> None:
    assert beginning(chat("one", system="x" * 100), 50) == beginning(chat("two", system="x" * 200), 50)
    assert beginning(chat("one", system="x" * 30), 50) != beginning(chat("two", system="x" * 30), 50)


def test_tools_pictures_texts_and_tokens_tell_prompts_apart() -> None:
    asked: list[Request] = [
        chat("hi"),
        Request(model="m", messages=(Message("user", "hi"),), tools=(Tool("f"),)),
        Request(model="m", messages=(Message("user", [TextPart("h"), TextPart("i")]),)),
        Request(model="m", messages=(Message("user", [TextPart("hi"), ImagePart(data=b"one")]),)),
        Request(model="m", messages=(Message("user", [TextPart("hi"), ImagePart(data=b"two")]),)),
        Request(model="m", messages=(Message("user", [TextPart("hi"), ImagePart(url="https://x/y.png")]),)),
        Request(model="m", prompt="hi"),
        Request(model="m", prompt=(1, 2)),
        Request(model="m", prompt=(12,)),
        Request(model="m", messages=(Message("user", "\ud800"),)),
    ]

    assert len({beginning(one, 4096) for one in asked}) == len(asked)
    assert asked[0].prompt is UNSET


def test_every_process_says_the_same() -> None:
    script = (
        "from asyncllm.spread import beginning, _uniform\n"
        "from asyncllm import Message, Request\n"
        "key = beginning(Request(model='m', messages=(Message('user', 'hi'),)), 99)\n"
        "print(key.hex(), _uniform(key, 'eu'))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip

    assert len(told) == 1


class Engine:
    """Keeps the beginnings of the last few prompts that it has read, as engines with a prefix cache do."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: dict[str, None] = {}
        self.read = self.kept = 0

    def reply(self, request: SeenRequest) -> list[Status]:
        text = request.json()["messages"][0]["content"]
        self.read += 1
        self.kept += text in self._kept
        self._kept.pop(text, None)
        self._kept[text] = None
        if len(self._kept) > self._room:
            del self._kept[next(iter(self._kept))]
        return [Status(body=openai_reply("fine"))]


async def hit_rate(pick: Any) -> float:
    """Of 24 conversations of eight turns each, over three engines with room for ten each."""
    engines = [Engine(10) for _ in range(3)]
    async with (
        FaultyServer(engines[0].reply) as one,
        FaultyServer(engines[1].reply) as two,
        FaultyServer(engines[2].reply) as three,
    ):
        places = {
            str(number): Deployment(backend="openai", model="m", base_url=server.url, api_key="k")
            for number, server in enumerate((one, two, three))
        }
        group = Group(members=list(places), pick=pick)
        async with Client(model="all", config=Settings(deployments=places, groups={"all": group}), env={}) as client:
            for turn in range(8):
                for talk in range(24):
                    later = [Message("assistant", "fine"), Message("user", "and then?")] * turn
                    await client.chat([Message("user", f"talk {talk}"), *later])
    return sum(engine.kept for engine in engines) / sum(engine.read for engine in engines)


async def test_engines_read_beginnings_again_far_less_often_than_by_lot() -> None:
    by_beginning, by_lot = await hit_rate("prefix"), await hit_rate("weighted")

    print(f"prompts whose beginning the engine had kept: {by_beginning:.0%} by beginning, {by_lot:.0%} by lot")
    assert by_beginning > 0.8
    assert by_lot < 0.5


async def test_one_beginning_spills_over_to_others_where_it_is_all_there_is() -> None:
    served: Counter[int] = Counter()

    def reply(number: int) -> Any:
        def answer(_: SeenRequest) -> list[Any]:
            served[number] += 1
            return [Pause(0.1), Status(body=openai_reply("fine"))]

        return answer

    async with FaultyServer(reply(0)) as one, FaultyServer(reply(1)) as two:
        places = {
            str(number): Deployment(backend="openai", model="m", base_url=server.url, api_key="k")
            for number, server in enumerate((one, two))
        }
        config = Settings(deployments=places, groups={"all": Group(members=list(places), pick="prefix")})
        async with Client(model="all", config=config, env={}) as client:

            async def late(number: int) -> None:
                await asyncio.sleep(number * 0.002)
                await client.chat("the same")

            await asyncio.gather(*map(late, range(16)))

    assert min(served[0], served[1]) >= 4


@pytest.mark.parametrize("text", ["prefix_chars = 0", 'prefix_chars = "many"', 'pick = "sticky"'])
def test_what_cannot_be_right_of_it_is_refused(tmp_path: Any, text: str) -> None:
    path = tmp_path / "asyncllm.toml"
    path.write_text(f'[groups.g]\nmembers = ["echo:x"]\n{text}\n')

    with pytest.raises(asyncllm.ConfigError, match=r"asyncllm\.toml"):
        load_settings(path)


def test_nothing_to_go_by_is_drawn() -> None:
    async def firsts() -> set[str]:
        team = Team({"a": 1.0, "b": 1.0})
        return {team._names[id(team.spread.order(None)[0].place)] for _ in range(50)}

    assert asyncio.run(firsts()) == {"a", "b"}
