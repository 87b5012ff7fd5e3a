"""`asyncllm batch` in processes of its own: run, stopped, killed, gone on with, looked at and exported."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncllm.cli import doctor, main
from asyncllm.testing import FaultyServer, Op, OpenAIMock, Pause, SeenRequest, Stall, Status, openai_reply
from asyncllm.types import Usage
from asyncllm.workspace.batches import BatchStore
from openai_batch_server import OpenAIBatchServer

KEY = "sk-0123456789"
COMMAND = (sys.executable, "-m", "asyncllm", "batch")
BAD = json.dumps({"error": {"message": "no such thing", "code": "bad"}}).encode()


def reply(request: SeenRequest) -> Sequence[Op]:
    """The prompt in capitals; `slow` takes a while, `hang` for ever, and `bad` fails."""
    text = str(request.json()["messages"][-1]["content"])
    if "bad" in text:
        return [Status(400, {"content-type": "application/json"}, BAD)]
    if "hang" in text:
        return [Stall()]
    usage = Usage(input_tokens=1, output_tokens=1)
    answer = Status(200, {"content-type": "application/json"}, openai_reply(text.upper(), usage=usage))
    return [Pause(1), answer] if "slow" in text else [answer]


class Desk:
    """A folder with files of prompts, a server for their model, and the commands that are run there."""

    def __init__(self, folder: Path, server: FaultyServer) -> None:
        self.folder = folder
        self.server = server
        self.env = {"HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "MY_KEY": KEY}
        self.env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        self.target = ("-m", "openai:m", "--base-url", f"{server.url}/v1", "--api-key-env", "MY_KEY")
        self.children: list[subprocess.Popen[str]] = []

    def write(self, name: str, *lines: Any) -> str:
        (self.folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return name

    def read(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def texts(self, name: str = "out.jsonl") -> list[str | None]:
        return [row["text"] for row in self.read(name)]

    def start(self, *args: str, stdin: int = subprocess.DEVNULL, **options: Any) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*COMMAND, *args],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            cwd=self.folder,
            text=True,
            **options,
        )
        self.children.append(child)
        return child

    async def run(self, *args: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Status, stdout and stderr of a command that is run to its end."""
        child = self.start(*args, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
        return await self.end(child, stdin)

    async def end(self, child: subprocess.Popen[str], stdin: str | None = None) -> tuple[int, str, str]:
        out, err = await asyncio.to_thread(child.communicate, stdin, 60)
        return child.returncode, out, err

    async def batch(self, *args: str) -> tuple[int, str, str]:
        """Run `in.jsonl` to `out.jsonl` through the server."""
        return await self.run("run", "in.jsonl", "-o", "out.jsonl", *self.target, *args)

    async def status(self) -> dict[str, Any]:
        (told,) = json.loads((await self.run("status", "out.jsonl", "--json"))[1])
        return dict(told)

    def prompts(self) -> list[str]:
        return [request.json()["messages"][-1]["content"] for request in self.server.requests]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with FaultyServer(reply) as server:
        desk = Desk(tmp_path, server)
        yield desk
        for child in desk.children:
            child.kill()
            await asyncio.to_thread(child.communicate)


async def told(child: subprocess.Popen[str], text: str) -> None:
    """Wait for a line of stderr that has the text in it."""
    assert child.stderr is not None
    while line := await asyncio.to_thread(child.stderr.readline):
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}")


# -- run ---------------------------------------------------------------------------------------------------------


async def test_outcomes_are_written_in_the_order_of_the_input_and_stdout_gets_nothing(desk: Desk) -> None:
    desk.write("in.jsonl", "slow one", {"prompt": "two", "ticket": 7}, "three")

    status, out, err = await desk.batch("-c", "2")

    assert (status, out) == (0, "")
    assert desk.texts() == ["SLOW ONE", "TWO", "THREE"]
    assert desk.read()[1]["ticket"] == 7
    last = err.splitlines()[-1]
    assert last.startswith("asyncllm: completed: 3 of 3 rows answered, 6 tokens, ")
    assert last.endswith("; in out.jsonl")


async def test_the_same_command_again_asks_nothing_twice(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "two")

    await desk.batch()
    status, _, err = await desk.batch()

    assert status == 0
    assert "2 of 2 rows" in err
    assert sorted(desk.prompts()) == ["one", "two"]


