"""A client of a Maze server, which starts and stops instances of models on a cluster.

Nothing here repeats a start: whoever asks twice has two instances. What was started is known from the moment its reply
is here, so that whatever happens next (an error, a deadline, a cancellation) ends in its stop. A start that is given up
before its reply goes on behind the scenes until the reply comes, and is stopped then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from asyncllm.backend import Clock, Config, Transport
from asyncllm.client import Client
from asyncllm.clock import LoopClock
from asyncllm.config import Settings
from asyncllm.errors import APIConnectionError, APIError, ConfigError, NotFoundError, ResponseValidationError
from asyncllm.finishing import finish
from asyncllm.instances import wire
from asyncllm.instances.errors import LostInstanceError, UnknownInstanceError
from asyncllm.instances.instance import Instance, endpoint_of
from asyncllm.instances.readiness import wait_until_ready
from asyncllm.instances.server import Server, may_run
from asyncllm.middleware.retry import Retry
from asyncllm.types import Timeouts

__all__ = ["Maze"]

T = TypeVar("T")


class _Start:
    """A start whose reply has not come."""

    task: asyncio.Task[Instance]

    def __init__(self, model: str) -> None:
        self.model = model
        self.is_given_up = False


class Maze:
    """Starts, asks and stops instances by a Maze server.

        async with Maze("http://localhost:8000") as maze:
            instance = await maze.start("facebook/opt-125m")
            reply = await instance.complete("The sea is", max_tokens=20)

    Leaving the block, by its end, an exception or a cancellation, stops every instance that was started in it. Those
    that were attached belong to whoever started them and go on, as do those that were detached.

    `headers` go to the server and not to its instances. `timeouts` and `retry` are those of calls to instances;
    `stop_s` is how long one stop may take, and `linger_s` how long closing waits for the reply to a start that was
    given up. An instance is looked at every `poll_s` seconds until it is ready.

    Raises `ConfigError` for what cannot be right.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts = Timeouts(),
        retry: Retry | None = Retry(),
        stop_s: float = 60,
        linger_s: float = 10,
        poll_s: float = 0.5,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        for name, seconds in (("stop_s", stop_s), ("linger_s", linger_s), ("poll_s", poll_s)):
            if type(seconds) not in (int, float) or not seconds > 0:
                raise ConfigError(f"{name} is a number of seconds above zero", field=name)
        if headers is not None and not isinstance(headers, Mapping):
            raise ConfigError("headers is a dict of names to values", field="headers")
        config = Config(backend="maze", base_url=base_url, options={"headers": dict(headers or {})})
        self._clock = clock or LoopClock()
        self._server = Server(
            config.url({}, "base_url="),
            config.headers({"Content-Type": "application/json"}),
            connect_s=timeouts.connect_s,
            stop_s=stop_s,
            transport=transport,
            clock=self._clock,
        )
        self._timeouts = timeouts
        self._retry = retry
        self._close_s = linger_s + 2 * stop_s
        self._linger_s = linger_s
        self._poll_s = poll_s
        self._is_closed = False
        self._instances: dict[str, Instance] = {}
        self._attached: set[str] = set()
        self._starts: set[_Start] = set()
        self._stops: dict[str, asyncio.Task[dict[str, Any]]] = {}

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Every instance that can be asked: started or attached here, and not stopped."""
        return tuple(self._instances.values())

    async def start(
        self,
        model: str,
        *,
        cpu_nums: int = 5,
        memory: int = 1024,
        gpu_nums: int = 1,
        backend: str | None = None,
        gpu_mem: int | None = None,
        memory_mib: int | None = None,
        gpu_memory_utilization: float | None = None,
        max_model_len: int | None = None,
        extra: Mapping[str, Any] | None = None,
        timeout_s: float | None = 600,
    ) -> Instance:
        """Start an instance of `model`, and return it when it is ready to answer.

        The options are the server's, by its names; those that are `None` are not sent. Of `memory`, whose unit
        differs from server to server, and `memory_mib`, one is sent. `timeout_s` bounds all of it, the wait for a free
        machine included. A start is never repeated; one that fails or is cancelled leaves nothing behind that is known.

        Raises `InvalidRequestError` before anything is sent; the server's refusal as an `APIStatusError` with its
        reason; `LostInstanceError` where no reply came in time, or none that names the instance;
        `ResponseValidationError` for one that says no address, its instance stopped; `InstanceNotReadyError`,
        `InstanceExitedError`.
        """
        if timeout_s is not None and (type(timeout_s) not in (int, float) or not timeout_s > 0):
            raise ConfigError("timeout_s is a number of seconds above zero, or None for no limit", field="timeout_s")
        body = wire.write_start(
            model,
            cpu_nums=cpu_nums,
            memory=memory,
            gpu_nums=gpu_nums,
            backend=backend,
            gpu_mem=gpu_mem,
            memory_mib=memory_mib,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            extra={} if extra is None else extra,
        )
        self._check_open()
        until = asyncio.get_running_loop().time() + (float("inf") if timeout_s is None else timeout_s)
        instance = await self._launched(model, body, timeout_s)
        try:
            await wait_until_ready(instance, self._server.transport, self._clock, until=until, poll_s=self._poll_s)
        except asyncio.CancelledError:
            self._stopping(instance.id)
            raise
        except Exception as error:
            await self._stop_after(error, instance.id)
            raise
        return instance

    def attach(self, instance_id: str, *, host: str, port: int | str, model: str) -> Instance:
        """An instance that was started elsewhere, by this or another process. Sends nothing.

        It can be asked and stopped like any other, and goes on when this client is closed.
        """
        self._check_open()
        if not isinstance(instance_id, str) or not instance_id:
            raise ConfigError("instance_id is the id that the server gave", field="instance_id")
        if not isinstance(model, str) or not model:
            raise ConfigError("model names the model that the instance was started with", field="model")
        if instance_id in self._instances:
            raise ConfigError(f"the instance {instance_id[:100]!r} is known here already", field="instance_id")
        number = int(port) if isinstance(port, str) and port.isdecimal() and port.isascii() else port
        instance = self._track(instance_id, model, host, number, {})
        self._attached.add(instance_id)
        return instance

    def detach(self, instance: Instance | str) -> None:
        """Let an instance go on when this client is closed. Raises `UnknownInstanceError`."""
        self._attached.add(self.get(instance).id)

    def get(self, instance: Instance | str) -> Instance:
        """The instance of an id. Raises `UnknownInstanceError` where it is not known here, or no longer."""
        identity = instance if isinstance(instance, str) else instance.id
        known = self._instances.get(identity)
        if known is None:
            raise UnknownInstanceError(
                f"no instance {identity[:100]!r} is known here: it was never started or attached, or it was stopped",
                field="instance",
            )
        return known

    async def stop(self, instance: Instance | str) -> dict[str, Any]:
        """Stop an instance, known here or not, and return what the server says.

        Once is enough: a second stop gives the reply of the first, and sends nothing. Cancelling the wait does not
        cancel the stop. Raises `APIError`; the instance then stays known, and can be stopped again.
        """
        identity = instance if isinstance(instance, str) else instance.id
        if identity not in self._stops:
            self._check_open()
        return await asyncio.shield(self._stopping(identity))

    async def aclose(self) -> None:
        """Stop every instance that was started here and free all connections. Idempotent.

        Raises `LostInstanceError` for a start whose reply never came, and the first error of a stop that failed.
        """
        if self._is_closed:
            return
        self._is_closed = True
        await finish(asyncio.create_task(self._close()), self._close_s)

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and closing the instances failed: {failure}")

    def __repr__(self) -> str:
        return f"<Maze with {len(self._instances)} instances{' (closed)' if self._is_closed else ''}>"

    # -- starting ----------------------------------------------------------------------------------------------------

    async def _launched(self, model: str, body: bytes, timeout_s: float | None) -> Instance:
        """The instance of a reply, if it comes in time. One that comes later is stopped."""
        start = _Start(model)
        task = start.task = self._task(self._launch(start, body))
        self._starts.add(start)
        try:
            await asyncio.wait([task], timeout=timeout_s)
        except asyncio.CancelledError:
            self._give_up(start)
            raise
        if not task.done():
            self._give_up(start)
            raise LostInstanceError(
                f"the server did not answer a start within timeout_s={timeout_s}: an instance may be starting, and is "
                "stopped if the answer comes before this client is closed",
                model=model,
                field="timeout_s",
            )
        self._starts.discard(start)
        try:
            return task.result()
        except asyncio.CancelledError:
            raise _lost(model) from None  # this client was closed meanwhile
        except APIError as error:
            if may_run(error):
                raise _lost(model) from error
            raise

    async def _launch(self, start: _Start, body: bytes) -> Instance:
        try:
            started = await self._server.start(body)
        except ResponseValidationError as error:
            await self._stop_unreachable(error)
            raise
        instance = self._track(started.instance_id, start.model, started.host, started.port, started.info)
        if start.is_given_up:
            self._starts.discard(start)
            self._stopping(instance.id)
        return instance

    async def _stop_unreachable(self, error: ResponseValidationError) -> None:
        """Stop what a start's reply names without saying where it is."""
        identity = wire.identity_in(error.body or b"")
        if identity is None:
            return
        try:
            await asyncio.shield(self._stopping(identity))
        except Exception as failure:
            error.add_note(f"and stopping the instance {identity[:100]} failed: {failure}")
        else:
            error.maybe_billed = False  # nothing is left of it

    def _give_up(self, start: _Start) -> None:
        start.is_given_up = True
        task = start.task
        if task.done() and not task.cancelled() and task.exception() is None:
            self._stopping(task.result().id)  # the reply came in the moment of giving up

    def _track(self, identity: str, model: str, host: str, port: int | str, info: dict[str, Any]) -> Instance:
        endpoint = endpoint_of(host, port)
        client = Client(
            model=f"openai:{model}",
            base_url=endpoint,
            api_key="EMPTY",  # what such servers are asked with: they take any, and their clients must have one
            timeouts=self._timeouts,
            retry=self._retry,
            config=Settings(),
            transport=self._server.transport,
            env={},
        )
        instance = Instance(
            identity,
            model=model,
            host=host,
            port=int(port),
            info=info,
            client=client,
            known=self._know,
            stop=self.stop,
        )
        self._instances[identity] = instance
        self._attached.discard(identity)
        self._stops.pop(identity, None)
        return instance

    def _know(self, identity: str) -> None:
        self.get(identity)

    # -- stopping ----------------------------------------------------------------------------------------------------

    def _stopping(self, identity: str) -> asyncio.Task[dict[str, Any]]:
        """The one stop of an instance, begun if it has not been."""
        task = self._stops.get(identity)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._stops[identity] = self._task(self._stop(identity))
        return task

    async def _stop(self, identity: str) -> dict[str, Any]:
        try:
            reply = await self._server.stop(identity)
        except NotFoundError:
            await self._forget(identity)
            raise
        await self._forget(identity)
        return reply

    async def _forget(self, identity: str) -> None:
        instance = self._instances.pop(identity, None)
        self._attached.discard(identity)
        if instance is not None:
            await instance.client.aclose()

    async def _stop_after(self, error: Exception, identity: str) -> None:
        """Stop an instance that is of no use; what fails in that is told with `error`."""
        try:
            await asyncio.shield(self._stopping(identity))
        except Exception as failure:
            error.add_note(f"and stopping the instance {identity} failed: {failure}")

    async def _close(self) -> None:
        errors = await self._end_starts()
        owned = {*self._instances} - self._attached
        running = {task for task in self._stops.values() if not task.done()}
        stops = {*running, *(self._stopping(identity) for identity in owned)}
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, NotFoundError):
                errors.append(result)
        for instance in self._instances.values():
            await instance.client.aclose()
        self._instances.clear()
        await self._server.aclose()
        if errors:
            for error in errors[1:]:
                errors[0].add_note(f"and {error}")
            raise errors[0]

    async def _end_starts(self) -> list[Exception]:
        """Wait a little for the starts under way, and return an error for each that may have been in vain."""
        tasks = {start.task: start.model for start in self._starts}
        self._starts.clear()
        if not tasks:
            return []
        _, late = await asyncio.wait(tasks, timeout=self._linger_s)
        for task in late:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [_lost(model) for model, end in zip(tasks.values(), results, strict=True) if may_run(end)]

    # -- means -------------------------------------------------------------------------------------------------------

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task whose failure is looked at, by whoever waits for it or else here."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_look)
        return task

    def _check_open(self) -> None:
        if self._is_closed:
            raise APIConnectionError("this client of a Maze server is closed; make a new one", retryable=False)


def _look(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _lost(model: str) -> LostInstanceError:
    return LostInstanceError(
        "a start has no reply that says where its instance is: the server may run one that nobody stops", model=model
    )
