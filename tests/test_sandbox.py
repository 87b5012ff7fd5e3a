"""The sandbox holds: every way out is tried, as whoever runs the tests and as a user without rights.

A machine on which the sandbox cannot be made fails these tests: on such a one, no code may be run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asyncllm.errors import ConfigError, InvalidRequestError, SandboxError
from asyncllm.sandbox import Ran, Sandbox, SandboxLimits, bwrap, open_sandbox
from asyncllm.sandbox.cgroups import Cgroups
from asyncllm.sandbox.interpreter import find_interpreter
from asyncllm.sandbox.kept import KeptSandbox, make_plan
from asyncllm.sandbox.selftest import require_sound
from escapes import ESCAPES, PLAIN, outside, snippet

ROOT = Path(__file__).parent.parent
ENDLESS = "while True: pass"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = Path("/var/tmp") / f"asyncllm-{os.getpid()}-{tmp_path_factory.mktemp('outside').name}"
    folder.mkdir(mode=0o755)  # pytest's own folders are closed to other users
    try:
        with outside(folder) as facts:
            yield facts
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return asyncio.run(open_sandbox())


def timeout_s(name: str) -> float:
    return 0.5 if ESCAPES[name].ends == "timeout" else 20


# -- ways out ----------------------------------------------------------------------------------------------------


def require_held(name: str, status: str, stdout: str, stderr: str = "") -> None:
    assert (status, "ESCAPED" in stdout) == (ESCAPES[name].ends, False), (status, stdout[:500], stderr)
    assert stdout.startswith("held")


@pytest.mark.parametrize("name", ESCAPES)
async def test_no_way_out_for_code_that(name: str, sandbox: Sandbox, facts: dict[str, Any]) -> None:
    os.environ["CANARY"] = "key"
    try:
        ran = await sandbox.run(snippet(name, facts), timeout_s=timeout_s(name))
    finally:
        del os.environ["CANARY"]

    require_held(name, ran.status, ran.stdout, ran.stderr)
    assert len(ran.stdout) <= SandboxLimits().stdout_bytes


@pytest.fixture(scope="module")
def as_nobody(facts: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What becomes of every escape where a user without rights runs the sandbox."""
    tried = {name: (snippet(name, facts), timeout_s(name)) for name in ESCAPES}
    found = run_apart(tried, as_nobody=True)
    assert "error" not in found, found
    return found


@pytest.mark.parametrize("name", ESCAPES)
def test_run_by_an_ordinary_user_no_way_out_for_code_that(name: str, as_nobody: dict[str, dict[str, str]]) -> None:
    require_held(name, **as_nobody[name])


@pytest.mark.parametrize("name", PLAIN)
def test_without_a_sandbox_there_is_a_way_out_for_code_that(name: str, tmp_path: Path) -> None:
    with outside(tmp_path) as facts, socket.socket() as left_open:
        done = subprocess.run(
            [sys.executable, "-c", snippet(name, {**facts, "inside": False})],
            env={"CANARY": "key"},
            pass_fds=[left_open.fileno()],
            capture_output=True,
            text=True,
            timeout=30,
        )

    assert done.stdout.startswith("ESCAPED"), (done.stdout, done.stderr)


def test_nobody_has_connected_from_within(
    sandbox: Sandbox, facts: dict[str, Any], as_nobody: dict[str, dict[str, str]]
) -> None:
    for name in ("connects to a server on this machine", "connects to a socket of the file system"):
        asyncio.run(sandbox.run(snippet(name, facts)))

    server = socket.socket(fileno=os.dup(facts["server"]))
    with contextlib.closing(server), pytest.raises(BlockingIOError):
        server.setblocking(False)
        server.accept()


