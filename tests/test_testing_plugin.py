"""The pytest plugin, in pytest processes of their own: with pytest-asyncio, with anyio's plugin, and with neither."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

Suite: TypeAlias = Callable[..., str]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Runs a test file and returns what pytest printed."""

    def run(source: str, *options: str, header: str = "import asyncio, pytest\n") -> str:
        known = "no:asyncio" not in options
        setting = "asyncio_default_fixture_loop_scope = function" if known else ""
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{setting}\n")
        (tmp_path / "test_it.py").write_text(header + source)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
        )
        return done.stdout + done.stderr

    return run


ASYNCIO = ("-o", "asyncio_mode=strict"), "import asyncio, pytest\npytestmark = pytest.mark.asyncio\n"
AUTO = ("-o", "asyncio_mode=auto", "-p", "no:anyio"), "import asyncio, pytest\n"
ANYIO = (
    ("-p", "no:asyncio"),
    (
        "import asyncio, pytest\n"
        "pytestmark = pytest.mark.anyio\n"
        "@pytest.fixture\n"
        "def anyio_backend(): return 'asyncio'\n"
    ),
)
RUNNERS = pytest.mark.parametrize(("options", "header"), [ASYNCIO, AUTO, ANYIO], ids=["strict", "auto", "anyio"])


@RUNNERS
def test_every_piece_works_under_both_plugins_for_async_tests(
    suite: Suite, options: tuple[str, ...], header: str
) -> None:
    source = """
from asyncllm import Client, FirstEventTimeoutError, OverloadedError, TextDelta, Finished, Timeouts
from asyncllm.testing import Stall, Status, openai_reply

async def test_a_backend(scripted_backend):
    backend = scripted_backend([[TextDelta("hi"), Finished("stop")]])
    async with Client(backend=backend, model="any", env={}) as client:
        assert (await client.chat("hello")).text == "hi"

async def test_a_server(faulty_server, instant_retries):
    server = await faulty_server([[Status(503, {"Retry-After": "30"})], [Status(body=openai_reply("hi"))]])
    async with Client(model="openai:any", base_url=server.url, env={}) as client:
        assert (await client.chat("hello")).text == "hi"
    assert len(server.requests) == 2
    assert sum(instant_retries) >= 29

@pytest.mark.virtual_time
@pytest.mark.leaves_no_tasks
async def test_time(scripted_backend):
    async with Client(backend=scripted_backend([Stall()]), model="any", env={}, retry=None) as client:
        with pytest.raises(FirstEventTimeoutError):
            await client.chat("hello", timeouts=Timeouts(first_event_s=600))
    assert asyncio.get_running_loop().time() >= 600

async def test_real_time():
    assert "Virtual" not in type(asyncio.get_running_loop()).__name__
"""

    printed = suite(source, *options, header=header)

    assert "4 passed" in printed, printed


@pytest.mark.parametrize(("options", "header"), [ASYNCIO, ANYIO], ids=["asyncio", "anyio"])
def test_what_a_test_leaves_behind_fails_it(suite: Suite, options: tuple[str, ...], header: str) -> None:
    source = """
from asyncllm import TextDelta
from asyncllm.testing import Stall

KEPT = []

@pytest.mark.virtual_time
@pytest.mark.leaves_no_tasks
async def test_a_task():
    KEPT.append(asyncio.create_task(asyncio.sleep(10_000_000)))

async def test_an_open_call(scripted_backend):
    KEPT.append(scripted_backend([[TextDelta("hi")]]).open(None))
    await KEPT[-1].__aenter__()

async def test_a_script_that_fails(faulty_server):
    def script(request):
        raise ZeroDivisionError("mine")
    server = await faulty_server(script)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\\r\\n\\r\\n")
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()

@pytest.mark.virtual_time
async def test_a_wait_without_an_end():
    await asyncio.Event().wait()
"""

    printed = suite(source, *options, "-W", "ignore::RuntimeWarning", header=header)

    assert "4 failed" in printed, printed
    assert "the test leaves 1 tasks running" in printed
    assert "the test leaves 1 calls of a ScriptedBackend open" in printed
    assert "ZeroDivisionError: mine" in printed
    assert "StuckError: nothing is left that could wake anyone at 0 s" in printed


def test_a_test_without_a_loop_is_checked_too(suite: Suite) -> None:
    source = """
from asyncllm import Finished, TextDelta, sync

def test_a_call_that_ends(scripted_backend):
    with sync.Client(backend=scripted_backend([[TextDelta("hi"), Finished("stop")]]), model="any", env={}) as client:
        assert client.chat("hello").text == "hi"

def test_a_call_that_stays(scripted_backend):
    scripted_backend([[]]).opened += 1
"""

    assert "1 failed, 1 passed" in suite(source)


def test_properties_are_tested_in_virtual_time(suite: Suite) -> None:
    source = """
from hypothesis import given, strategies as st

@pytest.mark.virtual_time
@pytest.mark.asyncio
@given(st.floats(100, 1e6))
async def test_naps(seconds):
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(seconds)
    assert abs(loop.time() - before - seconds) < 1e-3
"""

    assert "1 passed" in suite(source)


def test_a_marker_on_a_test_that_has_no_loop_is_an_error(suite: Suite) -> None:
    source = """
@pytest.mark.virtual_time
def test_nothing(): pass
"""

    assert "are for async tests" in suite(source)


def test_a_suite_that_asks_for_nothing_gets_nothing(suite: Suite) -> None:
    source = """
import sys

def test_nothing(request):
    heavy = {"aiohttp", "anyio", "asyncllm.client", "asyncllm.testing.server", "asyncllm.testing.time"}
    assert not heavy & sys.modules.keys()
    assert not request.fixturenames or set(request.fixturenames) == {"request"}
"""

    printed = suite(source, "-p", "no:asyncio", "-p", "no:anyio", "-p", "no:schemathesis", "--strict-markers")

    assert "1 passed" in printed, printed


def test_loading_the_plugin_loads_no_more_than_the_nouns() -> None:
    heavy = "{'asyncio', 'ssl', 'asyncllm.backend'}"
    code = f"import sys, pytest, asyncllm.testing.plugin; print({heavy} & sys.modules.keys())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_the_plugin_shows_what_it_offers(suite: Suite) -> None:
    printed = suite("", "--fixtures", "--markers")

    assert "virtual_time: run the async test on a loop" in printed
