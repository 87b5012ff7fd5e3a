"""What calls took: kept by key and hour, asked for over HTTP and on the command line, and told to Prometheus."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from asyncllm import Client, Price, TextDelta
from asyncllm.cli import main
from asyncllm.errors import InvalidRequestError, OverloadedError, StoreError
from asyncllm.server.monitoring.figures import Figures, write_text
from asyncllm.testing import Pause, ScriptedBackend, Stall
from asyncllm.workspace import usage as usage_module
from asyncllm.workspace.keys import Grants, Scope
from asyncllm.workspace.lease import this_process
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.usage import UsageBook
from asyncllm.workspace.usage_forms import csv_text, moment
from served import served

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "one two three"}]}
SECRET = "the canary sang in the mine"
PRICES = {"echo:x": Price(input_usd=1, output_usd=2)}
_CALLERS: list[tuple[str, str, tuple[Scope, ...]]] = [
    ("a", "x", ("calls",)),
    ("b", "y", ("calls",)),
    ("c", "z", ("admin",)),
]


def count(book: UsageBook, key: str = "k", *, tenant: str = "t", model: str = "m", usd: float | None = 0.5) -> None:
    book.add(tenant=tenant, key=key, model=model, has_failed=False, input_tokens=3, output_tokens=4, cost_usd=usd)


@asynccontextmanager
async def by(token: str | None) -> AsyncGenerator[aiohttp.ClientSession]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        yield http


async def usage_of(url: str, token: str | None, query: str = "") -> list[dict[str, Any]]:
    async with by(token) as http, http.get(f"{url}/server/usage{query}") as reply:
        assert reply.status == 200
        told = await reply.json()
        assert told["object"] == "list"
        return list(told["data"])


async def test_calls_are_counted_by_key_and_model_and_a_key_sees_its_tenant(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        (one, mine), (_, other), (_, admin) = [
            await store.keys.add(name, tenant=tenant, grants=Grants(scopes=scopes)) for name, tenant, scopes in _CALLERS
        ]
        async with (
            Client(model="echo:x", prices=PRICES) as client,
            served(client, store=store, needs_key=True, models={"m": "echo:x", "n": "echo:y"}) as url,
        ):
            for token, model, stream in ((mine, "m", True), (mine, "m", False), (mine, "n", False), (other, "m", True)):
                async with by(token) as http:
                    await (
                        await http.post(f"{url}/v1/chat/completions", json={**BODY, "model": model, "stream": stream})
                    ).read()
            own = await usage_of(url, mine)
            assert await usage_of(url, other) != own
            assert len(await usage_of(url, admin)) == 3
            assert len(await usage_of(url, admin, f"?key_id={one.id}&model=n")) == 1
            assert await usage_of(url, mine, f"?until={int(time.time()) - 7200}") == []
            async with by(None) as http, http.get(f"{url}/server/usage") as reply:
                assert reply.status == 401

    assert [(row["tenant"], row["name"], row["model"], row["requests"]) for row in own] == [
        ("x", "a", "m", 2),
        ("x", "a", "n", 1),
    ]
    assert own[0]["hour"] % 3600 == 0
    assert (own[0]["input_tokens"], own[0]["output_tokens"], own[0]["unpriced"]) == (6, 6, 0)
    assert own[0]["cost_usd"] == pytest.approx(18e-6)
    assert (own[1]["cost_usd"], own[1]["unpriced"]) == (0, 1)


async def test_calls_that_fail_or_are_left_are_counted_as_far_as_they_came(tmp_path: Path) -> None:
    broken: list[Any] = [TextDelta("x" * 400), OverloadedError("no", status=529)]
    left: list[Any] = [TextDelta("x" * 400), Stall()]
    refused = OverloadedError("no", status=503)
    async with ServerStore(tmp_path) as store:
        async with (
            Client(backend=ScriptedBackend([broken, refused, left]), retry=None) as client,
            served(client, store=store, models={"m": ""}) as url,
            by(None) as http,
        ):
            for _ in range(2):
                async with http.post(f"{url}/v1/chat/completions", json={**BODY, "stream": True}) as reply:
                    await reply.read()
            reply = await http.post(f"{url}/v1/chat/completions", json={**BODY, "stream": True})
            await reply.content.readany()
            reply.close()
            async with asyncio.timeout(10):
                while (rows := await usage_of(url, None))[0]["requests"] < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            async with http.get(f"{url}/metrics") as metrics:
                told = await metrics.text()

    (row,) = rows
    assert (row["tenant"], row["key"], row["name"]) == ("local", "", None)
    assert (row["failures"], row["unpriced"]) == (3, 2)
    assert (row["input_tokens"], row["output_tokens"]) == (8, 202)
    assert 'asyncllm_upstream_failures_total{error="OverloadedError"} 2' in told
    assert "asyncllm_clients_gone_total 1" in told


@pytest.mark.parametrize("query", ["since=yesterday", "until=-1", "format=xml", "form=csv", "since=1e400"])
async def test_what_cannot_be_asked_for_is_refused_by_its_name(query: str) -> None:
    async with Client(model="echo:x") as client, served(client) as url, by(None) as http:
        async with http.get(f"{url}/server/usage?{query}") as reply:
            told = (await reply.json())["error"]

    assert (reply.status, told["param"]) == (400, query.partition("=")[0])


async def test_usage_comes_as_csv_without_formulas() -> None:
    models = {"@cf/model": "echo:x"}
    async with Client(model="echo:x") as client, served(client, models=models) as url, by(None) as http:
        await (await http.post(f"{url}/v1/chat/completions", json=BODY)).read()
        async with http.get(f"{url}/server/usage?format=csv") as reply:
            (row,) = csv.DictReader((await reply.text()).splitlines())

    assert reply.content_type == "text/csv"
    assert (row["tenant"], row["model"], row["requests"]) == ("local", "'@cf/model", "1")


@given(st.lists(st.lists(st.text() | st.integers(), min_size=2, max_size=2)))
def test_no_cell_of_csv_begins_as_a_formula_does(rows: list[list[Any]]) -> None:
    read = list(csv.reader(io.StringIO(csv_text(["a", "b"], rows), newline="")))

    for row, cells in zip(rows, read[1:], strict=True):
        for value, cell in zip(row, cells, strict=True):
            if isinstance(value, str):
                assert not cell.startswith(("=", "+", "-", "@", "\t"))


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    try:
        assert 0 <= moment(text, "since") < 1e11
    except InvalidRequestError as error:
        assert error.field == "since"  # noqa: PT017


async def test_a_store_that_fails_stops_no_call_and_gets_it_all_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage_module, "_FLUSH_S", 0.01)
    monkeypatch.setattr(usage_module, "_AGAIN_S", 0.01)
    monkeypatch.setattr(usage_module, "_KEPT_ROWS", 2)
    async with ServerStore(tmp_path) as store:
        book = store.usage
        writes = store._writer.write

        async def fail(_: object) -> Any:
            raise StoreError("the disk is full")

        store._writer.write = fail  # type: ignore[method-assign, assignment]
        for key in ("a", "a", "b", "c"):
            count(book, key)
        async with asyncio.timeout(10):
            while book.failures < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (book.pending, book.lost) == (2, 1)
        assert sum(row.requests for row in await book.read()) == 3
        store._writer.write = writes  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            while book.pending:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    async with ServerStore(tmp_path) as store:
        rows = await store.usage.read()

    assert [(row.key, row.requests) for row in rows] == [("a", 2), ("b", 1)]
    assert caplog.text.count("usage is kept in memory") == 1


_ENDED = """
import asyncio, sys, time
from asyncllm.workspace.served import ServerStore
async def main():
    async with ServerStore(sys.argv[1]) as store:
        for number in range(10**9):
            store.usage.add(
                tenant="t", key="k", model="m", has_failed=False, input_tokens=1, output_tokens=1, cost_usd=1
            )
            if number % 100 == 0:
                print(number, time.time(), flush=True)
            await asyncio.sleep(0.001)
            if len(sys.argv) > 2 and number == 500:
                break
