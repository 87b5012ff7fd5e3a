"""What a server tells of itself to Prometheus: counted here, written as its text.

Labels are few: routes, models that are served, statuses, names of errors; never a key, and nothing that was asked or
said. Durations have the names and the buckets of OpenTelemetry's conventions for generative AI; the rest reads like
vLLM's. The library of Prometheus keeps what several processes tell in files beside them, each written on every change;
here all of it is numbers in a dictionary, which processes that share a store add up in it (`workspace.board`).

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from asyncllm.errors import AsyncLLMError
from asyncllm.workspace.board import Series

__all__ = ["Figures", "GAUGES", "Kind", "write_text"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class _Metric(Struct, frozen=True):
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_WHOLE: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_MODEL: Final = ("gen_ai_request_model",)
_METRICS: Final[Mapping[str, _Metric]] = {
    "asyncllm_requests_total": _Metric("counter", "Requests answered.", ("route", "model", "status")),
    "asyncllm_requests_refused_total": _Metric("counter", "Calls not let in, by the limit.", ("reason",)),
    "asyncllm_requests_running": _Metric("gauge", "Calls under way."),
    "asyncllm_requests_waiting": _Metric("gauge", "Calls that wait for their turn."),
    "asyncllm_clients_gone_total": _Metric("counter", "Requests whose client went before the end."),
    "asyncllm_slow_readers_total": _Metric("counter", "Clients that were cut off as they took nothing."),
    "asyncllm_prompt_tokens_total": _Metric("counter", "Input tokens.", ("model",)),
    "asyncllm_generation_tokens_total": _Metric("counter", "Output tokens.", ("model",)),
    "asyncllm_stream_events_total": _Metric("counter", "Events of streamed answers.", ("model",)),
    "asyncllm_upstream_failures_total": _Metric("counter", "Calls that failed behind the server.", ("error",)),
    "asyncllm_store_failures_total": _Metric("counter", "Times the store could not be used.", ("what",)),
    "asyncllm_usage_rows_waiting": _Metric("gauge", "Rows of usage that the store has not taken yet."),
    "asyncllm_usage_lost_total": _Metric("counter", "Calls that stand in no account, as the store failed too long."),
    "gen_ai_server_time_to_first_token_seconds": _Metric("histogram", "To the first of an answer.", _MODEL, _FIRST),
    "gen_ai_server_request_duration_seconds": _Metric("histogram", "From asking to the end.", _MODEL, _WHOLE),
}

GAUGES: Final = frozenset(name for name, metric in _METRICS.items() if metric.kind == "gauge")
"""What stands at a moment."""


class Figures:
    """Counts."""

    def __init__(self) -> None:
        self.series: Series = {}

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        self.series.setdefault((name, labels), [0.0])[0] += by

    def set(self, name: str, *labels: str, to: float) -> None:
        """Say what a gauge, or a counter that is kept elsewhere, stands at."""
        self.series[name, labels] = [to]

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Count a duration, in seconds."""
        bounds = _METRICS[name].bounds
        counts = self.series.setdefault((name, labels), [0.0] * (len(bounds) + 2))
        counts[bisect_left(bounds, value)] += 1
        counts[-1] += value

    def answered(self, route: str, model: str, status: int) -> None:
        """A reply has gone."""
        self.add("asyncllm_requests_total", route, model, str(status))

    def refused(self, error: AsyncLLMError) -> None:
        """A call was not let in."""
        self.add("asyncllm_requests_refused_total", error.code or type(error).__name__)

    def ended(
        self,
        *,
        model: str,
        seconds: float,
        first_s: float | None,
        input_tokens: int,
        output_tokens: int,
        events: int,
        error: AsyncLLMError | None,
    ) -> None:
        """A call is over."""
        self.observe("gen_ai_server_request_duration_seconds", model, value=seconds)
        if first_s is not None:
            self.observe("gen_ai_server_time_to_first_token_seconds", model, value=first_s)
        self.add("asyncllm_prompt_tokens_total", model, by=input_tokens)
        self.add("asyncllm_generation_tokens_total", model, by=output_tokens)
        if events:
            self.add("asyncllm_stream_events_total", model, by=events)
        if error is not None:
            self.add("asyncllm_upstream_failures_total", type(error).__name__)


def write_text(series: Series) -> str:
    """In Prometheus's text format."""
    lines: list[str] = []
    for name, metric in _METRICS.items():
        lines += (f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}")
        own = sorted((labels, values) for (of, labels), values in series.items() if of == name)
        if not own and not metric.labels:
            own = [((), [0.0])]
        for labels, values in own:
            pairs = [f'{label}="{_escaped(value)}"' for label, value in zip(metric.labels, labels, strict=True)]
            if metric.kind == "histogram":
                lines += _buckets(name, metric.bounds, pairs, values)
            else:
                lines.append(f"{name}{_in_braces(pairs)} {_number(values[0])}")
    return "\n".join([*lines, ""])


def _buckets(name: str, bounds: tuple[float, ...], pairs: list[str], values: list[float]) -> Iterable[str]:
    count = 0.0
    for bound, value in zip((*map(_number, bounds), "+Inf"), values, strict=False):
        count += value
        least = [*pairs, f'le="{bound}"']
        yield f"{name}_bucket{_in_braces(least)} {_number(count)}"
    yield f"{name}_sum{_in_braces(pairs)} {_number(values[-1])}"
    yield f"{name}_count{_in_braces(pairs)} {_number(count)}"


def _in_braces(pairs: list[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
