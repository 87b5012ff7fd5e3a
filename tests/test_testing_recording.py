"""What was recorded is what is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import errors, events
from asyncllm.backend import Backend
from asyncllm.client import Client
from asyncllm.errors import AsyncLLMError, ConfigError, RateLimitError, StreamInterrupted
from asyncllm.events import Event, Events, Finished, Ready, Started, TextDelta
from asyncllm.testing import (
    NotRecordedError,
    Recorder,
    Recording,
    ReplayBackend,
    Script,
    ScriptedBackend,
    Stall,
    run_virtual,
)
from asyncllm.types import Message, Request, Timeouts, TokenLogprob, Usage

HELLO = Request(model="any", messages=(Message("user", "a secret hello"),))
OTHER = Request(model="any", messages=(Message("user", "another"),))
DONE = Finished("stop")

token_bytes = st.none() | st.just((1, 2))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
counts = st.none() | st.integers(0, 2**40)
event_list: list[st.SearchStrategy[Event]] = [
    st.builds(Started, st.none() | texts, st.none() | texts, st.none() | st.binary()),
    st.builds(TextDelta, texts, st.integers(0, 3)),
    st.builds(events.ReasoningDelta, texts),
    st.builds(events.RefusalDelta, texts),
    st.builds(events.ToolCallDelta, st.none() | st.integers(0, 3), st.none() | texts, st.none() | texts, texts),
    st.builds(
        events.LogprobsDelta,
        st.lists(st.builds(TokenLogprob, texts, st.floats(-100, 0), token_bytes), max_size=2).map(tuple),
    ),
    st.builds(events.UsageReport, st.builds(Usage, input_tokens=counts, output_tokens=counts)),
    st.builds(Finished, st.sampled_from(["stop", "length", None]), st.none() | texts),
]
kinds = [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), AsyncLLMError)]
failures = st.builds(
    lambda kind, message, facts: kind(message, **facts),
    st.sampled_from(kinds),
    texts,
    st.fixed_dictionaries(
        {},
        optional={
            "status": st.integers(400, 599),
            "code": texts,
            "retry_after_s": st.floats(0, 1e6),
            "retryable": st.booleans(),
            "maybe_billed": st.booleans(),
        },
    ),
)
waits = st.floats(0.001, 1e4)
scripts: st.SearchStrategy[Script] = failures | st.lists(st.one_of(*event_list, waits, failures), max_size=8)


async def play(backend: Backend, requests: Sequence[Request]) -> tuple[list[object], list[float]]:
    """Everything that the requests got, and when."""
    loop = asyncio.get_running_loop()
    got: list[object] = []
    times: list[float] = []

    def note(*what: object) -> None:
        got.append(what)
        times.append(loop.time())

    for request in requests:
        try:
            async with backend.open(request) as lent:
                note("entered")
                async for event in lent:
                    note(event)
                note("ended")
        except AsyncLLMError as error:
            note(type(error), error.message, error.facts(), error.retryable)
    return got, times


@given(st.lists(scripts, min_size=1, max_size=4))
def test_a_recording_is_played_as_it_was_errors_and_times_included(scripts: list[Script]) -> None:
    requests = [(HELLO, OTHER)[number % 2] for number in range(len(scripts))]
    recorder = Recorder(ScriptedBackend(scripts))
    was = run_virtual(play(recorder, requests))
    with TemporaryDirectory() as folder:
        recorder.recording.save(Path(folder, "calls.jsonl"))
        recording = Recording.load(Path(folder, "calls.jsonl"))

    replay = ReplayBackend(recording)

    got, times = run_virtual(play(replay, requests))

    assert got == was[0]
    assert times == pytest.approx(was[1], abs=1e-3)
    assert replay.left == 0


def test_requests_find_their_own_calls_in_any_order() -> None:
    recorder = Recorder(ScriptedBackend([[TextDelta(text), DONE] for text in "abc"]))
    run_virtual(play(recorder, [HELLO, OTHER, HELLO]))

    got, _ = run_virtual(play(ReplayBackend(recorder.recording), [OTHER, HELLO, HELLO]))

    assert [one for one in got if isinstance(one, tuple) and isinstance(one[0], TextDelta)] == [
        (TextDelta("b"),),
        (TextDelta("a"),),
        (TextDelta("c"),),
    ]


@pytest.mark.parametrize(("speed", "took"), [(1, 30), (10, 3), (0, 0)])
def test_a_replay_takes_the_time_it_is_told(speed: float, took: float) -> None:
    recorder = Recorder(ScriptedBackend([[10, TextDelta("a"), 20, DONE]]))
    run_virtual(play(recorder, [HELLO]))

    async def main() -> float:
        await play(ReplayBackend(recorder.recording, speed=speed), [HELLO])
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(took)


async def test_what_was_not_recorded_is_an_error_of_its_own() -> None:
    recorder = Recorder(ScriptedBackend([[DONE]]))
    await play(recorder, [HELLO])
    replay = ReplayBackend(recorder.recording, speed=0)
    same = Request(model="any", messages=HELLO.messages, timeouts=Timeouts(total_s=7))

    await play(replay, [same])

    for request in (HELLO, OTHER):
        with pytest.raises(NotRecordedError, match="no such request"):
            async with replay.open(request):
                pass


async def test_a_call_that_was_left_ends_where_its_caller_went() -> None:
    recorder = Recorder(ScriptedBackend([[TextDelta("a"), Stall()]]))
    async with recorder.open(HELLO) as lent:
        assert await anext(lent) == TextDelta("a")

    async with ReplayBackend(recorder.recording).open(HELLO) as lent:
        assert await anext(lent) == TextDelta("a")
        with pytest.raises(NotRecordedError, match="its caller left"):
            await anext(lent)


async def test_an_error_of_somebody_else_is_told_by_its_name_alone() -> None:
    recorder = Recorder(ScriptedBackend([ZeroDivisionError("a secret")]))
    with pytest.raises(ZeroDivisionError):
        await play(recorder, [HELLO])

    with pytest.raises(NotRecordedError, match="ZeroDivisionError was raised here"):
        async with ReplayBackend(recorder.recording).open(HELLO):
            pass
    assert "secret" not in repr(recorder.recording.calls)


async def test_a_client_records_and_replays_a_conversation_through_a_file(tmp_path: Path) -> None:
    scripts: list[Script] = [RateLimitError("slow", retryable=True, retry_after_s=0.001), [TextDelta("hi"), DONE]]
    scripts.append([TextDelta("par"), StreamInterrupted("cut")])
    recorder = Recorder(ScriptedBackend(scripts), requests=False)
    path = tmp_path / "calls.jsonl"

    async def talk(backend: Backend) -> tuple[str, str]:
        async with Client(backend=backend, model="any", env={}) as client:
            reply = await client.chat("a secret hello")
            with pytest.raises(StreamInterrupted) as caught:
                async for _ in client.stream_text("more"):
                    pass
        assert caught.value.partial is not None
        return reply.text, caught.value.partial.text

    was = await talk(recorder)
    recorder.recording.save(path)

    assert await talk(ReplayBackend(Recording.load(path), speed=0)) == was == ("hi", "par")
    assert b"secret" not in path.read_bytes()
    assert path.read_bytes().startswith(b'{"format":"asyncllm-recording","version":1}\n')


async def test_batches_and_requests_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    class InOnePiece(ScriptedBackend):
        @asynccontextmanager
        async def open(self, request: Request, /) -> AsyncGenerator[Events]:
            self.requests.append(request)
            yield Ready([TextDelta("hi"), DONE])

    recorder = Recorder(InOnePiece([[]]), requests=True)
    await play(recorder, [HELLO])
    recorder.recording.save(tmp_path / "calls.jsonl")

    (call,) = Recording.load(tmp_path / "calls.jsonl").calls

    assert call.request is not None
    assert call.request["messages"][0]["content"] == "a secret hello"
    assert [len(batch) for _, batch in call.batches] == [2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "{}",
        '{"format":"asyncllm-recording","version":2}',
        '{"format":"x","version":1}',
        '{"format":"asyncllm-recording","version":1}\n{"digest":"d","model":"m","batches":[[0,[["Ready",{}]]]]}',
        '{"format":"asyncllm-recording","version":1}\n{"digest":"d","model":"m","batches":[[0,[["TextDelta",{}]]]]}',
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "calls.jsonl").write_text(text)

    with pytest.raises(ConfigError, match="recording"):
        Recording.load(tmp_path / "calls.jsonl")


def test_a_speed_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="speed"):
        ReplayBackend(Recording(), speed=-1)
