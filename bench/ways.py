"""The processes of the vLLM benchmark, as their parent holds them: engines, clients, and vLLM's own server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from bench.engines import Load, Role, Sample
from bench.naked import ON_CPU, QUIET
from bench.processes import ROOT

_START_S = 600
_END_S = 15
_LOOK_S = 0.1

# Told by the system that its parent is gone, vLLM's server ends as it does on any other day.
_SERVE = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'vllm.entrypoints.openai.api_server', *sys.argv[1:]])"
)


class Engine:
    """A process of `bench.engines`, told what to do line by line."""

    def __init__(self, role: Role, process: subprocess.Popen[str]) -> None:
        self.role = role
        self.pid = process.pid
        self._process = process
        self._write(role)

    def run(self, load: Load) -> Sample:
        """Put `load` on it and wait for what became of it."""
        self._write(load)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.role.kind} ended without a figure; its error stands above")
        return msgspec.json.decode(line, type=Sample)

    def _write(self, what: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(what).decode() + "\n")
        self._process.stdin.flush()


@contextmanager
def open_way(role: Role) -> Generator[Engine]:
    """Start a process of `bench.engines`; it ends with the block, and with this process."""
    with child([sys.executable, "-m", "bench.engines"]) as process:
        yield Engine(role, process)


@contextmanager
def child(command: Sequence[str], extra: Mapping[str, str] | None = None) -> Generator[subprocess.Popen[str]]:
    """A process that ends when its standard input does, lent for the length of the block."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=surroundings() | dict(extra or {}),
    )
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def surroundings() -> dict[str, str]:
    """The environment of a child, which writes bytecode as it does where it is installed, and asks no proxy."""
    path = os.pathsep.join(path for path in (str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH")) if path)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith(("_proxy", "_api_key", "_base_url")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    # vLLM's and torch's words to each other, which would stand between the figures.
    return kept | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """VLLM's own server for OpenAI's API."""

    pid: int
    url: str
    model: str


@contextmanager
def open_server(model: str, options: Mapping[str, Any], *, on_cpu: bool) -> Generator[Server]:
    """Start vLLM's server with its quickest settings, and wait until it is well."""
    port = _free_port()
    command = [sys.executable, "-c", _SERVE, "--model", model, "--served-model-name", "served", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--disable-log-stats", "--disable-uvicorn-access-log", "--uvicorn-log-level=error"]
    given = {"distributed_executor_backend": "uni", **options} if on_cpu else options
    command += [argument for name, value in given.items() for argument in _arguments(name, value)]
    extra = (QUIET | ON_CPU) if on_cpu else QUIET
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, cwd=ROOT, env=surroundings() | extra, start_new_session=True
    )
    with process:
        try:
            _wait_until_well(process, f"http://127.0.0.1:{port}/health")
            yield Server(pid=process.pid, url=f"http://127.0.0.1:{port}/v1", model="served")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _arguments(name: str, value: Any) -> list[str]:
    """An engine argument as the command line has it."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [f"--{dashed}", value if isinstance(value, str) else json.dumps(value)]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_until_well(process: subprocess.Popen[bytes], url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    due = time.monotonic() + _START_S
    while time.monotonic() < due:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM's server ended with status {process.returncode}; its error stands above")
        try:
            with opener.open(url, timeout=_LOOK_S):
                return
        except OSError:
            time.sleep(_LOOK_S)
    raise RuntimeError(f"vLLM's server was not well within {_START_S} s")
