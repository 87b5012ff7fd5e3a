"""Spans and metrics, as OpenTelemetry's own SDK receives them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import SpanKind, StatusCode

import asyncllm
from asyncllm import Finished, Started, TextDelta, UsageReport
from asyncllm.cache import MemoryCache
from asyncllm.hooks.otel import OpenTelemetry
from asyncllm.testing import FaultyServer, Pause, ScriptedBackend, Stall, Status, openai_reply
from asyncllm.types import JsonSchema, Message, Usage

CANARY = "CANARY"
USAGE = UsageReport(Usage(input_tokens=7, output_tokens=2, cached_tokens=3, reasoning_tokens=1))
ANSWER: list[Any] = [Started("m-1", "id-1"), Pause(0.01), TextDelta(CANARY), USAGE, Finished("stop")]

NAMES = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
NAMES |= {error_attributes.ERROR_TYPE, "asyncllm.cached", "asyncllm.failed_attempts", "asyncllm.queue_s"}
DEPRECATED = {"gen_ai.system", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"}
METRICS = {value for name, value in vars(gen_ai_metrics).items() if name.startswith("GEN_AI_CLIENT_")}


class Telemetry:
    """An SDK that keeps what it is given."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.hook = OpenTelemetry(self.tracers, self.meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those of calls, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.span.attributes or {})

    def points(self) -> dict[str, list[HistogramDataPoint]]:
        """The data of each metric."""
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data is not None else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return {
            metric.name: [point for point in metric.data.data_points if isinstance(point, HistogramDataPoint)]
            for metric in metrics
        }

    def client(self, *scripts: Any, **options: Any) -> asyncllm.Client:
        return asyncllm.Client(backend=ScriptedBackend(scripts), model="m", hooks=[self.hook], **options)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.tracers.shutdown()
    telemetry.meters.shutdown()


async def test_a_call_that_was_refused_has_a_span_that_ends(telemetry: Telemetry) -> None:
    hooks: list[asyncllm.Hook] = [telemetry.hook, asyncllm.Gate(lambda: False)]
    async with asyncllm.Client(backend=ScriptedBackend([ANSWER]), model="m", hooks=hooks) as client:
        with pytest.raises(asyncllm.BudgetExceededError):
            await client.chat("hi")

    assert telemetry.attributes["error.type"] == "BudgetExceededError"


async def test_what_a_call_cost_is_on_its_span(telemetry: Telemetry) -> None:
    prices = {"m": asyncllm.Price(input_usd=1_000_000, output_usd=0)}
    async with telemetry.client(ANSWER, prices=prices) as client:
        reply = await client.chat("hi")

    assert telemetry.attributes["asyncllm.cost_usd"] == reply.cost_usd


# -- spans -------------------------------------------------------------------------------------------------------


async def test_an_answered_call_is_a_span_by_the_conventions(telemetry: Telemetry) -> None:
    async with telemetry.client(ANSWER) as client:
        await client.chat(CANARY, temperature=0.5, max_tokens=9, top_p=0.9, top_k=3, seed=1, n=1, stop=CANARY)

    span = telemetry.span
    assert (span.name, span.kind, span.status.status_code) == ("chat m", SpanKind.CLIENT, StatusCode.UNSET)
    assert telemetry.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ScriptedBackend",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.seed": 1,
        "gen_ai.response.model": "m-1",
        "gen_ai.response.id": "id-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 1,
    }
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time >= 10_000_000


async def test_a_stream_says_that_it_is_one_and_when_its_first_piece_came(telemetry: Telemetry) -> None:
    async with telemetry.client(ANSWER) as client:
        async with client.stream(CANARY, n=2, constraint=JsonSchema({"title": CANARY})) as stream:
            assert telemetry.spans == []
            async for _ in stream:
                pass

    attributes = telemetry.attributes
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["gen_ai.response.time_to_first_chunk"] >= 0.01
    assert attributes["gen_ai.request.choice.count"] == 2
    assert attributes["gen_ai.output.type"] == "json"


async def test_a_completion_is_named_so(telemetry: Telemetry) -> None:
    async with telemetry.client(ANSWER) as client:
        await client.complete(CANARY)

    assert telemetry.span.name == "text_completion m"


