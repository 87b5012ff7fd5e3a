"""Three tenants and all their keys on one server, doing whatever they like in any order: none ever sees another's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from msgspec import Struct

from asyncllm import Client
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.keys.access import Access
from asyncllm.server.keys.keyring import Keyring
from asyncllm.server.service import Service
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from served import listening

TENANTS = ("alphaville", "bravotown", "charlieburg")
"""Whatever is of a tenant has its name in it."""
SECONDS = (0.0, 500.0, 5000.0)

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]


class Held(Struct):
    """A key as its tenant has it."""

    tenant: str
    id: str
    token: str
    until: float = float("inf")


class World:
    """The server, and what is known of it from outside."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._opened = contextlib.AsyncExitStack()
        self._ahead_s = 0.0
        self.held: list[Held] = []
        self.asked = 0
        self.run(self._open())

    def now(self) -> float:
        """What time the server takes it to be."""
        return time.time() + self._ahead_s

    def pass_by(self, seconds: float) -> None:
        """Let time pass for the server."""
        self._ahead_s += seconds

    def run(self, work: Awaitable[Any]) -> Any:
        """Let the server run until `work` is done."""

        async def run() -> Any:
            return await work

        return self._runner.run(run())

    def close(self) -> None:
        """End all of it."""
        self.run(self._opened.aclose())
        self._runner.close()

    async def _open(self) -> None:
        enter = self._opened.enter_async_context
        folder = self._opened.enter_context(tempfile.TemporaryDirectory())
        store = await enter(ServerStore(folder))
        self.keys = (await enter(ServerStore(folder))).keys  # as another process has them
        client = await enter(Client(model="echo:x"))
        models = {"shared": "echo:x", **{f"{tenant}-model": "echo:x" for tenant in TENANTS}}
        service = Service(client, ServerSettings(models=models, needs_key=True), store)
        service.access = Access(Keyring(store.keys, known_s=0, apart_s=0, now=self.now), is_needed=True)
        url = await enter(listening(application_of(service)))
        self._http = await enter(aiohttp.ClientSession(url))
        for tenant in TENANTS:
            await self.add(tenant)

    async def add(self, tenant: str, for_s: float | None = None) -> None:
        """Make a key."""
        until = None if for_s is None else self.now() + for_s
        grants = Grants(models=("shared", f"{tenant}-model"))
        key, token = await self.keys.add(f"{tenant} key", tenant=tenant, grants=grants, expires_at=until)
        self.held.append(Held(tenant, key.id, token, until or float("inf")))

    async def ask(self, held: Held, method: str, path: str, body: Any = None, own: str = "") -> tuple[int, str]:
        """Ask by a key, and check that nothing of others comes back but `own`, which was sent."""
        headers = {"x-api-key": held.token}
        async with self._http.request(method, path, json=body, headers=headers) as reply:
            text = f"{dict(reply.headers)} {await reply.text()}"
            said = (text.replace(own, "") if own else text).lower()
        self.asked += 1
        for other in self.held:
            if other.tenant != held.tenant:
                assert other.id not in said
                assert other.token[16:].lower() not in said
        assert not [name for name in TENANTS if name != held.tenant and name in said], said
        if reply.status == 404 and "no_route" in text:
            return 404, ""
        assert (reply.status == 401) == (self.now() >= held.until), (path, reply.status)
        return reply.status, await reply.text()


# Each takes part in any order. What another route is to stand in this test is an operation more in `OPERATIONS`.


async def chat(world: World, held: Held, draw: Draw) -> None:
    said = f"{held.tenant} says {draw(st.integers(0, 99))}"
    model = draw(st.sampled_from(("shared", f"{held.tenant}-model")))
    body = {"model": model, "messages": [{"role": "user", "content": said}], "stream": draw(st.booleans())}
    status, text = await world.ask(held, "POST", "/v1/chat/completions", body)
    if status == 200:
        assert held.tenant in text


async def message(world: World, held: Held, draw: Draw) -> None:
    body = {"model": "shared", "max_tokens": 9, "messages": [{"role": "user", "content": f"{held.tenant} asks"}]}
    status, text = await world.ask(held, "POST", "/v1/messages", body)
    assert status == 401 or held.tenant in text


