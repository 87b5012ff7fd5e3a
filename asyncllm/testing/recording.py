"""What a backend gave, recorded event by event with its times, and played again without it.

    recorder = Recorder(backend)                       # wraps any backend: Client(backend=recorder)
    recorder.recording.save("calls.jsonl")
    ReplayBackend(Recording.load("calls.jsonl"))       # in another process, without network or model

A file holds the outputs of the model, which is what it is for. Of a request it holds the model's name and a digest, so
prompts stay out of it unless `Recorder(..., requests=True)` asks for them; a short prompt can be guessed from its
digest. The first line of a file says its format and version; every other line is one call, as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct

import asyncllm.errors
from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError, ConfigError
from asyncllm.events import Event, Events, Ready
from asyncllm.types import Request

__all__ = ["NotRecordedError", "RecordedCall", "Recorder", "Recording", "ReplayBackend", "digest"]

_FORMAT, _VERSION = "asyncllm-recording", 1
_EVENTS: Mapping[str, Any] = {kind.__name__: kind for kind in get_args(Event)}
_VOLATILE = ("timeouts", "idempotency_key")
"""Fields of a request that do not change what is asked."""
_UNKEPT = {"attempts", "partial", "body", "message"}
"""Fields of an error that belong to layers above a backend, that may echo the prompt, or that stand beside `facts`."""


class NotRecordedError(AsyncLLMError):
    """A replay was asked for something that its recording does not hold."""


class RecordedError(Struct):
    """An error as a file holds it."""

    kind: str
    """Name of its class."""
    message: str = ""
    """Empty for an error that is not of `asyncllm.errors`: nobody has promised what its text holds."""
    facts: dict[str, Any] = {}


class RecordedCall(Struct):
    """What one request got. Times are seconds from the start of the call."""

    digest: str
    model: str
    entered_s: float | None = None
    """When the call was accepted; `None` if it was not."""
    batches: list[tuple[float, list[tuple[str, dict[str, Any]]]]] = []
    """Events that came together, each as the name of its class and its fields."""
    ended_s: float | None = None
    """When the events ended or failed; `None` if the caller left before that."""
    error: RecordedError | None = None
    """How the call failed, on entering or after the events."""
    request: dict[str, Any] | None = None
    """The request itself, where that was asked for."""


class _Header(Struct):
    format: str
    version: int


class Recording:
    """Calls in the order in which they were made."""

    def __init__(self, calls: Sequence[RecordedCall] = ()) -> None:
        self.calls = list(calls)

    def save(self, path: str | Path) -> None:
        """Write the file, over one that is there."""
        lines = [_Header(_FORMAT, _VERSION), *self.calls]
        Path(path).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    @staticmethod
    def load(path: str | Path) -> Recording:
        """Read a file. Raises `ConfigError` for one that is no recording, `OSError`."""
        lines = Path(path).read_bytes().splitlines()
        try:
            header = msgspec.json.decode(lines[0] if lines else b"", type=_Header)
            if (header.format, header.version) != (_FORMAT, _VERSION):
                raise ConfigError(f"not a recording of version {_VERSION}", field="path")
            calls = [msgspec.json.decode(line, type=RecordedCall) for line in lines[1:]]
            for call in calls:
                for _, batch in call.batches:
                    for name, fields in batch:
                        _event(name, fields)
            return Recording(calls)
        except (msgspec.DecodeError, KeyError) as error:
            raise ConfigError("not a recording, or a damaged one", field="path") from error


def digest(request: Request) -> str:
    """What two requests have in common that ask for the same: SHA-256 over all but their deadlines and keys."""
    fields = {name: value for name, value in msgspec.to_builtins(request).items() if name not in _VOLATILE}
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


class Recorder:
    """A backend that passes everything on to another and keeps what came back. Records generations alone."""

    def __init__(self, backend: Backend, *, requests: bool = False) -> None:
        self._backend = backend
        self._requests = requests
        self.recording = Recording()
        """What was recorded so far; a call that is under way is in it, without its end."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Open the call and record it; see `asyncllm.backend.Backend`."""
        call = RecordedCall(digest(request), request.model)
        if self._requests:
            call.request = msgspec.to_builtins(request)
        self.recording.calls.append(call)
        taken = _Taken(call)
        try:
            async with self._backend.open(request) as events:
                lent = taken.begin(Ready.of(events))
                try:
                    yield lent
                finally:
                    await lent.aclose()
        except Exception as error:
            if call.entered_s is None:
                taken.fail(error)
            raise

    async def aclose(self) -> None:
        """Close the backend."""
        await self._backend.aclose()


