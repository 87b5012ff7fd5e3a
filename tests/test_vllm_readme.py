"""What the page of the vLLM backend shows is what happens, on the tiny model."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

import asyncllm_vllm
from vllm_engines import tiny

PAGE = Path(asyncllm_vllm.__file__).with_name("README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples of the page, with the tiny model in the place of theirs."""
    model = tiny()
    folder = tmp_path_factory.mktemp("examples")
    for name, source in re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", PAGE, re.DOTALL):
        quick = source.replace("Qwen/Qwen3-0.6B", model).replace("2048}", "1024, 'enforce_eager': True}")
        (folder / name).write_text(quick)
    return folder


def run(folder: Path, name: str) -> str:
    done = subprocess.run([sys.executable, name], cwd=folder, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_first_example_streams_from_the_engine(folder: Path) -> None:
    assert len(run(folder, "chat.py")) > 10


def test_the_benchmark_prints_a_line_a_load(folder: Path) -> None:
    said = run(folder, "benchmark.py")

    assert re.findall(r"^(\d+) at once: \d+ tokens/s, in line \d\.\d{3} s$", said, re.MULTILINE) == ["1", "8", "32"]


async def test_the_service_answers_and_ends_in_good_order(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            answer = await ask(session, port)
            engines = children(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()

    assert len(answer) > 10
    assert b"Traceback" not in errors
    assert engines
    assert not [engine for engine in engines if engine.exists()]


async def ask(session: aiohttp.ClientSession, port: int) -> str:
    """The answer, once there is a service."""
    while True:
        try:
            async with session.post(f"http://127.0.0.1:{port}/answer", params={"question": "Why?"}) as reply:
                return await reply.text()
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.2)


def children(parent: int) -> list[Path]:
    """The processes that `parent` has begotten, as folders of /proc."""
    found: list[Path] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text("utf-8")
        except OSError:
            continue  # it is gone already
        if f"\nPPid:\t{parent}\n" in status:
            found.append(folder)
    return found


def test_the_page_names_every_option_and_every_extra() -> None:
    options = [*asyncllm_vllm.options.Options.__struct_fields__, *asyncllm_vllm.request.Extra.__struct_fields__]

    assert [name for name in options if name != "engine" and f"`{name}`" not in PAGE] == []
