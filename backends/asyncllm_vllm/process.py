"""The engine's process: how it is begun, and that it never outlives the one that it belongs to.

vLLM runs its engine in a child. Four things about that child are settled here. It is forked where that is safe, since a
fresh interpreter takes 15 seconds more to import what is there already. The system ends it when this process ends, in
whatever way: without that, an engine whose parent was killed goes on for minutes. It is a process group of its own, so
that Ctrl-C reaches this process alone, which then ends it in good order. And what it writes comes to this process:
while it starts, to be searched for the reason of a failure, and from then on to be passed on to stderr.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from asyncllm_vllm.machine import is_for_processors

__all__ = ["Voice", "begetting", "can_fork", "environment", "guard"]

_PARENT = "ASYNCLLM_ENGINE_PARENT"
_EAGER = "TORCH_COMPILE_DISABLE"
_PR_SET_PDEATHSIG = 1

_KEPT_LINES = 500
_ERROR = re.compile(r"\b(\w*(?:Error|Exception): .*?)\s*$")

_lock = threading.Lock()
_thread = threading.local()


def can_fork(torch: Any) -> bool:
    """Whether an engine may be forked off this process, once vLLM has imported `torch`.

    Where torch was imported before, with threads of OpenMP, the child would wait for them for ever.
    """
    return sys.platform == "linux" and bool(torch.get_num_threads() == 1)


@contextmanager
def environment(local: bool) -> Generator[None]:
    """The environment in which vLLM is imported and an engine starts; what the caller has set stays as it is.

    One start at a time. `local` says that the model is a folder, so that nothing need be asked of a hub.
    """
    wanted = {
        _PARENT: str(os.getpid()),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_LOGS": "-all",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if local:
        wanted["HF_HUB_OFFLINE"] = "1"
    if is_for_processors():
        # One thread in this process, so that it can be forked; without the variable the single process that is asked
        # for beside the engine is not granted, and threads of two schedulers get in each other's way.
        wanted |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        # What is compiled ahead of time cannot be read back there, so that every start would compile once more.
        wanted["VLLM_USE_AOT_COMPILE"] = "0"
    with _lock:
        before = dict(os.environ)
        for name, value in wanted.items():
            os.environ.setdefault(name, value)
        os.environ[_PARENT] = wanted[_PARENT]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # vLLM's and torch's words to each other
                yield
        finally:
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update(before)


class Voice:
    """What an engine's processes write, line by line."""

    def __init__(self) -> None:
        self.is_heard = False
        """Whether it goes to stderr at once; before that it is only kept."""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._end, self.end = os.pipe()
        threading.Thread(target=self._listen, name="asyncllm-vllm-voice", daemon=True).start()

    @property
    def reason(self) -> str | None:
        """The last error that was written, without the lines that lead to it."""
        for line in reversed(self._lines):
            found = _ERROR.search(line)
            if found is not None:
                return found[1]
        return None

    def release(self) -> None:
        """Leave the writing to the children: it ends with the last of them, or now if there are none."""
        os.close(self.end)

    def _listen(self) -> None:
        with os.fdopen(self._end, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                self._lines.append(line)
                if self.is_heard:
                    sys.stderr.write(line)


@contextmanager
def begetting(voice: Voice, *, fork: bool, eager: bool) -> Generator[None]:
    """Children of this thread are engines while the block lasts; within `environment`.

    `eager` keeps torch from compiling, which a first call that asks for log probabilities would else wait for 20 s.
    """
    _thread.voice = voice
    if fork:
        # vLLM insists on a fresh interpreter for processors, for the reason that `can_fork` has ruled out.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    else:
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # a fresh interpreter warns of what this one has heard
    if eager:
        os.environ.setdefault(_EAGER, "1")
    try:
        yield
    finally:
        _thread.voice = None


def guard() -> None:
    """Called by vLLM in each process of an engine, as its plugin: see the top of this module."""
    parent = os.environ.get(_PARENT)
    if parent is not None and parent != str(os.getpid()):
        _end_with_parent()


def _end_with_parent() -> None:
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before it could be asked to be told
        os._exit(1)
    os.setpgid(0, 0)


def _after_fork() -> None:
    voice = getattr(_thread, "voice", None)
    if voice is not None:
        _thread.voice = None
        _end_with_parent()
        for standard in (1, 2):
            os.dup2(voice.end, standard)
        dynamo = sys.modules.get("torch._dynamo.config")
        if dynamo is not None and os.environ.get(_EAGER) == "1":
            setattr(dynamo, "disable", True)  # noqa: B010  # it has read the variable already


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)
