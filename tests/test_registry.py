"""Installed backends: listed without importing, loaded on first use, and told apart when they clash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asyncllm import Client, PluginError
from asyncllm.registry import Registry


def install(folder: Path, name: str, distribution: str, code: str | None, target: str | None = None) -> None:
    """What an installer leaves behind: a module, and metadata with its entry point."""
    module = f"plugin_{distribution.replace('-', '_')}"
    if code is not None:
        (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[asyncllm.backends]\n{name} = {target or module + ':connect'}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_first_party_backends_come_by_the_same_door_as_anyones(site: Path) -> None:
    install(site, "mine", "asyncllm-mine", "def connect(config, context): ...")
    registry = Registry()

    assert {"echo", "llamacpp", "mine", "openai"} <= set(registry.names())
    assert "mine" in registry
    assert registry.load("mine").__name__ == "connect"


def test_listing_imports_nothing(site: Path) -> None:
    install(site, "bomb", "asyncllm-bomb", "raise SystemExit('imported')")

    described = {plugin.name: plugin for plugin in Registry().plugins()}

    assert described["bomb"].distribution == "asyncllm-bomb 1.0"
    assert described["bomb"].target == "plugin_asyncllm_bomb:connect"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('half installed')", "RuntimeError: half installed"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("x = 1", "AttributeError"),
        ("connect = 5", "not a function"),
        (None, "ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_an_error_about_itself_and_nothing_else(site: Path, code: str | None, reason: str) -> None:
    name = f"asyncllm-broken-{abs(hash(reason + str(code)))}"
    install(site, "broken", name, code)
    registry = Registry()

    with pytest.raises(PluginError, match=reason) as caught:
        registry.load("broken")

    assert name in str(caught.value)
    assert caught.value.backend == "broken"
    assert callable(registry.load("echo"))


def test_two_distributions_under_one_name_are_both_named(site: Path) -> None:
    install(site, "twice", "asyncllm-one", "def connect(config, context): ...")
    install(site, "twice", "asyncllm-two", "def connect(config, context): ...")

    with pytest.raises(
        PluginError, match=r"asyncllm-one 1\.0 and asyncllm-two 1\.0|asyncllm-two 1\.0 and asyncllm-one 1\.0"
    ):
        Registry().load("twice")


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(PluginError, match="no backend is called 'opneai'; installed are .*openai"):
        Registry().load("opneai")


async def test_a_strangers_backend_of_a_dozen_lines_answers(site: Path) -> None:
    install(
        site,
        "shout",
        "asyncllm-shout",
        """
from contextlib import asynccontextmanager
from asyncllm.events import Finished, TextDelta

def connect(config, context):
    return Shout()

class Shout:
    @asynccontextmanager
    async def open(self, request):
        yield self.events(request.messages[-1].text)

    async def events(self, text):
        yield TextDelta(text.upper())
        yield Finished("stop")

    async def aclose(self):
        pass
""",
    )

    async with Client(model="shout:loud") as client:
        reply = await client.chat("hello")

    assert (reply.text, reply.backend, reply.finish_reason) == ("HELLO", "shout", "stop")


def test_a_broken_plugin_does_not_break_the_command_line(site: Path) -> None:
    install(site, "broken", "asyncllm-broken-cli", "raise RuntimeError('no')")

    done = subprocess.run(
        [sys.executable, "-m", "asyncllm", "backends"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(site), "HOME": str(site)},
        cwd=site,
    )

    assert done.returncode == 0
    assert "broken" in done.stdout
    assert "openai" in done.stdout