async def test_the_batch_is_the_same_from_wherever_it_is_run(desk: Desk) -> None:
    (desk.folder / "sub").mkdir()
    desk.write("sub/in.jsonl", "one", "two")
    target = ("run", "sub/in.jsonl", "-o", "sub/out.jsonl", *desk.target)

    await desk.run(*target)
    desk.folder /= "sub"
    status, _, _ = await desk.run("run", "./in.jsonl", "-o", str(desk.folder / "out.jsonl"), *desk.target)
    told = await desk.status()

    assert (status, told["output"], told["attempts"]) == (0, "out.jsonl", 2)
    assert len(desk.server.requests) == 2


async def test_options_are_those_of_a_chat_and_reach_every_request(desk: Desk) -> None:
    desk.write("in.jsonl", "one")
    (desk.folder / "color.json").write_text('{"type": "object"}')

    status, _, err = await desk.batch(
        *("--max-tokens", "5", "--temperature", "0.5", "--system", "be brief", "--schema", "color.json"),
        *("--option", "mode=fast", "--stop", "a", "--seed", "3"),
    )

    assert status == 0, err
    sent = desk.server.requests[0].json()
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    assert (sent["max_tokens"], sent["temperature"], sent["mode"], sent["stop"], sent["seed"]) == (
        5, 0.5, "fast", ["a"], 3,
    )  # fmt: skip
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert desk.server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_failed_rows_are_told_and_the_status_says_so(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "bad", "three")

    status, _, err = await desk.batch()

    assert status == 1
    assert desk.texts() == ["ONE", None, "THREE"]
    *_, line, advice = err.splitlines()
    assert "2 of 3 rows answered, 1 failed (BadRequestError 1)" in line
    assert advice.endswith("asyncllm batch retry-failed out.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "output", "found"),
    [
        ("in.csv", "prompt,n\none,1\n", "out.csv", "prompt,n,text,"),
        (
            "in.jsonl",
            '{"custom_id":"a","method":"POST","url":"/v1/chat/completions",'  # noqa: ISC004  # one line of a file
            '"body":{"model":"m","messages":[{"role":"user","content":"one"}]}}\n',
            "out.jsonl",
            '{"id":"batch_req_0","custom_id":"a","response":{"status_code":200,',
        ),
        ("in.json", '[{"messages": [{"role": "user", "content": "one"}]}]', "out.json", '[\n{"id":"chatcmpl-fake",'),
    ],
    ids=["csv", "openai", "llmengine"],
)
async def test_files_are_known_by_their_name_and_content(
    desk: Desk, name: str, content: str, output: str, found: str
) -> None:
    (desk.folder / name).write_text(content)

    status, _, err = await desk.run("run", name, "-o", output, *desk.target)

    assert status == 0, err
    written = (desk.folder / output).read_text()
    assert written.startswith(found)
    assert "ONE" in written


async def test_a_template_makes_prompts_of_columns(desk: Desk) -> None:
    (desk.folder / "in.csv").write_text("word,tongue\none,Latin\n")
    (desk.folder / "template.txt").write_text("Say in {tongue}: {word}")
    (desk.folder / "template.json").write_text(
        '[{"role": "system", "content": "Speak {tongue}"}, {"role": "user", "content": "{word}"}]'
    )

    for number, template in enumerate(["{word}", "@template.txt", "@template.json"]):
        status, _, err = await desk.run("run", "in.csv", "-o", f"{number}.csv", "--template", template, *desk.target)
        assert status == 0, err

    assert desk.prompts() == ["one", "Say in Latin: one", "one"]
    assert desk.server.requests[2].json()["messages"][0] == {"role": "system", "content": "Speak Latin"}


async def test_what_is_piped_in_can_be_gone_on_with_when_it_is_piped_in_again(desk: Desk) -> None:
    target = ("run", "-", "-o", "out.jsonl", *desk.target)

    first = await desk.run(*target, stdin='"one"\n"bad"\n')
    second = await desk.run(*target, "--retry-failed", stdin='"one"\n"bad"\n')
    other = await desk.run(*target, stdin='"one"\n"else"\n')

    assert (first[0], second[0]) == (1, 1)
    assert desk.texts() == ["ONE", None]
    assert desk.prompts() == ["one", "bad", "bad"]
    assert (other[0], other[2].count("\n")) == (2, 1)
    assert "not the one that the batch began with" in other[2]


