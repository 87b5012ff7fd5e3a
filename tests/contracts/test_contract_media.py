"""Rows 83 to 87: vectors, transcripts, pictures and sound, against servers that speak the services' own protocols."""

from __future__ import annotations

from typing import Any

import pytest

from asyncllm import InvalidRequestError, Usage
from asyncllm.media import Line
from elevenlabs_server import serving as elevenlabs
from forms import Field, fields_of
from gemini_server import serving as gemini
from openai_media_server import MP3, PNG, WAV, serving, whole


async def test_row_083_vectors_come_in_the_order_of_their_texts_and_usage_is_counted() -> None:
    rows = [{"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]}]
    reply = {"data": rows, "model": "e", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    async with serving(whole(reply), model="openai:e") as (server, client):
        vectors = await client.embed(["a", "b"])

    assert server.requests[0].json()["input"] == ["a", "b"]
    assert [list(vector) for vector in vectors] == [[1.0, 0.0], [0.0, 1.0]]
    assert vectors.usage.input_tokens == 7


async def test_row_084_a_recording_is_uploaded_as_a_form() -> None:
    async with serving(model="openai:whisper-1") as (server, client):
        await client.transcribe(WAV, language="en")

    (seen,) = server.requests
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    fields = await fields_of(seen)
    assert fields[0] == Field("file", WAV, "audio.wav", "audio/wav")
    assert Field("language", b"en") in fields


@pytest.mark.parametrize(("model", "form"), [("whisper-1", b"verbose_json"), ("gpt-4o-transcribe", b"json")])
async def test_row_084_the_form_of_the_answer_is_that_of_the_model(model: str, form: bytes) -> None:
    async with serving(model=f"openai:{model}") as (server, client):
        heard = await client.transcribe(WAV)

    assert Field("response_format", form) in await fields_of(server.requests[0])
    assert heard.text == "The beach was a popular spot."
    assert bool(heard.segments) == (form == b"verbose_json")


async def test_row_084_the_duration_billed_is_that_of_the_response() -> None:
    async with serving(whole({"text": "Hi", "duration": 789.0}), model="openai:whisper-1") as (_, client):
        heard = await client.transcribe(WAV, duration_s=5)

    assert (heard.duration_s, heard.usage.audio_s) == (789.0, 789.0)


async def test_row_084_the_duration_billed_is_else_that_of_the_argument() -> None:
    async with serving(whole({"text": "Hi"}), model="openai:gpt-4o-transcribe") as (_, client):
        heard = await client.transcribe(WAV, duration_s=789)
        unknown = await client.transcribe(WAV)

    assert (heard.duration_s, heard.usage.audio_s) == (789, 789)
    assert (unknown.duration_s, unknown.usage.audio_s) == (None, None)


async def test_row_085_all_pictures_that_are_paid_for_come_back_as_bytes() -> None:
    async with serving() as (_, client):
        made = await client.generate_image("A cat", n=2)
        changed = await client.edit_image([PNG, PNG], "A dog", mask=PNG, n=2)

    assert [image.data for image in (*made, *changed)] == [PNG] * 4
    assert (made.usage.images, changed.usage.images) == (2, 2)


@pytest.mark.parametrize(("ratio", "size"), [("1:1", "1024x1024"), ("16:9", "1536x1024"), ("9:16", "1024x1536")])
async def test_row_085_ratio_and_quality_reach_the_service_in_its_own_words(ratio: str, size: str) -> None:
    async with serving() as (server, client):
        await client.generate_image("A cat", aspect_ratio=ratio, quality="medium", background="transparent")

    assert server.requests[0].json() == {
        "model": "gpt-image-2", "prompt": "A cat", "size": size, "quality": "medium", "background": "transparent"
    }  # fmt: skip


@pytest.mark.parametrize("images", [None, PNG])
async def test_row_085_partial_frames_come_before_the_picture(images: bytes | None) -> None:
    async with serving() as (_, client):
        async with client.stream_image("A cat", images=images, partial_images=2) as stream:
            frames = [(frame.image.data, frame.is_final) async for frame in stream]

    assert frames == [(PNG, False), (PNG, False), (PNG, True)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Hello", {"voice": "v", "mode": "speech"}),
        ("A waltz", {"mode": "music", "duration_s": 30}),
        ([Line("v", "Hello"), Line("w", "Bye")], {"mode": "dialogue"}),
        ("Rain", {"mode": "effects", "duration_s": 1.5}),
    ],
)
async def test_row_086_each_mode_gives_bytes(text: Any, options: dict[str, Any]) -> None:
    async with elevenlabs() as (_, client):
        assert (await client.speak(text, **options)).data == MP3
        async with client.stream_speech(text, **options) as stream:
            assert b"".join([data async for data in stream]) == MP3


async def test_row_086_text_to_speech_is_billed_by_its_characters() -> None:
    async with serving(model="openai:tts-1") as (_, client):
        speech = await client.speak("Hello", voice="alloy")

    assert (speech.data, speech.usage) == (MP3, Usage(characters=5))


async def test_row_087_a_voice_is_isolated_and_billed_by_its_length() -> None:
    async with elevenlabs() as (_, client):
        voice = await client.isolate(WAV, duration_s=90)
        with pytest.raises(InvalidRequestError):
            await client.isolate("no-such-file.wav")

    assert (voice.data, voice.usage.audio_s) == (MP3, 90)


@pytest.mark.parametrize(("quality", "size"), [("low", "1K"), ("medium", "2K"), ("high", "4K")])
async def test_row_085_a_quality_is_a_size_of_gemini_s_pictures(quality: str, size: str) -> None:
    async with gemini() as (server, client):
        made = await client.generate_image("A cat", quality=quality, aspect_ratio="16:9")

    assert server.requests[0].json()["generationConfig"]["imageConfig"] == {"imageSize": size, "aspectRatio": "16:9"}
    assert made[0].data == PNG
