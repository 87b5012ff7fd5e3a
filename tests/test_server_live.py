"""`GET /server/live`: who sees which calls under way, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from asyncllm import Client, TextDelta
from asyncllm.testing import ScriptedBackend, Stall
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from served import served

CANARY = "the canary sang in the mine"


async def live(http: aiohttp.ClientSession, url: str, token: str = "") -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with http.get(f"{url}/server/live", headers=headers) as reply:
        assert reply.status == 200
        assert CANARY not in await reply.text()
        listed = await reply.json()
    assert listed["object"] == "list"
    found: list[dict[str, Any]] = listed["data"]
    return found


@asynccontextmanager
async def calling(http: aiohttp.ClientSession, url: str, token: str = "") -> AsyncGenerator[None]:
    """A call that has begun and does not come to its end."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    body = {"messages": [{"role": "user", "content": CANARY}], "stream": True}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.status == 200
        await reply.content.readany()
        yield


async def test_a_call_is_there_while_it_is_under_way_and_says_nothing_of_what_is_asked() -> None:
    backend = ScriptedBackend([[TextDelta(CANARY), Stall()]])
    async with (
        Client(backend=backend) as client,
        served(client, models={"m": ""}) as url,
        aiohttp.ClientSession() as http,
    ):
        before = await live(http, url)
        async with calling(http, url):
            (one,) = await live(http, url)
        async with asyncio.timeout(10):
            while await live(http, url):  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.005)

    assert before == []
    assert (one["model"], one["route"], one["tenant"], one["key"]) == ("m", "/v1/chat/completions", "local", "")
    assert one["input_tokens"] > 0  # estimated, as the backend says nothing
    assert one["output_tokens"] == 1
    assert set(one) == {"id", "tenant", "key", "route", "model", "began_at", "input_tokens", "output_tokens"}


async def test_a_key_sees_the_calls_of_its_tenant_and_an_admin_s_those_of_all(tmp_path: Path) -> None:
    backend = ScriptedBackend([[TextDelta(CANARY), Stall()]])
    async with (
        ServerStore(tmp_path) as store,
        Client(backend=backend) as client,
        served(client, store=store, models={"m": ""}, needs_key=True) as url,
        aiohttp.ClientSession() as http,
    ):
        tokens = {}
        for tenant in ("north", "south"):
            _, tokens[tenant] = await store.keys.add("k", tenant=tenant)
        _, admin = await store.keys.add("k", tenant="house", grants=Grants(scopes=("admin",)))
        async with calling(http, url, tokens["north"]), calling(http, url, tokens["south"]):
            seen = {
                name: [one["tenant"] for one in await live(http, url, token)]
                for name, token in {**tokens, "admin": admin}.items()
            }
        async with http.get(f"{url}/server/live") as reply:
            refused = reply.status

    assert seen == {"north": ["north"], "south": ["south"], "admin": ["north", "south"]}
    assert refused == 401