async def test_json_is_one_object_a_line_with_progress_and_the_end(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "bad")

    status, out, err = await desk.batch("--json")

    *progress, end = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (1, "")
    assert {one["type"] for one in progress} == {"progress"}
    assert {"stage", "total", "done", "failed", "rows_per_s", "eta_s", "cost_usd"} <= progress[-1].keys()
    assert (end["type"], end["status"], end["done"], end["failed"]) == ("end", "completed_with_errors", 1, 1)
    assert end["errors"] == {"BadRequestError": 1}


async def test_an_error_is_a_json_object_too(desk: Desk) -> None:
    status, out, err = await desk.run("run", "nosuch.jsonl", "-o", "out.jsonl", "-m", "echo:x", "--json")

    (told,) = [json.loads(line) for line in out.splitlines()]
    assert (status, told["type"], told["error"], told["exit_status"]) == (2, "error", "InputError", 2)
    assert err.count("\n") == 1


async def test_quiet_tells_nothing(desk: Desk) -> None:
    desk.write("in.jsonl", "one")

    assert await desk.batch("-q") == (0, "", "")


async def test_a_key_is_kept_nowhere(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "bad")

    await desk.batch("--place-option", "region=eu")

    kept = b"".join(path.read_bytes() for path in desk.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in kept
    assert b"MY_KEY" in kept  # the name of its variable


@pytest.mark.parametrize(
    ("arguments", "status", "fragment"),
    [
        (["run", "in.jsonl"], 2, "-o/--output"),
        (["run", "nosuch.jsonl", "-o", "o"], 2, "nosuch.jsonl"),
        (["run", "in.jsonl", "-o", "in.jsonl"], 2, "place of the input"),
        (["run", "in.jsonl", "-o", "-"], 2, "asyncllm batch export -o -"),
        (["run", "in.jsonl", "-o", "there.jsonl"], 2, "may be written over"),
        (["run", "in.jsonl", "-o", "o", "--format", "xml"], 2, "openai"),
        (["run", "in.jsonl", "-o", "o", "-c", "0"], 2, "concurrency"),
        (["run", "in.jsonl", "-o", "o", "--max-failure-rate", "2"], 2, "max_failure_rate"),
        (["run", "in.jsonl", "-o", "o", "--label", "team"], 2, "--label takes KEY=VALUE"),
        (["run", "in.jsonl", "-o", "o", "--template", "@nosuch"], 2, "nosuch"),
        (["run", "in.jsonl", "-o", "o", "--template", "{word"], 2, "brace"),
        (["run", "in.jsonl", "-o", "o", "--errors", "e"], 2, "no file of errors"),
        (["run", "in.jsonl", "-o", "o", "--place-option", f"secret_access_key={KEY}"], 2, "environment"),
        (["run", "bad.jsonl", "-o", "o"], 2, "bad.jsonl, line 2"),
        (["run", "in.jsonl", "-o", "o", "-m", "nosuch:x"], 2, "installed are"),
        (["retry-failed"], 2, "name the output"),
        (["retry-failed", "o"], 2, "no batch was run with the output o"),
        (["status", "o"], 2, "no batch was run with the output o"),
        (["cancel", "--store", "there"], 2, "there is no store at there"),
        (["export", "o"], 2, "no batch was run"),
        ([], 2, "ACTION"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_asked(  # noqa: PLR0917  # fixtures
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    fragment: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('"one"\n')
    Path("bad.jsonl").write_text('"one"\n{"prompt": \n')
    Path("there.jsonl").write_text("")

    model = ["-m", "echo:x"] if arguments[:1] == ["run"] and "-m" not in arguments else []
    found = main(["batch", *arguments, *model])

    out, err = capsys.readouterr()
    assert (found, out) == (status, "")
    assert err.splitlines()[-1].startswith("asyncllm: error: ")
    assert fragment in err
    assert KEY not in err
    assert not Path("o").exists()


async def test_a_row_that_cannot_be_asked_may_fail_alone(desk: Desk) -> None:
    (desk.folder / "in.jsonl").write_text('"one"\n{"prompt": \n')

    status, _, _ = await desk.batch("--on-bad-row", "fail")

    assert status == 1
    assert [row["error"] and row["error"]["code"] for row in desk.read()] == [None, "invalid_json"]


async def test_too_many_failures_end_it_for_now(desk: Desk) -> None:
    desk.write("in.jsonl", *(f"bad {number}" for number in range(30)), *(f"hang {number}" for number in range(90)))

    status, _, err = await desk.batch("--max-failure-rate", "0.5", "-c", "2", "--drain", "0")

    assert status == 75
    assert "too many rows have failed" in err
    assert not (desk.folder / "out.jsonl").exists()


async def test_a_batch_that_is_out_of_time_is_written_and_goes_on_with_more_of_it(desk: Desk) -> None:
    desk.write("in.jsonl", *(f"slow {number}" for number in range(4)))

    status, _, err = await desk.batch("--max-runtime", "0.5", "-c", "1")
    codes = [row["error"] and row["error"]["code"] for row in desk.read()]
    again, _, _ = await desk.batch("--max-runtime", "100")

    assert status == 75
    assert "--max-runtime" in err
    assert codes[-1] == "expired"
    assert (again, desk.texts()) == (0, [f"SLOW {number}" for number in range(4)])


async def test_a_service_works_off_what_is_given_to_it(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "refuse", "three")
    service = OpenAIBatchServer()
    quick = ("--vendor-option", "interval_s=0.01", "--vendor-option", "part_items=2", "--label", "team=search")
    async with FaultyServer(service) as server:
        desk.target = (*desk.target[:3], f"{server.url}/v1", *desk.target[4:])
        status, _, err = await desk.batch("--via", "vendor", *quick)
        again = await desk.run("retry-failed", "out.jsonl")

    assert (status, again[0]) == (1, 1), err
    assert desk.texts() == ["one", None, "three"]
    assert [batch["metadata"]["team"] for batch in service.batches] == ["search"] * 3  # of two parts, and of the retry


async def test_code_of_a_model_is_run_in_a_sandbox_that_is_asked_for_and_refused_without(desk: Desk) -> None:
    (desk.folder / "in.json").write_text('{"prompts": ["What is 6 * 7?"], "max_new_tokens": 50}')
    (desk.folder / "tool.json").write_text('{"name": "code_evaluator", "max_iterations": 1}')
    mock = OpenAIMock(answer=" Look:\n```python\nprint(6 * 7)\n```\n")
    async with FaultyServer(mock.script()) as server:
        run = ("run", "in.json", "-o", "o.json", *desk.target[:3], f"{server.url}/v1", "--tool-config", "tool.json")
        refused = await desk.run(*run, *desk.target[4:])
        status, _, err = await desk.run(*run, *desk.target[4:], "--sandbox", "namespaces")

    assert (refused[0], "sandbox" in refused[2]) == (2, True)
    assert status == 0, err
    (answer,) = json.loads((desk.folder / "o.json").read_text())
    assert "42" in answer["text"]


# -- retry-failed ------------------------------------------------------------------------------------------------


async def test_failed_rows_are_asked_again_with_what_the_batch_was_run_with(desk: Desk) -> None:
    desk.write("in.jsonl", {"n": 1, "word": "one"}, {"n": 2, "word": "bad"})
    desk.write("color.json", {"type": "object"})
    options = ("--template", "{word}", "--max-tokens", "5", "--schema", "color.json", "--stop", "x", "-c", "1")
    await desk.batch(*options, "--system", "s", "--option", "mode=fast")

    status, _, _ = await desk.run("retry-failed", "out.jsonl", "-c", "2", "--json")

    first, failed, retried = [request.json() for request in desk.server.requests]
    assert status == 1
    assert failed == retried
    assert first["mode"] == "fast"
    assert desk.server.requests[2].headers["authorization"] == f"Bearer {KEY}"


async def test_a_failed_row_that_is_answered_now_is_in_the_output(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "hang", "three")
    await desk.batch("--timeout", "1", "--max-attempts", "1")
    before = desk.texts()
    desk.server._scripts = lambda request: reply_to_all(request)

    status, _, err = await desk.run("retry-failed", "out.jsonl")

    assert before == ["ONE", None, "THREE"]
    assert (status, desk.texts()) == (0, ["ONE", "HANG", "THREE"]), err
    assert len(desk.server.requests) >= 4


def reply_to_all(request: SeenRequest) -> Sequence[Op]:
    text = request.json()["messages"][-1]["content"]
    return [Status(200, {"content-type": "application/json"}, openai_reply(text.upper()))]


# -- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_the_first_signal_lets_rows_under_way_finish_and_the_same_command_goes_on(
    desk: Desk, number: int, status: int
) -> None:
    desk.write("in.jsonl", *(f"slow w{number}" for number in range(6)))
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "2")
    await desk.server.received(2)

    child.send_signal(number)
    stopped = await desk.end(child)
    there = await desk.status()
    finished = await desk.batch()

    assert stopped[0] == status
    assert "rows under way may finish, for up to 30 s" in stopped[2]
    assert stopped[2].splitlines()[-1] == "asyncllm: stopped with 2 of 6 rows; the same command goes on from there"
    assert (there["status"], there["done"], there["to_go_on"]) == ("stopped", 2, "the same command again")
    assert finished[0] == 0
    assert desk.texts() == [f"SLOW W{number}" for number in range(6)]
    assert len(desk.server.requests) == 6


async def test_the_second_signal_ends_it_at_once(desk: Desk) -> None:
    desk.write("in.jsonl", "hang 1", "hang 2", "hang 3")
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "2", "--drain", "600")
    await desk.server.received(2)

    child.send_signal(signal.SIGINT)
    await told(child, "stopping")
    child.send_signal(signal.SIGINT)
    status, _, err = await desk.end(child)
    there = await desk.status()

    assert status == 130
    assert "stopped with 0 of 3 rows" in err
    assert (there["status"], there["attempts"]) == ("stopped", 0)


async def test_a_background_job_that_ignores_ctrl_c_drains_when_it_is_terminated(desk: Desk) -> None:
    desk.write("in.jsonl", "slow one", "two")
    child = desk.start(
        "run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "1", "--json",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    await desk.server.received(1)

    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGTERM)
    status, out, _ = await desk.end(child)

    end = json.loads(out.splitlines()[-1])
    assert status == 143
    assert (end["type"], end["status"], end["done"], end["left"]) == ("end", "stopped", 1, 1)


# -- status, cancel and export -----------------------------------------------------------------------------------


async def test_a_batch_that_runs_says_who_is_at_work_and_nobody_else_may(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "hang")
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "1")
    await desk.server.received(2)

    there = await desk.status()
    table = (await desk.run("status"))[1]
    other = await desk.batch()

    assert (there["status"], there["running"], there["process"]) == ("running", True, child.pid)
    assert (there["done"], there["left"], there["to_go_on"]) == (1, 1, None)
    header, row = table.splitlines()
    assert header.split()[:3] == ["output", "status", "rows"]
    assert "1 of 2" in row
    assert f"process {child.pid}" in row
    assert other[0] == 75
    assert f"process {child.pid}" in other[2]


async def test_a_batch_whose_process_was_killed_is_interrupted(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "hang")
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "1", "--label", "team=search")
    await desk.server.received(2)
    child.kill()
    await desk.end(child)

    there = await desk.status()

    assert (there["status"], there["running"], there["done"]) == ("interrupted", False, 1)
    assert there["labels"] == {"team": "search"}


