"""The pytest plugin: fixtures and markers that work under pytest-asyncio and under anyio's plugin.

    scripted_backend     makes `ScriptedBackend`s, and fails the test that leaves one of their calls open
    faulty_server        starts `FaultyServer`s: `server = await faulty_server([Status(503)])`
    instant_retries      no wait on a client's clock takes time; the fixture is the list of waits that were asked for
    @virtual_time        the test runs on a `VirtualTimeLoop`
    @leaves_no_tasks     the test fails if a task of its own outlives it

pytest loads this with every test suite of its environment, so until a test asks it changes nothing and imports nothing
but the nouns of asyncllm, not even asyncio.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio

    from asyncllm.testing.scripted_backend import Script, ScriptedBackend
    from asyncllm.testing.server import FaultyServer, Scripts

__all__ = [
    "FaultyServers",
    "ScriptedBackends",
    "faulty_server",
    "instant_retries",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_call",
    "scripted_backend",
]

_VIRTUAL = "virtual_time"
_NO_TASKS = "leaves_no_tasks"


class ScriptedBackends:
    """Makes `ScriptedBackend`s, and remembers them."""

    def __init__(self) -> None:
        self.made: list[ScriptedBackend] = []

    def __call__(self, scripts: Sequence[Script]) -> ScriptedBackend:
        """A backend that plays `scripts`."""
        from asyncllm.testing.scripted_backend import ScriptedBackend

        backend = ScriptedBackend(scripts)
        self.made.append(backend)
        return backend

    def check(self) -> None:
        """Fail the test if a call is still open."""
        left = sum(backend.opened - backend.closed for backend in self.made)
        if left:
            pytest.fail(f"the test leaves {left} calls of a ScriptedBackend open", pytrace=False)


class FaultyServers:
    """Starts `FaultyServer`s, which are closed when the test has ended."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()

    async def __call__(self, scripts: Scripts, **options: Any) -> FaultyServer:
        """A server on the running loop that plays `scripts`; the options are those of `FaultyServer`."""
        from asyncllm.testing.server import FaultyServer

        return await self.stack.enter_async_context(FaultyServer(scripts, **options))


@pytest.fixture
def scripted_backend(request: pytest.FixtureRequest) -> ScriptedBackends:
    """Make backends that play scripts.

    As in `backend = scripted_backend([[TextDelta("hi"), Finished("stop")]])`.
    """
    backends = ScriptedBackends()
    request.node.stash[_BACKENDS] = backends
    return backends


@pytest.fixture
def faulty_server(request: pytest.FixtureRequest) -> FaultyServers:
    """Start servers that play scripts, in an async test.

    As in `server = await faulty_server([Status(503)])`.
    """
    servers = FaultyServers()
    request.node.stash[_SERVERS] = servers
    return servers


@pytest.fixture
def instant_retries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make every wait on a client's clock instant, and list the seconds that each was to take.

    The clock goes on by as much, so that whoever waits for a time finds that it has come.
    """
    import asyncio

    from asyncllm.clock import LoopClock

    waits: list[float] = []

    async def sleep(_: LoopClock, seconds: float, /) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    def time(_: LoopClock) -> float:
        return asyncio.get_running_loop().time() + sum(waits)

    monkeypatch.setattr(LoopClock, "sleep", sleep)
    monkeypatch.setattr(LoopClock, "time", time)
    return waits


_SERVERS = pytest.StashKey[FaultyServers]()
_BACKENDS = pytest.StashKey[ScriptedBackends]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line("markers", f"{_VIRTUAL}: run the async test on a loop where waiting takes no time")
    config.addinivalue_line("markers", f"{_NO_TASKS}: fail the async test if a task that it started outlives it")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    """Give marked tests their loop, in the way that either plugin for async tests asks for it."""
    if metafunc.definition.get_closest_marker(_VIRTUAL) is None:
        return (yield)
    from asyncllm.testing.time import VirtualTimeLoop

    if "anyio_backend" in metafunc.fixturenames:
        backend = pytest.param(("asyncio", {"loop_factory": VirtualTimeLoop}), id=_VIRTUAL)
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", [backend]))
    plugins = metafunc.config.pluginmanager
    if not plugins.hasplugin("asyncio"):
        return (yield)
    # Only while this one test is looked at: whoever implements that hook answers it for every test there is.
    loops = _Loops()
    plugins.register(loops)
    try:
        return (yield)
    finally:
        plugins.unregister(loops)


class _Loops:
    """What pytest-asyncio asks for the loop of a test."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        from asyncllm.testing.time import VirtualTimeLoop

        return {_VIRTUAL: VirtualTimeLoop}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Look at what a test leaves behind, in its own loop and before that is closed: a closed loop hides it."""
    __tracebackhide__ = True
    ending = _Ending(item)
    if not ending.asked or not isinstance(item, pytest.Function):
        return (yield)
    # Hypothesis keeps the function that it calls for each example.
    place: Any = getattr(item.obj, "hypothesis", item)
    name = "obj" if place is item else "inner_test"
    test = getattr(place, name)
    if not inspect.iscoroutinefunction(test):
        ending.refuse_sync()
        result = yield
        ending.check()
        return result
    setattr(place, name, ending.after(test))
    try:
        return (yield)
    finally:
        setattr(place, name, test)


class _Ending:
    """What is to be done around one test."""

    def __init__(self, item: pytest.Item) -> None:
        self._servers = item.stash.get(_SERVERS, None)
        self._backends = item.stash.get(_BACKENDS, None)
        self._virtual = item.get_closest_marker(_VIRTUAL) is not None
        self._no_tasks = item.get_closest_marker(_NO_TASKS) is not None
        self.asked = bool(self._servers or self._backends or self._virtual or self._no_tasks)

    def refuse_sync(self) -> None:
        """Fail a test without a loop that asks for something that needs one."""
        if self._servers or self._virtual or self._no_tasks:
            pytest.fail(f"{_VIRTUAL}, {_NO_TASKS} and faulty_server are for async tests", pytrace=False)

    def check(self) -> None:
        """Fail a test that leaves a scripted call open."""
        if self._backends:
            self._backends.check()

    def after(self, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """`test`, and then the rest."""
        import asyncio

        @functools.wraps(test)
        async def run(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            if self._virtual:
                _require_virtual()
            before = asyncio.all_tasks()
            async with self._servers.stack if self._servers else AsyncExitStack():
                await test(*args, **kwargs)
            self.check()
            if self._no_tasks:
                from asyncllm.testing.conformance.harness import settled

                await settled(before, "the test")

        return run


def _require_virtual() -> None:
    import asyncio

    from asyncllm.testing.time import VirtualTimeLoop

    if not isinstance(asyncio.get_running_loop(), VirtualTimeLoop):
        pytest.fail(f"{_VIRTUAL} needs pytest-asyncio 1.4 or anyio's plugin to run the test", pytrace=False)
