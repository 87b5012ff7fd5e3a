"""OpenTelemetry spans and metrics, by the semantic conventions for generative AI.

Names and buckets are those of opentelemetry-semantic-conventions 0.66b2, group `gen_ai`, status "development". Prompts,
answers, stop texts and keys are in none of it, and there is no switch that puts them there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from asyncllm import __version__
from asyncllm.backend import EmbedRequest
from asyncllm.errors import AsyncLLMError, ConfigError
from asyncllm.trail import Trail
from asyncllm.types import JsonSchema, Request, Response, Usage

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetry"]

_OPERATIONS = {"chat": "chat", "complete": "text_completion", "embed": "embeddings"}
"""The conventions' words for what is called; other calls keep their own."""

_PROVIDERS = {"azure": "azure.ai.openai"}
"""The conventions' words for backends that are registered under another name."""

_SAMPLING = {
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "max_tokens": "gen_ai.request.max_tokens",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
}

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))


class OpenTelemetry:
    """A hook that makes a span and the metrics of each call, with the global providers or those given.

    The span is named "{operation} {model}", has the caller's span for a parent, and lasts until the answer has ended,
    has been left or has failed, in whichever task that happens; it is never the current span itself. A failure sets
    `error.type` to the name of the error's class (for a call that was cancelled, `CancelledError`). The metrics are
    `gen_ai.client.operation.duration`, `gen_ai.client.token.usage` (not for answers out of a cache, which nobody is
    charged for) and, for streams, `gen_ai.client.operation.time_to_first_chunk`. What the conventions have no name for
    is `asyncllm.cached` and, on spans, `asyncllm.cost_usd`, `asyncllm.failed_attempts` and `asyncllm.queue_s`.

    Raises `ConfigError` where `pip install 'asyncllm[otel]'` is missing.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ModuleNotFoundError:
            raise ConfigError("OpenTelemetry needs its API: pip install 'asyncllm[otel]'", field="hooks") from None
        self._kind = trace.SpanKind.CLIENT
        self._error = trace.Status(trace.StatusCode.ERROR)
        self._tracer = trace.get_tracer("asyncllm", __version__, tracer_provider)
        meter = metrics.get_meter("asyncllm", __version__, meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to receive the first chunk, from when the client issues the request.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def before(self, call: Trail) -> None:
        """Start the span."""
        asked = _asked(call)
        name = f"{asked['gen_ai.operation.name']} {call.model}".rstrip()
        call.state[id(self)] = self._tracer.start_span(name, kind=self._kind, attributes=asked | _options(call))

    def after(self, call: Trail, response: Response | None) -> None:
        """End the span of a call that was answered, or left early."""
        self._end(call, response, None)

    def on_error(self, call: Trail, error: BaseException) -> None:
        """End the span of a call that failed or was cancelled."""
        self._end(call, error.partial if isinstance(error, AsyncLLMError) else None, error)

    def _end(self, call: Trail, response: Response | None, error: BaseException | None) -> None:
        # Another model than the first may have answered.
        asked = _asked(call)
        if response is not None and response.model is not None:
            asked["gen_ai.response.model"] = response.model
        if call.cached:
            asked["asyncllm.cached"] = True
        usage = call.usage or (response.usage if response is not None else Usage())
        span: Span | None = call.state.pop(id(self), None)
        if span is not None:
            span.set_attributes(asked | _answered(call, response, usage))
            if error is not None:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(self._error)
            span.end()
        self._count(call, usage, asked, error)

    def _count(self, call: Trail, usage: Usage, asked: dict[str, Any], error: BaseException | None) -> None:
        if call.stream and call.first_content_s is not None:
            self._first_chunk.record(call.first_content_s, asked)
        if not call.cached:
            for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                if tokens is not None:
                    self._tokens.record(tokens, {**asked, "gen_ai.token.type": kind})
        failed = {} if error is None else {"error.type": type(error).__qualname__}
        self._duration.record(call.ended_s or 0.0, asked | failed)


def _asked(call: Trail) -> dict[str, Any]:
    """What spans and metrics of a call have in common."""
    asked = {
        "gen_ai.operation.name": _OPERATIONS.get(call.kind, call.kind),
        "gen_ai.provider.name": _PROVIDERS.get(call.backend, call.backend),
    }
    if call.model:
        asked["gen_ai.request.model"] = call.model
    return asked


def _options(call: Trail) -> dict[str, Any]:
    """The options of a request that are numbers and words, and no content."""
    request = call.request
    if isinstance(request, EmbedRequest):
        return {} if request.dimensions is UNSET else {"gen_ai.embeddings.dimension.count": request.dimensions}
    if not isinstance(request, Request):
        return {}
    sampling = request.sampling
    options = {name: value for field, name in _SAMPLING.items() if (value := getattr(sampling, field)) is not UNSET}
    if sampling.n is not UNSET and sampling.n != 1:
        options["gen_ai.request.choice.count"] = sampling.n
    if request.stream:
        options["gen_ai.request.stream"] = True
    if isinstance(request.constraint, JsonSchema):
        options["gen_ai.output.type"] = "json"
    return options


def _answered(call: Trail, response: Response | None, usage: Usage) -> dict[str, Any]:
    """What is known at the end of a call."""
    known: dict[str, Any] = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "gen_ai.response.time_to_first_chunk": call.first_content_s if call.stream else None,
        "asyncllm.cost_usd": call.cost_usd,
        "asyncllm.failed_attempts": len(call.failures) or None,
        "asyncllm.queue_s": call.queue_s or None,
    }
    if response is not None:
        known["gen_ai.response.id"] = response.request_id
        # A choice that was not heard to its end counts as one that ended in an error.
        unheard = None if call.is_complete else "error"
        reasons = [choice.finish_reason or unheard for choice in response.choices]
        known["gen_ai.response.finish_reasons"] = [reason for reason in reasons if reason] or None
    return {name: value for name, value in known.items() if value is not None}
