"""Batches that are killed with -9 anywhere, and several runners of one batch: see the two harnesses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "asyncllm"


async def harness(name: str, *arguments: str) -> dict[str, Any]:
    """What a harness finds, in a process that has one thread and can be forked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(TESTS / f"{name}_harness.py"), *arguments, stdout=subprocess.PIPE, env={**os.environ}
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    print(told.decode())
    found: dict[str, Any] = json.loads(told)
    return found


def named() -> set[str]:
    """Every point of the code."""
    found: set[str] = set()
    for folder in ("batch", "workspace"):
        for file in (SOURCE / folder).rglob("*.py"):
            found.update(re.findall(r'\breach\("([a-z.]+)"\)', file.read_text()))
    return {name for name in found if not name.startswith("part.")}


@pytest.mark.timeout(900)
async def test_a_thousand_kills_lose_no_row_and_double_none() -> None:
    at_points, at_times = await asyncio.gather(
        harness("kill", "--named", "500", "--random", "0"), harness("kill", "--named", "0", "--random", "500")
    )
    assert at_points["wrong"] == []
    assert at_times["wrong"] == []
    assert at_points["named"] == 500
    assert at_times["random"] >= 500
    # These are no part of a run that goes well, and parts are those of services.
    assert named() - set(at_points["reached"]) == {"batch.cancel", "row.crash", "row.release"}


@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_very_many_kills_lose_no_row_and_double_none() -> None:
    halves = await asyncio.gather(
        harness("kill", "--named", "5000", "--random", "5000", "--seed", "2"),
        harness("kill", "--named", "5000", "--random", "5000", "--seed", "3"),
    )
    for found in halves:
        assert found["wrong"] == []
        assert found["named"] == 5000
        assert found["random"] >= 5000


@pytest.mark.timeout(600)
async def test_rows_that_kill_the_process_are_abandoned_and_no_others() -> None:
    found = await harness("kill", "--named", "0", "--random", "0", "--poison", "40")
    assert found["wrong"] == []
    assert found["poison"] >= 120


@pytest.mark.timeout(600)
async def test_rivals_that_are_killed_and_stopped_write_under_their_own_fence_alone() -> None:
    found = await harness("rival", "--schedules", "24")
    assert found["wrong"] == []
    assert found["locked"]
    assert found["lost"] >= 3  # every eighth schedule has one for certain
    assert found["killed"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_very_many_rivals_write_under_their_own_fence_alone() -> None:
    found = await harness("rival", "--schedules", "300", "--seed", "2")
    assert found["wrong"] == []
