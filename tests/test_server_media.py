"""Sound, pictures, moderation and ranking as we serve them, to OpenAI's own SDK and on the wire."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import openai
import pytest

from asyncllm import Client, UnsupportedError
from asyncllm.media import Segment, Transcript, Word
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.limits.admission import Ticket
from asyncllm.server.openai.transcripts import write_transcript
from asyncllm.server.service import Service
from asyncllm.testing import Chunk, FaultyServer, Op, Rst, SeenRequest, Stall, Status
from asyncllm.types import Usage
from openai_media_server import MP3, PNG, PNG_64, WAV, answers
from served import served, server_of


@asynccontextmanager
async def behind(
    script: Any = answers, model: str = "openai:gpt-image-2", **settings: Any
) -> AsyncGenerator[tuple[str, FaultyServer]]:
    """A server before a service in OpenAI's API, and that service."""
    async with (
        FaultyServer(script) as upstream,
        Client(model=model, base_url=f"{upstream.url}/v1", api_key="the-server-s", retry=None) as client,
        served(client, models={"m": model}, **settings) as url,
    ):
        yield url, upstream


@asynccontextmanager
async def sdk_of(url: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


# -- sound -------------------------------------------------------------------------------------------------------


async def test_a_text_is_spoken() -> None:
    async with behind() as (url, upstream), sdk_of(url) as sdk:
        sound = await sdk.audio.speech.create(
            model="m", input="Hello", voice="alloy", response_format="mp3", speed=1.5, instructions="Softly"
        )

    assert (sound.content, sound.response.headers["content-type"]) == (MP3, "audio/mpeg")
    assert upstream.requests[0].json() == {
        "input": "Hello", "model": "gpt-image-2", "voice": "alloy", "response_format": "mp3", "speed": 1.5,
        "instructions": "Softly",
    }  # fmt: skip


async def test_sound_is_sent_as_it_comes_and_its_making_ends_when_its_listener_goes() -> None:
    head = Status(200, {"Content-Type": "audio/mpeg", "Transfer-Encoding": "chunked"}, None)
    async with behind([head, Chunk(b"first"), Stall()]) as (url, upstream), sdk_of(url) as sdk:
        async with sdk.audio.speech.with_streaming_response.create(model="m", input="Hello", voice="alloy") as sound:
            async for piece in sound.iter_bytes():
                assert piece == b"first"
                break
        await upstream.aborted()


async def test_a_sound_that_breaks_off_is_no_whole_one() -> None:
    head = Status(200, {"Content-Type": "audio/mpeg", "Transfer-Encoding": "chunked"}, None)
    async with behind([head, Chunk(b"first"), Rst()]) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/audio/speech", json={"model": "m", "input": "Hi", "voice": "alloy"}) as reply:
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()


async def test_a_recording_is_written_down() -> None:
    async with behind() as (url, upstream), sdk_of(url) as sdk:
        told = await sdk.audio.transcriptions.create(
            model="m", file=("../my secret.wav", WAV), language="en", prompt="Beach", temperature=0.5
        )
        text = await sdk.audio.transcriptions.create(model="m", file=WAV, response_format="text")

    assert told.text == "The beach was a popular spot."
    assert told.usage is not None
    assert told.usage.type == "tokens"
    assert (
        told.usage.total_tokens,
        told.usage.input_token_details and told.usage.input_token_details.audio_tokens,
    ) == (59, 10)
    assert str(text) == "The beach was a popular spot.\n"
    sent = upstream.requests[0].body
    assert b'filename="audio.wav"' in sent
    assert b"secret" not in sent
    assert all(one in sent for one in (WAV, b"Beach", b"0.5", b"\r\n\r\nen\r\n"))


async def test_times_are_told_where_they_are_asked_for() -> None:
    async with behind(model="openai:whisper-1") as (url, upstream), sdk_of(url) as sdk:
        told = await sdk.audio.transcriptions.create(
            model="m", file=WAV, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        srt = await sdk.audio.transcriptions.create(model="m", file=WAV, response_format="srt")
        vtt = await sdk.audio.transcriptions.create(model="m", file=WAV, response_format="vtt")

    assert (told.language, told.duration) == ("english", 8.47)
    assert told.segments is not None
    assert (told.segments[0].text, told.segments[0].end, told.segments[0].avg_logprob) == (" The beach was", 3.3, -0.28)
    assert told.words is not None
    assert [word.word for word in told.words] == ["The", "beach"]
    assert str(srt) == "1\n00:00:00,000 --> 00:00:03,300\nThe beach was\n\n"
    assert str(vtt) == "WEBVTT\n\n00:00:00.000 --> 00:00:03.300\nThe beach was\n\n"
    assert upstream.requests[0].body.count(b"timestamp_granularities") == 2


async def test_subtitles_are_made_of_words_where_a_service_tells_of_nothing_else() -> None:
    words = [{"text": word, "start": at, "end": at + 0.5} for at, word in enumerate(["Hi", "there"])]
    words.append({"text": "you", "start": 5.0, "end": 5.25})
    reply = {"text": "Hi there you", "language_code": "en", "words": words}

    def service(_: SeenRequest) -> Sequence[Op]:
        return [Status(body=msgspec.json.encode(reply))]

    async with behind(service, model="elevenlabs:scribe_v2") as (url, upstream), sdk_of(url) as sdk:
        srt = await sdk.audio.transcriptions.create(model="m", file=WAV, response_format="srt")

    assert str(srt) == "1\n00:00:00,000 --> 00:00:01,500\nHi there\n\n2\n00:00:05,000 --> 00:00:05,250\nyou\n\n"
    assert len(upstream.requests) == 1


def test_a_cue_is_one_line_that_is_no_time() -> None:
    segments = (Segment(text="a\n\nb --> c", start_s=3599.9996, end_s=3661.5),)
    words = tuple(Word(text=str(at), start_s=at, end_s=at + 0.5) for at in range(11))
    speakers = (Word(text="a", start_s=0, end_s=1, speaker="x"), Word(text="b", start_s=1, end_s=2, speaker="y"))

    assert write_transcript(Transcript(text="x", segments=segments), "vtt", model="m") == (
        "WEBVTT\n\n01:00:00.000 --> 01:01:01.500\na b -> c\n\n"
    )
    assert str(write_transcript(Transcript(text="x", words=words), "srt", model="m")).count("-->") == 2
    assert str(write_transcript(Transcript(text="x", words=speakers), "srt", model="m")).count("-->") == 2
    assert write_transcript(Transcript(text=""), "srt", model="m") == ""
    with pytest.raises(UnsupportedError, match="'m' does not tell times"):
        write_transcript(Transcript(text="x"), "srt", model="m")


# -- pictures ----------------------------------------------------------------------------------------------------


async def test_pictures_are_made() -> None:
    async with behind() as (url, upstream), sdk_of(url) as sdk:
        made = await sdk.images.generate(
            model="m", prompt="A cat", n=2, size="1024x1024", quality="high", background="opaque", output_format="webp",
            output_compression=80, user="somebody",
        )  # fmt: skip
        as_urls = await sdk.images.generate(model="m", prompt="A cat", response_format="url")

    assert made.data is not None
    assert [base64.b64decode(picture.b64_json or "") for picture in made.data] == [PNG, PNG]
    assert (made.data[0].revised_prompt, made.quality, made.output_format) == ("A cat, in oil", "high", "png")
    assert made.usage is not None
    assert made.usage.total_tokens == 4210
    assert upstream.requests[0].json() == {
        "prompt": "A cat", "model": "gpt-image-2", "n": 2, "size": "1024x1024", "quality": "high",
        "background": "opaque", "output_format": "webp", "output_compression": 80,
    }  # fmt: skip
    assert as_urls.data is not None
    assert as_urls.data[0].url == f"data:image/png;base64,{PNG_64}"
    assert "response_format" not in upstream.requests[1].json()


async def test_pictures_are_changed() -> None:
    async with behind() as (url, upstream), sdk_of(url) as sdk:
        one = await sdk.images.edit(model="m", image=("cat.png", PNG), mask=PNG, prompt="A dog", n=1)
        await sdk.images.edit(model="m", image=[PNG, PNG], prompt="A dog", response_format="b64_json")

    assert one.data is not None
    assert one.data[0].b64_json == PNG_64
    first, second = (request.body for request in upstream.requests)
    assert first.count(PNG) == second.count(PNG) == 2
    assert b'name="mask"' in first
    assert second.count(b'name="image[]"') == 2


# -- moderation and ranking --------------------------------------------------------------------------------------


async def test_content_is_judged() -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG_64}"}}
    async with behind() as (url, upstream), sdk_of(url) as sdk:
        one = await sdk.moderations.create(model="m", input="I kill you")
        several = await sdk.moderations.create(input=["kill", "kiss"])
        parts = await sdk.moderations.create(model="m", input=[{"type": "text", "text": "look"}, picture])

    assert (one.results[0].flagged, one.results[0].category_scores.violence, one.model) == (True, 0.9, "m")
    assert [result.flagged for result in several.results] == [True, False]
    assert len(parts.results) == 1
    assert upstream.requests[2].json()["input"][1] == picture


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_documents_are_ranked(path: str) -> None:
    asked = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2}
    async with behind(model="vllm-server:r") as (url, upstream), aiohttp.ClientSession() as http:
        async with http.post(f"{url}{path}", json=asked) as reply:
            told = await reply.json()
        async with http.post(f"{url}{path}", json={**asked, "return_documents": False}) as reply:
            short = await reply.json()

    assert told["results"] == [
        {"index": 2, "relevance_score": 0.9, "document": {"text": "c"}},
        {"index": 0, "relevance_score": 0.2, "document": {"text": "a"}},
    ]
    assert (told["usage"]["total_tokens"], told["model"]) == (17, "m")
    assert "document" not in short["results"][0]
    assert upstream.requests[0].json()["documents"] == ["a", "b", "c"]


