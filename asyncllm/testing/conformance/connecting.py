"""Checks of `connect` and of the two ends of a backend's life."""

from __future__ import annotations

import asyncio
import threading

import anyio

from asyncllm.backend import Backend
from asyncllm.errors import APIConnectionError, AsyncLLMError
from asyncllm.testing.conformance.harness import comes_down, open_files, run_clean, within
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport

__all__ = ["ConnectChecks"]


class ConnectChecks(Subject):
    """`connect` opens nothing; `aclose` closes everything."""

    def test_connecting_needs_no_running_loop_and_opens_nothing(self) -> None:
        """No loop, no request, no thread, no file that stays open."""
        self.connect(ScriptedTransport())  # the first time imports modules, which is no business of this check
        transport = ScriptedTransport()
        threads, files = threading.active_count(), open_files()
        backend = self.connect(transport)
        assert not transport.calls, "connect sends a request"
        assert threading.active_count() <= threads, "connect starts a thread"
        assert open_files() <= files, "connect leaves a file or a socket open"
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
        threads, files = threading.active_count(), open_files()
        self.run(self._answer_once)
        assert comes_down(threading.active_count, threads), "a closed backend leaves a thread running"
        assert comes_down(open_files, files), "a closed backend leaves a file or a socket open"

    @check
    async def test_closing_by_several_at_once_is_closing_once(self, backend: Backend) -> None:
        """Each of four `aclose` at once returns, and returns when the backend is closed."""
        await self.answer(backend)
        await asyncio.gather(*(self._close(backend) for _ in range(4)))

    @check
    async def test_a_close_that_was_cancelled_can_be_made_up_for(self, backend: Backend) -> None:
        """By the next `aclose`, which leaves nothing behind."""
        await self.answer(backend)
        with within(self.patience_s, "aclose in a cancelled scope"):
            async with asyncio.timeout(self.patience_s):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await backend.aclose()
        await self._close(backend)

    def test_a_backend_made_outside_of_a_loop_serves_inside_of_one(self) -> None:
        """And is closed there."""
        service = self.dialect
        answer = (
            APIConnectionError("cannot connect to nowhere")
            if service is None
            else ScriptedReply(body=service.reply("a"))
        )
        transport = ScriptedTransport([answer])
        run_clean(self._answer_or_send(self.connect(transport), transport))

    async def _answer_or_send(self, backend: Backend, transport: ScriptedTransport) -> None:
        """Answer, or at least send what there is nobody to answer."""
        try:
            await self.answer(backend, self.request(stream=False))
        except AsyncLLMError:
            assert transport.calls, "a backend made outside of a loop does not answer inside of one"
            assert self.dialect is None, "a backend made outside of a loop does not understand its service"
        await self._close(backend)

    async def _answer_once(self, backend: Backend) -> None:
        await self.answer(backend)

    async def _close(self, backend: Backend) -> None:
        with within(self.patience_s, "aclose"):
            async with asyncio.timeout(self.patience_s):
                await backend.aclose()
