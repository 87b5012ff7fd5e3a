"""The public surface as a type checker sees it. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypedDict, assert_type

import asyncllm
from asyncllm import (
    BatchResult,
    Choice,
    Client,
    Dub,
    Embeddings,
    Event,
    Finished,
    FinishReason,
    FunctionTool,
    Image,
    ImageFrame,
    Images,
    JobResult,
    Line,
    MediaFile,
    Message,
    ModelInfo,
    PromptCheck,
    Rank,
    Response,
    Retry,
    Sampling,
    Speech,
    TextDelta,
    TextPart,
    Timeouts,
    Tool,
    ToolEnded,
    ToolEvent,
    ToolRun,
    ToolStarted,
    Transcript,
    Verdict,
    Video,
)
from asyncllm.backend import Backend, Config, Connect, Context
from asyncllm.events import Events
from asyncllm.sse import ServerSentEvent, SSEDecoder
from asyncllm.types import Request


async def calls() -> None:
    async with Client(
        model="llamacpp:smollm2",
        base_url="http://localhost/v1",
        api_key="k",
        timeouts=Timeouts(total_s=5),
        retry=Retry(attempts=2),
    ) as client:
        reply = await client.chat("Hello", temperature=0.2, stop=["a"], tools=[Tool("f")], constraint=Choice(["a"]))
        assert_type(reply, Response)
        assert_type(reply.text, str)
        assert_type(await client.get_model("aixplain:a"), ModelInfo)
        assert_type(reply.finish_reason, FinishReason | None)
        assert_type(reply.usage.input_tokens, int | None)

        async with client.stream([Message("user", [TextPart("hi")]), {"role": "user", "content": "hi"}]) as stream:
            async for event in stream:
                assert_type(event, Event)
                match event:
                    case TextDelta(text=text):
                        assert_type(text, str)
                    case _:
                        pass
            assert_type(stream.response, Response)

        async for piece in client.stream_text("hi", model=["openai:a", "openai:b"], sampling=Sampling(top_k=5)):
            assert_type(piece, str)

        assert_type(await client.complete([1, 2], max_tokens=5), Response)
        assert_type(await client.embed(["a"], dimensions=5), Embeddings)
        assert_type(await client.check_prompt("a", max_tokens=5), PromptCheck)
        assert_type(await client.transcribe("speech.wav", language="en", timestamps=["word"]), Transcript)
        assert_type(await client.speak([Line("v", "Hello")], mode="dialogue"), Speech)
        assert_type(await client.isolate(b"RIFF", duration_s=3), Speech)
        assert_type((await client.generate_image("A cat", n=2))[0], Image)
        assert_type(await client.edit_image(["cat.png", MediaFile(b"a", "b.png")], "A dog", mask=b"png"), Images)
        assert_type((await client.moderate(["a", TextPart("b")])).verdicts, tuple[Verdict, ...])
        assert_type((await client.rerank("q", ["a"], top_n=1)).ranks, tuple[Rank, ...])
        async with client.stream_speech("Hello", voice="alloy") as sound:
            async for data in sound:
                assert_type(data, bytes)
        async with client.stream_image("A cat", partial_images=1) as pictures:
            async for frame in pictures:
                assert_type(frame, ImageFrame)
        assert_type(await client.is_alive(), bool)

        city: Named = (await client.chat("hi", output_type=Named, repairs=2)).parsed
        assert_type(city["name"], str)
        async with client.stream("hi", output_type=list[int] | None) as stream:
            async for value in stream.objects():
                print(value, stream.partial)

        run = await client.run_tools("hi", tools=[twice, FunctionTool.of(twice), Tool("f")], max_rounds=2)
        assert_type(run, ToolRun)
        assert_type(run.text, str)
        assert_type(run.cost_usd, float | None)
        async with client.stream_tools("hi", tools=[twice], at_max_rounds="answer") as tools:
            async for told in tools:
                match told:
                    case ToolStarted(call=call):
                        assert_type(call.name, str)
                    case ToolEnded(result=result):
                        assert_type(result.error, str | None)
                    case _:
                        assert_type(told, Event)
            assert_type(tools.run, ToolRun)
        assert_type(await client.list_models("openai"), Sequence[ModelInfo])
        async for film in client.batch_jobs(["a"], lambda text: client.submit_video(text, seconds=8), timeout=600):
            assert_type(film, JobResult[Video])
            assert_type(film.result, Video | None)
        async for dub in client.batch_jobs([b"a"], lambda sound: client.submit_dub(sound, "es"), order="completion"):
            assert_type(dub.unwrap(), Dub)
        assert_type(client.batch_jobs(["a"], client.submit_video).unread, tuple[JobResult[Video], ...])
        async for done in client.batch(["a"]):
            assert_type(done.unwrap(), Response)


class Named(TypedDict):
    name: str


def twice(number: int) -> int:
    return 2 * number


def synchronous_calls() -> None:
    with asyncllm.sync.Client(model="echo:x") as client:
        assert_type(client.run_tools("hi", tools=[twice]), ToolRun)
        with client.stream_tools("hi", tools=[twice]) as tools:
            for told in tools:
                assert_type(told, ToolEvent)
        assert_type(client.chat("hi", seed=1).text, str)
        for piece in client.stream_text("hi"):
            assert_type(piece, str)
        with client.stream("hi") as stream:
            for event in stream:
                assert_type(event, Event)
        assert_type(client.transcribe(b"RIFF", verbose=True), Transcript)
        for film in client.batch_jobs(["a"], lambda text: client.submit_video(text)):
            assert_type(film, JobResult[Video])
        for done in client.batch(["a"]):
            assert_type(done, BatchResult)
        with client.stream_speech("Hello") as sound:
            for data in sound:
                assert_type(data, bytes)


class Mine:
    """A backend as a stranger writes it."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        yield self._events(request)

    async def _events(self, request: Request) -> AsyncGenerator[Event]:
        yield TextDelta(request.model)
        yield Finished("stop")

    async def aclose(self) -> None: ...


def connect(config: Config, context: Context, /) -> Backend:
    return Mine()


door: Connect = connect
opened: AbstractAsyncContextManager[Events] = Mine().open(Request(model="m"))
decoded: list[ServerSentEvent] = SSEDecoder().feed(b"data: x\n\n")
