"""One engine a configuration: shared by the clients of this process, counted, and kept by a thread of its own.

The thread starts the engine, waits, and ends it. It has to outlive the start: the system takes the end of the thread
that begot the engine's process for the end of its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import sys
import threading
import time
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

from asyncllm.errors import APIConnectionError, ConfigError, EngineDeadError, InvalidRequestError, WrongLoopError
from asyncllm_vllm.adapter import Core
from asyncllm_vllm.failures import not_started
from asyncllm_vllm.options import Options
from asyncllm_vllm.process import Voice, environment

__all__ = ["Engine", "borrow", "give_back"]


class Engine:
    """The engine of one model. Made and ended through `borrow` and `give_back`.

    It serves one event loop at a time: another one once the former is closed.
    """

    def __init__(self, model: str, options: Options) -> None:
        self.model = model
        self.options = options
        self.users = 0
        self.core: Core
        """Set once it is `ready`."""
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._enters = False  # whether the core has yet to go to work on `_loop`
        self._loras: dict[str, asyncio.Task[Any]] = {}
        self._numbers = count(1)
        self._started: Future[ConfigError | None] = Future()  # why it could not start, if so
        # A running future cannot be cancelled: a caller that gives up leaves the start to those who still wait.
        self._started.set_running_or_notify_cancel()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"asyncllm-vllm-{os.getpid()}", daemon=True)
        self._keeper.start()

    @property
    def is_started(self) -> bool:
        """Whether there is a `core`."""
        return self._started.done() and self._started.result() is None

    @property
    def is_usable(self) -> bool:
        """Whether it is worth borrowing: starting, or alive and not tied to a loop that is closed."""
        if self._pid != os.getpid() or self._over.is_set():
            return False
        if not self.is_started:
            return not self._started.done()
        if self._loop is not None and self._loop.is_closed():
            return self.core.can_move
        return not (self.core.is_dead and self.options.restart)

    async def ready(self) -> Core:
        """The running engine. Raises `ConfigError` if it cannot start, `EngineDeadError`, `WrongLoopError`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        if not self._started.done():
            await self._wait()
        error = self._started.result()
        if error is not None:
            # A new one for each caller: an error object collects the traceback and the facts of one call.
            raise ConfigError(error.message, field=error.field)
        if self._over.is_set():
            raise self.over()
        if self._enters and self.core.can_move:
            self._enters = False
            self._loras = {folder: loading for folder, loading in self._loras.items() if _is_loaded(loading)}
            await self.core.enter_loop()
        if self.core.is_dead:
            raise self.over()
        return self.core

    def over(self) -> APIConnectionError:
        """The error of a call whose engine has ended."""
        if self._over.is_set():
            return APIConnectionError("the engine was ended, as no client uses it any more", retryable=False)
        hint = "the next call starts a new one" if self.options.restart else "the option restart=True starts a new one"
        return EngineDeadError(
            f"the engine inside this process has died; {hint}", retryable=self.options.restart, maybe_billed=True
        )

    async def lora(self, name: str) -> Any:
        """The adapter that a call names, loaded. Raises `InvalidRequestError`."""
        folder = self.options.lora_modules.get(name, name)
        if not self.options.engine.get("enable_lora"):
            raise InvalidRequestError("extra['lora'] needs the option enable_lora=True", field="lora")
        if not (Path(folder) / "adapter_config.json").is_file():
            known = ", ".join(sorted(self.options.lora_modules)) or "none"
            raise InvalidRequestError(
                f"extra['lora'] is neither one of the option lora_modules ({known}) nor the folder of an adapter",
                field="lora",
            )
        loading = self._loras.get(folder)
        if loading is None:
            adding = self.core.add_lora(name, next(self._numbers), folder)
            loading = self._loras[folder] = asyncio.create_task(adding)
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._loras.pop(folder, None)
            raise InvalidRequestError(
                f"vLLM cannot load the adapter {Path(folder).name!r}: {type(error).__name__}; its rank may be above "
                "max_lora_rank, or it is for another model",
                field="lora",
            ) from error

    def end(self) -> None:
        """Begin to end the engine's processes, which is the keeper's work."""
        loop = self._loop
        if self.is_started and loop is not None and not loop.is_closed():
            if loop is _running_loop():
                self.core.leave_loop()
            else:
                loop.call_soon_threadsafe(self.core.leave_loop)
        self._over.set()

    def join(self, seconds: float) -> None:
        """Wait for the end; blocks."""
        self._keeper.join(seconds)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pid != os.getpid():
            raise WrongLoopError("this engine was started before a fork, by the parent: make a client of your own")
        if self._loop is not None and not self._loop.is_closed():
            raise WrongLoopError(
                "an engine serves one event loop, and another client of this process uses it on another: share the "
                "loop, or give this one options of its own"
            )
        self._enters = True
        self._loop = loop

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self.options.start_s):
                await asyncio.wait([asyncio.wrap_future(self._started)])
        except TimeoutError:
            raise ConfigError(
                f"the engine did not start within start_s={self.options.start_s} seconds", field="start_s"
            ) from None

    def _keep(self) -> None:
        say, voice = _Progress(self.model, self.options), Voice()
        local = Path(self.model).is_dir()
        failure: ConfigError | None = None
        with environment(local=local):
            try:
                if importlib.util.find_spec("vllm") is None:
                    raise ConfigError("vLLM is not installed: pip install 'asyncllm[vllm]'", field="model")
                if not local and self.model.startswith((".", "/", "~")):
                    raise ConfigError(f"there is no folder {self.model}", field="model")
                say("starts the engine")
                self.core = Core.start(self.model, self.options, voice)
            except BaseException as error:
                failure = not_started(self.model, error, voice.reason)
            if failure is not None:
                gc.collect()  # vLLM leaves the sockets of a failed start to the collector, which would warn of them
        voice.release()
        if failure is not None:
            say("could not start the engine")
            self._started.set_result(failure)
            return
        voice.is_heard = True
        say("is ready")
        self._started.set_result(None)
        self._over.wait()
        with contextlib.suppress(Exception):  # whatever ails it, it is to end
            self.core.shutdown(self.options.shutdown_s)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_loaded(loading: asyncio.Task[Any]) -> bool:
    return loading.done() and not loading.cancelled() and loading.exception() is None