def run_apart(
    snippets: Mapping[str, tuple[str, float]],
    *,
    kind: str = "namespaces",
    as_nobody: bool = False,
    before: tuple[str, ...] = (),
    path: str | None = None,
) -> dict[str, Any]:
    """`sandbox_run.py` in a process of its own, with a Python that this user, or nobody, may start."""
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = [*before, *(become if as_nobody and os.geteuid() == 0 else ())]
    python = sys.executable
    reaches_itself = "import os, sys; os.stat(os.path.realpath(sys.executable))"
    if subprocess.run([*command, python, "-c", reaches_itself], capture_output=True).returncode != 0:
        python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    environment = {
        "PATH": path or os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), *libraries]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*command, python, str(ROOT / "tests" / "sandbox_run.py"), kind],
        input=json.dumps(snippets),
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- what a snippet gets and gives -------------------------------------------------------------------------------


async def test_a_snippet_prints(sandbox: Sandbox) -> None:
    ran = await sandbox.run("print('größer', 6 * 7)")

    assert (ran.status, ran.stdout, ran.stderr, ran.exit_code, ran.exception) == ("ok", "größer 42\n", "", 0, None)
    assert not ran.truncated
    assert ran.elapsed_s > 0


async def test_a_snippet_is_a_program_of_its_own(sandbox: Sandbox) -> None:
    code = """
import sys, dataclasses
@dataclasses.dataclass
class Point:
    x: 'int'
print(__name__, Point(1), sys.stdin.read() == '', sorted(name for name in globals() if name[0] != '_'))
"""

    ran = await sandbox.run(code)

    assert ran.stdout == "__main__ Point(x=1) True ['Point', 'dataclasses', 'sys']\n"


async def test_the_standard_library_works(sandbox: Sandbox) -> None:
    code = """
import asyncio, collections, decimal, fractions, hashlib, json, math, random, re, sqlite3, ssl, statistics, threading
async def double(x):
    await asyncio.sleep(0)
    return 2 * x
found = []
thread = threading.Thread(target=lambda: found.append(asyncio.run(double(21))))
thread.start(); thread.join()
with open('/tmp/file', 'w') as file:
    file.write('x')
print(found, sqlite3.connect(':memory:').execute('select 1').fetchone(), hashlib.sha256(b'').hexdigest()[:4])
"""

    ran = await sandbox.run(code)

    assert (ran.stdout, ran.stderr) == ("[42] (1,) e3b0\n", "")


async def test_an_exception_has_its_name_and_the_traceback_of_the_snippet_alone(sandbox: Sandbox) -> None:
    ran = await sandbox.run("def f():\n    return 1 / 0\nf()\n")

    assert (ran.status, ran.exit_code, ran.exception) == ("error", 1, "ZeroDivisionError")
    assert ran.stderr == (
        "Traceback (most recent call last):\n"
        '  File "<string>", line 3, in <module>\n'
        '  File "<string>", line 2, in f\n'
        "ZeroDivisionError: division by zero\n"
    )


@pytest.mark.parametrize(
    ("code", "exception"),
    [("1 +", "SyntaxError"), ("import numpy_of_nobody", "ModuleNotFoundError"), ("raise KeyError", "KeyError"),
     ("x = undefined", "NameError"), ("\0", "SyntaxError"), ("assert False, 'a\\nb'", None)],
)  # fmt: skip
async def test_a_failure_is_told_by_name(code: str, exception: str | None, sandbox: Sandbox) -> None:
    ran = await sandbox.run(code)

    assert (ran.status, ran.exception if exception else None) == ("error", exception)


async def test_a_snippet_may_end_with_a_status(sandbox: Sandbox) -> None:
    ran = await sandbox.run("raise SystemExit(7)")

    assert (ran.status, ran.exit_code, ran.exception) == ("error", 7, None)


