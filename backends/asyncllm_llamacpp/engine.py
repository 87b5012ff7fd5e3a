"""A loaded model, and the table by which the clients of one process share it.

The table is the one thing here that belongs to the process: weights and context are hundreds of megabytes and up, and
two engines on the same cores starve each other. It holds its engines weakly, so what a client that was dropped had
open goes with it; clients that close say so, and the last one frees the memory then and there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct

from asyncllm.errors import APIConnectionError, ConfigError
from asyncllm_llamacpp.generation import Handler
from asyncllm_llamacpp.listener import Listener
from asyncllm_llamacpp.options import Options
from asyncllm_llamacpp.slots import Slots

__all__ = ["Engine", "Facts", "borrow", "give_back", "require_same_process"]

_BATCH = 256
_SMALL_MACHINE = 4


class Server(Protocol):
    """What is used of `xllamacpp.Server`, which has no type stubs."""

    def handle_chat_completions(self, body: bytes, callback: Callable[[bytes], bool], /) -> object: ...
    def handle_completions(self, body: bytes, callback: Callable[[bytes], bool], /) -> object: ...
    def handle_embeddings(self, body: bytes, /) -> bytes: ...


class _Settings(Struct, frozen=True):
    n_ctx: int


class _Caps(Struct, frozen=True):
    supports_tools: bool = False


class Facts(Struct, frozen=True):
    """What llama.cpp says of the model it has loaded."""

    default_generation_settings: _Settings
    chat_template_caps: _Caps = _Caps()

    @property
    def n_ctx(self) -> int:
        """Tokens that one slot holds, prompt and answer together."""
        return self.default_generation_settings.n_ctx

    @property
    def takes_tools(self) -> bool:
        """Whether the chat template shows tools to the model. llama.cpp drops them without a word if not."""
        return self.chat_template_caps.supports_tools


class Engine:
    """One model in memory. Made and ended through `borrow` and `give_back`."""

    def __init__(self, path: str, options: Options) -> None:
        self.path = path
        self.options = options
        self.slots = Slots(options.n_parallel)
        self.users = 0
        self.facts: Facts
        self._pid = os.getpid()
        self._listener: Listener | None = None
        self._server: Server | None = None
        self._loaded: Future[None] = Future()
        # A running future cannot be cancelled: a caller that gives up leaves the load to those who still wait.
        self._loaded.set_running_or_notify_cancel()
        threading.Thread(target=self._load, name="asyncllm-llamacpp-load").start()

    @property
    def batch(self) -> int:
        """Prompt tokens that are read in one step."""
        return self.options.n_batch or (self.options.n_ctx if self.options.embedding else _BATCH)

    @property
    def failed(self) -> bool:
        """Whether loading ended in an error, so that another attempt needs another engine."""
        return self._loaded.done() and self._loaded.exception() is not None

    async def ready(self) -> None:
        """Return when the model is loaded. Raises `ConfigError` if it cannot be."""
        if not self._loaded.done():
            await asyncio.wait([asyncio.wrap_future(self._loaded)])
        error = self._loaded.exception()
        if error is not None:
            # A new one for each caller: an error object collects the traceback and the facts of one call.
            raise ConfigError(str(error), field="model") from error

    def handler(self, *, chat: bool) -> Handler:
        """The method that answers chats or text completions."""
        server = self._require_server()
        return server.handle_chat_completions if chat else server.handle_completions

    def embedder(self) -> Handler:
        """The method that embeds."""
        server = self._require_server()
        return lambda body, take: take(server.handle_embeddings(body))

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask the engine's own listener; blocks. Raises `APIStatusError`, `APIConnectionError`."""
        if self._listener is None:
            raise _closed()
        return self._listener.ask(method, path, body)

    def unload(self) -> None:
        """Free the model as soon as it is loaded and no request runs on it. May block for 50 ms."""
        self._loaded.add_done_callback(lambda _: self._free())

    def inherit(self) -> None:
        """In a forked child: never free what the parent's threads work on; llama.cpp would wait for them for ever."""
        if self._server is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))
            # Its C++ statics would wait too, when the process has nothing left to do but to run their destructors:
            # what is registered last runs first, and ends the process with the same status.
            libc = ctypes.CDLL(None)
            if hasattr(libc, "on_exit"):  # glibc
                libc.on_exit(getattr(libc, "_exit"), None)  # noqa: B009  # the C function, no private attribute
        if self._listener is not None:
            self._listener.disown()

    def _load(self) -> None:
        try:
            _read_through(self.path)
            self._listener = listener = Listener()
            self._server = _start(self.path, self.options, self.batch, listener)
            # Also a sign that the listener is up: freed before that, llama.cpp waits for its end for ever.
            self.facts = msgspec.json.decode(listener.ask("GET", "/props"), type=Facts)
        except Exception as error:
            self._free()
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(None)

    def _free(self) -> None:
        # Running requests hold the server too: it goes with the last of them.
        self._server = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _require_server(self) -> Server:
        if self._server is None:
            raise _closed()
        return self._server


