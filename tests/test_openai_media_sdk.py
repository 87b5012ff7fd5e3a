"""OpenAI's own SDK and this client, against the same server: the same requests, and the same replies read."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI
from openai.types import ModerationTextInputParam

from asyncllm import Client, TextPart
from asyncllm.testing import FaultyServer
from asyncllm.testing.seen import SeenRequest
from forms import Field, fields_of
from openai_media_server import MP3, PNG, WAV, answers, serving


@asynccontextmanager
async def both(model: str) -> AsyncIterator[tuple[AsyncOpenAI, Client, FaultyServer]]:
    """The SDK and a client of ours, of one server."""
    async with serving(answers, model=f"openai:{model}") as (server, client):
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-media", max_retries=0) as sdk:
            yield sdk, client, server


def pair(server: FaultyServer) -> tuple[SeenRequest, SeenRequest]:
    """The SDK's request and ours, which agree in what is not their body."""
    theirs, ours = server.requests
    for seen in (theirs, ours):
        assert seen.headers["authorization"] == "Bearer sk-media"
    assert (theirs.method, theirs.path) == (ours.method, ours.path)
    kinds = [seen.headers["content-type"].partition(";")[0] for seen in (theirs, ours)]
    assert kinds[0] == kinds[1]
    return theirs, ours


async def forms(server: FaultyServer) -> tuple[list[Field], list[Field]]:
    theirs, ours = pair(server)
    return sorted(await fields_of(theirs), key=_key), sorted(await fields_of(ours), key=_key)


def _key(field: Field) -> tuple[str, bytes]:
    return field.name, field.value


def bodies(server: FaultyServer) -> tuple[Any, Any]:
    theirs, ours = pair(server)
    return theirs.json(), ours.json()


async def test_a_verbose_transcript() -> None:
    async with both("whisper-1") as (sdk, client, server):
        theirs = await sdk.audio.transcriptions.create(
            file=("audio.wav", WAV, "audio/wav"), model="whisper-1", response_format="verbose_json", language="en",
            prompt="Beaches", temperature=0.2, timestamp_granularities=["word", "segment"],
        )  # fmt: skip
        ours = await client.transcribe(
            WAV, language="en", prompt="Beaches", temperature=0.2, timestamps=["word", "segment"]
        )

    sent, written = await forms(server)
    assert written == sent
    assert (ours.text, ours.language, ours.duration_s) == (theirs.text, theirs.language, theirs.duration)
    assert theirs.segments is not None
    assert theirs.words is not None
    assert [(one.text, one.start_s, one.end_s) for one in ours.segments] == [
        (one.text, one.start, one.end) for one in theirs.segments
    ]
    assert [(one.text, one.start_s, one.end_s) for one in ours.words] == [
        (one.word, one.start, one.end) for one in theirs.words
    ]
    assert theirs.usage is not None
    assert ours.usage.audio_s == theirs.usage.seconds


async def test_a_plain_transcript() -> None:
    async with both("gpt-4o-transcribe") as (sdk, client, server):
        theirs = await sdk.audio.transcriptions.create(
            file=("audio.wav", WAV, "audio/wav"), model="gpt-4o-transcribe", response_format="json"
        )
        ours = await client.transcribe(WAV)

    sent, written = await forms(server)
    assert written == sent
    assert ours.text == theirs.text
    assert theirs.usage is not None
    assert theirs.usage.type == "tokens"
    assert (ours.usage.input_tokens, ours.usage.output_tokens) == (
        theirs.usage.input_tokens,
        theirs.usage.output_tokens,
    )


async def test_speech() -> None:
    async with both("gpt-4o-mini-tts") as (sdk, client, server):
        theirs = await sdk.audio.speech.create(
            input="Hello", model="gpt-4o-mini-tts", voice="alloy", response_format="mp3", speed=1.25, instructions="Low"
        )
        ours = await client.speak("Hello", voice="alloy", format="mp3", speed=1.25, instructions="Low")

    sent, written = bodies(server)
    assert written == sent
    assert ours.data == theirs.content == MP3


