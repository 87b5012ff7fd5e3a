"""The page for those who come from elsewhere names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import asyncllm
from asyncllm import Client
from asyncllm.registry import Registry

PAGE = (Path(asyncllm.__file__).parent / "COMING_FROM.md").read_text("utf-8")
OURS = "\n".join(line.split(" | ", 1)[1] for line in PAGE.splitlines() if line.startswith("| ") and " | " in line)
"""The right-hand column."""


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bclient\.(\w+)", OURS))))
def test_a_method_that_the_page_names_is_there(name: str) -> None:
    assert callable(getattr(Client, name))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\basyncllm\.(\w+)(?!\.?toml)", OURS)) - {"tom", "toml"}))
def test_a_name_of_the_package_that_the_page_names_is_there(name: str) -> None:
    assert hasattr(asyncllm, name) or (Path(asyncllm.__file__).parent / name).is_dir()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`([A-Z][A-Za-z]+)[(`]|[=(\[]([A-Z][A-Za-z]+)\(", OURS))), ids=str
)
def test_a_class_that_the_page_names_is_exported(name: tuple[str, str]) -> None:
    assert (name[0] or name[1]) in asyncllm.__all__


@pytest.mark.parametrize("name", sorted(set(re.findall(r'"([a-z-]+):[^"]*"', OURS))))
def test_a_backend_that_the_page_names_is_registered(name: str) -> None:
    assert name in Registry()