async def list_models(world: World, held: Held, draw: Draw) -> None:
    status, text = await world.ask(held, "GET", "/v1/models")
    if status == 200:
        assert [model["id"] for model in json.loads(text)["data"]] == ["shared", f"{held.tenant}-model"]


async def take_a_model_of_somebody(world: World, held: Held, draw: Draw) -> None:
    """It looks as one that is not there."""
    model = f"{draw(st.sampled_from([tenant for tenant in TENANTS if tenant != held.tenant]))}-model"
    told: list[tuple[int, str]] = []
    for name in (model, "nobodyland-model"):
        body = {"model": name, "messages": [{"role": "user", "content": "x"}]}
        asked = await world.ask(held, "POST", "/v1/chat/completions", body, own=name)
        seen = await world.ask(held, "GET", f"/v1/models/{name}", own=name)
        told += [(status, text.replace(name, "")) for status, text in (asked, seen)]
    assert told[:2] == told[2:]
    assert {status for status, _ in told} <= {401, 404}


async def put_keys_together(world: World, held: Held, draw: Draw) -> None:
    """The id of one, the secret of another."""
    other = draw(st.sampled_from(world.held))
    if other.id != held.id:
        mixed = Held(held.tenant, held.id, held.token[:16] + other.token[16:], until=0)
        assert (await world.ask(mixed, "GET", "/v1/models"))[0] == 401


async def look_around(world: World, held: Held, draw: Draw) -> None:
    """At what the server tells of itself, as far as it does."""
    path = draw(st.sampled_from(("/server/usage", "/server/live", "/metrics", "/v1/files", "/v1/batches")))
    status, text = await world.ask(held, "GET", path, own="")
    if status == 200 and path.startswith("/server/"):
        assert {told["tenant"] for told in json.loads(text)["data"]} <= {held.tenant}


async def add(world: World, held: Held, draw: Draw) -> None:
    await world.add(held.tenant, draw(st.sampled_from((None, *SECONDS[1:]))))


async def revoke(world: World, held: Held, draw: Draw) -> None:
    await world.keys.revoke(held.id)
    for one in world.held:
        if one.id == held.id:
            one.until = min(one.until, world.now())


async def rotate(world: World, held: Held, draw: Draw) -> None:
    if world.now() >= held.until or time.time() >= held.until:
        return
    key = next(key for key in await world.keys.list(held.tenant) if key.id == held.id)
    overlap_s = draw(st.sampled_from(SECONDS))
    rotated = await world.keys.rotate(held.id, overlap_s=overlap_s)
    assert rotated is not None
    now = time.time()  # the store's, which is the time that people have
    newest = [one for one in world.held if one.id == held.id][-1]
    for one in world.held:
        if one.id == held.id:
            one.until = min(one.until, now + overlap_s if one is newest else world.now())
    world.held.append(Held(held.tenant, held.id, rotated[1], key.expires_at or float("inf")))


async def wait(world: World, held: Held, draw: Draw) -> None:
    world.pass_by(draw(st.sampled_from(SECONDS[1:])) * 1.5)


OPERATIONS = (
    chat,
    message,
    list_models,
    take_a_model_of_somebody,
    put_keys_together,
    look_around,
    add,
    revoke,
    rotate,
    wait,
)


class Tenants(RuleBasedStateMachine):
    """One operation after another, by any key that was ever made."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """One of the operations."""
        operation = data.draw(st.sampled_from(OPERATIONS))
        held = data.draw(st.sampled_from(self.world.held))
        self.world.run(operation(self.world, held, data.draw))

    def teardown(self) -> None:
        """See `RuleBasedStateMachine`."""
        self.world.close()


def test_no_tenant_ever_sees_a_byte_of_another() -> None:
    run(examples=6, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_tenant_ever_sees_a_byte_of_another_in_ten_thousand_steps() -> None:
    run(examples=100, steps=100)


def run(*, examples: int, steps: int) -> None:
    """Machines of so many steps each."""
    run_state_machine_as_test(
        Tenants,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),  # a machine takes too long to be made smaller
        ),
    )