def _closed() -> APIConnectionError:
    return APIConnectionError("the client of this model is closed; make a new one", retryable=False)


def _start(path: str, options: Options, batch: int, listener: Listener) -> Server:
    """Load the model. Raises `ConfigError`."""
    try:
        llama: Any = import_module("xllamacpp")
    except ImportError as error:
        raise ConfigError(
            f"llama.cpp is not installed or does not load here: pip install 'asyncllm[llamacpp]' ({error})"
        ) from error
    params = llama.CommonParams()
    params.model.path = path
    params.n_parallel = options.n_parallel
    params.n_ctx = options.n_ctx * options.n_parallel
    # With one pool for all slots, an answer that fills it ends every other one with an error.
    params.kv_unified = False
    params.n_batch = params.n_ubatch = batch
    params.n_gpu_layers = options.n_gpu_layers
    threads = options.n_threads or _default_threads()
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.embedding = options.embedding
    if options.pooling:
        params.pooling_type = getattr(llama.llama_pooling_type, f"LLAMA_POOLING_TYPE_{options.pooling.upper()}")
    if options.chat_template:
        params.chat_template = Path(options.chat_template).expanduser().read_text("utf-8")
    # Below 0 llama.cpp prints nothing, not even what is wrong with a model.
    params.verbosity = -1
    params.warmup = params.ui = params.endpoint_slots = False
    params.cache_ram_mib = 0
    params.hostnames, params.api_keys = [listener.path], [listener.key]
    params.n_threads_http = 2
    try:
        server: Server = llama.Server(params)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"llama.cpp cannot load {path}: the file is damaged or of a kind it does not know, "
            f"or {options.n_parallel} slots of {options.n_ctx} tokens do not fit the memory"
        ) from error
    return server


def _read_through(path: str) -> None:
    """Have the system cache the file.

    `xllamacpp.Server` holds the GIL from beginning to end of a load, and with it every event loop of the process. So
    the part that waits for a disk is done before, where nobody is held up: a gigabyte that is cached costs 0.2 s.
    """
    buffer = bytearray(1 << 23)
    with Path(path).open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _default_threads() -> int:
    """CPU threads to use where nobody says; 0 leaves it to llama.cpp, which counts the cores of the machine.

    Its threads spin where they wait for each other, so one that another process keeps off its CPU stops them all: on
    two cores, with one of them busy, two threads made a tenth of the tokens that one thread made. So on a small
    machine one CPU is left to the others, at a cost of a quarter of the speed where there are none.
    """
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    if allowed <= _SMALL_MACHINE:
        return max(1, allowed - 1)
    return allowed if allowed < cores else 0


_Key: TypeAlias = tuple[str, Options]
_engines: WeakValueDictionary[_Key, Engine] = WeakValueDictionary()
_lock = threading.Lock()


def borrow(path: str, options: Options) -> Engine:
    """The engine for a file, shared with whoever has it; loading begins if nobody has. Pair with `give_back`."""
    with _lock:
        engine = _engines.get((path, options))
        if engine is None or engine.failed:
            engine = _engines[path, options] = Engine(path, options)
        engine.users += 1
        return engine


def give_back(engine: Engine) -> None:
    """Undo one `borrow`; the last one frees the model. May block for 50 ms."""
    with _lock:
        engine.users -= 1
        if engine.users:
            return
        if _engines.get((engine.path, engine.options)) is engine:
            del _engines[engine.path, engine.options]
    engine.unload()


def require_same_process(pid: int) -> None:
    """Raise `APIConnectionError` in a child that was forked from process `pid`."""
    if os.getpid() != pid:
        raise APIConnectionError(
            "this client was made before a fork, and llama.cpp's threads stayed in the parent: make a new client here",
            retryable=False,
        )


def _after_fork() -> None:
    # Another thread may have held the lock at the moment of the fork.
    global _lock, _engines  # noqa: PLW0603  # the process is a new one, and so is its table
    _lock = threading.Lock()
    for engine in list(_engines.values()):
        engine.inherit()
    _engines = WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
