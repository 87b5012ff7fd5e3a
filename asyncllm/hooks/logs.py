"""One log record a call, free of content.

The message is short; every fact stands in the record's attributes, under names that begin with `llm_`, where a
formatter for JSON finds them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asyncllm.errors import AsyncLLMError
from asyncllm.trail import Trail
from asyncllm.types import Response, Usage

__all__ = ["LogCalls"]


class LogCalls:
    """A hook that writes one record a call, at `level`; a call that failed is written at WARNING at least.

    `llm_outcome` is `answered`, `left` (before the end of the answer), `cancelled` or `failed`. Beside it stand
    `llm_call`, `llm_kind`, `llm_backend`, `llm_place`, `llm_model`, `llm_stream`, `llm_cached`, `llm_attempts`,
    `llm_queue_s`, `llm_first_content_s` and `llm_elapsed_s`; of an answer `llm_request_id`, `llm_finish_reason` and
    the counts `llm_input_tokens`, `llm_output_tokens`, `llm_cached_tokens` and `llm_reasoning_tokens`, and
    `llm_cost_usd`; of a failure `llm_error`, `llm_status`, `llm_code` and `llm_request_id`. What is not known is
    `None`.

    `logger` is `asyncllm.calls` by default.
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logger or logging.getLogger("asyncllm.calls")
        self._level = level

    def after(self, call: Trail, response: Response | None) -> None:
        """Write down a call that was answered, or left early."""
        outcome = "answered" if call.is_complete or response is None else "left"
        self._write(self._level, call, outcome, response, None)

    def on_error(self, call: Trail, error: BaseException) -> None:
        """Write down a call that failed or was cancelled."""
        if isinstance(error, asyncio.CancelledError):
            self._write(self._level, call, "cancelled", None, error)
        else:
            partial = error.partial if isinstance(error, AsyncLLMError) else None
            self._write(max(self._level, logging.WARNING), call, "failed", partial, error)

    def _write(
        self, level: int, call: Trail, outcome: str, response: Response | None, error: BaseException | None
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        facts = _facts(call, outcome, response, error)
        self._logger.log(
            level,
            "%s %s:%s %s%s in %.3f s",
            call.kind,
            call.backend,
            call.model,
            outcome,
            "" if error is None else f" ({type(error).__name__})",
            call.ended_s or 0.0,
            extra={f"llm_{name}": value for name, value in facts.items()},
        )


def _facts(call: Trail, outcome: str, response: Response | None, error: BaseException | None) -> dict[str, Any]:
    usage = call.usage or (response.usage if response is not None else Usage())
    failure = error if isinstance(error, AsyncLLMError) else None
    return {
        "outcome": outcome,
        "call": call.id,
        "kind": call.kind,
        "backend": call.backend,
        "place": call.place,
        "model": call.model,
        "stream": call.stream,
        "cached": call.cached,
        "attempts": _attempts(call, failure),
        "queue_s": call.queue_s,
        "first_content_s": call.first_content_s,
        "elapsed_s": call.ended_s,
        "request_id": (failure and failure.request_id) or (response and response.request_id) or None,
        "finish_reason": None if response is None else response.finish_reason,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": call.cost_usd,
        "error": None if error is None else type(error).__name__,
        "status": None if failure is None else failure.status,
        "code": None if failure is None else failure.code,
    }


def _attempts(call: Trail, failure: AsyncLLMError | None) -> int:
    """How often the call was made: none where a cache answered."""
    if failure is not None:
        return max(1, len(failure.attempts))
    return 0 if call.cached else len(call.failures) + 1
