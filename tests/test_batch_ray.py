"""Rows asked by actors of a Ray cluster of several nodes, on the loopback addresses of this machine."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import vendor_sdk
from worker_backend import calls, installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]

ROOT = Path(__file__).parent.parent
ROWS = 60

LOSES_A_NODE = """
import asyncio
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from asyncllm import Client

# By default it takes fifteen seconds to see that a node is gone.
QUICK = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_timeout_ms": 300,
    "health_check_failure_threshold": 2,
}
folder = Path(given["folder"])
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.2", "_system_config": QUICK},
)
nodes = [cluster.add_node(num_cpus=2, node_ip_address=f"127.0.0.{n}") for n in (3, 4, 5)]
ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level="ERROR")

def ended():
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[0]) for line in lines if " end " in line]

def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

async def lose_a_node():
    while len(ended()) < given["rows"] // 4:
        await asyncio.sleep(0.05)
    agent = parent(ended()[0])
    lost = next(node for node in nodes if node.all_processes["raylet"][0].process.pid == agent)
    await asyncio.to_thread(cluster.remove_node, lost, allow_graceful=False)

async def main():
    async with Client(model="obedient:m", options={"log": str(folder / "log")}, retry=None) as client:
        losing = asyncio.create_task(lose_a_node())
        report = await client.run_batch(
            [f"wait 0.3 {n}" for n in range(given["rows"])], folder / "out.jsonl", output_format="openai", via="ray",
            data_parallelism=2, concurrency=8, ray_options={"num_cpus": 2},
        )
        await losing
    return {"status": report.status, "done": report.done, "is_joined": ray.is_initialized()}

told = asyncio.run(main())
ray.shutdown()
cluster.shutdown()
print("\\n" + json.dumps(told))
"""

HAS_ITS_OWN = """
import asyncio
from pathlib import Path
import ray
from asyncllm import Client
from asyncllm.batch.workers import ray as workers
from asyncllm.errors import ConfigError

folder = Path(given["folder"])

async def main():
    said = []
    async def refused(options, **more):
        try:
            async with Client(model="obedient:m", options=options) as client:
                await client.run_batch(["a"], folder / "no.jsonl", output_format="openai", via="ray", **more)
        except ConfigError as error:
            said.append([error.field, error.message])

    log = {"log": str(folder / "log")}
    await refused(log, ray_options={"cpus": 1})
    await refused(log, ray_options={"num_cpus": "one"})
    await refused({**log, "broken": "load"}, ray_options={"num_cpus": 0.1})
    workers._START_S = 3
    await refused(log, ray_options={"num_cpus": 1000})
    workers._START_S = 300
    async with Client(model="obedient:m", options=log, retry=None) as client:
        report = await client.run_batch(
            ["wait 0.05 a", "fail", "key", "wait 0.05 d"], folder / "out.jsonl", output_format="openai", via="ray",
            data_parallelism=2, max_attempts=1,
            ray_options={"num_cpus": 0.1, "runtime_env": {"env_vars": {"OBEDIENT_KEY": "there"}}},
        )
    return {"done": report.done, "errors": report.errors, "said": said, "is_joined": ray.is_initialized()}

print("\\n" + json.dumps(asyncio.run(main())))
"""


async def on_ray(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    installed(folder, monkeypatch)
    python = vendor_sdk.environment(
        "ray", "ray==2.60.0", "aiohttp==3.14.5", "anyio==4.16.0", "apsw==3.54.1.0", "msgspec==0.22.0"
    )
    path = os.pathsep.join(str(one) for one in (ROOT, ROOT / "backends", ROOT / "tests", folder))
    env = {
        "PYTHONPATH": path,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "error",
        "RAY_AUTH_MODE": "disabled",
    }
    return await vendor_sdk.run(python, script, {"folder": str(folder), "rows": ROWS}, env)


def answers(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]


async def test_a_lost_node_loses_and_doubles_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await on_ray(LOSES_A_NODE, tmp_path, monkeypatch)

    assert told == {"status": "completed", "done": ROWS, "is_joined": True}
    assert [text.partition(" ")[2] for text in answers(tmp_path)] == [f"wait 0.3 {number}" for number in range(ROWS)]
    done = calls(tmp_path / "log")
    begun = Counter(call.prompt for call in done if call.what == "begin")
    assert 1 <= begun.total() - ROWS <= 4  # those that were under way on the node
    assert len({call.pid for call in done}) == 3  # two at first, and one in place of the lost one


async def test_a_cluster_of_its_own_ends_with_the_batch_and_errors_cross_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await on_ray(HAS_ITS_OWN, tmp_path, monkeypatch)

    assert (told["done"], told["errors"], told["is_joined"]) == (3, {"RateLimitError": 1}, False)
    assert [field for field, _ in told["said"]] == ["ray_options", "ray_options", "model", "ray_options"]
    assert "accelerator_type, address, memory" in told["said"][0][1]
    assert told["said"][3][1].startswith("no node of the Ray cluster had what ray_options ask for within 3 seconds")
    assert answers(tmp_path)[1] == "there"