# -- what is refused ---------------------------------------------------------------------------------------------

SPEECH: dict[str, Any] = {"model": "m", "input": "Hi", "voice": "alloy"}
REFUSED: list[tuple[str, Any, str]] = [
    ("audio/speech", {"model": "m"}, "input"),
    ("audio/speech", {**SPEECH, "input": " "}, "input"),
    ("audio/speech", {**SPEECH, "input": 5}, "input"),
    ("audio/speech", {**SPEECH, "voice": ""}, "voice"),
    ("audio/speech", {**SPEECH, "voice": {"name": "x"}}, "voice.id"),
    ("audio/speech", {**SPEECH, "speed": 0}, "speed"),
    ("audio/speech", {**SPEECH, "speed": "fast"}, "speed"),
    ("audio/speech", {**SPEECH, "response_format": ""}, "response_format"),
    ("audio/speech", {**SPEECH, "stream_format": "sse"}, "stream_format"),
    ("audio/speech", {**SPEECH, "model": "other"}, "model"),
    ("images/generations", {"model": "m"}, "prompt"),
    ("images/generations", {"prompt": ""}, "prompt"),
    ("images/generations", {"prompt": "x", "n": 0}, "n"),
    ("images/generations", {"prompt": "x", "n": 99}, "n"),
    ("images/generations", {"prompt": "x", "n": "one"}, "n"),
    ("images/generations", {"prompt": "x", "size": "huge"}, "size"),
    ("images/generations", {"prompt": "x", "background": "green"}, "background"),
    ("images/generations", {"prompt": "x", "output_compression": 101}, "output_compression"),
    ("images/generations", {"prompt": "x", "output_format": ""}, "output_format"),
    ("images/generations", {"prompt": "x", "response_format": "gif"}, "response_format"),
    ("images/generations", {"prompt": "x", "stream": True}, "stream"),
    ("moderations", {}, "input"),
    ("moderations", {"input": []}, "input"),
    ("moderations", {"input": ["x"] * 5}, "input"),
    ("moderations", {"input": ["x", " "]}, "input[1]"),
    ("moderations", {"input": [{"type": "smell"}]}, "input[0]"),
    ("moderations", {"input": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}, "input[0]"),
    ("rerank", {"documents": ["x"]}, "query"),
    ("rerank", {"query": "q", "documents": []}, "documents"),
    ("rerank", {"query": "q", "documents": ["x"] * 5}, "documents"),
    ("rerank", {"query": "q", "documents": ["x", ""]}, "documents[1]"),
    ("rerank", {"query": "q", "documents": [5]}, "documents[0]"),
    ("rerank", {"query": "q", "documents": ["x"], "top_n": 0}, "top_n"),
    ("embeddings", {"input": ["x"] * 5}, "input"),
]
FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("audio/transcriptions", {"model": "m"}, "file"),
    ("audio/transcriptions", {"file": b""}, "file"),
    ("audio/transcriptions", {"file": WAV, "model": "other"}, "model"),
    ("audio/transcriptions", {"file": WAV, "response_format": "docx"}, "response_format"),
    ("audio/transcriptions", {"file": WAV, "temperature": "hot"}, "temperature"),
    ("audio/transcriptions", {"file": WAV, "temperature": "-1"}, "temperature"),
    ("audio/transcriptions", {"file": WAV, "timestamp_granularities[]": "hour"}, "timestamp_granularities"),
    ("audio/transcriptions", {"file": WAV, "stream": "true"}, "stream"),
    ("images/edits", {"prompt": "x"}, "image"),
    ("images/edits", {"image": PNG}, "prompt"),
    ("images/edits", {"image": b"", "prompt": "x"}, "image"),
    ("images/edits", {"image": PNG, "prompt": "x", "n": "x"}, "n"),
    ("images/edits", {"image": PNG, "prompt": "x", "n": "99"}, "n"),
    ("images/edits", {"image": PNG, "prompt": "x", "markup": PNG}, "markup"),
    ("images/edits", {"image": PNG, "prompt": "x", "stream": "true"}, "stream"),
]


