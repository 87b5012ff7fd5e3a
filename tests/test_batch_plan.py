"""What a store remembers of a batch: options as plain data, and paths as seen from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import Choice, Client, Grammar, JsonSchema, Regex, Sampling, StoreError, Timeouts, Tool
from asyncllm.batch.plan import again, options_of, plain_options, recall, seen_from, seen_here
from asyncllm.calls import chat_request
from asyncllm.workspace.batches import BatchStore


def weather(city: str) -> str:
    """Look up the weather."""
    return city


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 9),
        "temperature": st.floats(0, 2),
        "stop": st.just(["a", "b"]),
        "logit_bias": st.just({"504": -100.0}),
        "sampling": st.builds(Sampling, seed=st.integers(0, 9), top_k=st.integers(1, 9)),
        "system": st.text(min_size=1, alphabet="ab"),
        "tools": st.sampled_from([[weather], [Tool("t", "does", {"type": "object"})], []]),
        "tool_choice": st.just("required"),
        "parallel_tool_calls": st.booleans(),
        "constraint": st.sampled_from(
            [JsonSchema({"type": "object"}, name="n", strict=True), Regex("a+"), Choice(("a", "b")), Grammar("root")]
        ),
        "timeouts": st.builds(Timeouts, total_s=st.floats(1, 9)),
        "extra": st.just({"mode": {"fast": [1, None, True]}}),
    },
)


@given(options=OPTIONS)
def test_options_come_back_from_json_as_they_were(options: Any) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(plain_options(options)))

    first, second = (
        msgspec.structs.replace(chat_request("hi", one, stream=False, timeouts=Timeouts()), idempotency_key=None)
        for one in (options, options_of(kept))
    )

    assert first.timeouts == second.timeouts
    same = Timeouts()  # whose whole seconds may be written as integers or not
    told = [msgspec.msgpack.encode(msgspec.structs.replace(one, timeouts=same)) for one in (first, second)]
    assert told[0] == told[1]
    assert type(first.constraint) is type(second.constraint)


@pytest.mark.parametrize(
    ("location", "known", "seen"),
    [
        ("out.jsonl", "out.jsonl", "out.jsonl"),
        ("./sub/../out.jsonl", "out.jsonl", "out.jsonl"),
        ("sub/out.jsonl", "sub/out.jsonl", "sub/out.jsonl"),
        ("s3://bucket/./key", "s3://bucket/./key", "s3://bucket/./key"),
        ("-", "-", "-"),
    ],
)
def test_a_location_is_known_by_its_way_from_the_folder_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, known: str, seen: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Path("out.jsonl.batch")

    assert seen_from(store, location) == known
    assert seen_here(store, known) == seen


def test_a_location_outside_of_the_working_directory_is_seen_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    assert seen_here(Path("../out.jsonl.batch"), "out.jsonl") == str(tmp_path / "out.jsonl")


async def test_a_batch_goes_on_after_its_files_have_moved_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "in.jsonl").write_text('"one"\n"two"\n')
    async with Client(model="echo:x") as client:
        await client.run_batch(old / "in.jsonl", old / "out.jsonl")
        old.rename(new)
        monkeypatch.chdir(new)
        report = await client.run_batch("in.jsonl", "out.jsonl")

    assert (report.done, report.left) == (2, 0)
    async with BatchStore(new / "out.jsonl.batch", create=False) as batches:
        record = await batches.find("out.jsonl")
        assert await batches.attempts(record.id) == 2


async def test_another_input_for_the_same_output_is_still_another_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('"one"\n')
    (tmp_path / "other.jsonl").write_text('"one"\n')
    async with Client(model="echo:x") as client:
        await client.run_batch("in.jsonl", "out.jsonl")
        with pytest.raises(StoreError, match="source"):
            await client.run_batch("other.jsonl", "out.jsonl")


async def test_a_plan_that_is_recalled_runs_as_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("word\none\ntwo\n")
    async with Client(model="echo:x") as client:
        first = await client.run_batch(
            "in.csv", "out.csv", template="{word}", max_tokens=3, concurrency=5, labels={"a": "b"}, notes={"n": 1}
        )
        async with BatchStore(Path(first.store), create=False) as batches:
            record = await batches.find(None)
        plan = recall(record, Path(first.store))
        second = await client.run_batch(plan.source, plan.sink, **again(plan))

    assert (plan.source, plan.sink, plan.notes) == ("in.csv", "out.csv", {"n": 1})
    assert (plan.settings.concurrency, plan.settings.labels) == (5, {"a": "b"})
    assert (second.done, second.total) == (2, 2)
