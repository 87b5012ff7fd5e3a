"""`asyncllm serve --workers`: real processes at one address, which are killed, told to read again, and ended."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asyncllm.server.running import workers
from asyncllm.server.running.workers import Crew
from asyncllm.testing import FaultyServer, SeenRequest, Sse, openai_chunks

WORDS = [f"word{number} " for number in range(12)]
ASKED = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


class Cluster:
    """A parent, and who else there is."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, folder: Path) -> None:
        self.process = process
        self.url = url
        self.folder = folder

    def workers(self) -> list[int]:
        """The processes that answer."""
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in told.split()]

    def configure(self, upstream: str, *names: str) -> None:
        """Serve these models, all of the one upstream."""
        (self.folder / "asyncllm.toml").write_text(
            "".join(
                f'[deployments.{name}]\nbackend = "openai"\nmodel = "m"\nbase_url = "{upstream}"\napi_key = "k"\n'
                for name in names
            )
        )

    async def listed(self, http: aiohttp.ClientSession) -> list[str]:
        async with http.get(f"{self.url}/models", headers={"connection": "close"}) as reply:
            return [model["id"] for model in (await reply.json())["data"]]


@asynccontextmanager
async def cluster(folder: Path, upstream: str, *names: str, count: int = 2) -> AsyncGenerator[Cluster]:
    made = Cluster(None, "", folder)  # type: ignore[arg-type]
    made.configure(upstream, *names)
    made.process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncllm", "serve", "--workers", str(count), "--port", "0", "-q"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert made.process.stdout is not None
        made.url = (await made.process.stdout.readline()).decode().strip()
        await _until(lambda: sum(map(_listens, made.workers())) == count)
        yield made
    finally:
        if made.process.returncode is None:
            made.process.kill()
            await made.process.wait()


def _listens(pid: int) -> bool:
    """Whether a worker waits for connections: its event loop looks at the socket that it was given."""
    folder = Path(f"/proc/{pid}")
    try:
        told = next(
            one for one in (folder / "environ").read_bytes().split(b"\0") if one.startswith(b"ASYNCLLM_WORKER=")
        )
        number = told.partition(b"=")[2].split(b",")[0].decode()
        watched = [one.read_text().split() for one in (folder / "fdinfo").iterdir()]
    except (OSError, StopIteration):
        return False
    return any(pair == ("tfd:", number) for words in watched for pair in pairwise(words))


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110  # processes tell nobody
            await asyncio.sleep(0.02)


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _peers(pid: int) -> set[int]:
    """The ports of clients whose connections a process has."""
    inodes = {str(one.readlink()).removeprefix("socket:[")[:-1] for one in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].split(":")[1], 16) for row in rows if row[9] in inodes}


def slowly(_: SeenRequest) -> Sequence[Any]:
    return [Sse(openai_chunks(WORDS), every_s=0.1)]


