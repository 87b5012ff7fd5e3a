"""The client without an event loop: the same calls from plain code, threads, and inside a running loop."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import asyncllm
from asyncllm import Finished, TextDelta, Timeouts
from asyncllm.hooks.usage import Gate
from asyncllm.testing import ScriptedBackend, Stall


def test_every_call_works_without_a_loop() -> None:
    with asyncllm.sync.Client(model="echo:x") as client:
        reply = client.chat("one two")
        with client.stream("one two") as stream:
            events = list(stream)
        texts = list(client.stream_text("one two"))

        assert reply.text == stream.response.text == "one two"
        assert [event.text for event in events if isinstance(event, TextDelta)] == texts == ["one", " two"]
        assert client.complete("a b").text == "a b"
        assert client.check_prompt("a b").tokens == 2
        assert client.is_alive()
        with pytest.raises(asyncllm.UnsupportedError):
            client.embed("a")
        with pytest.raises(asyncllm.UnsupportedError):
            client.list_models()
        with pytest.raises(asyncllm.UnsupportedError):
            client.tokenize("a")
        with pytest.raises(asyncllm.UnsupportedError):
            client.detokenize([1])


def test_it_has_the_methods_of_the_asynchronous_client_with_the_same_arguments() -> None:
    renamed = {"aclose": "close"}
    of_servers = {"conditions", "in_process", "probing", "take_over"}  # which have a loop

    for name, method in inspect.getmembers(asyncllm.Client, inspect.isfunction):
        if name not in of_servers and (not name.startswith("_") or name == "__init__"):
            twin = getattr(asyncllm.sync.Client, renamed.get(name, name))
            assert list(inspect.signature(twin).parameters) == list(inspect.signature(method).parameters), name


def test_a_request_is_asked_whole_or_streamed() -> None:
    asked = asyncllm.Request(model="", messages=(asyncllm.Message("user", "one two"),))

    with asyncllm.sync.Client(model="echo:x") as client:
        whole = client.ask(asked).whole()
        with client.ask(asked, model="echo:y") as stream:
            texts = [event.text for event in stream if isinstance(event, asyncllm.TextDelta)]

    assert (whole.text, texts) == ("one two", ["one", " two"])


def test_errors_are_the_same() -> None:
    with asyncllm.sync.Client(model="echo:x") as client:
        with pytest.raises(asyncllm.InvalidRequestError):
            client.chat("")
        with pytest.raises(asyncllm.InvalidRequestError):
            client.stream("")
        with pytest.raises(asyncllm.InvalidRequestError):
            client.stream_text("a", n=2)


def test_a_hook_that_calls_the_client_it_belongs_to_is_told_and_does_not_hang() -> None:
    def ask() -> bool:
        return bool(client.chat("may I?"))

    with asyncllm.sync.Client(model="echo:x", hooks=[Gate(ask)]) as client, pytest.raises(asyncllm.WrongLoopError):
        client.chat("hi")


def test_many_threads_share_one_client() -> None:
    with asyncllm.sync.Client(model="echo:x") as client, ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda n: client.chat(f"number {n}").text, range(100)))

    assert texts == [f"number {n}" for n in range(100)]


async def test_it_works_inside_a_running_loop_as_in_a_notebook() -> None:
    with asyncllm.sync.Client(model="echo:x") as client:
        assert client.chat("hi").text == "hi"


def test_one_client_outlives_any_number_of_event_loops() -> None:
    with asyncllm.sync.Client(model="echo:x") as client:

        async def use() -> str:
            return client.chat("hi").text

        assert [asyncio.run(use()), asyncio.run(use())] == ["hi", "hi"]


def test_leaving_a_stream_early_stops_the_model() -> None:
    backend = ScriptedBackend([[TextDelta("a"), Stall()]])

    with asyncllm.sync.Client(backend=backend) as client:
        with client.stream("hi") as stream:
            for _ in stream:
                break
        for _ in client.stream_text("hi"):
            break

        assert backend.closed == 2


def test_a_deadline_ends_the_wait() -> None:
    with asyncllm.sync.Client(backend=ScriptedBackend([[Stall()]]), retry=None) as client:
        with pytest.raises(asyncllm.TotalTimeoutError):
            client.chat("hi", timeouts=Timeouts(total_s=0.1))


def test_a_closed_client_says_so_and_its_thread_is_gone() -> None:
    before = threading.active_count()
    client = asyncllm.sync.Client(model="echo:x")
    client.chat("hi")
    client.close()
    client.close()

    with pytest.raises(asyncllm.APIConnectionError, match="closed"):
        client.chat("hi")
    assert threading.active_count() == before


def test_a_client_that_was_never_used_starts_no_thread() -> None:
    before = threading.active_count()

    asyncllm.sync.Client(model="echo:x")

    assert threading.active_count() == before


def test_closing_while_a_stream_is_open_does_not_hang() -> None:
    backend = ScriptedBackend([[TextDelta("a"), Stall(), Finished("stop")]])
    client = asyncllm.sync.Client(backend=backend)
    stream = client.stream("hi")
    stream.__enter__()

    client.close()

    assert backend.opened == 1


INTERRUPTED = """
import signal, sys, threading, os, time
import asyncllm
from asyncllm.testing import ScriptedBackend, Stall
backend = ScriptedBackend([[Stall()]])
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
with asyncllm.sync.Client(backend=backend) as client:
    try:
        client.chat("hi")
    except KeyboardInterrupt:
        for _ in range(100):
            if backend.closed == 1:
                break
            time.sleep(0.02)
        print("stopped" if backend.closed == 1 else "still running")
