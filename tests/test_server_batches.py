"""`/v1/batches`, to OpenAI's own SDK: worked off beside calls, cancelled, ended, and gone on with."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx2
import msgspec
import openai
import pytest
from openai.types import Batch, BatchError

from asyncllm import Client
from asyncllm.errors import AuthenticationError
from asyncllm.server import app
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.tenants import StoredBatch
from served import served
from slow_server import SlowEcho
from test_server_files import filing, sdk_of

CHAT: Final = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


def row(name: str, text: str = "one two", url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"model": "echo:x", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": name, "method": "POST", "url": url, "body": asked}


async def begun(sdk: openai.AsyncOpenAI, rows: Sequence[Any], endpoint: Any = CHAT, **options: Any) -> Batch:
    lines = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in rows)
    file = await sdk.files.create(file=("rows.jsonl", lines), purpose="batch")
    return await sdk.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


async def ended(sdk: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(60):
        while batch.status not in OVER:
            await asyncio.sleep(0.05)
            batch = await sdk.batches.retrieve(batch.id)
    return batch


async def lines_of(sdk: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    content = await sdk.files.content(file_id)
    return [json.loads(line) for line in content.content.splitlines()]


def faults_of(batch: Batch) -> list[BatchError]:
    assert batch.errors is not None
    return batch.errors.data or []


@asynccontextmanager
async def slow(folder: Path, backend: SlowEcho, **settings: Any) -> AsyncGenerator[tuple[str, ServerStore]]:
    async with ServerStore(folder) as store, Client(backend=backend, model="slow:m") as client:
        async with served(client, store=store, models={"echo:x": "slow:m", "other": "slow:o"}, **settings) as url:
            yield url, store


async def test_a_batch_is_worked_off_and_its_results_are_a_file(tmp_path: Path) -> None:
    async with filing(tmp_path / "w") as (url, _), sdk_of(url) as sdk:
        made = await begun(sdk, [row(f"r{n}", f"text {n}") for n in range(20)], metadata={"a": "b"})
        batch = await ended(sdk, made)
        lines = await lines_of(sdk, batch.output_file_id)
        listed = [one.id async for one in sdk.batches.list()]

    assert (made.status, batch.status, batch.error_file_id) == ("validating", "completed", None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    assert batch.usage is not None
    assert batch.usage.total_tokens == 80
    assert (batch.metadata, listed) == ({"a": "b"}, [batch.id])
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(20)]
    replies = [line["response"]["body"] for line in lines]
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == [f"text {n}" for n in range(20)]
    assert {reply["model"] for reply in replies} == {"echo:x"}


async def test_a_row_is_refused_for_what_a_request_would_be_refused_for(tmp_path: Path) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]
    rows = [
        row("good"),
        row("nowhere", model="gpt-x"),
        row("many", n=9),
        row("fetched", messages=[{"role": "user", "content": picture}]),
        row("hosted", base_url="http://127.0.0.1:1", api_key="sk-x", api_base="http://127.0.0.1:1"),
    ]
    async with filing(tmp_path / "w") as (url, _), sdk_of(url) as sdk:
        batch = await ended(sdk, await begun(sdk, rows))
        good = await lines_of(sdk, batch.output_file_id)
        bad = await lines_of(sdk, batch.error_file_id)

    assert batch.status == "completed"
    assert [line["custom_id"] for line in good] == ["good", "hosted"]
    told = {line["custom_id"]: line["response"] for line in bad}
    assert {name: reply["status_code"] for name, reply in told.items()} == {"nowhere": 404, "many": 400, "fetched": 400}
    assert told["nowhere"]["body"]["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("url", "body", "texts"),
    [
        ("/v1/completions", {"model": "echo:x", "prompt": "one two"}, ["one two"]),
        ("/v1/embeddings", {"model": "echo:x", "input": "one two"}, []),
    ],
)
async def test_a_batch_is_of_one_endpoint(url: str, body: dict[str, Any], texts: list[str], tmp_path: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    async with filing(tmp_path / "w") as (address, _), sdk_of(address) as sdk:
        batch = await ended(sdk, await begun(sdk, [line], endpoint=url))
        other = await ended(sdk, await begun(sdk, [line]))
        good = await lines_of(sdk, batch.output_file_id) if texts else []

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(texts)  # echo has no embeddings, which fails their row alone
    assert [line["response"]["body"]["choices"][0]["text"] for line in good] == texts
    assert [(fault.code, fault.line, fault.param) for fault in faults_of(other)] == [("mismatched_url", 1, "url")]


async def test_a_file_with_lines_that_are_no_rows_fails_with_their_numbers_and_nothing_is_asked(tmp_path: Path) -> None:
    rows = [
        row("a"), b"{", b"", row("a"), {"custom_id": "b"}, {**row("c"), "method": "GET"}, row("d", url="/v1/nowhere"),
        row("e", temperature="hot"), b'{"custom_id": "f", "method": "POST", "url": "/v1/chat/completions", "body": '
        + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ]  # fmt: skip
    backend = SlowEcho(0)
    async with slow(tmp_path / "w", backend) as (url, _), sdk_of(url) as sdk:
        batch = await ended(sdk, await begun(sdk, rows))
        empty = await ended(sdk, await begun(sdk, [b""]))
        many = await ended(sdk, await begun(sdk, [b"{"] * 200))

    assert (batch.status, empty.status, backend.asked) == ("failed", "failed", [])
    assert batch.failed_at
    told = {fault.line: (fault.code, fault.param) for fault in faults_of(batch)}
    assert told == {
        2: ("invalid_json", None),
        4: ("duplicate_custom_id", "custom_id"),
        5: ("unsupported_method", "method"),
        6: ("unsupported_method", "method"),
        7: ("unsupported_url", "url"),
        8: ("invalid_request", "body.temperature"),
        9: ("invalid_json", None),
    }
    assert len(faults_of(many)) == 100


async def test_a_batch_that_is_cancelled_keeps_what_it_has(tmp_path: Path) -> None:
    backend = SlowEcho(0.1)
    async with slow(tmp_path / "w", backend, batch_concurrency=2) as (url, _), sdk_of(url) as sdk:
        made = await begun(sdk, [row(f"r{n}") for n in range(200)])
        while len(backend.asked) < 4:  # noqa: ASYNC110  # the backend tells nobody
            await asyncio.sleep(0.02)
        asked = await sdk.batches.cancel(made.id)
        again = await sdk.batches.cancel(made.id)
        batch = await ended(sdk, asked)
        good = await lines_of(sdk, batch.output_file_id)
        bad = await lines_of(sdk, batch.error_file_id)
        finished = await ended(sdk, await begun(sdk, [row("a")]))
        with pytest.raises(openai.ConflictError, match="is completed"):
            await sdk.batches.cancel(finished.id)

    assert (asked.status, again.status, batch.status) == ("cancelling", "cancelling", "cancelled")
    assert None not in (batch.cancelling_at, batch.cancelled_at)
    assert 4 <= len(good) < 100
    assert len(good) + len(bad) == 200
    assert {line["error"]["code"] for line in bad} == {"cancelled"}
    assert backend.most == 2


async def test_a_batch_whose_time_is_over_is_expired(tmp_path: Path) -> None:
    backend = SlowEcho(0.1)
    async with slow(tmp_path / "w", backend, batch_concurrency=1) as (url, store), sdk_of(url) as sdk:
        first = await begun(sdk, [row(f"r{n}") for n in range(40)])  # the tenant has two batches at one time
        await begun(sdk, [row(f"r{n}") for n in range(40)])
        made = await begun(sdk, [row("late")])

        def late(batch: StoredBatch) -> StoredBatch:
            return msgspec.structs.replace(batch, expires_at=time.time())

        await store.tenants.change_batch("local", made.id, late)
        await sdk.batches.cancel(first.id)
        batch = await ended(sdk, made)
        bad = await lines_of(sdk, batch.error_file_id)

    assert (batch.status, batch.output_file_id) == ("expired", None)
    assert batch.expired_at
    assert [(line["custom_id"], line["error"]["code"]) for line in bad] == [("late", "expired")]


async def test_a_server_that_stops_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    backend = SlowEcho(0.05)
    async with slow(tmp_path / "w", backend) as (url, _), sdk_of(url) as sdk:
        made = await begun(sdk, [row(f"r{n}", f"text {n}") for n in range(100)])
        while len(backend.asked) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await sdk.files.delete(made.input_file_id)
    asked = len(backend.asked)
    async with slow(tmp_path / "w", backend) as (url, _), sdk_of(url) as sdk:
        batch = await ended(sdk, made)
        lines = await lines_of(sdk, batch.output_file_id)

    assert 20 <= asked < 100
    assert len(lines) == 100
    assert Counter(backend.asked).most_common(1)[0][1] == 1  # rows under way had come to their end


async def test_several_workers_share_a_store_and_ask_no_row_twice(tmp_path: Path) -> None:
    backend = SlowEcho(0.01)
    async with slow(tmp_path / "w", backend) as (url, _), slow(tmp_path / "w", backend) as (beside, _):
        async with sdk_of(url) as sdk, sdk_of(beside) as other:
            batches = [await begun(one, [row(f"r{n}", f"{n}") for n in range(60)]) for one in (sdk, other) * 2]
            states = [await ended(sdk, batch) for batch in batches]

    assert {batch.status for batch in states} == {"completed"}
    assert set(Counter(backend.asked).values()) == {4}


@asynccontextmanager
async def program(folder: Path, log: Path, seconds: float) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("slow_server.py")), str(folder), str(log), str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip(), process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_a_server_that_is_killed_goes_on_with_every_row_once_in_the_output(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    rows = [row(f"r{n}", f"text {n}", model="m") for n in range(150)]
    async with program(tmp_path / "w", log, 0.03) as (url, process), sdk_of(url) as sdk:
        made = await begun(sdk, rows)
        async with asyncio.timeout(60):
            while not log.exists() or log.read_bytes().count(b"\n") < 30:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
    before = log.read_bytes().count(b"\n")
    async with program(tmp_path / "w", log, 0) as (url, _), sdk_of(url) as sdk:
        batch = await ended(sdk, made)
        lines = await lines_of(sdk, batch.output_file_id)

    assert before < 150
    assert batch.status == "completed"
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(150)]
    asked = Counter(log.read_text().splitlines())
    assert len(asked) == 150
    assert asked.total() <= 154  # four were under way


async def test_a_batch_may_use_what_its_key_may_and_ends_with_it(tmp_path: Path) -> None:
    backend = SlowEcho(0.05)
    async with slow(tmp_path / "w", backend, needs_key=True, batch_concurrency=2) as (url, store):
        limited = Grants(models=("other",))
        _, token = await store.keys.add("a", tenant="a", grants=limited)
        going, going_token = await store.keys.add("b", tenant="b")
        _, calls = await store.keys.add("c", tenant="a", grants=Grants(scopes=("calls",)))
        _, files = await store.keys.add("d", tenant="a", grants=Grants(scopes=("files",)))
        async with sdk_of(url, token) as sdk, sdk_of(url, going_token) as other, sdk_of(url, calls) as caller:
            batch = await ended(sdk, await begun(sdk, [row("no"), row("yes", model="other")]))
            bad = await lines_of(sdk, batch.error_file_id)
            long = await begun(other, [row(f"r{n}") for n in range(400)])
            for call in (
                sdk.batches.retrieve(long.id), sdk.batches.cancel(long.id), sdk.files.content(long.input_file_id),
                sdk.batches.create(input_file_id=long.input_file_id, endpoint=CHAT, completion_window="24h"),
            ):  # fmt: skip
                with pytest.raises(openai.NotFoundError):
                    await call
            with pytest.raises(openai.PermissionDeniedError):
                await caller.files.list()
            async with sdk_of(url, files) as filer:
                with pytest.raises(openai.PermissionDeniedError):
                    await begun(filer, [row("spends")])
            await store.keys.revoke(going.id)
            _, again = await store.keys.add("b2", tenant="b")
        async with sdk_of(url, again) as sdk:
            cancelled = await ended(sdk, await sdk.batches.retrieve(long.id))

    assert [(line["custom_id"], line["response"]["body"]["error"]["code"]) for line in bad] == [
        ("no", "model_not_found")
    ]
    assert cancelled.status == "cancelled"
    assert len(backend.asked) < 400


async def test_rows_wait_for_what_their_key_has_room_for_and_keep_no_other_waiting(tmp_path: Path) -> None:
    backend = SlowEcho(0)
    async with slow(tmp_path / "w", backend, needs_key=True, batch_concurrency=2) as (url, store):
        _, few = await store.keys.add("a", tenant="a", grants=Grants(requests_per_minute=2))
        _, many = await store.keys.add("b", tenant="b")
        async with sdk_of(url, few) as sdk, sdk_of(url, many) as other, aiohttp.ClientSession() as http:
            waiting = await begun(sdk, [row(f"r{n}", "few") for n in range(10)])
            while backend.asked.count("few") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            batch = await ended(other, await begun(other, [row(f"r{n}", "many") for n in range(30)]))
            still = await sdk.batches.retrieve(waiting.id)
            async with http.get(f"{url}/server/usage", headers={"authorization": f"Bearer {many}"}) as reply:
                used = (await reply.json())["data"]

    assert (batch.status, still.status) == ("completed", "in_progress")
    assert backend.asked.count("few") < 10
    assert [(row["tenant"], row["requests"], row["input_tokens"], row["output_tokens"]) for row in used] == [
        ("b", 30, 60, 90)
    ]


async def test_a_batch_that_cannot_be_is_refused_by_the_field(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"input_file_id": None}, "input_file_id"),
    ]
    async with filing(tmp_path / "w") as (url, _), sdk_of(url) as sdk:
        file = await sdk.files.create(file=("rows.jsonl", b"{}"), purpose="batch")
        other = await sdk.files.create(file=("rows.jsonl", b"{}"), purpose="vision")
        for asked, param in [*wrong, ({"input_file_id": other.id}, "input_file_id")]:
            options: Any = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **asked}
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.batches.create(**options)
            assert caught.value.param == param


@pytest.mark.slow
async def test_a_batch_waits_while_nothing_can_be_asked_and_tells_nobody_why(tmp_path: Path) -> None:
    backend = SlowEcho(0)
    backend.error = AuthenticationError("the key sk-secret of the server is bad", status=401)
    async with slow(tmp_path / "w", backend) as (url, _), sdk_of(url) as sdk:
        made = await begun(sdk, [row(f"r{n}", f"text {n}") for n in range(20)])
        while not backend.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        waiting = await sdk.batches.retrieve(made.id)
        backend.error = None
        batch = await ended(sdk, made)

    assert waiting.status in ("validating", "in_progress")
    assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", 20)


async def test_rows_of_any_depth_come_to_an_end(tmp_path: Path) -> None:
    rows: list[bytes] = []
    for depth in (300, 990, 5000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        text = json.dumps(row(f"r{depth}", tools=[{"type": "function", "function": {"name": "f", "parameters": 5}}]))
        rows += [text.encode().replace(b": 5}", b": %s}" % deep)]
        rows += [json.dumps(row(f"x{depth}", more=5)).encode().replace(b": 5}", b": %s}" % deep)]
    async with filing(tmp_path / "w") as (url, _), sdk_of(url) as sdk:
        for line in rows:
            batch = await ended(sdk, await begun(sdk, [line]))
            assert batch.status in ("completed", "failed")


async def test_an_application_that_is_mounted_works_on_batches_until_its_store_is_closed(tmp_path: Path) -> None:
    async with ServerStore(tmp_path / "w") as store, Client(model="echo:x") as client:
        transport = httpx2.ASGITransport(app(client, store=store))
        async with openai.AsyncOpenAI(
            base_url="http://x/v1", api_key="k", http_client=openai.DefaultAsyncHttpxClient(transport=transport)
        ) as sdk:
            batch = await ended(sdk, await begun(sdk, [row("a")]))

    assert batch.status == "completed"
    assert asyncio.all_tasks() == {asyncio.current_task()}
