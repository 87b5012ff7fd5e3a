"""The elevenlabs backend over real sockets, and ElevenLabs' own SDK against the same server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.types import DialogueInput, VoiceSettings
from msgspec import Struct

import asyncllm
from asyncllm import (
    APIError,
    Client,
    ConfigError,
    InvalidRequestError,
    ModelInfo,
    ProtocolError,
    ResponseValidationError,
    StreamInterrupted,
    UnsupportedError,
    Usage,
)
from asyncllm.media import Line, Word
from asyncllm.testing import FaultyServer, Fin, Stall, Status
from elevenlabs_server import answers, refusal, serving
from forms import Field, fields_of
from openai_media_server import MP3, WAV

SECRET = "canary text of mine"
LINES = [Line("v1", "Hello"), Line("v2", "Bye")]


class Mode(Struct, frozen=True):
    """A way to make sound: what is asked for, and what goes over the wire."""

    name: Any
    text: Any
    options: dict[str, Any]
    path: str
    body: dict[str, Any]
    usage: Usage


MODES = [
    Mode(
        "speech", "Hello", {"voice": "v1", "language": "en", "speed": 1.1}, "/v1/text-to-speech/v1",
        {"text": "Hello", "model_id": "eleven_v3", "language_code": "en", "voice_settings": {"speed": 1.1}},
        Usage(characters=5),
    ),
    Mode(
        "dialogue", LINES, {}, "/v1/text-to-dialogue",
        {"model_id": "eleven_v3", "inputs": [{"text": "Hello", "voice_id": "v1"}, {"text": "Bye", "voice_id": "v2"}]},
        Usage(characters=8),
    ),
    Mode(
        "music", "A waltz", {"duration_s": 30}, "/v1/music",
        {"prompt": "A waltz", "model_id": "eleven_v3", "music_length_ms": 30000}, Usage(audio_s=30),
    ),
    Mode(
        "effects", "Rain", {"duration_s": 1.5}, "/v1/sound-generation",
        {"text": "Rain", "model_id": "eleven_v3", "duration_seconds": 1.5}, Usage(audio_s=1.5),
    ),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_each_mode_is_a_call_of_its_own(mode: Mode) -> None:
    async with serving() as (server, client):
        made = await client.speak(mode.text, mode=mode.name, **mode.options)

    (seen,) = server.requests
    assert (seen.method, seen.path, seen.headers["xi-api-key"]) == ("POST", mode.path, "xi-secret")
    assert "authorization" not in seen.headers
    assert seen.json() == mode.body
    assert (made.data, made.media_type, made.usage, made.request_id) == (MP3, "audio/mpeg", mode.usage, "req-11")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_each_mode_can_be_streamed(mode: Mode) -> None:
    async with serving() as (server, client):
        async with client.stream_speech(mode.text, mode=mode.name, format="mp3_44100_128", **mode.options) as stream:
            data = b"".join([piece async for piece in stream])

    suffix = "" if mode.name == "effects" else "/stream"
    assert server.requests[0].path == f"{mode.path}{suffix}?output_format=mp3_44100_128"
    assert server.requests[0].json() == mode.body
    assert (data, stream.usage) == (MP3, mode.usage)


async def test_settings_of_a_voice_stand_beside_its_speed() -> None:
    async with serving() as (server, client):
        await client.speak(
            "Hello", voice="a/b?", speed=0.9, extra={"seed": 7, "voice_settings": {"use_speaker_boost": True}}
        )

    (seen,) = server.requests
    assert seen.path == "/v1/text-to-speech/a%2Fb%3F"
    assert seen.json()["voice_settings"] == {"speed": 0.9, "use_speaker_boost": True}
    assert seen.json()["seed"] == 7


async def test_a_voice_is_freed_of_noise() -> None:
    async with serving(model="isolation") as (server, client):
        made = await client.isolate(WAV, duration_s=61.5, extra={"file_format": "other"})

    (seen,) = server.requests
    assert seen.path == "/v1/audio-isolation"
    assert await fields_of(seen) == [Field("audio", WAV, "audio.wav", "audio/wav"), Field("file_format", b"other")]
    assert (made.data, made.usage) == (MP3, Usage(audio_s=61.5))


async def test_a_recording_is_written_down() -> None:
    async with serving(model="scribe_v2") as (server, client):
        heard = await client.transcribe(
            WAV, language="en", temperature=0.5, timestamps=["word"], extra={"diarize": True, "keyterms": ["a", "b"]}
        )

    (seen,) = server.requests
    assert seen.path == "/v1/speech-to-text"
    assert await fields_of(seen) == [
        Field("file", WAV, "audio.wav", "audio/wav"),
        Field("model_id", b"scribe_v2"),
        Field("language_code", b"en"),
        Field("temperature", b"0.5"),
        Field("timestamps_granularity", b"word"),
        Field("diarize", b"true"),
        Field("keyterms", b"a"),
        Field("keyterms", b"b"),
    ]
    assert (heard.text, heard.language, heard.duration_s) == ("Hello world!", "eng", 2.5)
    assert heard.words == (
        Word(text="Hello", start_s=0.0, end_s=0.5, speaker="speaker_0"),
        Word(text="world!", start_s=0.6, end_s=1.1, speaker="speaker_0"),
    )
    assert (heard.usage, heard.request_id, heard.raw["transcription_id"]) == (Usage(audio_s=2.5), "req-11", "t-1")


async def test_channels_are_read_together() -> None:
    body = b'{"transcripts":[{"text":"Hi","audio_duration_secs":3},{"text":"Ho","words":[{"text":"Ho"}]}]}'
    async with serving([Status(200, {"Content-Type": "application/json"}, body)]) as (_, client):
        heard = await client.transcribe(WAV)

    assert (heard.text, heard.duration_s, heard.words) == ("Hi\nHo", 3, (Word(text="Ho"),))


@pytest.mark.parametrize("body", [b"[]", b"", b"<html>", b'{"words":[{}]}', b"{}", b'{"request_id":"r"}'])
async def test_a_transcript_that_cannot_be_read_is_an_error(body: bytes) -> None:
    async with serving([Status(200, {"Content-Type": "application/json"}, body)]) as (_, client):
        with pytest.raises(ResponseValidationError) as caught:
            await client.transcribe(WAV)

    assert caught.value.maybe_billed


async def test_an_error_in_place_of_a_transcript_is_the_error_it_means() -> None:
    body = b'{"detail":{"status":"quota_exceeded","message":"no more"}}'
    async with serving([Status(200, {"Content-Type": "application/json"}, body)]) as (_, client):
        with pytest.raises(asyncllm.QuotaExceededError):
            await client.transcribe(WAV)


async def test_models_are_listed() -> None:
    async with serving() as (server, client):
        assert await client.list_models() == [ModelInfo(id="eleven_v3"), ModelInfo(id="music_v1")]
        assert await client.is_alive()

    assert {seen.path for seen in server.requests} == {"/v1/models"}


async def test_there_is_no_chat() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError, match="'elevenlabs' backend does not support chat") as caught:
            await client.chat("Hello")
        with pytest.raises(UnsupportedError, match="complete"):
            await client.complete("Hello")
        with pytest.raises(UnsupportedError, match="generate_image"):
            await client.generate_image("A cat")

    assert caught.value.field == "chat"
    assert not server.requests


def test_its_own_address_needs_a_key() -> None:
    client = asyncllm.sync.Client(model="elevenlabs:eleven_v3", env={})

    with client, pytest.raises(ConfigError, match="ELEVENLABS_API_KEY"):
        client.speak("Hello", voice="v")


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "field"),
    [
        ("Hello", {}, "voice"),
        ("Hello", {"voice": "v", "format": "mp3"}, "format"),
        ("Hello", {"voice": "v", "format": "auto"}, "format"),
        ("A waltz", {"mode": "music", "duration_s": 2}, "duration_s"),
        ("A waltz", {"mode": "music", "duration_s": 601}, "duration_s"),
        ("Rain", {"mode": "effects", "duration_s": 31}, "duration_s"),
        ("Rain", {"mode": "effects", "extra": {"loop": object()}}, "extra"),
    ],
)
async def test_bad_input_is_named_before_anything_is_sent(text: Any, options: dict[str, Any], field: str) -> None:
    async with serving() as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.speak(text, **options)

    assert caught.value.field == field
    assert not server.requests


@pytest.mark.parametrize(
    ("text", "options", "field"),
    [
        ("Hello", {"voice": "v", "instructions": "Low"}, "instructions"),
        (LINES, {"mode": "dialogue", "speed": 2.0}, "speed"),
    ],
)
async def test_an_option_without_a_place_is_refused(text: Any, options: dict[str, Any], field: str) -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.speak(text, **options)

    assert caught.value.field == field
    assert not server.requests


@pytest.mark.parametrize("options", [{"prompt": "a"}, {"verbose": True}, {"timestamps": ["segment"]}])
async def test_a_transcript_has_no_other_options(options: dict[str, Any]) -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.transcribe(WAV, **options)

    assert caught.value.field in options
    assert not server.requests


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "error", "retryable"),
    [
        (401, "invalid_api_key", asyncllm.AuthenticationError, False),
        (401, "quota_exceeded", asyncllm.QuotaExceededError, False),
        (400, "voice_not_found", asyncllm.NotFoundError, False),
        (400, "max_character_limit_exceeded", asyncllm.BadRequestError, False),
        (422, "invalid", asyncllm.UnprocessableEntityError, False),
        (429, "too_many_concurrent_requests", asyncllm.RateLimitError, True),
        (429, "system_busy", asyncllm.RateLimitError, True),
        (500, "internal", asyncllm.InternalServerError, True),
    ],
)
async def test_a_refusal_is_typed_by_its_status_and_word(
    status: int, code: str, error: type[APIError], retryable: bool
) -> None:
    async with serving(refusal(status, code, f"{SECRET} with xi-secret is refused")) as (_, client):
        with pytest.raises(APIError, match="is refused") as caught:
            await client.speak(SECRET, voice="v")

    told = caught.value
    assert type(told) is error
    assert (told.status, told.code, told.request_id, told.retryable) == (status, code, "req-11", retryable)
    assert SECRET not in str(told)
    assert "xi-secret" not in str(told)


async def test_the_newer_shape_of_a_refusal_is_read_too() -> None:
    script = refusal(400, "unsupported", type="validation_error", code="unsupported_format", param="output_format")
    async with serving(script) as (_, client):
        with pytest.raises(asyncllm.BadRequestError) as caught:
            await client.speak("Hello", voice="v")

    assert (caught.value.code, caught.value.param) == ("unsupported_format", "output_format")


@pytest.mark.parametrize("body", [b"", b"<html><title>Bad gateway</title>", b'{"detail":', b"x" * 200_000])
async def test_a_refusal_of_any_shape_is_typed_by_its_status(body: bytes) -> None:
    async with serving([Status(502, {}, body)]) as (_, client):
        with pytest.raises(asyncllm.InternalServerError):
            await client.isolate(WAV)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_with_a_good_status_is_one(stream: bool) -> None:
    body = b'{"detail":{"status":"quota_exceeded","message":"No."}}'
    async with serving([Status(200, {"Content-Type": "application/json"}, body)]) as (_, client):
        with pytest.raises(asyncllm.QuotaExceededError):
            if stream:
                async with client.stream_speech("Hello", voice="v"):
                    pass
            else:
                await client.speak("Hello", voice="v")


async def test_a_page_in_place_of_a_voice_is_refused() -> None:
    async with serving([Status(200, {"Content-Type": "text/html"}, b"<title>Log in</title>")]) as (_, client):
        with pytest.raises(ProtocolError, match="text/html .Log in"):
            await client.isolate(WAV)


async def test_a_sound_that_breaks_off_is_interrupted() -> None:
    def cut(request: Any) -> Any:
        return [*answers(request)[:2], 0.05, Fin()]

    async with serving(cut) as (_, client):
        with pytest.raises(StreamInterrupted):
            async with client.stream_speech("Hello", voice="v") as stream:
                _ = [data async for data in stream]


async def test_leaving_stops_the_service() -> None:
    async with serving(lambda request: [*answers(request)[:2], Stall()]) as (server, client):
        async with client.stream_speech("Hello", voice="v") as stream:
            assert await anext(aiter(stream))

        await server.aborted()


# -- the same by ElevenLabs' own SDK -----------------------------------------------------------------------------


@asynccontextmanager
async def both(model: str) -> AsyncIterator[tuple[AsyncElevenLabs, Client, FaultyServer]]:
    """The SDK and a client of ours, of one server."""
    async with serving(model=model) as (server, client), httpx.AsyncClient() as http:
        yield AsyncElevenLabs(base_url=server.url, api_key="xi-secret", httpx_client=http), client, server


async def collected(sound: AsyncIterator[bytes]) -> bytes:
    return b"".join([data async for data in sound])


def check_pair(server: FaultyServer) -> None:
    theirs, ours = server.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.headers["xi-api-key"] == theirs.headers["xi-api-key"] == "xi-secret"
    kinds = [seen.headers["content-type"].partition(";")[0] for seen in (theirs, ours)]
    assert kinds[0] == kinds[1]


def check_bodies(server: FaultyServer) -> None:
    check_pair(server)
    theirs, ours = server.requests
    assert ours.json() == theirs.json()


async def check_forms(server: FaultyServer) -> None:
    check_pair(server)
    # The SDK writes some of the options that nobody gave as null.
    theirs, ours = [
        sorted(
            [field for field in await fields_of(seen) if field.value != b"null"], key=lambda one: (one.name, one.value)
        )
        for seen in server.requests
    ]
    assert ours == theirs


async def test_speech_is_asked_for_as_the_sdk_does() -> None:
    async with both("eleven_v3") as (sdk, client, server):
        theirs = await collected(
            sdk.text_to_speech.convert(
                "v1", text="Hello", model_id="eleven_v3", output_format="mp3_44100_128", language_code="en",
                voice_settings=VoiceSettings(speed=1.1, use_speaker_boost=True),
            )
        )  # fmt: skip
        ours = await client.speak(
            "Hello", voice="v1", format="mp3_44100_128", language="en", speed=1.1,
            extra={"voice_settings": {"use_speaker_boost": True}},
        )  # fmt: skip

    check_bodies(server)
    assert ours.data == theirs == MP3


async def test_speech_is_streamed_as_the_sdk_does() -> None:
    async with both("eleven_v3") as (sdk, client, server):
        theirs = await collected(sdk.text_to_speech.stream("v1", text="Hello", model_id="eleven_v3"))
        async with client.stream_speech("Hello", voice="v1", extra={}) as stream:
            ours = await collected(aiter(stream))

    check_bodies(server)
    assert ours == theirs == MP3


async def test_a_dialogue_is_asked_for_as_the_sdk_does() -> None:
    async with both("eleven_v3") as (sdk, client, server):
        inputs = [DialogueInput(text=line.text, voice_id=line.voice) for line in LINES]
        theirs = await collected(sdk.text_to_dialogue.convert(inputs=inputs, model_id="eleven_v3"))
        ours = await client.speak(LINES, mode="dialogue")

    check_bodies(server)
    assert ours.data == theirs


async def test_music_is_asked_for_as_the_sdk_does() -> None:
    async with both("music_v1") as (sdk, client, server):
        theirs = await collected(sdk.music.compose(prompt="A waltz", music_length_ms=30000, model_id="music_v1"))
        ours = await client.speak("A waltz", mode="music", duration_s=30)

    check_bodies(server)
    assert ours.data == theirs


async def test_an_effect_is_asked_for_as_the_sdk_does() -> None:
    async with both("eleven_text_to_sound_v2") as (sdk, client, server):
        theirs = await collected(
            sdk.text_to_sound_effects.convert(
                text="Rain", duration_seconds=1.5, prompt_influence=0.4, model_id="eleven_text_to_sound_v2"
            )
        )
        ours = await client.speak("Rain", mode="effects", duration_s=1.5, extra={"prompt_influence": 0.4})

    check_bodies(server)
    assert ours.data == theirs


async def test_a_voice_is_isolated_as_the_sdk_does() -> None:
    async with both("isolation") as (sdk, client, server):
        theirs = await collected(
            sdk.audio_isolation.convert(audio=("audio.wav", WAV, "audio/wav"), file_format="other")
        )
        ours = await client.isolate(WAV, extra={"file_format": "other"})

    await check_forms(server)
    assert ours.data == theirs


async def test_a_recording_is_written_down_as_the_sdk_does() -> None:
    async with both("scribe_v2") as (sdk, client, server):
        theirs: Any = await sdk.speech_to_text.convert(
            model_id="scribe_v2", file=("audio.wav", WAV, "audio/wav"), language_code="en", diarize=True,
            timestamps_granularity="word", keyterms=["a", "b"],
        )  # fmt: skip
        ours = await client.transcribe(
            WAV, language="en", timestamps=["word"], extra={"diarize": True, "keyterms": ["a", "b"]}
        )

    await check_forms(server)
    assert (ours.text, ours.language, ours.duration_s) == (
        theirs.text,
        theirs.language_code,
        theirs.audio_duration_secs,
    )
    spoken = [word for word in theirs.words if word.type == "word"]
    assert [(word.text, word.start_s, word.speaker) for word in ours.words] == [
        (word.text, word.start, word.speaker_id) for word in spoken
    ]
