"""Engines that the tests of all files share; a file asks for them with `pytest_plugins = ["vllm_fixtures"]`."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from asyncllm_vllm.engine import Engine
from vllm_engines import held, tiny

__all__ = ["tiny_engine"]


@pytest.fixture(scope="session")
def tiny_engine() -> Generator[Engine]:
    """The tiny random model, which writes."""
    with held(tiny()) as engine:
        yield engine
