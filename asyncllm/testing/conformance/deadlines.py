"""Checks of the deadlines of `Timeouts`, as a client sets them around any backend.

A backend whose answer is there before the deadline is not late, so an answer is as good as the error here. What must
not come is another error, or a call that goes on.
"""

from __future__ import annotations

import asyncio

from asyncllm.backend import Backend
from asyncllm.client import Client
from asyncllm.errors import APITimeoutError, EventIdleTimeoutError, FirstEventTimeoutError, TotalTimeoutError
from asyncllm.events import TextDelta
from asyncllm.testing.conformance.harness import settled, within
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import SamplingOptions, Timeouts

__all__ = ["DeadlineChecks"]

_TOTAL_S = 0.05
_TINY_S = 0.002


class DeadlineChecks(Subject):
    """A deadline ends the call with its own error, and the backend answers the next one."""

    @check
    async def test_a_late_first_event_is_a_first_event_timeout(self, backend: Backend) -> None:
        """`first_event_s`, streamed and not."""
        for stream in (True, False):
            error, _ = await self._timed(backend, Timeouts(first_event_s=_TINY_S), stream=stream)
            assert error is None or type(error) is FirstEventTimeoutError, f"a late first event is {error!r}"
            _is_timed(error, _TINY_S)

    @check
    async def test_a_pause_between_events_is_an_event_idle_timeout(self, backend: Backend) -> None:
        """`event_idle_s`, with what had come as `partial`."""
        error, text = await self._timed(backend, Timeouts(event_idle_s=_TINY_S))
        assert error is None or type(error) is EventIdleTimeoutError, f"a pause between events is {error!r}"
        _is_timed(error, _TINY_S)
        _has_partial(error, text)

    @check
    async def test_a_call_over_its_total_is_a_total_timeout(self, backend: Backend) -> None:
        """`total_s`, passed after the first event, with what had come as `partial`."""
        error, text = await self._timed(backend, Timeouts(total_s=_TOTAL_S), long=True)
        assert error is None or type(error) is TotalTimeoutError, f"a call over its total is {error!r}"
        _is_timed(error, _TOTAL_S)
        _has_partial(error, text)

    async def _timed(
        self, backend: Backend, timeouts: Timeouts, *, stream: bool = True, long: bool = False
    ) -> tuple[APITimeoutError | None, str]:
        """The deadline that a call runs into, if it does, and the text that had come by then.

        A `long` answer has a reader who dallies over its first event until the total has passed.
        """
        if not self.chat:
            return None, ""
        await self.answer(backend)  # what is made once, such as a model that is loaded, is not what is timed
        before = asyncio.all_tasks()
        client = Client(backend=backend, model=self.model, retry=None, timeouts=timeouts, env={})
        prompt, limit = (self.long_prompt, self.long_max_tokens) if long else (self.prompt, self.max_tokens)
        options: SamplingOptions = {} if limit is None else {"max_tokens": limit}
        dally_s = 1.5 * _TOTAL_S if long else 0.0
        texts: list[str] = []
        failure: APITimeoutError | None = None
        with within(self.patience_s, "a call with a deadline"):
            try:
                async with asyncio.timeout(self.patience_s):
                    if stream:
                        async with client.stream(prompt, **options) as events:
                            async for event in events:
                                texts += [event.text] if isinstance(event, TextDelta) else []
                                await asyncio.sleep(dally_s)
                                dally_s = 0
                    else:
                        await client.chat(prompt, **options)
            except APITimeoutError as error:
                failure = error
        await settled(before, "a deadline")
        await self.answer(backend)
        return failure, "".join(texts)


def _is_timed(error: APITimeoutError | None, at_least_s: float) -> None:
    if error is None:
        return
    assert isinstance(error, TimeoutError), f"a {type(error).__name__} is no TimeoutError"
    assert error.elapsed_s is not None, f"a {type(error).__name__} does not say how long it took"
    assert error.elapsed_s >= at_least_s * 0.9, f"a deadline of {at_least_s} s strikes after {error.elapsed_s} s"


def _has_partial(error: APITimeoutError | None, text: str) -> None:
    if error is None or not text:
        return
    assert error.events, "events came before the deadline and the error tells of none"
    assert error.partial is not None, "a deadline in the middle of an answer has no partial"
    assert error.partial.text == text, "the partial of a deadline is not what had come"
