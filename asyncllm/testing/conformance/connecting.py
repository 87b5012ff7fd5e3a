"""Checks of `connect` and of the two ends of a backend's life."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError
from asyncllm.testing.conformance.harness import within
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.testing.scripted_transport import ScriptedTransport

__all__ = ["ConnectChecks"]

# Linux and macOS; elsewhere open files cannot be counted without help, and are not.
_OPEN_FILES = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)


class ConnectChecks(Subject):
    """`connect` opens nothing; `aclose` closes everything."""

    def test_connecting_needs_no_running_loop_and_opens_nothing(self) -> None:
        """No loop, no request, no thread, no file that stays open."""
        self.connect(ScriptedTransport())  # the first time imports modules, which is no business of this check
        transport = ScriptedTransport()
        threads, files = threading.active_count(), _open_files()
        backend = self.connect(transport)
        assert not transport.calls, "connect sends a request"
        assert threading.active_count() == threads, "connect starts a thread"
        assert _open_files() == files, "connect leaves a file or a socket open"
        assert callable(backend.open), "the backend has no open"
        assert callable(backend.aclose), "the backend has no aclose"

    def test_a_backend_that_was_never_used_can_be_closed(self) -> None:
        """Closing without a call is as clean as closing after one."""

        async def nothing(_: Backend) -> None:
            """The backend is made and closed around this."""

        self.run(nothing)

    @check
    async def test_closing_twice_is_closing_once(self, backend: Backend) -> None:
        """`aclose` is idempotent, and `make_backend` closes once more."""
        await self.answer(backend)
        await self._close(backend)
        await self._close(backend)

    @check
    async def test_closing_with_a_stream_open_does_not_hang(self, backend: Backend) -> None:
        """The stream then ends, or says with an error of the tree that it cannot go on."""
        with within(self.patience_s, "a stream whose backend was closed"):
            async with asyncio.timeout(self.patience_s):
                try:
                    async with backend.open(self.long_request()) as events:
                        await anext(events)
                        await self._close(backend)
                        async for _ in events:
                            pass
                except AsyncLLMError:
                    pass  # as good an end as any for a call whose backend is gone

    @check
    async def test_a_call_after_closing_does_not_hang(self, backend: Backend) -> None:
        """It answers, where there is nothing to close, or is refused by an error of the tree."""
        await self._close(backend)
        try:
            await self.answer(backend)
        except AsyncLLMError:
            pass

    def test_two_event_loops_in_a_row_each_have_a_backend(self) -> None:
        """Nothing of the first loop is left where the second would find it, and no file and no thread grows."""
        self.run(self._answer_once)
        threads, files = threading.active_count(), _open_files()
        self.run(self._answer_once)
        assert threading.active_count() <= threads, "a closed backend leaves a thread running"
        assert _open_files() <= files, "a closed backend leaves a file or a socket open"

    async def _answer_once(self, backend: Backend) -> None:
        await self.answer(backend)

    async def _close(self, backend: Backend) -> None:
        with within(self.patience_s, "aclose"):
            async with asyncio.timeout(self.patience_s):
                await backend.aclose()


def _open_files() -> int:
    return len(list(_OPEN_FILES.iterdir())) if _OPEN_FILES else 0
