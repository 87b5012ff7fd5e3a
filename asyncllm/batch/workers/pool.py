"""N workers, and who of them is asked.

They are started as rows come: as many as there are rows to be asked at once, and no more than N. A row goes to the
worker with the fewest under way. One that has not answered anything yet has one row at a time, so that an engine which
ends while it is loaded takes no more with it. A worker that has ended is started again, after a pause that grows while
nothing is answered, and the batch ends when that goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from asyncllm.batch.codec import decode_outcome
from asyncllm.batch.lost import NoWorkerError, RowCrashedError, WorkerLostError
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.calls import Model
from asyncllm.errors import AsyncLLMError, ConfigError, EngineDeadError, InputError, InvalidRequestError
from asyncllm.finishing import finish

__all__ = ["Worker", "Workers"]

_LEAVE_S = 20.0
_STARTS = 3
"""How often in a row a worker may end before it is ready."""
_DEATHS = 10
"""How often in a row workers may end without a row answered in between, or three times each if that is more."""
_PAUSE_S = 0.25
_MAX_PAUSE_S = 10.0
_log = logging.getLogger("asyncllm")


class Worker(Protocol):
    """Somebody who asks rows, somewhere else. It is started once."""

    async def start(self) -> None:
        """Return once there is a client. Raises `WorkerLostError`, and what making the client raises."""
        ...

    async def ask(self, asked: AnyAsk, model: Model | None) -> bytes:
        """What became of a row, as `codec` writes it. Raises `WorkerLostError`."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...

    async def stop(self) -> None:
        """Let it close its client, and end it. Idempotent."""
        ...