def form_of(fields: dict[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        if isinstance(value, bytes):
            form.add_field(name, value, filename="a.bin", content_type="application/octet-stream")
        else:
            form.add_field(name, value)
    return form


async def test_what_cannot_be_right_is_refused_with_the_name_of_its_field() -> None:
    async with behind(max_texts=4) as (url, upstream), aiohttp.ClientSession() as http:
        found: list[tuple[str, Any, str]] = []
        for path, asked, _ in (*REFUSED, *FORMS):
            sent: dict[str, Any] = {"json": asked} if (path, asked, _) in REFUSED else {"data": form_of(asked)}
            async with http.post(f"{url}/v1/{path}", **sent) as reply:
                told = (await reply.json())["error"]
            assert reply.status == (404 if asked.get("model") == "other" else 400), (path, asked, told)
            assert told["message"]
            found.append((path, asked, told["param"]))

    assert found == [*REFUSED, *FORMS]
    assert not upstream.requests


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("audio/speech", SPEECH),
        ("audio/transcriptions", {"file": WAV}),
        ("images/generations", {"prompt": "x"}),
        ("images/edits", {"prompt": "x", "image": PNG}),
        ("moderations", {"input": "x"}),
        ("rerank", {"query": "q", "documents": ["x"]}),
    ],
)
async def test_a_model_that_lacks_the_call_is_named(path: str, asked: dict[str, Any]) -> None:
    asked = {**asked, "model": "mine"}
    sent: dict[str, Any] = {"data": form_of(asked)} if b"" in map(type_of, asked.values()) else {"json": asked}
    async with server_of("echo:x", {"models": {"mine": "echo:x"}}) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/{path}", **sent) as reply:
            told = (await reply.json())["error"]

    assert (reply.status, told["param"]) == (400, "model")
    assert "'mine'" in told["message"]
    assert "echo" not in told["message"]