class Reader:
    """One stream, on a connection of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.begun = asyncio.Event()

    async def read(self, url: str, model: str) -> bool:
        """Whether all of it came."""
        async with aiohttp.ClientSession() as http:
            try:
                async with http.post(f"{url}/chat/completions", json={**ASKED, "model": model}) as reply:
                    assert reply.status == 200, await reply.text()
                    assert reply.connection is not None
                    assert reply.connection.transport is not None
                    self.port = reply.connection.transport.get_extra_info("sockname")[1]
                    text = b""
                    async for piece in reply.content.iter_any():
                        text += piece
                        self.begun.set()
            except aiohttp.ClientError:
                return False
            finally:
                self.begun.set()
        said = [json.loads(line[6:]) for line in text.decode().split("\n\n") if line.startswith("data: {")]
        words = [one["choices"][0]["delta"].get("content") or "" for one in said if one["choices"]]
        return "".join(words) == "".join(WORDS) and text.endswith(b"data: [DONE]\n\n")


async def streams(at: Cluster, count: int, model: str) -> tuple[list[Reader], list[asyncio.Task[bool]]]:
    """So many at each worker; whoever is not to have them stands still meanwhile."""
    readers: list[Reader] = []
    tasks: list[asyncio.Task[bool]] = []
    for pid in (pids := at.workers()):
        for other in pids:
            os.kill(other, signal.SIGCONT if other == pid else signal.SIGSTOP)
        new = [Reader() for _ in range(count)]
        tasks += [asyncio.create_task(reader.read(at.url, model)) for reader in new]
        for reader in new:
            await reader.begun.wait()
        readers += new
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return readers, tasks


async def test_a_reload_drops_none_of_fifty_streams_and_all_workers_have_the_new_models(tmp_path: Path) -> None:
    async with FaultyServer(slowly) as upstream, cluster(tmp_path, upstream.url, "a", "b") as at:
        _, tasks = await streams(at, 25, "a")
        at.configure(upstream.url, "b", "c")
        at.process.send_signal(signal.SIGHUP)
        async with aiohttp.ClientSession() as http, asyncio.timeout(30):
            in_a_row = 0
            while in_a_row < 12:
                in_a_row = in_a_row + 1 if await at.listed(http) == ["b", "c"] else 0
        were_under_way = not any(task.done() for task in tasks)
        whole = await asyncio.gather(*tasks)
        _, more = await streams(at, 1, "c")
        whole += await asyncio.gather(*more)
        (tmp_path / "asyncllm.toml").write_text("[server]\nmax_body_bytes = 0\n")
        at.process.send_signal(signal.SIGHUP)
        assert at.process.stderr is not None
        line = (await at.process.stderr.readline()).decode()

    assert were_under_way
    assert whole == [True] * 52
    assert "stays as it was" in line
    assert "max_body_bytes is above zero" in line


async def test_a_worker_that_is_killed_takes_its_own_streams_and_another_comes(tmp_path: Path) -> None:
    async with FaultyServer(slowly) as upstream, cluster(tmp_path, upstream.url, "a") as at:
        before = at.workers()
        readers, tasks = await streams(at, 10, "a")
        victim = before[0]
        its = _peers(victim)
        os.kill(victim, signal.SIGKILL)
        whole = await asyncio.gather(*tasks)
        await _until(lambda: victim not in at.workers() and sum(map(_listens, at.workers())) == 2)
        _, more = await streams(at, 2, "a")
        after = await asyncio.gather(*more)

    assert [not one for one in whole] == [reader.port in its for reader in readers]
    assert sum(whole) == 10
    assert after == [True] * 4


async def test_a_shutdown_lets_the_streams_of_all_workers_end(tmp_path: Path) -> None:
    async with FaultyServer(slowly) as upstream, cluster(tmp_path, upstream.url, "a") as at:
        pids = at.workers()
        _, tasks = await streams(at, 10, "a")
        at.process.send_signal(signal.SIGTERM)
        whole = await asyncio.gather(*tasks)
        status = await at.process.wait()

    assert whole == [True] * 20
    assert status == 143
    assert not any(map(_is_there, pids))


async def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with cluster(tmp_path, "http://127.0.0.1:1", "a") as at:
        pids = at.workers()
        at.process.kill()
        await _until(lambda: not any(map(_is_there, pids)))


async def test_what_keeps_a_server_from_starting_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[server]\nmax_choices = 'many'\n")
    (tmp_path / "unknown.toml").write_text("[server]\nmax_choice = 1\n")
    (tmp_path / "file").write_text("")
    cases: list[tuple[list[str], dict[str, str], str]] = []
    with socket.socket() as taken, socket.socket(socket.AF_UNIX) as also_taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        also_taken.bind(str(tmp_path / "taken.sock"))
        also_taken.listen()
        port = str(taken.getsockname()[1])
        for count in ("1", "2"):
            cases += [
                (["--workers", count], {"ASYNCLLM_CONFIG": "bad.toml"}, "$.max_choices"),
                (["--workers", count], {"ASYNCLLM_CONFIG": "unknown.toml"}, "`max_choice`"),
                (["--workers", count, "--store", "file/store"], {}, "file/store"),
            ]
        cases += [
            (["--workers", "2", "--port", port], {}, f"cannot listen on port {port}"),
            (["--workers", "2", "--uds", "taken.sock"], {}, "taken.sock"),
            (["--workers", "0"], {}, "--workers"),
            ([], {"ASYNCLLM_WORKER": "1,x"}, "ASYNCLLM_WORKER"),
        ]
        slots = asyncio.Semaphore(2)

        async def refused(arguments: list[str], env: dict[str, str]) -> tuple[int, str, str]:
            async with slots:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "asyncllm", "serve", "-m", "echo:x", "-q", "--port", "0", *arguments),
                    cwd=tmp_path,
                    env={**os.environ, **env},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                out, told = await process.communicate()
                assert process.returncode is not None
                return process.returncode, out.decode(), told.decode()

        ends = await asyncio.gather(*(refused(arguments, env) for arguments, env, _ in cases))

    for (arguments, env, told), (status, out, line) in zip(cases, ends, strict=True):
        assert (out, line.count("\n")) == ("", 1), (arguments, env, line)
        assert told in line, (arguments, env)
        assert status in {1, 2}, (arguments, env)


class Dying:
    """A worker that ends as soon as it has begun, or after its first answer."""

    started = 0

    def __init__(self, *, is_ready: bool) -> None:
        self.is_well = False
        self._is_ready = is_ready

    async def ready(self) -> bool:
        return self._is_ready

    async def ended(self) -> int:
        return -9 if self._is_ready else 2

    def send(self, _: int) -> None: ...

    def leave(self) -> None: ...


@pytest.mark.parametrize(("is_ready", "status", "started"), [(True, 1, 6), (False, 2, 1)])
async def test_workers_that_die_as_they_start_are_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_ready: bool, status: int, started: int
) -> None:
    count = 0

    async def start(*_: object) -> Dying:
        nonlocal count
        count += 1
        await asyncio.sleep(0)
        return Dying(is_ready=is_ready)

    monkeypatch.setattr(workers._Worker, "start", start)
    monkeypatch.setattr(workers, "_FIRST_WAIT_S", 0.001)
    told: list[str] = []
    crew = Crew(
        socket.socket(), 2, arguments=[], drain_s=1, check=lambda: None, tell=lambda: told.append("here")
    )  # fmt: skip

    assert await crew.run() == status
    assert crew.signal is None
    assert told == (["here"] if is_ready else [])
    assert started - 1 <= count <= started + 1
    assert sum("giving up" in record.getMessage() for record in caplog.records) == is_ready


async def test_a_terminal_that_goes_ends_the_server(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncllm", "serve", "-m", "echo:x", "--port", "0", "-q"),
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.3)
    still_there = process.returncode is None
    os.close(ours)  # which hangs up

    assert still_there
    assert await process.wait() == 143