async def test_all_batches_of_a_store_are_told(desk: Desk) -> None:
    desk.write("in.jsonl", "one")
    for name in ("a.jsonl", "b.jsonl"):
        await desk.run("run", "in.jsonl", "-o", name, "--store", "all", *desk.target)

    found = json.loads((await desk.run("status", "--store", "all", "--json"))[1])
    which = await desk.run("export", "--store", "all")

    assert [one["output"] for one in found] == ["a.jsonl", "b.jsonl"]
    assert "more than one batch" in which[2]


async def test_where_there_is_no_batch_status_says_so(desk: Desk) -> None:
    status, out, err = await desk.run("status")

    assert (status, out) == (0, "")
    assert "no batch here" in err


async def test_a_runner_that_is_asked_to_cancel_writes_what_it_has_and_ends(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "hang", "three")
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "1", "--drain", "0.1")
    await desk.server.received(2)

    asked = await desk.run("cancel", "out.jsonl")
    status, _, err = await desk.end(child)

    assert (asked[0], f"process {child.pid} was asked to stop" in asked[1]) == (0, True)
    assert status == 1
    assert "cancelled: 1 of 3 rows answered" in err
    assert [row["error"] and row["error"]["code"] for row in desk.read()] == [None, "cancelled", "cancelled"]
    assert (await desk.status())["status"] == "cancelled"


