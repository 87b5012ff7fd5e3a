"""What holds for every system: plugins come by one door, cancelling stops the work, and keys stay unseen."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

import asyncllm.testing
from asyncllm import Client, LogCalls
from asyncllm.errors import AsyncLLMError
from asyncllm.testing import FaultyServer, Op, SeenRequest, Sse, Status, openai_chunks, openai_reply
from leftovers import nothing_unseen, settle, tasks
from sinks import Sinks
from steps import interrupted

PAGE = Path(asyncllm.testing.__file__).with_name("README.md").read_text("utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=100)


def test_row_113_a_backend_that_an_entry_point_names_passes_the_suite_that_all_pass(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n# test_backend.py\n(.*?)```", PAGE, re.DOTALL)
    backend, _, _ = source.replace("from asyncllm.testing import BackendConformance\n", "").partition("class TestShout")
    (tmp_path / "shout.py").write_text(f"{backend}\ndef connect(config, context):\n    return Shout()\n")
    (tmp_path / "shout-1.0.dist-info").mkdir()
    (tmp_path / "shout-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1.0\n")
    (tmp_path / "shout-1.0.dist-info" / "entry_points.txt").write_text("[asyncllm.backends]\nshout = shout:connect\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\npythonpath = .\n")
    (tmp_path / "test_shout.py").write_text(
        textwrap.dedent("""\
            from asyncllm.registry import Registry
            from asyncllm.testing import BackendConformance

            class TestShout(BackendConformance):
                name = "shout"
                max_tokens = long_max_tokens = None
                def connect(self, transport, base_url=None):
                    return Registry().load("shout")(None, None)
                def expected(self, prompt):
                    return prompt.upper()
            """)
    )

    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")

    assert done.returncode == 0, done.stdout
    assert re.search(r"\d{2,} passed", done.stdout)


def test_row_113_a_backend_that_lacks_its_engine_says_which_command_adds_it(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "-c",
        "import sys; sys.modules['xllamacpp'] = None; from asyncllm.cli import main; "
        "sys.exit(main(['chat', '-m', 'llamacpp:smollm2', 'hi']))",
    )

    assert done.returncode == 2
    assert "pip install 'asyncllm[llamacpp]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("way", ["task", "scope"])
@pytest.mark.parametrize("stream", [False, True])
async def test_row_114_a_call_cancelled_anywhere_closes_its_socket_and_leaves_no_task(way: str, stream: bool) -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        if request.json().get("stream"):
            return [Sse(openai_chunks(["a", "b"]), every_s=0.001)]
        return [0.001, Status(200, {"Content-Type": "application/json"}, openai_reply("ab"))]

    async def call(client: Client) -> None:
        if not stream:
            await client.chat("hi")
            return
        async with client.stream("hi") as events:
            async for _ in events:
                pass

    before = tasks()
    with nothing_unseen(asyncio.get_running_loop()):
        async with FaultyServer(serve) as server:
            for step in range(1, 100):
                async with Client(model="openai:m", base_url=server.url, env={}, retry=None) as client:
                    was_cancelled = await interrupted[way](call(client), step, late=False)
                    await settle(client, before)
                async with asyncio.timeout(5):
                    while server._tasks:  # noqa: ASYNC110  # the server has to notice
                        await asyncio.sleep(0.001)
                if not was_cancelled:
                    break

    assert 2 < step < 99


async def test_row_115_a_key_is_in_no_repr_no_log_and_no_error() -> None:
    sinks = Sinks({"key": "sk-canary0123456789"})
    with sinks.listening(asyncio.get_running_loop()):
        async with FaultyServer(
            lambda _: [Status(401, {}, b'{"error":{"message":"bad key sk-canary0123456789"}}')]
        ) as to:
            async with Client(
                model="openai:m", base_url=to.url, api_key="sk-canary0123456789", env={}, hooks=[LogCalls()]
            ) as client:
                for call in (client.chat("hi"), client.embed("hi"), client.list_models()):
                    with pytest.raises(AsyncLLMError) as caught:
                        await call
                    sinks.error(caught.value)
                sinks.thing(client)
                sinks.live()
        sent = {request.headers["authorization"] for request in to.requests}

    assert sent == {"Bearer sk-canary0123456789"}
    assert sinks.searched > 20
    assert not sinks.found