async def test_a_crash_is_a_kill(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import ctypes; ctypes.string_at(0)")

    assert (ran.status, ran.exit_code) == ("killed", None)


async def test_of_much_output_the_beginning_is_kept_and_of_errors_the_end(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import sys; print('a' * 70_000 + 'b'); sys.stderr.write('c' * 9_000 + 'end')")

    assert ran.stdout == "a" * 65536
    assert ran.stderr == "c" * 4093 + "end"
    assert ran.truncated
    assert ran.status == "ok"


async def test_output_that_is_no_text_is_replaced(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')")

    assert ran.stdout == "\ufffd\ufffd"


async def test_what_was_printed_before_the_time_was_up_is_kept(sandbox: Sandbox) -> None:
    ran = await sandbox.run(f"print('so far', flush=True)\n{ENDLESS}", timeout_s=0.4)

    assert (ran.status, ran.stdout, ran.exit_code) == ("timeout", "so far\n", None)


async def test_processor_time_has_a_bound_of_its_own() -> None:
    sandbox = await open_sandbox(limits=SandboxLimits(cpu_s=1))

    ran = await sandbox.run(ENDLESS, timeout_s=30)

    assert ran.status == "killed"


async def test_snippets_share_nothing(sandbox: Sandbox) -> None:
    await sandbox.run("open('/tmp/left', 'w').write('x')")

    ran = await sandbox.run("import os; print(os.listdir('/tmp'))")

    assert ran.stdout == "[]\n"


async def test_no_more_snippets_run_at_once_than_allowed() -> None:
    sandbox = await open_sandbox(concurrency=1)
    code = "import time; a = time.monotonic(); time.sleep(0.1); print(a, time.monotonic())"

    runs = await asyncio.gather(*(sandbox.run(code) for _ in range(3)))

    spans = sorted(tuple(map(float, ran.stdout.split())) for ran in runs)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("def double(x): return 2 * x")
    tmp_path.chmod(0o755)
    return tmp_path


async def test_packages_of_a_folder_can_be_imported_and_not_be_changed(packages: Path) -> None:
    sandbox = await open_sandbox(packages=packages)

    ran = await sandbox.run("import helper; print(helper.double(21)); open(helper.__file__, 'a')")

    assert ran.stdout == "42\n"
    assert ran.exception in {"OSError", "PermissionError"}  # a read-only mount, or a file of another's


def test_packages_that_the_code_could_not_read_are_refused(packages: Path) -> None:
    packages.chmod(0)

    with pytest.raises(ConfigError, match="cannot be read by the user") as caught:
        asyncio.run(open_sandbox(packages=packages))

    assert caught.value.field == "packages"


async def test_text_of_a_snippet_stays_out_of_reprs(sandbox: Sandbox) -> None:
    ran = await sandbox.run("print('secret'); raise KeyError('secret')")

    assert "secret" in ran.stdout
    assert "secret" not in repr(ran)


async def test_code_is_no_argument_of_a_process(sandbox: Sandbox) -> None:
    running = asyncio.create_task(sandbox.run(f"secret = 1\n{ENDLESS}", timeout_s=20))
    processes = await started(running)

    seen = [command_line(pid) for pid in processes]
    running.cancel()

    assert len(seen) == 2
    assert not any(b"secret" in line for line in seen)
    with pytest.raises(asyncio.CancelledError):
        await running


# -- nothing is left behind --------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_there(pid: int) -> bool:
    """Whether `pid` runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def started(running: asyncio.Task[Ran], parent: int | None = None) -> list[int]:
    """The keeper and its snippet, once that is Python with its files closed behind it."""
    for _ in range(2000):
        assert not running.done(), running.result()
        for keeper in children(parent or os.getpid()):
            for child in children(keeper):
                if b"-X\0utf8" in command_line(child):
                    return [keeper, child]
        await asyncio.sleep(0.01)
    raise AssertionError("no snippet has started")


async def gone(pids: list[int]) -> bool:
    """Whether all of `pids` end within some seconds."""
    for _ in range(1000):
        if not any(map(is_there, pids)):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_cancelling_ends_the_snippet(sandbox: Sandbox) -> None:
    running = asyncio.create_task(sandbox.run(ENDLESS))
    processes = await started(running)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not any(map(is_there, processes))


async def test_a_snippet_whose_time_is_up_is_gone(sandbox: Sandbox) -> None:
    running = asyncio.create_task(sandbox.run(ENDLESS, timeout_s=1))
    processes = await started(running)

    assert (await running).status == "timeout"
    assert not any(map(is_there, processes))


@pytest.mark.parametrize("victim", ["parent", "keeper"])
async def test_a_snippet_dies_with_its(victim: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "tests" / "sandbox_run.py"), "namespaces"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stderr is not None
    parent.stdin.write(json.dumps({"endless": (ENDLESS, 60)}).encode())
    parent.stdin.close()
    assert b"running" in await parent.stderr.readline()
    waiting: asyncio.Task[Any] = asyncio.create_task(asyncio.Event().wait())
    keeper, child = await started(waiting, parent.pid)
    waiting.cancel()

    os.kill(parent.pid if victim == "parent" else keeper, signal.SIGKILL)

    try:
        assert await gone([keeper, child])
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
        await parent.wait()
        await parent.stderr.read()


# -- no fallback -------------------------------------------------------------------------------------------------


def test_a_machine_without_user_namespaces_has_no_sandbox() -> None:
    take_away = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'

    found = run_apart({}, before=("unshare", "--user", "--map-root-user", "sh", "-c", take_away, "sh"))

    assert found["code"] == "sandbox_unavailable"
    assert "user namespace: No space left on device" in found["error"]
    assert "code is never run without one" in found["error"]


async def test_a_hole_in_the_list_of_system_calls_is_found() -> None:
    allow_all = bytes.fromhex("06000000 0000ff7f")
    limits = SandboxLimits()
    plan = {**make_plan("namespaces", limits, None, None), "seccomp": allow_all}

    with pytest.raises(ConfigError, match="holds back what has to be: network, other processes, seccomp") as caught:
        await require_sound(KeptSandbox(plan, limits, 1), "namespaces", limits)

    assert caught.value.code == "sandbox_unavailable"


async def test_files_that_can_be_seen_are_found() -> None:
    limits = SandboxLimits()
    plan = make_plan("namespaces", limits, None, None)
    plan["binds"].append(("/etc/passwd", "/etc/passwd"))

    with pytest.raises(ConfigError, match="files outside"):
        await require_sound(KeptSandbox(plan, limits, 1), "namespaces", limits)


async def test_a_layer_that_fails_later_is_an_error_and_nothing_runs() -> None:
    plan = {**make_plan("namespaces", SandboxLimits(), None, None), "seccomp": b"\0" * 8}

    with pytest.raises(SandboxError, match="seccomp: Invalid argument") as caught:
        await KeptSandbox(plan, SandboxLimits(), 1).run("print(1)")

    assert (caught.value.code, caught.value.retryable) == ("sandbox_refused", True)


def test_a_bubblewrap_that_puts_up_nothing_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    fake.chmod(0o755)

    found = run_apart({}, kind="bwrap", path=f"{tmp_path}:/usr/bin:/bin", as_nobody=True)

    assert found["code"] == "sandbox_unavailable"


async def test_without_bubblewrap_there_is_no_sandbox_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="no bubblewrap on this machine") as caught:
        await open_sandbox("bwrap")

    assert (caught.value.field, caught.value.code) == ("kind", "sandbox_unavailable")


def test_bubblewrap_is_asked_for_the_same_walls() -> None:
    python = find_interpreter(None)
    binds = [(path, path) for path in python.paths]

    command = bwrap.command("/usr/bin/bwrap", python, binds, ["/dev/null"], SandboxLimits())

    options = command[: command.index("--")]
    assert {"--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"} <= set(options)
    for pair in (("--cap-drop", "ALL"), ("--uid", "65534"), ("--size", "16777216"), ("--remount-ro", "/"),
                 ("--seccomp", str(bwrap.SECCOMP_AT)), ("--ro-bind", python.program)):  # fmt: skip
        assert pair in pairwise(options), pair
    assert not {"--bind", "--dev", "--proc", "--share-net"} & set(options)
    assert command[command.index("--") + 1 :][:3] == [python.program, "-I", "-S"]


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [({"kind": "docker"}, "kind"), ({"concurrency": 0}, "concurrency"), ({"concurrency": True}, "concurrency"),
     ({"packages": "/nowhere"}, "packages"), ({"python": "/nowhere"}, "python"), ({"python": "/bin/true"}, "python")],
)  # fmt: skip
async def test_an_option_that_cannot_be_right_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await open_sandbox(**options)

    assert caught.value.field == field


@pytest.mark.parametrize("name", SandboxLimits.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1"])
def test_a_limit_that_cannot_be_right_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SandboxLimits(**{name: value})

    assert caught.value.field == name


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "1", None])
async def test_a_timeout_that_cannot_be_right_is_named(seconds: Any, sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await sandbox.run("print(1)", timeout_s=seconds)

    assert caught.value.field == "timeout_s"


@pytest.mark.parametrize("code", ["#" * ((1 << 20) + 1), "'\ud800'"])
async def test_code_that_cannot_be_run_is_named(code: str, sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await sandbox.run(code)

    assert caught.value.field == "code"


async def test_code_at_its_limit_is_run(sandbox: Sandbox) -> None:
    ran = await sandbox.run("print(1)#".ljust(1 << 20, "#"))

    assert ran.stdout == "1\n"


# -- control groups ----------------------------------------------------------------------------------------------


@pytest.fixture
def version_2(tmp_path: Path) -> tuple[Path, Path]:
    """A tree of control groups as systemd has it: what hands its controllers down is above what holds processes."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    for folder, handed_down in (("", "cpu memory pids"), ("a.slice", "memory pids"), ("a.slice/b.service", "")):
        (root / folder).mkdir(parents=True)
        (root / folder / "cgroup.subtree_control").write_text(handed_down)
        (root / folder / "cgroup.procs").touch()
    (root / "cgroup.controllers").write_text("cpu memory pids")
    own.write_text("0::/a.slice/b.service\n")
    return root, own


def test_a_group_is_made_where_controllers_are_handed_down(version_2: tuple[Path, Path]) -> None:
    root, own = version_2
    with Cgroups(root, own).group(SandboxLimits()) as joins:
        (join,) = joins

        assert Path(join).parent.parent == root / "a.slice"
        assert Path(join).parent.is_dir()

    assert not Path(join).parent.exists()


def test_groups_of_version_1_are_made_for_each_controller(tmp_path: Path) -> None:
    for name in ("memory", "pids"):
        (tmp_path / name / "mine").mkdir(parents=True)
        (tmp_path / name / "mine" / "cgroup.procs").touch()
    own = tmp_path / "own"
    own.write_text("9:pids:/mine\n8:cpu,cpuacct:/\n4:memory:/mine\n0::/\n")

    with Cgroups(tmp_path, own).group(SandboxLimits()) as joins:
        assert [Path(join).parent.parent for join in joins] == [tmp_path / "memory/mine", tmp_path / "pids/mine"]


def test_groups_that_a_killed_process_has_left_are_swept_up(version_2: tuple[Path, Path]) -> None:
    root, own = version_2
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, mine = (root / "a.slice" / f"asyncllm-{pid}-1" for pid in (ended.pid, os.getpid()))
    left.mkdir()
    mine.mkdir()

    Cgroups(root, own)

    assert (left.exists(), mine.exists()) == (False, True)


@pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/mine\n", "0::/../..\n", "broken\n"])
def test_without_control_groups_there_is_none_to_join(text: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text(text)

    cgroups = Cgroups(tmp_path / "cgroup", own)

    assert not cgroups
    with cgroups.group(SandboxLimits()) as joins:
        assert joins == []
