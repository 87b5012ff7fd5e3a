"""Starts what a benchmark needs: the mock server, and one fresh child process for every figure.

A fresh process per figure keeps one library's imports, caches and heap out of another's numbers. Children read and
write bytecode in a temporary folder, so they start as an installed wheel would even where bytecode is switched off.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.lockstep import COUNTER_VARIABLE, create_counter
from bench.peers import Library
from bench.workloads import Sample, Workload

ROOT = Path(__file__).resolve().parent.parent
"""Where `python -m bench` is run from; its children run there too."""

_CHILD_LIMIT_S = 300


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One figure to take: a load, on a library, against a server."""

    library: Library
    load: Workload
    base_url: str
    core: int | None
    """The core to stay on, or None where there is only one."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a child hands back: a sample, or the one line that says why there is none."""

    sample: Sample | None = None
    error: str = ""


class Lab(msgspec.Struct, frozen=True, kw_only=True):
    """A running server and the surroundings for children."""

    url: str
    client_core: int | None
    environment: dict[str, str]

    def measure(self, library: Library, load: Workload) -> Outcome:
        """Put `load` on `library` in a process of its own."""
        job = Job(library=library, load=load, base_url=self.url + load.path, core=self.client_core)
        return self.run("bench.child", job)

    def run(self, module: str, job: msgspec.Struct) -> Outcome:
        """Have `module` do `job` in a process of its own."""
        command = [sys.executable, "-m", module, msgspec.json.encode(job).decode()]
        try:
            done = subprocess.run(
                command, capture_output=True, cwd=ROOT, env=self.environment, timeout=_CHILD_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(error=f"gave no figure within {_CHILD_LIMIT_S} s")
        if done.stderr:
            sys.stderr.write(without_paths(done.stderr.decode(errors="replace")))
        try:
            return msgspec.json.decode(done.stdout, type=Outcome)
        except msgspec.DecodeError:
            return Outcome(error=f"ended with status {done.returncode} and no figure")


@contextmanager
def open_lab() -> Generator[Lab]:
    """Start the mock server on one core and lend it, with surroundings for children on the other."""
    client_core, server_core = _cores()
    with bytecode_cache() as cached, tempfile.TemporaryDirectory(prefix="asyncllm-bench-") as folder:
        environment = cached | {COUNTER_VARIABLE: str(create_counter(Path(folder)))}
        with _mock_server(server_core, environment) as url:
            yield Lab(url=url, client_core=client_core, environment=environment)


def _cores() -> tuple[int | None, int | None]:
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[-1]) if len(cores) > 1 else (None, None)


@contextmanager
def bytecode_cache() -> Generator[dict[str, str]]:
    """An environment whose children cache bytecode in a folder that goes when the block ends.

    Proxies and keys are left out: a figure must not depend on what the shell happens to export.
    """
    with tempfile.TemporaryDirectory(prefix="asyncllm-bench-") as cache:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith(("_proxy", "_api_key", "_base_url")) and name != "PYTHONDONTWRITEBYTECODE"
        }
        yield kept | {"PYTHONPYCACHEPREFIX": cache}


@contextmanager
def _mock_server(core: int | None, environment: dict[str, str]) -> Generator[str]:
    command = [sys.executable, "-m", "bench.server", *([] if core is None else [str(core)])]
    # The server watches its end of the standard input pipe, so it ends even if this process is killed.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise RuntimeError("the mock server did not start; its error stands above")
            yield f"http://127.0.0.1:{int(port)}"
        finally:
            process.kill()


def without_paths(text: str) -> str:
    """`text` with folders of this machine cut from file names, fit to be pasted anywhere."""
    for folder, short in ((f"{ROOT}{os.sep}", ""), (f"{sys.prefix}{os.sep}", ""), (f"{sys.base_prefix}{os.sep}", "")):
        text = text.replace(folder, short)
    return text