async def test_a_batch_at_which_nobody_works_is_marked_as_cancelled_and_can_be_gone_on_with(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "hang")
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "1")
    await desk.server.received(2)
    child.kill()
    await desk.end(child)

    cancelled = await desk.run("cancel", "out.jsonl")
    there = await desk.status()
    desk.server._scripts = lambda request: reply_to_all(request)
    again = await desk.batch()
    done = await desk.run("cancel", "out.jsonl")

    assert (cancelled[0], there["status"]) == (0, "cancelled")
    assert (again[0], desk.texts()) == (0, ["ONE", "HANG"])
    assert "nothing to cancel" in done[1]


async def test_what_there_is_can_be_exported_while_a_runner_is_at_work(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "slow hang", "three")
    child = desk.start("run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "1")
    await desk.server.received(2)

    elsewhere = await desk.run("export", "out.jsonl", "-o", "now.jsonl", "--json")
    occupied = await desk.run("export", "out.jsonl", "-o", "now.jsonl")
    printed = await desk.run("export", "out.jsonl", "-o", "-", "-q")
    own = await desk.run("export", "out.jsonl")
    codes = [row["error"] and row["error"]["code"] for row in desk.read()]
    desk.server._scripts = lambda request: reply_to_all(request)
    child.kill()
    await desk.end(child)
    finished = await desk.batch()

    assert (elsewhere[0], json.loads(elsewhere[1])["done"]) == (0, 1)
    assert (occupied[0], occupied[2].count("\n")) == (2, 1)
    assert [json.loads(line)["text"] for line in printed[1].splitlines()] == ["ONE", None, None]
    assert own[2].startswith("asyncllm: written: 1 of 3 rows answered, 2 not asked")
    assert codes == [None, "pending", "pending"]
    assert finished[0] == 0
    assert None not in desk.texts()


async def test_an_export_can_be_in_another_format(desk: Desk) -> None:
    desk.write("in.jsonl", "one", "bad")
    await desk.batch()

    refused = await desk.run("export", "out.jsonl", "-o", "-", "--output-format", "openai")
    status, out, err = await desk.run(
        "export", "out.jsonl", "-o", "-", "--output-format", "openai", "--errors", "e.jsonl", "-q"
    )

    assert (refused[0], "say where" in refused[2]) == (2, True)
    assert status == 0, err
    assert json.loads(out)["response"]["body"]["choices"][0]["message"]["content"] == "ONE"
    assert desk.read("e.jsonl")[0]["response"]["status_code"] == 400


async def test_the_requests_of_a_program_are_exported_but_not_run_again_from_here(desk: Desk) -> None:
    script = """
import asyncio, asyncllm
async def main():
    async with asyncllm.Client(model="echo:x") as client:
        await client.run_batch(["one", "two"], "out.jsonl", output_format="openai")
asyncio.run(main())
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], cwd=desk.folder, env=desk.env, check=True)

    exported = await desk.run("export", "out.jsonl", "-o", "other.jsonl")
    retried = await desk.run("retry-failed", "out.jsonl")

    assert (exported[0], len(desk.read("other.jsonl"))) == (0, 2)
    assert (retried[0], "came from a program" in retried[2]) == (2, True)


def test_the_doctor_says_what_batches_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing_of", lambda distribution, extra: ["apsw>=3.51.3"])

    found = doctor._batches()

    assert (found.state, found.detail) == ("missing", "apsw>=3.51.3 is not installed")
    assert found.fix is not None
    assert found.fix.endswith("-m pip install 'apsw>=3.51.3'")


# -- on a terminal -----------------------------------------------------------------------------------------------


def screen(args: Sequence[str], desk: Desk) -> Generator[str]:
    """What a terminal shows, piece by piece; the status at last."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=desk.env | {"TERM": "xterm", "COLUMNS": "120"},
        cwd=desk.folder,
    )
    os.close(slave)
    try:
        while select.select([master], [], [], 30)[0]:
            try:
                yield os.read(master, 4096).decode("utf-8", "replace")
            except OSError:
                break
        yield f"status {child.wait(10)}"
    finally:
        child.kill()
        child.wait()
        os.close(master)