class _Hired:
    """A worker that is at work."""

    __slots__ = ("busy", "is_proven", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.busy = 0
        self.is_proven = False
        """Whether it has answered a row."""


class _Seat:
    """Where a worker is, or is to be again."""

    __slots__ = ("deaths", "hire", "hired", "is_given_up", "starting")

    def __init__(self, hire: Callable[[], Worker]) -> None:
        self.hire = hire
        self.hired: _Hired | None = None
        self.starting: asyncio.Task[None] | None = None
        self.deaths = 0
        """In a row, without a row answered."""
        self.is_given_up = False


class Workers:
    """Asks rows of workers, which `hire` makes. Use it inside `async with`, whose end ends them all."""

    def __init__(self, hire: Sequence[Callable[[], Worker]], *, concurrency: int) -> None:
        self._seats = [_Seat(one) for one in hire]
        self.window = -(-concurrency // len(self._seats))
        """Rows that one of them may have under way: an equal part of all, rounded up."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._deaths = 0
        self._ended: AsyncLLMError | None = None

    @property
    def present(self) -> list[Worker]:
        """Those that are at work."""
        return [seat.hired.worker for seat in self._seats if seat.hired is not None]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await finish(asyncio.create_task(self._close()), _LEAVE_S)

    async def ask(self, asked: AnyAsk, model: Model | None) -> Answer:
        """Ask a row, as `Caller.ask` does.

        Raises what it raises over there; `RowCrashedError` where the worker ended meanwhile, and `NoWorkerError` where
        there is none.
        """
        while True:
            seat, hired = await self._free()
            try:
                body = await hired.worker.ask(asked, model)
            except WorkerLostError as lost:
                self._bury(seat, hired, lost.how)
                if lost.was_asked:
                    raise RowCrashedError from lost
                continue
            finally:
                hired.busy -= 1
                self._wake()
            return self._answer(seat, hired, body, is_own_model=model is None and bool(asked.model))

    def _answer(self, seat: _Seat, hired: _Hired, body: bytes, *, is_own_model: bool) -> Answer:
        outcome = decode_outcome(body, index=0)
        error = outcome.error
        if isinstance(error, EngineDeadError):  # what comes back to life in a new process may not in this one
            self._bury(seat, hired, error.message)
            raise RowCrashedError from error
        is_of_all = isinstance(error, ConfigError) and not isinstance(error, InvalidRequestError | InputError)
        if error is not None and is_of_all and not hired.is_proven and not is_own_model:
            self._end(error)  # what the client is made from is wrong, and the next row would say the same
            raise NoWorkerError(error)
        hired.is_proven = True
        self._deaths = seat.deaths = 0
        self._wake()
        if error is not None:
            raise error
        assert outcome.answer is not None  # it is one of the two
        return outcome.answer

    async def _free(self) -> tuple[_Seat, _Hired]:
        """The worker with the fewest rows under way, once there is one with room for another."""
        while True:
            if self._ended is not None:
                raise NoWorkerError(self._ended)
            present = [(seat, seat.hired) for seat in self._seats if seat.hired is not None]
            if all(hired.busy for _, hired in present):
                self._start_one()
            free = [pair for pair in present if pair[1].busy < (self.window if pair[1].is_proven else 1)]
            if free:
                found = min(free, key=lambda pair: pair[1].busy)
                found[1].busy += 1
                return found
            news = asyncio.get_running_loop().create_future()
            self._waiting.add(news)
            try:
                await news
            finally:
                self._waiting.discard(news)

    def _wake(self) -> None:
        for news in self._waiting:
            if not news.done():
                news.set_result(None)

    # -- who is there

    def _start_one(self) -> None:
        cold: list[_Seat] = []
        starting = 0
        for seat in self._seats:
            if seat.starting is not None:
                starting += 1
            elif seat.hired is None and not seat.is_given_up:
                cold.append(seat)
        if cold and starting <= len(self._waiting):
            seat = min(cold, key=lambda one: one.deaths)
            seat.starting = asyncio.create_task(self._start(seat))

    async def _start(self, seat: _Seat) -> None:
        try:
            for start in range(1, _STARTS + 1):
                if seat.deaths > 1:
                    await asyncio.sleep(min(_MAX_PAUSE_S, _PAUSE_S * 2.0 ** (seat.deaths - 2)))
                worker = seat.hire()
                try:
                    await worker.start()
                except WorkerLostError as lost:
                    seat.deaths += 1
                    worker.kill()
                    if start == _STARTS:
                        self._give_up(
                            seat, EngineDeadError(f"a worker of this batch {lost.how}, {start} times in a row")
                        )
                    await worker.stop()
                except AsyncLLMError as error:
                    self._give_up(seat, error)
                    await worker.stop()
                    return
                except BaseException:
                    worker.kill()
                    await worker.stop()
                    raise
                else:
                    seat.hired = _Hired(worker)
                    return
        finally:
            seat.starting = None
            self._wake()

    def _give_up(self, seat: _Seat, error: AsyncLLMError) -> None:
        seat.is_given_up = True
        if any(one.hired is not None for one in self._seats):
            _log.warning("the batch goes on with a worker less: %s", error)
        else:
            self._end(error)

    def _bury(self, seat: _Seat, hired: _Hired, how: str) -> None:
        """That worker has ended, or is to."""
        if seat.hired is not hired:
            return  # another row has said so
        seat.hired = None
        seat.deaths += 1
        self._deaths += 1
        hired.worker.kill()
        leaving = asyncio.create_task(hired.worker.stop())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        if self._deaths >= max(_DEATHS, 3 * len(self._seats)):
            self._end(
                EngineDeadError(
                    f"the workers of this batch have ended {self._deaths} times in a row and answered nothing; "
                    f"the last one {how}"
                )
            )
        self._wake()

    def _end(self, error: AsyncLLMError) -> None:
        self._ended = self._ended or error
        self._wake()

    async def _close(self) -> None:
        starting = [seat.starting for seat in self._seats if seat.starting is not None]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        stops = [seat.hired.worker.stop() for seat in self._seats if seat.hired is not None]
        await asyncio.gather(*stops, *self._leaving, return_exceptions=True)
