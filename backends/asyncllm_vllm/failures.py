"""What vLLM raises, as this package's errors. Its classes are known by their names, so nothing is imported."""

from __future__ import annotations

import re
from typing import Any

from asyncllm.errors import (
    APIConnectionError,
    AsyncLLMError,
    BadRequestError,
    ConfigError,
    ContextLengthExceededError,
    InternalServerError,
    OverloadedError,
)
from asyncllm.rejection import excerpt

__all__ = ["is_dead", "not_started", "refused"]

_TOO_LONG = re.compile(r"maximum context length|max_model_len|maximum model length|too long", re.IGNORECASE)
_QUEUE = ("QueueOverflowError", "MaxQueuedTokensError")


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in type(error).__mro__)


def is_dead(error: BaseException) -> bool:
    """Whether the engine is gone."""
    return "EngineDeadError" in _names(error)


def refused(error: Exception, sent: bytes) -> AsyncLLMError:
    """Why a request was not taken, or was given up. `sent` is what the error must not repeat."""
    names = _names(error)
    if names & frozenset(_QUEUE):
        return OverloadedError("the engine's queue is full: max_num_queued_reqs, max_num_queued_tokens", status=503)
    told = str(error.args[0]) if error.args else type(error).__name__
    message = excerpt(told.encode("utf-8", "replace"), sent=sent) or type(error).__name__
    param = getattr(error, "parameter", None)
    if "EngineGenerateError" in names:
        cause = type(error.__cause__).__name__ if error.__cause__ is not None else "no reason given"
        return InternalServerError(f"the engine failed at this request ({cause})", status=500, maybe_billed=True)
    if names & {"VLLMClientError", "ValueError", "TypeError", "TemplateError", "NotImplementedError"}:
        if _TOO_LONG.search(told):
            return ContextLengthExceededError(message, status=400, code="context_length_exceeded", param=param)
        return BadRequestError(message, status=400, param=param)
    return APIConnectionError(f"vLLM failed with {type(error).__name__}: {message}", retryable=False)


def not_started(model: str, error: BaseException, reason: str | None) -> ConfigError:
    """Why there is no engine; `reason` is the last error that its process wrote."""
    if isinstance(error, ConfigError):
        return error
    told = str(error)
    first = next((line.strip() for line in told.splitlines() if line.strip()), type(error).__name__)
    names = _names(error)
    if "ValidationError" in names:
        return _invalid(error)
    if isinstance(error, ImportError):
        return ConfigError(f"vLLM does not load here: {first}", field="model")
    if isinstance(error, OSError) or "RepositoryNotFoundError" in names or "LocalEntryNotFoundError" in names:
        return ConfigError(f"vLLM finds no model {model!r}: name a folder or a model of the hub", field="model")
    if "core initialization failed" in told.lower():
        return ConfigError(
            f"vLLM's engine could not start: {(reason or 'it ended without a word').rstrip('.')[:600]}. "
            "Whether model and cache fit the memory is up to gpu_memory_utilization, kv_cache_memory_bytes and "
            "max_model_len",
            field="kv_cache_memory_bytes" if reason and "memory" in reason.lower() else "model",
        )
    return ConfigError(f"vLLM does not start: {type(error).__name__}: {first[:300]}", field="model")


def _invalid(error: Any) -> ConfigError:
    """What pydantic has against an option; of what it says, the first sentence about the first one."""
    first: dict[str, Any] = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
    reason = first["msg"].removeprefix("Value error, ").partition(". ")[0].splitlines()[0]
    field = str(first["loc"][0]) if first["loc"] else "max_model_len" if "max_model_len" in reason else "model"
    return ConfigError(f"vLLM does not start with this {field}: {reason}", field=field)
