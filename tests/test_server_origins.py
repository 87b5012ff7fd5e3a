"""What a web page somewhere can have a server do: nothing, unless its origin is let in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from asyncllm import Client
from asyncllm.errors import ConfigError
from asyncllm.server import ServerSettings
from asyncllm.server.running.exposure import guarded
from asyncllm.workspace.served import ServerStore
from served import served, server_of

BODY = json.dumps({"messages": [{"role": "user", "content": "one"}]})
LOCAL: dict[str, Any] = {
    "hosts": ("localhost", "127.0.0.1", "[::1]", "api.example.org"),
    "origins": ("https://app.example.org",),
}


async def ask(url: str, method: str = "POST", path: str = "/v1/chat/completions", **headers: str) -> Any:
    """Status, body and headers."""
    async with ClientSession() as http:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        body = BODY if method == "POST" else None
        async with http.request(
            method, f"{url}{path}", data=body, headers=given, skip_auto_headers=("Accept",)
        ) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if text.startswith("{") else text, reply.headers


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("localhost.:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("api.example.org", True),
        ("evil.example.org", False),
        ("localhost.evil.org", False),
        ("evil.org:80@localhost", False),
        ("localhost:80@evil.org", False),
        ("localhost:x", False),
        ("127.0.0.1.evil.org", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_a_name_that_has_come_to_mean_this_machine_is_not_answered(host: str, is_known: bool) -> None:
    async with server_of("echo:x", LOCAL) as url:
        status, told, _ = await ask(url, Host=host)
        health, _, _ = await ask(url, "GET", "/health", Host=host)

    if host:
        assert (status, health) == ((200, 200) if is_known else (421, 421))
    else:
        assert status in (400, 421)
    if status == 421:
        assert (told["error"]["type"], told["error"]["code"]) == ("invalid_request_error", "wrong_host")
        assert "evil" not in json.dumps(told)


async def test_without_names_any_is_answered_and_so_it_is_with_a_star() -> None:
    for settings in ({}, {"hosts": ("*",)}, {"hosts": ("localhost", "*")}):
        async with server_of("echo:x", settings) as url:
            assert (await ask(url, Host="evil.example.org"))[0] == 200


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        ("https://app.example.org", True),
        ("HTTPS://APP.example.org", True),
        ("http://api.example.org", True),  # the server's own, by the name that the request is for
        ("https://api.example.org", True),
        ("https://app.example.org:444", False),
        ("http://app.example.org", False),
        ("https://app.example.org.evil.org", False),
        ("https://evil.org", False),
        ("http://localhost", False),
        ("file://api.example.org", False),
        ("null", False),
        ("", False),
        ("*", False),
    ],
)
async def test_a_page_of_elsewhere_is_refused_before_its_request_does_anything(origin: str, is_let_in: bool) -> None:
    async with server_of("echo:x", LOCAL) as url:
        status, told, headers = await ask(url, Host="api.example.org", Origin=origin)
        preflight, _, allowed = await ask(
            url, "OPTIONS", Host="api.example.org", Origin=origin, Access_Control_Request_Method="POST"
        )

    assert status == (200 if is_let_in else 403)
    if not is_let_in:
        assert told["error"]["code"] == "wrong_origin"
    is_named = origin.lower() == "https://app.example.org"
    if origin != origin.lower():
        return  # browsers write it in small letters, and so it is compared where it is told back
    assert (preflight == 200) == is_named
    for told_back in (headers, allowed):
        assert told_back.get("access-control-allow-origin") == (origin if is_named else None)
        assert "access-control-allow-credentials" not in told_back


async def test_a_preflight_says_what_may_be_sent_and_opens_nothing() -> None:
    asked = "authorization,content-type,x-stainless-os"
    async with Client(model="echo:x") as client:
        async with served(client, **LOCAL) as url:
            status, _, headers = await ask(
                url,
                "OPTIONS",
                Origin="https://app.example.org",
                Access_Control_Request_Method="POST",
                Access_Control_Request_Headers=asked,
            )
            other, told, _ = await ask(url, "OPTIONS", Origin="https://app.example.org")
            _, _, plain = await ask(url)

    assert status == 200
    assert headers["access-control-allow-headers"] == asked
    assert {"GET", "POST", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
    assert "Origin" in headers["vary"]
    assert (other, told) == (204, "")
    assert not [name for name in plain if name.lower().startswith("access-control")]


async def test_a_page_may_read_why_it_was_refused() -> None:
    async with server_of("echo:x", {"origins": ("https://app.example.org",)}) as url:
        status, _, headers = await ask(url, path="/v1/nowhere", Origin="https://app.example.org")

    assert status == 404
    assert headers["access-control-allow-origin"] == "https://app.example.org"
    assert "x-request-id" in headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "query",
    [
        "key=sk-1",
        "key=0123456789ab",
        "api_key=x",
        "API-KEY=x",
        "a=b&access_token=x",
        "token=",
        "%6bey=x",
        "x=al_abc",
        "al_abc",
        "apikey=1",
    ],
)
async def test_a_key_in_an_address_is_refused_wherever_it_goes(query: str) -> None:
    async with server_of("echo:x") as url:
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/health"), ("GET", "/v1/nowhere")):
            status, told, _ = await ask(url, method, f"{path}?{query}")
            assert (status, told["error"]["code"]) == (400, "key_in_query")
            assert query not in json.dumps(told)
        status, told, _ = await ask(url, path=f"/v1/messages?{query}")
        assert (status, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")
        assert (await ask(url, "GET", "/v1/models?limit=5&after=x&key_id=0123456789ab"))[0] == 200


async def test_two_names_or_none_are_refused() -> None:
    async with server_of("echo:x", LOCAL) as url:
        async with ClientSession() as http:
            headers = [("Host", "localhost"), ("Host", "evil.example.org")]
            async with http.get(f"{url}/health", headers=headers) as reply:
                assert reply.status in (400, 421)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hosts", "http://x"), ("hosts", "x:80"), ("hosts", "UPPER"), ("hosts", ""), ("origins", "*"),
     ("origins", "https://x/"), ("origins", "app.example.org"), ("origins", "https://*.example.org")],
)  # fmt: skip
def test_names_and_origins_that_cannot_match_are_refused(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerSettings(**{field: (value,)})  # type: ignore[arg-type]

    assert caught.value.field == field


async def test_an_address_that_others_reach_needs_a_key_that_is_good(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        key, _ = await store.keys.add("phone")
        settings = await guarded(ServerSettings(), store, "0.0.0.0")
        assert (settings.needs_key, settings.hosts) == (True, None)

        await store.keys.revoke(key.id)
        for host, asked in (("0.0.0.0", ServerSettings()), ("::1", ServerSettings(needs_key=True))):
            with pytest.raises(ConfigError, match="asyncllm keys add"):
                await guarded(asked, store, host)


async def test_an_address_of_this_machine_has_its_own_names_and_no_others() -> None:
    local = await guarded(ServerSettings(hosts=("api.example.org",)), None, "127.0.0.2")
    on_socket = await guarded(ServerSettings(), None, None)

    assert local.hosts == ("localhost", "127.0.0.1", "[::1]", "127.0.0.2", "api.example.org")
    assert (local.needs_key, local.origins) == (False, ())
    assert (on_socket.hosts, on_socket.needs_key) == (None, False)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(ConfigError, match="asyncllm keys add"):
            await guarded(ServerSettings(), None, host)
    with pytest.raises(ConfigError, match="no address"):
        await guarded(ServerSettings(), None, "example.org")