async def test_streamed_speech() -> None:
    async with both("gpt-4o-mini-tts") as (sdk, client, server):
        async with sdk.audio.speech.with_streaming_response.create(
            input="Hello", model="gpt-4o-mini-tts", voice="alloy"
        ) as reply:
            theirs = b"".join([data async for data in reply.iter_bytes()])
        async with client.stream_speech("Hello", voice="alloy") as stream:
            ours = b"".join([data async for data in stream])

    sent, written = bodies(server)
    assert written == sent
    assert ours == theirs == MP3


async def test_pictures() -> None:
    async with both("gpt-image-2") as (sdk, client, server):
        theirs = await sdk.images.generate(
            prompt="A cat", model="gpt-image-2", n=2, size="1024x1024", quality="high", background="opaque",
            output_format="png", output_compression=90, moderation="low",
        )  # fmt: skip
        ours = await client.generate_image(
            "A cat", n=2, size="1024x1024", quality="high", background="opaque", format="png", compression=90,
            extra={"moderation": "low"},
        )  # fmt: skip

    sent, written = bodies(server)
    assert written == sent
    assert theirs.data is not None
    assert [image.data for image in ours] == [base64.b64decode(image.b64_json or "") for image in theirs.data]
    assert [image.revised_prompt for image in ours] == [image.revised_prompt for image in theirs.data]
    assert theirs.usage is not None
    assert (ours.usage.input_tokens, ours.usage.output_tokens) == (
        theirs.usage.input_tokens,
        theirs.usage.output_tokens,
    )
    assert (ours.size, ours.quality) == (theirs.size, theirs.quality)


async def test_changed_pictures() -> None:
    png = ("image.png", PNG, "image/png")
    async with both("gpt-image-2") as (sdk, client, server):
        theirs = await sdk.images.edit(
            image=[png, png], mask=png, prompt="A dog", model="gpt-image-2", n=2, size="auto", input_fidelity="high"
        )
        ours = await client.edit_image(
            [PNG, PNG], "A dog", mask=PNG, n=2, size="auto", extra={"input_fidelity": "high"}
        )

    sent, written = await forms(server)
    assert written == sent
    assert theirs.data is not None
    assert [image.data for image in ours] == [base64.b64decode(image.b64_json or "") for image in theirs.data]


async def test_streamed_pictures() -> None:
    async with both("gpt-image-2") as (sdk, client, server):
        events = [
            event
            async for event in await sdk.images.generate(
                prompt="A cat", model="gpt-image-2", stream=True, partial_images=2
            )
        ]
        async with client.stream_image("A cat", partial_images=2) as stream:
            frames = [frame async for frame in stream]

    sent, written = bodies(server)
    assert written == sent
    assert [frame.image.data for frame in frames] == [base64.b64decode(event.b64_json) for event in events]
    assert [frame.is_final for frame in frames] == [event.type.endswith("completed") for event in events]


async def test_a_streamed_change() -> None:
    async with both("gpt-image-2") as (sdk, client, server):
        events = [
            event
            async for event in await sdk.images.edit(
                image=("image.png", PNG, "image/png"), prompt="A dog", model="gpt-image-2", stream=True,
                partial_images=2,
            )
        ]  # fmt: skip
        async with client.stream_image("A dog", images=PNG, partial_images=2) as stream:
            frames = [frame async for frame in stream]

    sent, written = await forms(server)
    assert written == sent
    assert len(frames) == len(events) == 3


async def test_a_moderation() -> None:
    async with both("omni-moderation-latest") as (sdk, client, server):
        theirs = await sdk.moderations.create(input=["kill", "kiss"], model="omni-moderation-latest")
        ours = await client.moderate(["kill", "kiss"])

    sent, written = bodies(server)
    assert written == sent
    assert [verdict.flagged for verdict in ours] == [verdict.flagged for verdict in theirs.results]
    assert ours[0].categories == theirs.results[0].categories.model_dump(by_alias=True)
    assert ours[0].scores == theirs.results[0].category_scores.model_dump(by_alias=True)


async def test_a_moderation_of_parts() -> None:
    async with both("omni-moderation-latest") as (sdk, client, server):
        theirs = await sdk.moderations.create(
            input=[ModerationTextInputParam(type="text", text="kill")], model="omni-moderation-latest"
        )
        ours = await client.moderate([TextPart("kill")])

    sent, written = bodies(server)
    assert written == sent
    assert [verdict.flagged for verdict in ours] == [verdict.flagged for verdict in theirs.results]
