"""What the README shows is what happens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from asyncllm.cli.backends import markdown
from asyncllm.cli.parser import make_parser
from asyncllm.registry import Registry
from asyncllm.testing import Chunk, FaultyServer, Op, SeenRequest, Status, openai_reply
from asyncllm.testing.conformance import OpenAIDialect
from asyncllm.types import ToolCall, Usage
from job_servers import FILM, OpenAIJobs

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def block(language: str, containing: str) -> str:
    """The one code block of a language that contains a text."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text]
    return str(found)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The plugin of the README, as an installer leaves it behind."""
    (tmp_path / "my_backend.py").write_text(block("python", "# my_backend.py"))
    (tmp_path / "test_my_backend.py").write_text(block("python", "# test_my_backend.py"))
    info = tmp_path / "my_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-backend\nVersion: 1.0\n")
    door = re.sub(r"#.*\n|\[project.entry-points.|\]", "", block("toml", "# its pyproject.toml"))
    (info / "entry_points.txt").write_text(door.replace('"asyncllm.backends"', "[asyncllm.backends]").replace('"', ""))
    return tmp_path


def run(site: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(site), "PYTHONPATH": str(site), **variables}
    return subprocess.run(
        [sys.executable, *command], cwd=site, env=env, capture_output=True, text=True, check=False, timeout=100
    )


def test_the_plugin_answers(site: Path) -> None:
    done = run(site, "-m", "asyncllm", "chat", "-m", "shout:anything", "hello there")

    assert (done.stdout, done.stderr) == ("HELLO THERE\n", "")


def test_the_plugin_passes_the_suite(site: Path) -> None:
    done = run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_backend.py")

    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[3-9]\d passed", done.stdout)


def test_every_python_block_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    for source in blocks:
        compile(source, "README.md", "exec")
    assert len(blocks) == 12


def test_the_block_for_a_budget_says_what_was_spent(tmp_path: Path) -> None:
    script = f"""
import asyncio, asyncllm
{block("python", "asyncllm.budget(")}
prices = {{"echo:x": asyncllm.Price(input_usd=1, output_usd=2)}}

async def main():
    async with asyncllm.Client(model="echo:x", prices=prices) as client:
        await ask_all(client, ["a b", "c d"])

