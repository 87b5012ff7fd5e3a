"""Who is let in by which key, over the wire and in whichever header it comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import Client
from asyncllm.errors import AuthenticationError
from asyncllm.server.keys.access import Access
from asyncllm.server.keys.keyring import Keyring
from asyncllm.workspace.keys import Grants, Ring
from asyncllm.workspace.served import ServerStore
from served import served

ASKED: list[Any] = [{"role": "user", "content": "one"}]
UNKNOWN = f"al_{'0' * 12}_{'A' * 43}"


@asynccontextmanager
async def keyed(folder: Path, **settings: Any) -> AsyncGenerator[tuple[str, ServerStore]]:
    """A server that lets in who has a key of the store that comes with its address."""
    async with ServerStore(folder) as store, Client(model="echo:x") as client:
        async with served(client, store=store, **{"needs_key": True, **settings}) as url:
            yield url, store


async def ask(url: str, *headers: tuple[str, str], path: str = "/v1/models") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}{path}", headers=headers) as reply:
        return reply.status, await reply.json()


async def test_both_vendors_sdks_bring_a_key_each_in_its_way(tmp_path: Path) -> None:
    async with keyed(tmp_path) as (url, store):
        _, key = await store.keys.add("phone")
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
            assert (await sdk.chat.completions.create(model="echo:x", messages=ASKED)).choices[
                0
            ].message.content == "one"
        for name in ("api_key", "auth_token"):
            async with anthropic.AsyncAnthropic(base_url=url, max_retries=0, **{name: key}) as claude:  # type: ignore[arg-type]
                await claude.messages.create(model="echo:x", messages=ASKED, max_tokens=5)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=UNKNOWN, max_retries=0) as sdk:
            with pytest.raises(openai.AuthenticationError) as refused:
                await sdk.models.list()
        async with anthropic.AsyncAnthropic(base_url=url, max_retries=0, api_key="sk-ant-x") as claude:
            with pytest.raises(anthropic.AuthenticationError):
                await claude.messages.create(model="echo:x", messages=ASKED, max_tokens=5)
        assert refused.value.code == "invalid_api_key"
        assert UNKNOWN not in str(refused.value)


async def test_a_key_is_looked_for_in_every_header_and_two_are_one_too_many(tmp_path: Path) -> None:
    async with keyed(tmp_path) as (url, store):
        key, other = [(await store.keys.add("phone"))[1] for _ in range(2)]
        bearer = ("Authorization", f"Bearer {key}")
        seen = {
            "bearer": await ask(url, bearer),
            "small": await ask(url, ("authorization", f"bearer   {key} ")),
            "x-api-key": await ask(url, ("x-api-key", key)),
            "api-key": await ask(url, ("api-key", key)),
            "twice the same": await ask(url, bearer, ("x-api-key", key)),
            "beside a proxy's": await ask(url, ("Authorization", "Basic eDp5"), ("x-api-key", key)),
            "two of ours": await ask(url, bearer, ("x-api-key", other)),
            "ours and another's": await ask(url, bearer, ("api-key", "sk-other")),
            "one header twice": await ask(url, ("x-api-key", key), ("x-api-key", other)),
            "none": await ask(url),
            "nothing in it": await ask(url, ("Authorization", "Bearer ")),
            "another way": await ask(url, ("Authorization", f"Basic {key}")),
        }

    assert [status for status, _ in seen.values()] == [200] * 6 + [400] * 3 + [401] * 3
    assert {told["error"]["code"] for status, told in seen.values() if status == 400} == {"several_keys"}
    assert all(key[16:] not in json.dumps(told) and other not in json.dumps(told) for _, told in seen.values())


async def test_without_a_need_for_keys_one_of_ours_is_looked_at_and_any_other_text_is_not(tmp_path: Path) -> None:
    async with keyed(tmp_path, needs_key=False) as (url, store):
        key = (await store.keys.add("phone", grants=Grants(models=("nothing",))))[1]
        seen = [
            await ask(url),
            await ask(url, ("Authorization", "Bearer x")),
            await ask(url, ("Authorization", "Bearer x"), ("x-api-key", "y")),
            await ask(url, ("Authorization", f"Bearer {key}")),
            await ask(url, ("Authorization", f"Bearer {UNKNOWN}")),
            await ask(url, ("Authorization", "Bearer x"), ("x-api-key", key)),
            await ask(url, ("x-api-key", "al_")),
        ]

    assert [status for status, _ in seen] == [200, 200, 200, 200, 401, 400, 401]
    assert [len(told["data"]) for _, told in seen[:4]] == [1, 1, 1, 0]


async def test_a_key_opens_what_it_is_for(tmp_path: Path) -> None:
    async with keyed(tmp_path) as (url, store):
        key = (await store.keys.add("files", grants=Grants(scopes=("files",))))[1]
        admin = (await store.keys.add("admin", grants=Grants(scopes=("admin",))))[1]
        other = (await store.keys.add("other", grants=Grants(models=("y",))))[1]
        status, told = await ask(url, ("x-api-key", key))
        async with aiohttp.ClientSession() as http:
            body = {"model": "echo:x", "messages": ASKED}
            async with http.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": other}) as reply:
                hidden = reply.status, await reply.json()
        assert (await ask(url, ("x-api-key", admin)))[0] == 200
        assert (await ask(url, path="/health"))[0] == 200

    assert (status, told["error"]["code"], told["error"]["type"]) == (403, "scope", "permission_error")
    assert hidden[0] == 404
    assert "there is none" in hidden[1]["error"]["message"]


async def test_a_key_that_is_taken_back_elsewhere_opens_nothing_a_second_later(tmp_path: Path) -> None:
    async with keyed(tmp_path) as (url, store), ServerStore(tmp_path) as elsewhere, aiohttp.ClientSession() as http:
        key, token = await store.keys.add("phone")

        async def status() -> int:
            async with http.get(f"{url}/v1/models", headers={"x-api-key": token}) as reply:
                return reply.status

        assert await status() == 200
        await elsewhere.keys.revoke(key.id)
        revoked_at = time.monotonic()
        seen: list[tuple[float, int]] = []
        while not seen or (seen[-1][1] == 200 and seen[-1][0] < 5):
            asked_at = time.monotonic() - revoked_at
            seen.append((asked_at, await status()))

        assert seen[-1][1] == 401
        assert all(found == 401 for asked_at, found in seen if asked_at >= 1)
        assert await status() == 401


async def test_where_the_store_cannot_be_read_nobody_is_let_in(tmp_path: Path) -> None:
    async with keyed(tmp_path) as (url, store):
        _, token = await store.keys.add("phone")
        await store.__aexit__()
        for key in (token, UNKNOWN):
            status, told = await ask(url, ("x-api-key", key))
            assert (status, told["error"]["code"]) == (503, "store")
            assert str(tmp_path) not in json.dumps(told)
        assert (await ask(url, ("x-api-key", "sk-other")))[0] == 401


class _NoKeys:
    async def ring(self, known: Ring | None = None) -> Ring:
        return Ring(0, b"", {})


@given(
    st.sampled_from((b"authorization", b"x-api-key", b"api-key")),
    st.sampled_from((b"", b"Bearer ", b"bearer  ")),
    st.binary(max_size=100)
    | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.sampled_from((b"\0" * 8192, b"al_" + b"0" * 8189, UNKNOWN.encode(), UNKNOWN.encode() + b"\0", b"al_\xff")),
)
def test_whatever_comes_as_a_key_is_refused_and_breaks_nothing(name: bytes, kind: bytes, value: bytes) -> None:
    async def identify() -> None:
        keys: Any = _NoKeys()
        access = Access(Keyring(keys, apart_s=0), is_needed=True)
        await access.identify({"headers": [(name, kind + value)]}, "calls")

    with pytest.raises(AuthenticationError) as caught:
        asyncio.run(identify())

    assert caught.value.status == 401


async def test_bytes_that_are_no_text_are_refused_on_the_wire(tmp_path: Path) -> None:
    async with keyed(tmp_path) as (url, store):
        await store.keys.add("phone")
        host, port = url.removeprefix("http://").split(":")
        for value in (b"\xff\xfe\xe9", b"al_\x80", "al_ключ".encode(), b"a" * 8192, UNKNOWN.encode(), b"al_\0"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: " + value + b"\r\n\r\n"
            )
            status = int((await reader.readline()).split()[1])
            writer.close()
            await writer.wait_closed()

            assert status in ((400, 401) if b"\0" in value else (401,))  # no header has a NUL