async def test_an_embedding_is_a_span_too(telemetry: Telemetry) -> None:
    reply = b'{"object":"list","model":"e","data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":3}}'

    async with FaultyServer([Status(body=reply)]) as server:
        async with asyncllm.Client(
            model="openai:e", base_url=f"{server.url}/v1", api_key="sk-x", hooks=[telemetry.hook], env={}
        ) as client:
            await client.embed(CANARY, dimensions=1)

    assert telemetry.span.name == "embeddings e"
    assert telemetry.attributes["gen_ai.provider.name"] == "openai"
    assert telemetry.attributes["gen_ai.embeddings.dimension.count"] == 1
    assert telemetry.attributes["gen_ai.usage.input_tokens"] == 3


async def test_the_callers_span_is_the_parent_and_the_call_is_never_the_current_one(telemetry: Telemetry) -> None:
    tracer = telemetry.tracers.get_tracer("test")
    current: list[object] = []

    class Looking(ScriptedBackend):
        def open(self, request: asyncllm.Request, /) -> Any:
            current.append(trace.get_current_span())
            return super().open(request)

    with tracer.start_as_current_span("outer") as outer:
        async with asyncllm.Client(backend=Looking([ANSWER]), model="m", hooks=[telemetry.hook]) as client:
            async with client.stream(CANARY) as stream:
                current.append(trace.get_current_span())
                current.extend([trace.get_current_span() async for _ in stream])

    assert telemetry.span.parent is not None
    assert telemetry.span.parent.span_id == outer.get_span_context().span_id
    assert telemetry.span.context.trace_id == outer.get_span_context().trace_id
    assert all(one is outer for one in current)


async def test_a_stream_that_ends_in_another_task_ends_its_span_there(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    async with telemetry.client(ANSWER) as client:
        stream = client.stream(CANARY)
        await asyncio.create_task(stream.__aenter__())

        async def read() -> int:
            return len([event async for event in stream])

        assert await asyncio.create_task(read()) == 4
        await asyncio.create_task(stream.__aexit__(None, None, None))

    assert telemetry.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert caplog.records == []


async def test_a_stream_that_is_left_early_ends_its_span_without_an_error(telemetry: Telemetry) -> None:
    async with telemetry.client([*ANSWER[:3], Stall()]) as client, client.stream(CANARY) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break

    assert telemetry.span.status.status_code is StatusCode.UNSET
    assert "error.type" not in telemetry.attributes
    assert telemetry.attributes["gen_ai.response.finish_reasons"] == ("error",)  # none was heard


async def test_a_text_stream_that_is_dropped_ends_its_span(telemetry: Telemetry) -> None:
    async with telemetry.client([*ANSWER[:3], Stall()]) as client:
        texts = client.stream_text(CANARY)
        assert await anext(texts) == CANARY
        del texts
        for _ in range(100):
            if telemetry.spans:
                break
            await asyncio.sleep(0.01)

        assert telemetry.span.name == "chat m"


async def test_a_cancelled_call_ends_its_span_and_says_so(telemetry: Telemetry) -> None:
    async with telemetry.client(Stall()) as client:
        task = asyncio.create_task(client.chat(CANARY))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert telemetry.span.status.status_code is StatusCode.ERROR
    assert telemetry.attributes["error.type"] == "CancelledError"


async def test_a_failure_is_named_by_its_class_and_says_nothing_more(telemetry: Telemetry) -> None:
    cut = [*ANSWER[:-1], asyncllm.StreamInterrupted(CANARY)]

    async with telemetry.client(asyncllm.BadRequestError(CANARY, status=400, code="x"), cut) as client:
        with pytest.raises(asyncllm.BadRequestError):
            await client.chat(CANARY)
        with pytest.raises(asyncllm.StreamInterrupted):
            async with client.stream(CANARY) as stream:
                async for _ in stream:
                    pass

    refused, broken = telemetry.spans
    assert [(refused.attributes or {})["error.type"], (broken.attributes or {})["error.type"]] == [
        "BadRequestError",
        "StreamInterrupted",
    ]
    assert (broken.attributes or {})["gen_ai.usage.output_tokens"] == 2
    for span in telemetry.spans:
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.events == ()


async def test_a_retried_call_is_one_span_over_all_its_attempts(telemetry: Telemetry) -> None:
    async with telemetry.client(asyncllm.OverloadedError("x", retry_after_s=0.01), ANSWER) as client:
        await client.chat(CANARY)

    assert telemetry.attributes["asyncllm.failed_attempts"] == 1
    assert telemetry.span.status.status_code is StatusCode.UNSET


# -- metrics -----------------------------------------------------------------------------------------------------


async def test_metrics_have_the_names_units_and_buckets_of_the_conventions(telemetry: Telemetry) -> None:
    async with telemetry.client(ANSWER) as client:
        async with client.stream(CANARY) as stream:
            async for _ in stream:
                pass

    points = telemetry.points()
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ScriptedBackend",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-1",
    }
    (duration,) = points["gen_ai.client.operation.duration"]
    (first,) = points["gen_ai.client.operation.time_to_first_chunk"]
    tokens = {(point.attributes or {})["gen_ai.token.type"]: point for point in points["gen_ai.client.token.usage"]}
    assert dict(duration.attributes or {}) == dict(first.attributes or {}) == common
    assert 0.01 <= first.sum <= duration.sum < 30
    assert duration.explicit_bounds == first.explicit_bounds
    assert (duration.explicit_bounds[0], duration.explicit_bounds[-1]) == (0.01, 81.92)
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 7, "output": 2}
    assert (tokens["input"].explicit_bounds[0], tokens["input"].explicit_bounds[-1]) == (1, 67108864)
    assert points.keys() <= METRICS