def type_of(value: Any) -> Any:
    return b"" if isinstance(value, bytes) else None


async def test_files_that_are_too_large_are_refused() -> None:
    async with behind(max_media_bytes=1000) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/audio/transcriptions", data=form_of({"file": b"x" * 1001})) as reply:
            told = (await reply.json())["error"]

    assert (reply.status, told["code"]) == (413, "request_too_large")


async def test_a_failure_of_the_service_is_told_as_a_status() -> None:
    busy = Status(429, {"Retry-After": "7"}, b'{"error": {"message": "slower"}}')
    async with behind([busy]) as (url, _), sdk_of(url) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.audio.speech.create(model="m", input="Hello", voice="alloy")

    assert caught.value.response.headers["retry-after"] == "7"


class Kept(dict[int, Ticket]):
    """Calls under way, which keeps those that are over."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets: list[Ticket] = []

    def __setitem__(self, key: int, ticket: Ticket) -> None:
        self.tickets.append(ticket)
        super().__setitem__(key, ticket)


@pytest.mark.parametrize(
    ("path", "asked", "usage"),
    [
        ("audio/speech", SPEECH, Usage(characters=2)),
        ("images/generations", {"prompt": "x"}, Usage(input_tokens=50, output_tokens=4160, images=2)),
        ("rerank", {"query": "q", "documents": ["x", "y", "z"]}, Usage(input_tokens=17, output_tokens=0)),
    ],
)
async def test_what_a_call_has_used_is_counted(path: str, asked: dict[str, Any], usage: Usage) -> None:
    async with (
        FaultyServer(answers) as upstream,
        Client(model="openai:m", base_url=f"{upstream.url}/v1", api_key="k", retry=None) as client,
    ):
        service = Service(client, ServerSettings(models={"m": "openai:m"}), None)
        service.admission.live = kept = Kept()
        body: list[Any] = [{"type": "http.request", "body": msgspec.json.encode(asked), "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": f"/v1/{path}",
            "headers": [(b"host", b"127.0.0.1")],
        }
        scope |= {"query_string": b"", "server": ("127.0.0.1", 80)}
        await application_of(service)(scope, receive, send)

    (ticket,) = kept.tickets
    assert (sent[0]["status"], ticket.has_failed, ticket.route, ticket.usage) == (200, False, f"/v1/{path}", usage)
    assert not kept