asyncio.run(main())
"""


async def test_a_kill_loses_a_second_of_it_at_most_and_an_end_nothing(tmp_path: Path) -> None:
    line = [sys.executable, "-c", _ENDED, str(tmp_path / "a")]
    worker = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220  # it takes no time
    with worker:
        await asyncio.sleep(3)
        worker.send_signal(signal.SIGKILL)
        assert worker.stdout is not None
        told = [line.split() for line in worker.stdout.read().splitlines()]
    last = float(told[-1][1])
    safe = max(int(number) for number, at in told if float(at) < last - 1.5)
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _ENDED, str(tmp_path / "b"), "end"], check=True, capture_output=True
    )
    found = []
    for name in ("a", "b"):
        async with ServerStore(tmp_path / name) as store:
            found.append(sum(row.requests for row in await store.usage.read()))

    assert found[0] >= safe
    assert found[1] == 501
    assert ended.stderr == b""


def test_the_command_line_adds_usage_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> str:
        async with ServerStore(tmp_path) as store:
            key, _ = await store.keys.add("ann", tenant="x")
            count(store.usage, key.id, tenant="x")
            count(store.usage, key.id, tenant="x", model="n", usd=None)
            count(store.usage, "", tenant="local")
            return key.id

    asyncio.run(fill())
    assert main(["usage", "--store", str(tmp_path)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert main(["usage", "--store", str(tmp_path), "--by", "model", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["usage", "--store", str(tmp_path), "--by", "day", "--csv", "--since", "2026-01-01"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())

    assert table[0].split() == ["key", "requests", "failures", "input_tokens", "output_tokens", "cost_usd", "unpriced"]
    assert [line.split() for line in table[1:]] == [
        ["local", "(no", "key)", "1", "0", "3", "4", "0.500000", "0"],
        ["x", "ann", "2", "0", "6", "8", "0.500000", "1"],
    ]
    assert [(one["model"], one["requests"], one["unpriced"]) for one in told] == [("m", 2, 0), ("n", 1, 1)]
    assert (row["requests"], row["cost_usd"]) == ("3", "1.0")
    assert main(["usage", "--store", str(tmp_path / "nowhere")]) != 0


async def test_figures_are_read_by_prometheus_s_own_parser_and_hold_nothing_that_was_said(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        _, token = await store.keys.add("a", grants=Grants(scopes=("calls", "metrics"), requests_per_minute=2))
        async with (
            Client(model="echo:x") as client,
            served(client, store=store, needs_key=True, models={"m": "echo:x"}) as url,
            by(token) as http,
        ):
            for path in ("chat/completions", "chat/completions", "chat/completions", f"models/{SECRET}"):
                asked = {"messages": [{"role": "user", "content": SECRET}], "stream": True, "user": SECRET}
                await (await http.request("GET" if "models" in path else "POST", f"{url}/v1/{path}", json=asked)).read()
            async with http.get(f"{url}/metrics") as reply:
                text = await reply.text()
            async with by(None) as stranger, stranger.get(f"{url}/metrics") as refused:
                assert refused.status == 401

    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    route = (("model", "m"), ("route", "/v1/chat/completions"))
    assert samples["asyncllm_requests_total", (*route, ("status", "200"))] == 2
    assert samples["asyncllm_requests_total", (*route, ("status", "429"))] == 1
    assert (
        samples["asyncllm_requests_total", (("model", ""), ("route", "/v1/models/{id:path}"), ("status", "404"))] == 1
    )
    assert samples["asyncllm_requests_refused_total", (("reason", "requests_per_minute"),)] == 1
    model = (("gen_ai_request_model", "m"),)
    for name in ("time_to_first_token", "request_duration"):
        assert samples[f"gen_ai_server_{name}_seconds_count", model] == 2
        assert samples[f"gen_ai_server_{name}_seconds_bucket", (*model, ("le", "+Inf"))] == 2
    assert SECRET not in text
    assert token not in text


@given(st.text(max_size=20), st.lists(st.floats(0, 1000), min_size=1, max_size=20))
def test_whatever_a_model_is_called_its_figures_can_be_read(name: str, values: list[float]) -> None:
    figures = Figures()
    for value in values:
        figures.observe("gen_ai_server_request_duration_seconds", name, value=value)
    figures.answered("/v1/x", name, 200)

    # The parser takes every kind of line break for one, and not the one alone that the format has.
    if len(name.splitlines()) > 1 and "\n" not in name:
        return
    found = [
        sample
        for family in text_string_to_metric_families(write_text(figures.series))
        for sample in family.samples
        if name in sample.labels.values()
    ]

    (counted,) = [one.value for one in found if one.name.endswith("duration_seconds_count")]
    (summed,) = [one.value for one in found if one.name.endswith("duration_seconds_sum")]
    buckets = [one.value for one in found if one.name.endswith("_bucket")]
    assert counted == len(values)
    assert summed == pytest.approx(sum(values))
    assert buckets == sorted(buckets)


async def test_figures_of_all_processes_are_added_up_and_no_counter_falls_when_one_ends(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from asyncllm.workspace.lease import this_process\n"
        "from asyncllm.workspace.served import ServerStore\n"
        "async def main():\n"
        "    async with ServerStore(sys.argv[1]) as store:\n"
        "        own = {('c', ('m',)): [3.0], ('g', ()): [2.0]}\n"
        "        await store.board.exchange(f'{this_process()}/1', own, {'g'})\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.read)\n"
        "asyncio.run(main())\n"
    )
    async with ServerStore(tmp_path) as store:
        with subprocess.Popen(  # noqa: ASYNC220  # it takes no time
            [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert await asyncio.to_thread(other.stdout.readline) == "ready\n"
            own = {("c", ("m",)): [1.0], ("g", ()): [1.0]}
            both = await store.board.exchange(f"{this_process()}/1", own, {"g"})
            other.kill()
        alone = [await store.board.exchange(f"{this_process()}/1", own, {"g"}) for _ in range(2)]

    assert both == {("c", ("m",)): [4.0], ("g", ()): [3.0]}
    assert alone == [{("c", ("m",)): [4.0], ("g", ()): [1.0]}] * 2


async def test_a_client_that_takes_nothing_is_counted_apart() -> None:
    script: list[Any] = [step for _ in range(2000) for step in (TextDelta("x" * 20_000), Pause(0))]
    async with (
        Client(backend=ScriptedBackend([script])) as client,
        served(client, models={"m": ""}, send_timeout_s=0.2) as url,
        by(None) as http,
    ):
        reply = await http.post(f"{url}/v1/chat/completions", json={**BODY, "stream": True})
        told = ""
        async with asyncio.timeout(20):
            while "asyncllm_slow_readers_total 1" not in told:
                await asyncio.sleep(0.05)
                async with http.get(f"{url}/metrics") as metrics:
                    told = await metrics.text()
        reply.close()
