"""`asyncllm serve` as a process: it serves, ends as it is told, and starts nothing by halves."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from asyncllm.server.running.serving import listen

CHAT = {"messages": [{"role": "user", "content": "one two"}], "stream": True}


@asynccontextmanager
async def serving(*arguments: str, folder: Path) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "asyncllm",
        "serve",
        *arguments,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def refused(*arguments: str, folder: Path) -> str:
    """What a server that does not start says in its one line."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "asyncllm", "serve", *arguments],
        cwd=folder,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert not done.stdout
    return done.stderr.decode()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_it_serves_until_a_signal(tmp_path: Path, number: signal.Signals, status: int) -> None:
    async with serving("-m", "echo:x", "--port", "0", "-q", folder=tmp_path) as (process, url):
        async with aiohttp.ClientSession() as http, http.post(f"{url}/chat/completions", json=CHAT) as reply:
            lines = (await reply.read()).decode().split("\n\n")
        process.send_signal(number)
        ended = await process.wait()

    assert [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in lines[:2]] == ["one", " two"]
    assert lines[-2] == "data: [DONE]"
    assert ended == status


async def test_names_of_the_configuration_are_served(tmp_path: Path) -> None:
    (tmp_path / "asyncllm.toml").write_text('model = "echo:a"\n[aliases]\nfast = "echo:b"\n')
    async with serving("--port", "0", folder=tmp_path) as (_, url):
        async with aiohttp.ClientSession() as http, http.get(f"{url}/models") as reply:
            listed = await reply.json()

    assert [model["id"] for model in listed["data"]] == ["echo:a", "fast"]


async def test_models_that_are_tried_in_turn_are_served_by_the_first_one_s_name(tmp_path: Path) -> None:
    (tmp_path / "asyncllm.toml").write_text('model = ["missing:a", "echo:b"]\n[aliases]\nother = "echo:c"\n')
    async with serving("--port", "0", folder=tmp_path) as (_, url):
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/models") as reply:
                listed = await reply.json()
            async with http.post(f"{url}/chat/completions", json={**CHAT, "stream": False}) as reply:
                answered = await reply.json()

    assert [model["id"] for model in listed["data"]] == ["missing:a", "other"]
    assert (answered["model"], answered["choices"][0]["message"]["content"]) == ("missing:a", "one two")


async def test_it_serves_on_a_unix_socket(tmp_path: Path) -> None:
    async with serving("-m", "echo:x", "--uds", "server.sock", folder=tmp_path) as (_, address):
        async with (
            aiohttp.UnixConnector(str(tmp_path / "server.sock")) as connector,
            aiohttp.ClientSession(connector=connector) as http,
        ):
            for _ in range(200):
                try:
                    async with http.get("http://server/health") as reply:
                        assert reply.status == 200
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.02)

    assert address == "unix:server.sock"


async def test_other_machines_are_not_let_in(tmp_path: Path) -> None:
    assert "asyncllm keys add" in await refused("-m", "echo:x", "--host", "0.0.0.0", folder=tmp_path)


async def test_a_key_of_the_store_beside_it_is_asked_for_where_that_is_asked_for(tmp_path: Path) -> None:
    add = [sys.executable, "-m", "asyncllm", "keys", "add", "phone", "--model", "echo:x"]
    made = await asyncio.to_thread(subprocess.run, add, cwd=tmp_path, capture_output=True, check=True)
    key = made.stdout.decode().strip()
    arguments = ("-m", "echo:x", "--port", "0", "--require-keys", "--allow-host", "api.example.org")
    async with serving(*arguments, folder=tmp_path) as (process, url), aiohttp.ClientSession() as http:
        own = {"x-api-key": key}
        tried: tuple[dict[str, str], ...] = (
            {},
            own,
            {**own, "Host": "api.example.org"},
            {**own, "Host": "evil"},
            {**own, "Origin": "http://evil"},
        )
        seen: list[int] = []
        for headers in tried:
            async with http.get(f"{url}/models", headers=headers) as reply:
                seen.append(reply.status)
        process.send_signal(signal.SIGINT)
        await process.wait()
        assert process.stderr is not None
        assert key not in (await process.stderr.read()).decode()

    assert seen == [401, 200, 200, 421, 403]


async def test_a_server_that_needs_keys_makes_no_store_to_find_none_in(tmp_path: Path) -> None:
    assert "keys add" in await refused("-m", "echo:x", "--require-keys", "--store", "new", folder=tmp_path)
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  # an empty folder


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        assert f"cannot listen on port {port}" in await refused("-m", "echo:x", "--port", port, folder=tmp_path)


def test_small_writes_do_not_wait_for_one_another() -> None:
    with listen("127.0.0.1", 0, None) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # by which asyncio sets TCP_NODELAY


async def test_a_model_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    assert "no backend is called 'nope'" in await refused("-m", "nope:x", "--port", "0", folder=tmp_path)


def test_no_part_of_a_reply_waits_for_the_word_that_another_has_arrived() -> None:
    with listen("127.0.0.1", 0, None) as door, socket.create_connection(door.getsockname()):
        connection, _ = door.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