asyncio.run(main())
"""
    (tmp_path / "budget.py").write_text(script)

    done = run(tmp_path, "budget.py")

    assert done.returncode == 0, done.stderr
    tokens, usd = done.stdout.split()
    assert int(tokens) > 0
    assert float(usd) > 0


def test_the_block_for_services_runs_on_the_local_model(tmp_path: Path) -> None:
    source = block("python", "reply.request_id")
    script = source.replace('["openai:gpt-4.1", "llamacpp:smollm2"]', '"llamacpp:smollm2"').replace(
        '"Tell me more", ', '"Tell me more", max_tokens=20, '
    )
    (tmp_path / "service.py").write_text(script)

    done = run(tmp_path, "service.py")

    assert done.returncode == 0, done.stderr
    assert " llamacpp " in done.stdout
    assert done.stderr == ""


def test_the_configuration_file_is_read_as_shown(tmp_path: Path) -> None:
    from asyncllm.config import load_settings

    path = tmp_path / "asyncllm.toml"
    path.write_text(block("toml", "[deployments.eu]"))

    assert load_settings(path).expand("fast") == ["eu", "openai:gpt-4.1"]


def test_the_typed_answers_are_of_their_types(site: Path) -> None:
    done = run(site, "-c", block("python", "class Person"))

    assert done.stderr == ""
    first, *growing, last = done.stdout.splitlines()
    assert re.fullmatch(r"Person\(name='.*', mood='(good|bad)', age=-?\d+\)", first)
    assert re.fullmatch(r"Person\(name='.*', mood='(good|bad)', age=-?\d+\)", last)
    assert growing[0] == "{}"


async def test_the_tools_are_called_whole_and_streamed(site: Path) -> None:
    wire = OpenAIDialect()
    call = ToolCall("call_1", "weather", '{"city": "Rome"}')

    def answer(request: SeenRequest) -> Sequence[Op]:
        asked = json.loads(request.body)
        is_told = asked["messages"][-1]["role"] == "tool"
        if not asked.get("stream"):
            texts, calls = (["Sunny."], ()) if is_told else ([""], (call,))
            return [Status(200, {"content-type": "application/json"}, wire.reply(texts, calls=calls))]
        piece = wire.text("Sunny.")
        if not is_told:
            piece = wire.call(0, call_id=call.id, name=call.name, arguments=call.arguments)
        return [
            Status(200, {"content-type": wire.content_type}, None),
            Chunk(wire.start() + piece + wire.finish() + wire.end()),
        ]

    async with FaultyServer(answer) as server:
        env = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-readme"}
        done = await asyncio.to_thread(run, site, "-c", block("python", "def weather"), **env)

    assert done.stderr == ""
    assert re.search(r"weather \{\"city\":\"Rome\",\"sky\":\"sunny\"\} 0\.\d+ s", done.stdout)
    assert done.stdout.startswith("Sunny.")
    assert done.stdout.rstrip().endswith("2")


def test_batches_are_asked_in_memory_and_from_a_file(site: Path) -> None:
    (site / "input.jsonl").write_text('{"english": "a bird"}\n{"english": "a fish"}\n')

    done = run(site, "-c", block("python", "client.run_batch").replace("openai:gpt-4.1", "echo:x"))

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "0 Translate into French: a cat",
        "1 Translate into French: a dog",
        "completed 2 0 0.0",
    ]
    assert '{"english":"a fish","text":"Translate: a fish"' in (site / "output.jsonl").read_text()


def test_the_recorded_batch_is_of_commands_that_there_are_and_ends_with_every_row() -> None:
    recording = block("console", "asyncllm batch run")
    commands = re.findall(r"^\$ .*?asyncllm (batch .*)$", recording, re.MULTILINE)

    assert [make_parser().parse_args(shlex.split(command)).action for command in commands] == [
        "run",
        "status",
        "run",
        "status",
    ]
    assert commands[0] == commands[2]
    assert "interrupted  5 of 12" in recording
    assert "completed  12 of 12  0       14 " in recording


async def test_a_job_is_submitted_here_and_fetched_there(site: Path) -> None:
    async with FaultyServer(OpenAIJobs("queued", "completed")) as server:
        env = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-readme"}
        done = await asyncio.to_thread(run, site, "-c", block("python", "submit_video"), **env)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "openai:sora-2:videos/video_1 succeeded",
        f"video/mp4 {len(FILM)}",
    ]


def reply_of_media(request: SeenRequest) -> Sequence[Op]:
    """What OpenAI would answer to the calls of the page."""
    if request.path == "/v1/audio/speech":
        return [Status(200, {"Content-Type": "audio/mpeg"}, b"ID3")]
    said = {
        "/v1/audio/transcriptions": {"text": "hello", "duration": 2.0, "words": []},
        "/v1/images/generations": {"data": [{"b64_json": "UE5H"}]},
        "/v1/embeddings": {"data": [{"index": index, "embedding": [0.5]} for index in range(2)]},
        "/v1/moderations": {"results": [{"flagged": False, "categories": {}, "category_scores": {}}]},
    }
    return [Status(200, {"Content-Type": "application/json"}, json.dumps(said[request.path]).encode())]


async def test_sound_and_pictures_come_and_go(site: Path) -> None:
    (site / "speech.wav").write_bytes(b"RIFF")
    async with FaultyServer(reply_of_media) as server:
        env = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-readme"}
        done = await asyncio.to_thread(run, site, "-c", block("python", "stream_speech"), **env)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hello 2.0 ")
    assert len(server.requests) == 5


async def test_what_a_call_cost_is_told_and_added_up(site: Path) -> None:
    usage = Usage(input_tokens=1000, output_tokens=1000)
    async with FaultyServer([Status(200, {}, openai_reply("hello", usage=usage, model="gpt-4.1"))]) as server:
        env = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-readme"}
        done = await asyncio.to_thread(run, site, "-c", block("python", "asyncllm.Totals()"), **env)

    assert done.stderr == ""
    assert done.stdout == "gpt-4.1: 0.01\n0.01 0.01\n"


def test_the_table_of_backends_is_what_they_tell_of_themselves() -> None:
    (table,) = re.findall(r"<!-- backends -->\n(.*?)\n<!-- /backends -->", README, re.DOTALL)

    assert table.splitlines() == markdown(Registry())