async def test_an_answer_out_of_a_cache_says_so_and_counts_no_tokens(telemetry: Telemetry) -> None:
    async with telemetry.client(ANSWER, cache=MemoryCache()) as client:
        for _ in range(2):
            await client.chat(CANARY)

    asked, cached = (dict(span.attributes or {}) for span in telemetry.spans)
    durations = telemetry.points()["gen_ai.client.operation.duration"]
    assert ("asyncllm.cached" in asked, cached["asyncllm.cached"]) == (False, True)
    assert [point.count for point in telemetry.points()["gen_ai.client.token.usage"]] == [1, 1]
    assert sorted("asyncllm.cached" in (point.attributes or {}) for point in durations) == [False, True]


async def test_a_failed_call_counts_its_time_by_the_error_and_no_tokens(telemetry: Telemetry) -> None:
    async with telemetry.client(asyncllm.BadRequestError("x")) as client:
        with pytest.raises(asyncllm.BadRequestError):
            await client.chat(CANARY)

    points = telemetry.points()
    (duration,) = points["gen_ai.client.operation.duration"]
    assert (duration.attributes or {})["error.type"] == "BadRequestError"
    assert points.keys() == {"gen_ai.client.operation.duration"}


# -- what both must not do ---------------------------------------------------------------------------------------


async def test_every_name_is_one_of_the_conventions_and_none_is_deprecated(telemetry: Telemetry) -> None:
    async with telemetry.client(ANSWER, asyncllm.BadRequestError("x")) as client:
        await client.chat(CANARY, temperature=1, presence_penalty=1, frequency_penalty=1, n=2)
        with pytest.raises(asyncllm.BadRequestError):
            await client.chat(CANARY)

    used = {name for span in telemetry.spans for name in span.attributes or {}}
    used |= {name for points in telemetry.points().values() for point in points for name in point.attributes or {}}
    assert used <= NAMES
    assert not used & DEPRECATED


async def test_no_prompt_answer_or_key_is_in_any_span_or_metric(telemetry: Telemetry) -> None:
    told = f'{{"error":{{"message":"{CANARY} sk-{CANARY}","code":"bad","type":"x"}}}}'.encode()
    scripts = [[Status(400, body=told)], [Status(body=openai_reply(CANARY))]]

    async with FaultyServer(scripts) as server:
        async with asyncllm.Client(
            model="openai:m",
            base_url=f"{server.url}/v1",
            api_key=f"sk-{CANARY}",
            hooks=[telemetry.hook],
            env={},
        ) as client:
            ask = partial(
                client.chat,
                [Message("system", CANARY), Message("user", CANARY)],
                stop=[CANARY],
                tools=[asyncllm.Tool(CANARY)],
                extra={"user": CANARY},
            )
            with pytest.raises(asyncllm.BadRequestError):
                await ask()
            assert (await ask()).text == CANARY

    assert len(telemetry.spans) == 2
    assert CANARY not in "".join(span.to_json() for span in telemetry.spans)
    assert CANARY not in repr(telemetry.points())


async def test_without_an_sdk_the_hook_does_nothing() -> None:
    async with asyncllm.Client(backend=ScriptedBackend([ANSWER]), model="m", hooks=[OpenTelemetry()]) as client:
        assert (await client.chat(CANARY)).text == CANARY


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(asyncllm.ConfigError, match=r"pip install 'asyncllm\[otel\]'"):
        OpenTelemetry()
