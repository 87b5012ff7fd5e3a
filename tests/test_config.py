"""Where settings come from, and what is said when they cannot be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncllm import Client, ConfigError, Deployment
from asyncllm.backend import Backend, Config, Context, Secret
from asyncllm.config import BackendSettings, Settings, find_settings, load_settings
from asyncllm_echo import connect as echo

FILE = """
model = "fast"

[aliases]
fast = ["eu", "openai:gpt-x"]
best = "fast"

[deployments.eu]
backend = "openai"
model = "gpt-eu"
base_url = "https://eu.example/v1"
api_key_env = "EU_KEY"

[backends.llamacpp]
options = { n_parallel = 4 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "asyncllm.toml"
    path.write_text(FILE)
    return path


def test_a_file_is_read_whole(file: Path) -> None:
    settings = load_settings(file)

    assert settings.model == "fast"
    assert settings.deployments["eu"].base_url == "https://eu.example/v1"
    assert settings.backends["llamacpp"].options == {"n_parallel": 4}
    assert settings.expand("best") == ["eu", "openai:gpt-x"]
    assert settings.expand("openai:gpt-y") == ["openai:gpt-y"]


def test_the_named_file_wins_over_the_folders_and_that_over_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, named = tmp_path / "home", tmp_path / "named.toml"
    (home / ".config" / "asyncllm").mkdir(parents=True)
    users = home / ".config" / "asyncllm" / "asyncllm.toml"
    monkeypatch.chdir(tmp_path)

    assert find_settings({"HOME": str(home)}) is None
    users.touch()
    assert find_settings({"HOME": str(home)}) == users
    Path("asyncllm.toml").touch()
    assert find_settings({"HOME": str(home)}) == Path("asyncllm.toml")
    named.touch()
    assert find_settings({"HOME": str(home), "ASYNCLLM_CONFIG": str(named)}) == named


def test_a_named_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="ASYNCLLM_CONFIG names /nowhere.toml"):
        find_settings({"ASYNCLLM_CONFIG": "/nowhere.toml"})


BAD = [
    ("model = \nx = 1", "line 1"),
    ("modell = 'x'", "modell"),
    ("[deployments.eu]\nbackend = 'openai'", "model"),
    ("[backends.openai]\napi_keys = 'x'", "api_keys"),
    ("[aliases]\na = 'b'\nb = 'a'", "a > b > a"),
    ("[aliases]\na = []", "stands for no model"),
    ("[aliases]\na = 5", "aliases"),
]


@pytest.mark.parametrize(("text", "place"), BAD)
def test_a_file_that_cannot_be_right_is_refused_by_its_place(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "asyncllm.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=place) as caught:
        load_settings(path)

    assert str(path) in str(caught.value) or "alias" in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "asyncllm.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(path)


def test_a_key_is_taken_from_the_variable_that_is_named() -> None:
    settings = BackendSettings(api_key_env="EU_KEY")

    assert settings.config("openai", {"EU_KEY": "k"}, "eu").api_key == Secret("k")
    with pytest.raises(ConfigError, match="EU_KEY, which is not set"):
        settings.config("openai", {"EU_KEY": " "}, "eu")


def test_settings_do_not_show_keys() -> None:
    assert "canary" not in repr(Settings(backends={"x": BackendSettings(api_key="canary")}))


def test_an_argument_wins_over_the_environment_and_an_empty_variable_is_unset() -> None:
    assert Config(backend="x", base_url="http://a/").url({"X_URL": "http://b"}, "X_URL") == "http://a"
    assert Config(backend="x").url({"X_URL": "http://b"}, "X_URL", "http://c") == "http://b"
    assert Config(backend="x").url({"X_URL": ""}, "X_URL", "http://c") == "http://c"
    assert Config(backend="x", api_key=Secret("a")).key({"X_KEY": "b"}, "X_KEY") == Secret("a")
    assert Config(backend="x").key({"X_KEY": " b\n"}, "X_KEY") == Secret("b")
    assert Config(backend="x").key({"X_KEY": ""}, "X_KEY") is None


def test_what_is_missing_is_named_with_its_variable() -> None:
    with pytest.raises(ConfigError, match="set X_KEY"):
        Config(backend="x").require_key({}, "X_KEY")
    with pytest.raises(ConfigError, match="set X_URL"):
        Config(backend="x").url({}, "X_URL")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "https://user:canary@host/v1"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        Config(backend="x", base_url=url).url({}, "X_URL")

    assert "canary" not in str(caught.value)


def test_unknown_and_mistyped_options_are_named() -> None:
    config = Config(backend="x", options={"n_ctx": "many", "flag": True})

    with pytest.raises(ConfigError, match="no option 'flag'; it knows n_ctx"):
        config.check_options("n_ctx")
    with pytest.raises(ConfigError, match="'n_ctx' .* takes a value of type int, not str"):
        config.option("n_ctx", int, 1)
    with pytest.raises(ConfigError, match="'flag'"):
        config.option("flag", int, 1)


def test_the_variable_stands_under_the_file_name_by_name(file: Path) -> None:
    variable = """{"model": "other", "cool_down_s": 3, "deployments": {
        "eu": {"backend": "openai", "model": "loses"}, "us": {"backend": "openai", "model": "gpt-us"}}}"""

    settings = load_settings(file, {"ASYNCLLM_SETTINGS": variable})

    assert settings.model == "fast"
    assert settings.cool_down_s == 3
    assert {name: one.model for name, one in settings.deployments.items()} == {"eu": "gpt-eu", "us": "gpt-us"}


def test_a_key_and_a_variable_for_it_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "asyncllm.toml"
    path.write_text('[backends.openai]\napi_key = "canary"\napi_key_env = "KEY"\n')

    with pytest.raises(ConfigError, match="not both") as caught:
        load_settings(path)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deployments", {"eu": {"backend": "echo", "model": "x"}}),
        ("backends", {"echo": {}}),
        ("groups", {"all": ["a"]}),
        ("prices", {"echo:x": 2.0}),
        ("aliases", {"fast": 5}),
        ("aliases", ["fast"]),
    ],
)
def test_settings_in_code_that_cannot_be_right_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**{field: value})

    assert caught.value.field == field


def test_the_variable_alone_is_enough() -> None:
    variable = '{"deployments": {"us": {"backend": "openai", "model": "m", "options": {"region": "x"}}}}'

    settings = load_settings(None, {"ASYNCLLM_SETTINGS": variable})

    assert settings.deployments["us"].options == {"region": "x"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"deployments": {"us": {"backend": "openai"}}}', '{"sk-secret": 1', '{"odd": 1}']
)
def test_a_variable_that_cannot_be_right_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigError, match="ASYNCLLM_SETTINGS") as caught:
        load_settings(None, {"ASYNCLLM_SETTINGS": text})

    assert caught.value.field == "ASYNCLLM_SETTINGS"
    assert "sk-secret" not in str(caught.value)


async def test_options_of_a_deployment_reach_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def connect(config: Config, context: Context, /) -> Backend:
        seen.append(config)
        return echo(msgspec.structs.replace(config, options={}), context)

    monkeypatch.setattr("asyncllm_echo.connect", connect)
    options = {"region": "eu-west-1", "project_id": "p", "api_version": "2026-01-01"}
    settings = Settings(deployments={"eu": Deployment(backend="echo", model="x", options=options)})

    async with Client(config=settings, env={}) as client:
        await client.chat("hi", model="eu")

    assert [config.options for config in seen] == [options]
