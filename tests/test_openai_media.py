"""The openai backend's calls for sound, pictures, moderation and ranking over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import (
    APIError,
    Client,
    ImagePart,
    InvalidRequestError,
    ProtocolError,
    ResponseValidationError,
    StreamInterrupted,
    TextPart,
    UnsupportedError,
)
from asyncllm.media import Image, ImageFrame, MediaFile, Rank, Segment, Word
from asyncllm.multipart import form_texts
from asyncllm.testing import Chunk, FaultyServer, Fin, Rst, ScriptedReply, ScriptedTransport, Sse, Stall, Status
from asyncllm.testing.ops import Named
from asyncllm.types import Usage
from forms import Field, fields_of
from openai_media_server import IMAGE_USAGE, MP3, PNG, PNG_64, WAV, image_events, serving, sound, whole

OWN = "https://api.openai.com/v1"
SECRET = "canary prompt of mine"


def asked(server: FaultyServer) -> Any:
    (seen,) = server.requests
    return seen.json()


# -- transcripts -------------------------------------------------------------------------------------------------


async def test_a_whisper_is_asked_for_the_verbose_form(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(WAV)
    async with serving(model="openai:whisper-1") as (server, client):
        heard = await client.transcribe(path, language="en", prompt="Beaches", timestamps=["word", "segment"])

    (seen,) = server.requests
    assert (seen.method, seen.path, seen.headers["authorization"]) == (
        "POST",
        "/v1/audio/transcriptions",
        "Bearer sk-media",
    )
    assert await fields_of(seen) == [
        Field("file", WAV, "speech.wav", "audio/wav"),
        Field("model", b"whisper-1"),
        Field("language", b"en"),
        Field("prompt", b"Beaches"),
        Field("response_format", b"verbose_json"),
        Field("timestamp_granularities[]", b"word"),
        Field("timestamp_granularities[]", b"segment"),
    ]
    assert (heard.text, heard.language, heard.duration_s) == ("The beach was a popular spot.", "english", 8.47)
    assert heard.segments == (Segment(text=" The beach was", start_s=0.0, end_s=3.3),)
    assert heard.words[1] == Word(text="beach", start_s=0.24, end_s=0.6)
    assert heard.usage == Usage(audio_s=9)
    assert heard.request_id == "req-7"
    assert heard.raw["segments"][0]["avg_logprob"] == -0.28


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"text": "Hi.", "duration": "8.47", "usage": {"type": "duration", "seconds": "9"}}', "Hi."),
        (b'{"text": "Hi.\xff", "duration": 8.47, "usage": {"type": "duration", "seconds": 9}}', "Hi.\ufffd"),
        (b'\xef\xbb\xbf{"text": "Hi.", "duration": 8.47, "usage": {"seconds": 9, "total_tokens": NaN}}', "Hi."),
    ],
    ids=["numbers as texts", "half of a character", "a mark and no number"],
)
async def test_one_odd_field_does_not_cost_a_transcript(body: bytes, text: str) -> None:
    async with serving(whole(body), model="openai:whisper-1") as (_, client):
        heard = await client.transcribe(WAV)

    assert (heard.text, heard.duration_s, heard.usage.audio_s) == (text, 8.47, 9)


async def test_other_models_are_asked_for_the_plain_form_and_billed_by_tokens() -> None:
    async with serving(model="openai:gpt-4o-transcribe") as (server, client):
        heard = await client.transcribe(WAV, duration_s=8.5)

    fields = await fields_of(server.requests[0])
    assert fields[0] == Field("file", WAV, "audio.wav", "audio/wav")
    assert fields[-1] == Field("response_format", b"json")
    assert (heard.language, heard.duration_s, heard.segments) == (None, 8.5, ())
    assert heard.usage == Usage(input_tokens=14, output_tokens=45, input_audio_tokens=10, audio_s=8.5)


@pytest.mark.parametrize(("model", "verbose", "form"), [("whisper-1", False, b"json"), ("mine", True, b"verbose_json")])
async def test_the_caller_may_say_which_form(model: str, verbose: bool, form: bytes) -> None:
    async with serving(model=f"openai:{model}") as (server, client):
        await client.transcribe(WAV, verbose=verbose)

    assert Field("response_format", form) in await fields_of(server.requests[0])


async def test_what_only_the_provider_knows_goes_into_the_form() -> None:
    async with serving(model="openai:m") as (server, client):
        await client.transcribe(
            WAV, extra={"chunking_strategy": {"type": "server_vad"}, "response_format": "json", "include": ["logprobs"]}
        )

    fields = await fields_of(server.requests[0])
    assert fields[2:] == [
        Field("chunking_strategy[type]", b"server_vad"),
        Field("response_format", b"json"),
        Field("include[]", b"logprobs"),
    ]


async def test_a_file_has_the_name_and_type_that_it_is_given() -> None:
    async with serving(model="openai:m") as (server, client):
        await client.transcribe(MediaFile(b"\x00\x01", "rec.amr", "audio/amr"))

    assert (await fields_of(server.requests[0]))[0] == Field("file", b"\x00\x01", "rec.amr", "audio/amr")


@pytest.mark.parametrize("model", ["gpt-4o-transcribe", "gpt-4o-mini-transcribe"])
@pytest.mark.parametrize("options", [{"timestamps": ["word"]}, {"verbose": True}])
async def test_openai_s_other_models_tell_no_times(model: str, options: dict[str, Any]) -> None:
    async with Client(model=f"openai:{model}", base_url=OWN, api_key="k") as client:
        with pytest.raises(UnsupportedError, match="only whisper-1") as caught:
            await client.transcribe(WAV, **options)

    assert caught.value.field == next(iter(options))


async def test_speakers_are_told_apart_where_a_model_does() -> None:
    reply = {"text": "Hi. Ho.", "duration": 2.0, "segments": [
        {"id": "seg_1", "type": "transcript.text.segment", "start": 0, "end": 1, "text": "Hi.", "speaker": "A"},
    ]}  # fmt: skip
    body = msgspec.json.encode(reply)
    transport = ScriptedTransport([ScriptedReply(body=body)])
    async with Client(model="openai:gpt-4o-transcribe-diarize", api_key="k", transport=transport, env={}) as client:
        heard = await client.transcribe(WAV, verbose=True)

    (call,) = transport.calls
    assert call.url == f"{OWN}/audio/transcriptions"
    assert ("response_format", "diarized_json") in (form_texts(call.body) or [])
    assert heard.segments == (Segment(text="Hi.", start_s=0, end_s=1, speaker="A"),)


async def test_times_come_with_the_verbose_form_alone() -> None:
    async with serving(model="openai:whisper-1") as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.transcribe(WAV, verbose=False, timestamps=["word"])

    assert caught.value.field == "timestamps"
    assert not server.requests


async def test_openai_is_sent_no_recording_that_it_would_not_take() -> None:
    async with Client(model="openai:whisper-1", base_url=OWN, api_key="k") as client:
        with pytest.raises(InvalidRequestError, match=r"26214401 bytes \(audio/wav\)") as caught:
            await client.transcribe(WAV + bytes(25 * 2**20 + 1 - len(WAV)))

    assert caught.value.field == "audio"


# -- speech ------------------------------------------------------------------------------------------------------


async def test_speech_is_bytes_of_a_type() -> None:
    async with serving(model="openai:tts-1") as (server, client):
        speech = await client.speak("Hello", voice="alloy", format="mp3", speed=1.5, instructions="Whisper")

    assert server.requests[0].path == "/v1/audio/speech"
    assert asked(server) == {
        "model": "tts-1", "input": "Hello", "voice": "alloy", "response_format": "mp3", "speed": 1.5,
        "instructions": "Whisper",
    }  # fmt: skip
    assert (speech.data, speech.media_type, bytes(speech)) == (MP3, "audio/mpeg", MP3)
    assert (speech.usage, speech.request_id) == (Usage(characters=5), "req-7")


async def test_speech_comes_as_it_is_made() -> None:
    async with serving(model="openai:tts-1") as (server, client):
        async with client.stream_speech("Hello", voice="alloy") as stream:
            pieces = [data async for data in stream]

    assert b"".join(pieces) == MP3
    assert (stream.media_type, stream.usage) == ("audio/mpeg", Usage(characters=5))
    assert asked(server) == {"model": "tts-1", "input": "Hello", "voice": "alloy"}


@pytest.mark.parametrize("ending", [Fin(), Rst()])
async def test_speech_that_breaks_off_is_interrupted(ending: Any) -> None:
    async with serving([*sound()[:-1], 0.05, ending], model="openai:tts-1") as (_, client):
        with pytest.raises(StreamInterrupted) as caught:
            async with client.stream_speech("Hello", voice="alloy") as stream:
                async for _data in stream:
                    pass

    assert (caught.value.backend, caught.value.model, caught.value.maybe_billed) == ("openai", "tts-1", True)


async def test_leaving_a_stream_stops_the_server() -> None:
    async with serving([*sound()[:2], Stall()], model="openai:tts-1") as (server, client):
        async with client.stream_speech("Hello", voice="alloy") as stream:
            async for _data in stream:
                break

        await server.aborted()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sound_without_a_type_has_that_of_its_format(stream: bool) -> None:
    async with serving(sound(kind="application/octet-stream"), model="openai:tts-1") as (_, client):
        if stream:
            async with client.stream_speech("Hello", format="wav") as made:
                _ = [data async for data in made]
            assert made.media_type == "audio/wav"
        else:
            assert (await client.speak("Hello", format="wav")).media_type == "audio/wav"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_in_place_of_a_sound_is_refused(stream: bool) -> None:
    page = f"<html><title>Log in, {SECRET}</title>".encode()
    async with serving(whole(page, kind="text/html"), model="openai:tts-1") as (_, client):
        with pytest.raises(ProtocolError, match="text/html") as caught:
            await said(client, stream=stream)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_in_place_of_a_sound_is_the_error_it_means(stream: bool) -> None:
    body = {"error": {"message": f"slow down: {SECRET}", "code": "rate_limit_exceeded"}}
    async with serving(whole(body), model="openai:tts-1") as (_, client):
        with pytest.raises(asyncllm.RateLimitError) as caught:
            await said(client, stream=stream)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_that_is_called_a_sound_is_one_all_the_same(stream: bool) -> None:
    body = b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
    async with serving(sound(body, kind="application/octet-stream"), model="openai:tts-1") as (_, client):
        with pytest.raises(asyncllm.RateLimitError):
            await said(client, stream=stream)


@pytest.mark.parametrize("data", [b"{}" * 10, b"{" * 70000], ids=["short", "long"])
async def test_a_sound_may_begin_as_a_document_does(data: bytes) -> None:
    async with serving(sound(data, kind="application/octet-stream"), model="openai:tts-1") as (_, client):
        whole_sound = await client.speak("Hello", format="pcm")
        async with client.stream_speech("Hello", format="pcm") as made:
            pieces = [piece async for piece in made]

    assert b"".join(pieces) == whole_sound.data == data


@pytest.mark.parametrize("stream", [False, True])
async def test_no_sound_at_all_is_an_error(stream: bool) -> None:
    async with serving(whole(b"", kind="audio/mpeg"), model="openai:tts-1") as (_, client):
        with pytest.raises((ResponseValidationError, StreamInterrupted)):
            await said(client, stream=stream)


async def said(client: Client, *, stream: bool) -> None:
    if stream:
        async with client.stream_speech(SECRET, voice="alloy") as made:
            _ = [data async for data in made]
    else:
        await client.speak(SECRET, voice="alloy")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "voice"),
        ({"voice": "alloy", "speed": 4.5}, "speed"),
        ({"voice": "alloy", "format": "mp4"}, "format"),
        ({"voice": "alloy", "text": "x" * 4097}, "text"),
    ],
)
async def test_openai_is_asked_for_no_speech_that_it_would_refuse(options: dict[str, Any], field: str) -> None:
    async with Client(model="openai:tts-1", base_url=OWN, api_key="k") as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.speak(options.pop("text", "Hello"), **options)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "field"), [({"mode": "music"}, "mode"), ({"mode": "effects"}, "mode"), ({"language": "en"}, "language")]
)
async def test_what_openai_has_not_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    async with serving(model="openai:tts-1") as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.speak("Hello", **options)
        with pytest.raises(UnsupportedError) as caught_later:
            async with client.stream_speech("Hello", **options):
                pass

    assert caught.value.field == caught_later.value.field == field
    assert not server.requests


# -- pictures ----------------------------------------------------------------------------------------------------


async def test_all_pictures_of_a_call_come_back() -> None:
    async with serving() as (server, client):
        made = await client.generate_image(
            "A cat", n=2, size="1024x1024", quality="high", background="opaque", format="png", compression=80,
            extra={"moderation": "low"},
        )  # fmt: skip

    assert server.requests[0].path == "/v1/images/generations"
    assert asked(server) == {
        "model": "gpt-image-2", "prompt": "A cat", "n": 2, "size": "1024x1024", "quality": "high",
        "background": "opaque", "output_format": "png", "output_compression": 80, "moderation": "low",
    }  # fmt: skip
    assert [image.data for image in made] == [PNG, PNG]
    assert made[0] == Image(data=PNG, media_type="image/png", revised_prompt="A cat, in oil")
    assert (len(made), made.size, made.quality) == (2, "1024x1024", "high")
    assert made.usage == Usage(input_tokens=50, output_tokens=4160, images=2)


async def test_a_picture_may_be_an_address() -> None:
    async with serving(whole({"created": 1, "data": [{"url": "http://x/y.png"}]})) as (server, client):
        made = await client.generate_image("A cat", response_format="url")

    assert asked(server)["response_format"] == "url"
    assert made[0] == Image(url="http://x/y.png")
    assert made.usage == Usage(images=1)


@pytest.mark.parametrize(
    ("ratio", "size"),
    [("1:1", "1024x1024"), ("16:9", "1536x1024"), ("4:3", "1536x1024"), ("9:16", "1024x1536"), ("2:3", "1024x1536")],
)
async def test_an_aspect_ratio_is_the_size_that_comes_nearest(ratio: str, size: str) -> None:
    async with serving() as (server, client):
        await client.generate_image("A cat", aspect_ratio=ratio)

    assert asked(server)["size"] == size


async def test_pictures_are_changed_in_a_form(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    async with serving() as (server, client):
        made = await client.edit_image([path, PNG], "A dog", mask=PNG, n=2, quality="low", size="auto")

    (seen,) = server.requests
    assert seen.path == "/v1/images/edits"
    assert await fields_of(seen) == [
        Field("image[]", PNG, "cat.png", "image/png"),
        Field("image[]", PNG, "image.png", "image/png"),
        Field("mask", PNG, "image.png", "image/png"),
        Field("prompt", b"A dog"),
        Field("model", b"gpt-image-2"),
        Field("n", b"2"),
        Field("size", b"auto"),
        Field("quality", b"low"),
    ]
    assert [image.data for image in made] == [PNG, PNG]


async def test_one_picture_is_no_list() -> None:
    async with serving() as (server, client):
        await client.edit_image(PNG, "A dog")

    assert (await fields_of(server.requests[0]))[0].name == "image"


async def test_pictures_come_as_they_are_made() -> None:
    async with serving() as (server, client):
        async with client.stream_image("A cat", partial_images=2, size="auto") as stream:
            frames = [frame async for frame in stream]

    assert asked(server) == {
        "model": "gpt-image-2", "prompt": "A cat", "size": "auto", "stream": True, "partial_images": 2
    }  # fmt: skip
    picture = Image(data=PNG, media_type="image/png")
    assert frames == [
        ImageFrame(image=picture, index=0),
        ImageFrame(image=picture, index=1),
        ImageFrame(image=picture, index=0, is_final=True),
    ]
    assert stream.usage == Usage(input_tokens=50, output_tokens=4160, images=1)


async def test_a_change_comes_as_it_is_made() -> None:
    async with serving() as (server, client):
        async with client.stream_image("A dog", images=PNG, mask=PNG) as stream:
            frames = [frame async for frame in stream]

    (seen,) = server.requests
    assert seen.path == "/v1/images/edits"
    assert [field.name for field in await fields_of(seen)] == [
        "image",
        "mask",
        "prompt",
        "model",
        "stream",
        "partial_images",
    ]
    assert [frame.is_final for frame in frames] == [False, False, True]


async def test_of_several_pictures_each_must_come() -> None:
    events = image_events("image_generation")
    async with serving([Sse(events, ending="end")]) as (_, client):
        with pytest.raises(StreamInterrupted):
            async with client.stream_image("A cat", n=2) as stream:
                _ = [frame async for frame in stream]

    async with serving([Sse([*events, *events], ending="end")]) as (_, client):
        async with client.stream_image("A cat", n=2) as stream:
            final = [frame.index async for frame in stream if frame.is_final]

    assert (final, stream.usage.images) == ([0, 1], 2)


@pytest.mark.parametrize("ending", ["end", "fin", "rst", "done"])
async def test_a_picture_that_never_comes_is_interrupted(ending: Any) -> None:
    async with serving([Sse(image_events("image_generation")[:-1], ending=ending, every_s=0.02)]) as (_, client):
        with pytest.raises(StreamInterrupted):
            async with client.stream_image("A cat") as stream:
                _ = [frame async for frame in stream]


async def test_a_server_that_does_not_stream_sends_the_picture_whole() -> None:
    async with serving(whole({"data": [{"b64_json": PNG_64}], "usage": IMAGE_USAGE})) as (_, client):
        async with client.stream_image("A cat") as stream:
            frames = [frame async for frame in stream]

    assert frames == [ImageFrame(image=Image(data=PNG, media_type="image/png"), is_final=True)]


@pytest.mark.parametrize(
    "event",
    [
        Named("error", {"type": "error", "error": {"code": "moderation_blocked", "message": f"no {SECRET}"}}),
        Named("error", {"error": {"message": f"no {SECRET}", "type": "server_error"}}),
        {"error": {"message": f"no {SECRET}", "type": "server_error"}},
    ],
)
async def test_an_error_among_the_frames_is_raised(event: Any) -> None:
    async with serving([Sse([image_events("image_generation")[0], event], ending="end")]) as (_, client):
        with pytest.raises(asyncllm.APIStatusError) as caught:
            async with client.stream_image(SECRET) as stream:
                _ = [frame async for frame in stream]

    assert SECRET not in str(caught.value)
    assert caught.value.maybe_billed


@pytest.mark.parametrize(
    "frame", ["nothing", '{"type":"image_generation.completed"}', '{"type":"image_edit.completed","b64_json":7}']
)
async def test_a_frame_that_cannot_be_read_is_an_error(frame: str) -> None:
    async with serving([Sse([frame], ending="end")]) as (_, client):
        with pytest.raises(ResponseValidationError):
            async with client.stream_image("A cat"):
                pass


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n": 11}, "n"),
        ({"quality": "best"}, "quality"),
        ({"format": "bmp"}, "format"),
        ({"partial_images": 4}, "partial_images"),
        ({"images": [PNG] * 17}, "images"),
    ],
)
async def test_openai_is_asked_for_no_picture_that_it_would_refuse(options: dict[str, Any], field: str) -> None:
    async with Client(model="openai:gpt-image-2", base_url=OWN, api_key="k") as client:
        with pytest.raises(InvalidRequestError) as caught:
            async with client.stream_image("A cat", **options):
                pass

    assert caught.value.field == field


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [{}]}, {"data": [{"b64_json": "%%"}]}, b"busy"])
async def test_a_reply_without_pictures_is_an_error(body: object) -> None:
    async with serving(whole(body)) as (_, client):
        with pytest.raises(ResponseValidationError) as caught:
            await client.generate_image("A cat")

    assert caught.value.maybe_billed


async def test_an_error_beside_no_pictures_is_the_error_it_means() -> None:
    body = {"data": [], "error": {"message": "no", "code": "moderation_blocked"}}
    async with serving(whole(body)) as (_, client):
        with pytest.raises(asyncllm.ContentFilterError):
            await client.generate_image("A cat")


# -- moderation and ranking --------------------------------------------------------------------------------------


async def test_every_text_has_a_verdict() -> None:
    async with serving(model="openai:omni-moderation-latest") as (server, client):
        told = await client.moderate(["kill", "kiss"])

    assert server.requests[0].path == "/v1/moderations"
    assert asked(server) == {"model": "omni-moderation-latest", "input": ["kill", "kiss"]}
    assert [verdict.flagged for verdict in told] == [True, False]
    assert (told[0].categories["violence"], told[0].scores["violence"], told.flagged) == (True, 0.9, True)
    assert (len(told), told.model, told.raw["id"]) == (2, "omni-moderation-latest", "modr-1")


async def test_parts_have_one_verdict_together() -> None:
    async with serving(model="openai:m") as (server, client):
        told = await client.moderate(["Look", TextPart("kill"), ImagePart(url="http://x/y.png")])

    assert asked(server)["input"] == [
        {"type": "text", "text": "Look"},
        {"type": "text", "text": "kill"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
    ]
    assert [verdict.flagged for verdict in told] == [True]


async def test_a_verdict_that_is_missing_is_an_error() -> None:
    async with serving(whole({"results": []}), model="openai:m") as (_, client):
        with pytest.raises(ResponseValidationError, match="1 inputs were sent and 0 verdicts came back"):
            await client.moderate("kiss")


async def test_documents_are_ranked_best_first() -> None:
    async with serving(model="openai:reranker") as (server, client):
        ranking = await client.rerank("beach?", ["sand", "snow", "sea"], top_n=2, extra={"return_documents": False})

    assert server.requests[0].path == "/v1/rerank"
    assert asked(server) == {
        "model": "reranker", "query": "beach?", "documents": ["sand", "snow", "sea"], "top_n": 2,
        "return_documents": False,
    }  # fmt: skip
    assert list(ranking) == [Rank(2, 0.9), Rank(0, 0.2)]
    assert (ranking[0].index, len(ranking), ranking.model) == (2, 2, "reranker")
    assert ranking.usage == Usage(input_tokens=17, output_tokens=0)


@pytest.mark.parametrize(
    "results",
    [
        [{"index": 3, "relevance_score": 0.5}],
        [{"index": -1, "relevance_score": 0.5}],
        [{"index": 0, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.4}],
        [{"index": 0}],
    ],
)
async def test_a_ranking_of_other_documents_is_an_error(results: object) -> None:
    async with serving(whole({"results": results}), model="openai:m") as (_, client):
        with pytest.raises(ResponseValidationError):
            await client.rerank("q", ["a", "b", "c"])


async def test_openai_itself_does_not_rank() -> None:
    async with Client(model="openai:m", base_url=OWN, api_key="k") as client:
        with pytest.raises(UnsupportedError) as caught:
            await client.rerank("q", ["a"])

    assert caught.value.field == "rerank"


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b'{"error":{"message":"bad key sk-media","code":"invalid_api_key"}}', asyncllm.AuthenticationError),
        (429, b'{"error":{"message":"slow"}}', asyncllm.RateLimitError),
        (400, b'{"error":{"code":"content_policy_violation"}}', asyncllm.ContentFilterError),
        (413, b"", asyncllm.APIStatusError),
        (500, b"<html><title>oops</title>", asyncllm.InternalServerError),
    ],
)
async def test_a_refusal_is_typed_and_repeats_nothing(status: int, body: bytes, error: type[APIError]) -> None:
    echoed = body[:-1] + b"}" if body.endswith(b"}") else body
    async with serving([Status(status, {"x-request-id": "r-1", "Retry-After": "3"}, echoed)], model="openai:m") as (
        _,
        client,
    ):
        for call in (
            client.transcribe(WAV, prompt=SECRET), client.speak(SECRET), client.generate_image(SECRET),
            client.edit_image(PNG, SECRET), client.moderate(SECRET), client.rerank(SECRET, [SECRET]),
        ):  # fmt: skip
            with pytest.raises(error) as caught:
                await call
            assert (caught.value.status, caught.value.request_id, caught.value.retry_after_s) == (status, "r-1", 3)
            assert "sk-media" not in str(caught.value)


async def test_a_refused_form_is_not_repeated_in_the_error() -> None:
    echo = msgspec.json.encode({"error": {"message": f"your prompt was {SECRET} for whisper-1"}})
    async with serving([Status(400, {}, echo)], model="openai:whisper-1") as (_, client):
        with pytest.raises(asyncllm.BadRequestError, match="your prompt was … for whisper-1"):
            await client.transcribe(WAV, prompt=SECRET)


async def test_a_large_recording_costs_an_error_no_time() -> None:
    echo = msgspec.json.encode({"error": {"message": "no good " * 60}})
    async with serving([Status(400, {}, echo)], model="openai:whisper-1") as (_, client):
        with pytest.raises(asyncllm.BadRequestError, match="no good"):
            await client.transcribe(WAV + bytes(20 * 2**20))


async def test_a_sound_is_compressed_for_nobody_and_read_to_its_end() -> None:
    async with serving(
        [
            Status(200, {"Content-Type": "audio/mpeg", "Transfer-Encoding": "chunked"}, None),
            *map(Chunk, [MP3] * 50),
            Chunk(),
        ],
        model="openai:m",
    ) as (server, client):
        for _ in range(2):
            async with client.stream_speech("Hello") as stream:
                assert sum([len(data) async for data in stream]) == 50 * len(MP3)

    assert server.connections == 1