"""


def test_ctrl_c_ends_the_wait_and_stops_the_model() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30)

    assert done.stdout.strip() == "stopped"
    assert done.returncode == 0
    assert signal.getsignal(signal.SIGINT) is not None


UNCLOSED = """
import asyncllm
from asyncllm.testing import ScriptedBackend, Stall
client = asyncllm.sync.Client(backend=ScriptedBackend([[asyncllm.TextDelta("a"), Stall()]]))
stream = client.stream("hi")
stream.__enter__()
print(next(iter(stream)).text)
"""


def test_an_interpreter_ends_though_a_client_and_a_stream_were_left_open() -> None:
    done = subprocess.run([sys.executable, "-c", UNCLOSED], capture_output=True, text=True, timeout=30)

    assert (done.stdout, done.stderr, done.returncode) == ("a\n", "", 0)


def test_a_dropped_client_takes_its_thread_along() -> None:
    before = threading.active_count()
    client = asyncllm.sync.Client(model="echo:x")
    client.chat("hi")

    del client
    gc.collect()

    assert threading.active_count() == before


FORKED = """
import os, sys
import asyncllm
client = asyncllm.sync.Client(model="echo:x")
client.chat("hi")
pid = os.fork()
if pid == 0:
    try:
        client.chat("hi")
    except asyncllm.WrongLoopError as error:
        print("refused" if "fork" in str(error) else error, flush=True)
    sys.exit(0)
os.waitpid(pid, 0)
print(client.chat("still here").text)
"""


def test_a_forked_child_is_told_and_the_parent_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=30)

    assert done.stdout == "refused\nstill here\n"


def test_a_stream_whose_client_was_closed_is_left_in_peace() -> None:
    client = asyncllm.sync.Client(backend=ScriptedBackend([[TextDelta("a"), TextDelta("b"), Finished("stop")]]))
    with client.stream("hi") as stream:
        next(iter(stream))
        client.close()

    assert stream.response.text.startswith("a")


# -- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_is_read_without_a_loop() -> None:
    with asyncllm.sync.Client(model="echo:x") as client:
        batch = client.batch(["a b", "", "c"], max_tokens=1)
        results = list(batch)

        assert [result.response and result.response.text for result in results] == ["a", None, "c"]
        assert (batch.progress.done, batch.progress.failed, batch.unread) == (2, 1, ())
        assert [one.unwrap().text for one in client.map("say {word}", [{"word": "x"}, {"word": "y"}])] == [
            "say x",
            "say y",
        ]


def test_a_batch_may_be_left_early_and_its_calls_end() -> None:
    backend = ScriptedBackend([[TextDelta("a"), Finished("stop")], [Stall()]])

    with asyncllm.sync.Client(backend=backend) as client:
        with client.batch(["one", "two"], concurrency=2) as batch:
            for _ in batch:
                break

        assert backend.closed == 2


def test_a_batch_that_is_stopped_begins_no_more_calls() -> None:
    with asyncllm.sync.Client(model="echo:x") as client, client.batch(iter("abcdefgh"), concurrency=1) as batch:
        next(batch)
        batch.stop()

        assert len(list(batch)) < 7


def test_a_batch_whose_client_was_closed_meanwhile_can_still_be_closed() -> None:
    client = asyncllm.sync.Client(model="echo:x")
    with client.batch(["a", "b"]) as batch:
        next(batch)
        client.close()

    with pytest.raises(asyncllm.APIConnectionError, match="closed"):
        next(batch)


def test_a_batch_of_files_runs_without_a_loop(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"a b"\n"c"\n')

    with asyncllm.sync.Client(model="echo:x") as client:
        report = client.run_batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    assert (report.status, report.done) == ("completed", 2)
    assert '"text":"a b"' in (tmp_path / "out.jsonl").read_text()


def test_a_batch_of_files_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    with asyncllm.sync.Client(model="echo:x") as client, pytest.raises(asyncllm.InputError, match="nothing is there"):
        client.run_batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_ctrl_c_lets_the_rows_of_a_batch_of_files_finish_that_are_under_way(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f'"w{number}"\n' for number in range(50)))
    script = """
import asyncio, os, signal
import asyncllm
from asyncllm import Finished, TextDelta
from asyncllm.events import Ready
from contextlib import asynccontextmanager

class Slow:
    begun = ended = 0

    @asynccontextmanager
    async def open(self, request):
        self.begun += 1
        if self.begun == 3:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.2)
        self.ended += 1
        yield Ready([TextDelta("ok"), Finished("stop")])

    async def aclose(self):
        pass

backend = Slow()
try:
    with asyncllm.sync.Client(backend=backend) as client:
        client.run_batch("in.jsonl", "out.jsonl", concurrency=3)
except KeyboardInterrupt:
    print(backend.begun, backend.ended)
with asyncllm.sync.Client(backend=backend) as client:
    print(client.run_batch("in.jsonl", "out.jsonl").done, backend.begun)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr) == ("3 3\n50 50\n", "")