async def test_a_terminal_shows_a_bar_which_is_gone_at_the_end(desk: Desk) -> None:
    desk.write("in.jsonl", *(f"slow {number}" for number in range(4)), "bad")

    shown = "".join(
        await asyncio.to_thread(
            lambda: list(screen(["run", "in.jsonl", "-o", "out.jsonl", *desk.target, "-c", "2"], desk))
        )
    )

    assert "━" in shown
    assert "of 5 rows, 1 failed (BadRequestError 1)" in shown
    assert "completed with errors: 4 of 5 rows answered" in shown
    assert shown.endswith("status 1")


async def test_without_rich_there_are_lines(desk: Desk) -> None:
    desk.write("in.jsonl", "one")
    (desk.folder / "rich.py").write_text("raise ImportError('none here')")
    desk.env["PYTHONPATH"] = f"{desk.folder}:{desk.env['PYTHONPATH']}"

    shown = "".join(
        await asyncio.to_thread(lambda: list(screen(["run", "in.jsonl", "-o", "out.jsonl", *desk.target], desk)))
    )

    assert "asyncllm: 0 of 1 rows" in shown
    assert "━" not in shown


# -- done when ---------------------------------------------------------------------------------------------------

QUESTIONS = [
    "What is the capital of France?",
    "What is the capital of Italy?",
    "What is the capital of Spain?",
    "What is the capital of Japan?",
    "What is the capital of Egypt?",
    "What is the capital of Peru?",
    "What is the capital of Norway?",
    "What is the capital of Greece?",
    "What is the capital of Kenya?",
    "What is the capital of Cuba?",
    "What is the capital of Austria?",
    "What is the capital of Ireland?",
]
LOCAL = ("-m", "llamacpp:smollm2", "--max-tokens", "16", "--temperature", "0", "-c", "2")