class _Progress:
    """Says on stderr how far a start is, where somebody watches."""

    def __init__(self, model: str, options: Options) -> None:
        shows = options.progress
        self._shows = sys.stderr.isatty() if shows is None else shows
        self._name = Path(model).name
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        if self._shows:
            seconds = time.monotonic() - self._began
            print(f"asyncllm: vllm:{self._name} {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)  # noqa: T201


_engines: dict[tuple[str, bytes], Engine] = {}
_lock = threading.Lock()


def borrow(model: str, options: Options) -> Engine:
    """The engine for a model, shared with whoever has it; it begins to start if nobody has. Pair with `give_back`."""
    key = (model, options.key)
    with _lock:
        engine = _engines.get(key)
        if engine is not None and not engine.is_usable:
            engine.end()
            engine = None
        if engine is None:
            engine = _engines[key] = Engine(model, options)
        engine.users += 1
        return engine


def give_back(engine: Engine) -> bool:
    """Undo one `borrow`; the last one ends the engine, and it is said whether this was the last."""
    with _lock:
        engine.users -= 1
        if engine.users:
            return False
        key = (engine.model, engine.options.key)
        if _engines.get(key) is engine:
            del _engines[key]
    engine.end()
    return True


def _after_fork() -> None:
    # Another thread may have held the lock at the moment of the fork; the engines are the parent's.
    global _lock  # noqa: PLW0603  # the process is a new one
    _lock = threading.Lock()
    for engine in _engines.values():
        if engine.is_started:
            engine.core.disown()
    _engines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