class _Taken:
    """Writes one call down."""

    def __init__(self, call: RecordedCall) -> None:
        self._call = call
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    def begin(self, events: Ready) -> Ready:
        self._call.entered_s = self._time() - self._began
        if events.head:
            self._keep(events.head)
        if events.rest is None:
            self._call.ended_s = self._call.entered_s
            return events
        return Ready(events.head, self._follow(events.rest))

    def fail(self, error: Exception) -> None:
        self._call.ended_s = self._time() - self._began
        self._call.error = _written(error)

    async def _follow(self, batches: AsyncIterator[Sequence[Event]]) -> AsyncGenerator[Sequence[Event]]:
        try:
            async for batch in batches:
                self._keep(batch)
                yield batch
        except Exception as error:
            self.fail(error)
            raise
        self._call.ended_s = self._time() - self._began

    def _keep(self, batch: Sequence[Event]) -> None:
        written = [(type(event).__name__, msgspec.to_builtins(event)) for event in batch]
        self._call.batches.append((self._time() - self._began, written))


class ReplayBackend:
    """Plays a recording: each request gets what the next recorded one of the same digest got, errors included.

    `speed` is how many times faster than it was: 1 keeps the times, 0 waits for nothing. Raises `NotRecordedError` for
    a request that was not recorded, or not as often, and where the caller of old had left and this one goes on.
    """

    def __init__(self, recording: Recording, *, speed: float = 1) -> None:
        if not speed >= 0:
            raise ConfigError(f"speed is a number from zero up; got {speed!r}", field="speed")
        self._speed = speed
        self._left = list(recording.calls)

    @property
    def left(self) -> int:
        """Recorded calls that were not played yet."""
        return len(self._left)

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Play the call; see `asyncllm.backend.Backend`."""
        call = self._next(request)
        began = asyncio.get_running_loop().time()
        if call.entered_s is None:
            await self._until(began, call.ended_s)
            raise _read(call.error)
        await self._until(began, call.entered_s)
        lent = Ready((), self._play(call, began))
        try:
            yield lent
        finally:
            await lent.aclose()

    async def aclose(self) -> None:
        """Nothing is held."""

    def _next(self, request: Request) -> RecordedCall:
        wanted = digest(request)
        for number, call in enumerate(self._left):
            if call.digest == wanted:
                return self._left.pop(number)
        raise NotRecordedError(
            "the recording holds no such request, or not as many: record anew, or compare the request with it",
            model=request.model,
        )

    async def _play(self, call: RecordedCall, began: float) -> AsyncGenerator[Sequence[Event]]:
        for at_s, batch in call.batches:
            await self._until(began, at_s)
            yield [_event(name, fields) for name, fields in batch]
        await self._until(began, call.ended_s)
        if call.error is not None or call.ended_s is None:
            raise _read(call.error)

    async def _until(self, began: float, at_s: float | None) -> None:
        wait_s = 0.0
        if at_s and self._speed:
            wait_s = began + at_s / self._speed - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0, wait_s))


def _event(name: str, fields: dict[str, Any]) -> Event:
    event: Event = msgspec.convert(fields, type=_EVENTS[name])
    return event


def _written(error: Exception) -> RecordedError:
    if not isinstance(error, AsyncLLMError):
        return RecordedError(type(error).__qualname__)
    facts = {
        name: value
        for name, value in vars(error).items()
        if name not in _UNKEPT and isinstance(value, str | int | float | bool)
    }
    return RecordedError(type(error).__name__, error.message, facts)


def _read(error: RecordedError | None) -> AsyncLLMError:
    if error is None:
        return NotRecordedError("the recording ends here: its caller left, or was cancelled")
    kind = getattr(asyncllm.errors, error.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, AsyncLLMError)):
        return NotRecordedError(f"{error.kind} was raised here, which is no error of asyncllm's and is not made again")
    made = kind(error.message)
    vars(made).update(error.facts)
    return made