async def test_a_batch_over_the_local_model_that_is_killed_ends_with_exactly_the_right_rows(desk: Desk) -> None:
    desk.write("questions.jsonl", *({"prompt": question} for question in QUESTIONS))
    run = ("run", "questions.jsonl", "-o", "answers.jsonl", *LOCAL)
    child = desk.start(*run)
    store = desk.folder / "answers.jsonl.batch"
    done = await done_rows(store, 3)

    child.send_signal(signal.SIGKILL)
    killed = await desk.end(child)
    (between,) = json.loads((await desk.run("status", "answers.jsonl", "--json"))[1])
    await desk.run("export", "answers.jsonl", "-o", "before.jsonl", "-q")
    resumed = await desk.run(*run)

    assert killed[0] == -signal.SIGKILL
    assert 3 <= done <= between["done"] < len(QUESTIONS)
    assert between["status"] == "interrupted"
    assert resumed[0] == 0, resumed[2]
    rows = desk.read("answers.jsonl")
    assert [row["prompt"] for row in rows] == QUESTIONS
    assert [row["error"] for row in rows] == [None] * len(QUESTIONS)
    assert all(row["text"] for row in rows)
    before = {row["prompt"]: row["text"] for row in desk.read("before.jsonl") if row["error"] is None}
    assert len(before) == between["done"]
    assert before.items() <= {row["prompt"]: row["text"] for row in rows}.items()
    (there,) = json.loads((await desk.run("status", "answers.jsonl", "--json"))[1])
    # What was under way at the kill was asked again, and nothing else was.
    assert len(QUESTIONS) <= there["attempts"] <= len(QUESTIONS) + 2


async def done_rows(store: Path, count: int) -> int:
    """Wait until as many rows have an outcome in the store."""
    async with asyncio.timeout(60):
        while True:
            done = await asyncio.to_thread(counted, store)
            if done >= count:
                return done


def counted(store: Path) -> int:
    if not (store / "store.db").exists():
        return 0

    async def count() -> int:
        async with BatchStore(store, create=False) as batches:
            records = await batches.batches()
        return sum(kept for record in records for status, kept in record.counts.items() if status.is_final)

    return asyncio.run(count())


async def test_rows_may_be_asked_by_processes_of_their_own(desk: Desk) -> None:
    desk.write("in.jsonl", *(f"row {number}" for number in range(8)))

    status, _, err = await desk.batch("--data-parallelism", "2")

    assert (status, desk.texts()) == (0, [f"ROW {number}" for number in range(8)]), err
