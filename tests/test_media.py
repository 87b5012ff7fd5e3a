"""Calls for sound, pictures, moderation and ranking: what a client does about them, whichever backend answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from asyncllm import (
    BudgetExceededError,
    Client,
    InternalServerError,
    InvalidRequestError,
    Price,
    RateLimitError,
    Response,
    Retry,
    StreamInterrupted,
    Timeouts,
    TotalTimeoutError,
    Trail,
    UnsupportedError,
    Usage,
    UsageReport,
)
from asyncllm.backend import (
    ImageRequest,
    IsolateRequest,
    ModerateRequest,
    RerankRequest,
    SpeechRequest,
    TranscribeRequest,
    require_options,
)
from asyncllm.media import (
    AudioChunk,
    Image,
    ImageFrame,
    Images,
    Line,
    MediaEvent,
    MediaFile,
    Moderation,
    Rank,
    Ranking,
    Speech,
    Transcript,
    Verdict,
)
from asyncllm.media_calls.uploads import media_type_of, read_upload
from asyncllm.types import Request
from openai_media_server import MP3, PNG, WAV

CANARY = "canary-7f3a-secret"
_USAGE = Usage(input_tokens=1_000_000, output_tokens=0)


class Studio:
    """Does every call, remembers what it was asked, and fails as it is told to first."""

    def __init__(self, *failures: Exception, pieces: int = 3) -> None:
        self.failures = list(failures)
        self.pieces = pieces
        self.asked: list[Any] = []
        self.open_now = 0

    def open(self, request: Request, /) -> Any:
        raise NotImplementedError

    def _ask(self, request: Any) -> None:
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        self._ask(request)
        return Transcript(text=CANARY, usage=_USAGE, body=b'{"a":1}')

    async def isolate(self, request: IsolateRequest, /) -> Speech:
        self._ask(request)
        return Speech(data=MP3, usage=_USAGE)

    async def speak(self, request: SpeechRequest, /) -> Speech:
        self._ask(request)
        return Speech(data=MP3, usage=_USAGE)

    async def generate_image(self, request: ImageRequest, /) -> Images:
        self._ask(request)
        return Images(images=(Image(data=PNG),), usage=_USAGE)

    async def edit_image(self, request: ImageRequest, /) -> Images:
        self._ask(request)
        return Images(images=(Image(data=PNG),), usage=_USAGE)

    async def moderate(self, request: ModerateRequest, /) -> Moderation:
        self._ask(request)
        return Moderation(verdicts=(Verdict(flagged=False, categories={}, scores={}),), usage=_USAGE)

    async def rerank(self, request: RerankRequest, /) -> Ranking:
        self._ask(request)
        return Ranking(ranks=(Rank(0, 1.0),), usage=_USAGE)

    @asynccontextmanager
    async def open_speech(self, request: SpeechRequest, /) -> AsyncGenerator[AsyncGenerator[MediaEvent]]:
        self._ask(request)
        self.open_now += 1
        try:
            yield self._chunks()
        finally:
            self.open_now -= 1

    async def _chunks(self) -> AsyncGenerator[MediaEvent]:
        for _ in range(self.pieces):
            yield AudioChunk(b"la", "audio/mpeg")
        if self.failures:
            raise self.failures.pop(0)
        yield UsageReport(_USAGE)

    @asynccontextmanager
    async def open_image(self, request: ImageRequest, /) -> AsyncGenerator[AsyncGenerator[MediaEvent]]:
        self._ask(request)

        async def frames() -> AsyncGenerator[MediaEvent]:
            yield ImageFrame(image=Image(data=PNG))
            yield ImageFrame(image=Image(data=PNG), is_final=True)
            yield UsageReport(_USAGE)

        yield frames()

    async def aclose(self) -> None:
        pass


class Watching:
    """A hook that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Usage | None, bool, BaseException | None]] = []

    def after(self, call: Trail, response: Response | None) -> None:
        self.told.append(("after", call.kind, call.usage, call.is_complete, None))

    def on_error(self, call: Trail, error: BaseException) -> None:
        self.told.append(("error", call.kind, call.usage, call.is_complete, error))


async def every_call(client: Client) -> dict[str, Any]:
    return {
        "transcribe": await client.transcribe(WAV),
        "isolate": await client.isolate(WAV),
        "speak": await client.speak("Hello"),
        "generate_image": await client.generate_image("A cat"),
        "edit_image": await client.edit_image(PNG, "A dog"),
        "moderate": await client.moderate("Hello"),
        "rerank": await client.rerank("q", ["a"]),
    }


# -- bad input ---------------------------------------------------------------------------------------------------

BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("transcribe", ("no-such-file.wav",), {}, "audio"),
    ("transcribe", (".",), {}, "audio"),
    ("transcribe", ("bad\0name",), {}, "audio"),
    ("transcribe", (b"",), {}, "audio"),
    ("transcribe", ("",), {}, "audio"),
    ("transcribe", (7,), {}, "audio"),
    ("transcribe", (WAV,), {"language": ""}, "language"),
    ("transcribe", (WAV,), {"prompt": 7}, "prompt"),
    ("transcribe", (WAV,), {"temperature": -1}, "temperature"),
    ("transcribe", (WAV,), {"temperature": float("nan")}, "temperature"),
    ("transcribe", (WAV,), {"timestamps": "word"}, "timestamps"),
    ("transcribe", (WAV,), {"timestamps": []}, "timestamps"),
    ("transcribe", (WAV,), {"timestamps": ["letter"]}, "timestamps"),
    ("transcribe", (WAV,), {"duration_s": 0}, "duration_s"),
    ("transcribe", (WAV,), {"verbose": "yes"}, "verbose"),
    ("transcribe", (WAV,), {"voice": "alloy"}, "voice"),
    ("transcribe", (WAV,), {"timeouts": 5}, "timeouts"),
    ("transcribe", (WAV,), {"extra": [1]}, "extra"),
    ("isolate", (None,), {}, "audio"),
    ("isolate", (WAV,), {"duration_s": "long"}, "duration_s"),
    ("speak", ("",), {}, "text"),
    ("speak", ("  ",), {}, "text"),
    ("speak", ([Line("a", "b")],), {}, "text"),
    ("speak", ("Hello",), {"voice": ""}, "voice"),
    ("speak", ("Hello",), {"speed": 0}, "speed"),
    ("speak", ("Hello",), {"speed": True}, "speed"),
    ("speak", ("Hello",), {"format": None}, "format"),
    ("speak", ("Hello",), {"mode": "song"}, "mode"),
    ("speak", ("Hello",), {"duration_s": 3}, "duration_s"),
    ("speak", ("Hello",), {"mode": "music", "voice": "a"}, "voice"),
    ("speak", ("Hello",), {"mode": "effects", "speed": 1.5}, "speed"),
    ("speak", ("Hello",), {"mode": "dialogue"}, "text"),
    ("speak", ([],), {"mode": "dialogue"}, "text"),
    ("speak", ([Line("a", "b"), ("a", "")],), {"mode": "dialogue"}, "text[1]"),
    ("speak", (["a"],), {"mode": "dialogue"}, "text[0]"),
    ("speak", ([Line("a", "b")],), {"mode": "dialogue", "voice": "a"}, "voice"),
    ("generate_image", ("",), {}, "prompt"),
    ("generate_image", (None,), {}, "prompt"),
    ("generate_image", ("A cat",), {"n": 0}, "n"),
    ("generate_image", ("A cat",), {"n": True}, "n"),
    ("generate_image", ("A cat",), {"n": 1.5}, "n"),
    ("generate_image", ("A cat",), {"size": "large"}, "size"),
    ("generate_image", ("A cat",), {"size": "0x10"}, "size"),
    ("generate_image", ("A cat",), {"size": 1024}, "size"),
    ("generate_image", ("A cat",), {"aspect_ratio": "wide"}, "aspect_ratio"),
    ("generate_image", ("A cat",), {"aspect_ratio": "1:0"}, "aspect_ratio"),
    ("generate_image", ("A cat",), {"aspect_ratio": "1:1", "size": "auto"}, "aspect_ratio"),
    ("generate_image", ("A cat",), {"quality": ""}, "quality"),
    ("generate_image", ("A cat",), {"background": "red"}, "background"),
    ("generate_image", ("A cat",), {"compression": 101}, "compression"),
    ("generate_image", ("A cat",), {"response_format": "bytes"}, "response_format"),
    ("generate_image", ("A cat",), {"sizes": "auto"}, "sizes"),
    ("edit_image", ([], "A dog"), {}, "images"),
    ("edit_image", (None, "A dog"), {}, "images"),
    ("edit_image", ([PNG, 7], "A dog"), {}, "images[1]"),
    ("edit_image", ([PNG, "no-such-file.png"], "A dog"), {}, "images[1]"),
    ("edit_image", (PNG, ""), {}, "prompt"),
    ("edit_image", (PNG, "A dog"), {"mask": b""}, "mask"),
    ("edit_image", (PNG, "A dog"), {"mask": "no-such-file.png"}, "mask"),
    ("moderate", ("",), {}, "content[0]"),
    ("moderate", ([],), {}, "content"),
    ("moderate", (7,), {}, "content"),
    ("moderate", (["a", ""],), {}, "content[1]"),
    ("moderate", (["a", 7],), {}, "content[1]"),
    ("moderate", ("a",), {"top_n": 1}, "top_n"),
    ("rerank", ("", ["a"]), {}, "query"),
    ("rerank", ("q", []), {}, "documents"),
    ("rerank", ("q", "a"), {}, "documents"),
    ("rerank", ("q", ["a", ""]), {}, "documents[1]"),
    ("rerank", ("q", ["a"] * 10_001), {}, "documents"),
    ("rerank", ("q", ["a"]), {"top_n": 0}, "top_n"),
]


@pytest.mark.parametrize(("call", "arguments", "options", "field"), BAD)
async def test_bad_input_is_an_error_that_names_it(
    call: str, arguments: tuple[Any, ...], options: dict[str, Any], field: str
) -> None:
    studio = Studio()
    async with Client(backend=studio) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await getattr(client, call)(*arguments, **options)

    assert caught.value.field == field
    assert not studio.asked


@pytest.mark.parametrize(
    ("call", "arguments", "options", "field"),
    [
        ("stream_speech", ("",), {}, "text"),
        ("stream_image", ("",), {}, "prompt"),
        ("stream_image", ("A cat",), {"partial_images": -1}, "partial_images"),
        ("stream_image", ("A cat",), {"mask": PNG}, "mask"),
        ("stream_image", ("A cat",), {"images": []}, "images"),
        ("stream_image", ("A cat",), {"n": 0}, "n"),
    ],
)
async def test_bad_input_of_a_stream_is_an_error_before_it_is_entered(
    call: str, arguments: tuple[Any, ...], options: dict[str, Any], field: str
) -> None:
    async with Client(backend=Studio()) as client:
        with pytest.raises(InvalidRequestError) as caught:
            getattr(client, call)(*arguments, **options)

    assert caught.value.field == field


async def test_a_picture_of_a_stream_that_does_not_exist_is_named_on_entering() -> None:
    studio = Studio()
    async with Client(backend=studio) as client:
        with pytest.raises(InvalidRequestError, match=r"no such file: 'none\.png'"):
            async with client.stream_image("A cat", images="/nowhere/none.png"):
                pass

    assert not studio.asked


async def test_a_misspelt_option_is_told_its_right_name() -> None:
    async with Client(backend=Studio()) as client:
        with pytest.raises(InvalidRequestError, match="did you mean 'voice'"):
            await client.speak("Hello", voise="alloy")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [(b"", "a.wav", "audio/wav"), (b"a", "", "audio/wav"), (b"a", "a", "wav"), (b"a", "a", "a/b\r\n")],
)
def test_a_file_without_content_name_or_type_is_refused(data: bytes, name: str, kind: str) -> None:
    with pytest.raises(InvalidRequestError):
        MediaFile(data, name, kind)


# -- who lacks what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        ("transcribe", (WAV,), "transcribe"),
        ("isolate", (WAV,), "isolate"),
        ("speak", ("a",), "speak"),
        ("stream_speech", ("a",), "speak"),
        ("generate_image", ("a",), "generate_image"),
        ("edit_image", (PNG, "a"), "edit_image"),
        ("stream_image", ("a",), "generate_image"),
        ("moderate", ("a",), "moderate"),
        ("rerank", ("a", ["a"]), "rerank"),
    ],
)
async def test_a_backend_without_the_call_is_named(call: str, arguments: tuple[Any, ...], name: str) -> None:
    async with Client(model="echo:m") as client:
        with pytest.raises(UnsupportedError, match=f"'echo' backend has no {name}") as caught:
            made = getattr(client, call)(*arguments)
            await made

    assert (caught.value.backend, caught.value.field) == ("echo", name)


def test_an_option_that_a_backend_has_no_place_for_is_named() -> None:
    request = SpeechRequest(model="m", text="Hello", voice="a", speed=2.0)

    require_options(request, frozenset({"voice", "speed"}), backend="b")
    with pytest.raises(UnsupportedError, match="'b' backend does not support speed here") as caught:
        require_options(request, frozenset({"voice"}), backend="b")

    assert caught.value.field == "speed"


# -- what a call passes ------------------------------------------------------------------------------------------


async def test_every_call_knows_its_model_price_and_deadlines() -> None:
    studio = Studio()
    timeouts = Timeouts(total_s=9)
    price = {"m": Price(input_usd=2, output_usd=0)}
    async with Client(backend=studio, model="m", prices=price, timeouts=timeouts) as client:
        answers = await every_call(client)

    assert {name: answer.cost_usd for name, answer in answers.items()} == dict.fromkeys(answers, 2.0)
    assert [request.model for request in studio.asked] == ["m"] * 7
    assert all(request.timeouts == timeouts for request in studio.asked)


async def test_hooks_are_told_of_every_call() -> None:
    watching = Watching()
    async with Client(backend=Studio(), hooks=[watching]) as client:
        await every_call(client)
        async with client.stream_speech("Hello") as stream:
            _ = [data async for data in stream]
        async with client.stream_image("A cat") as frames:
            _ = [frame async for frame in frames]

    kinds = ["transcribe", "isolate", "speak", "generate_image", "edit_image", "moderate", "rerank", "speak",
             "generate_image"]  # fmt: skip
    assert watching.told == [("after", kind, _USAGE, True, None) for kind in kinds]


async def test_a_call_that_fails_is_made_again() -> None:
    studio = Studio(InternalServerError("busy"))
    async with Client(backend=studio, retry=Retry(attempts=2, backoff_s=0)) as client:
        speech = await client.speak("Hello")

    assert (speech.data, len(studio.asked)) == (MP3, 2)


async def test_a_stream_that_fails_before_its_first_piece_is_made_again() -> None:
    studio = Studio(InternalServerError("busy"))
    async with Client(backend=studio, retry=Retry(attempts=2, backoff_s=0)) as client:
        async with client.stream_speech("Hello") as stream:
            assert [data async for data in stream] == [b"la"] * 3

    assert len(studio.asked) == 2
    assert stream.media_type == "audio/mpeg"


async def test_a_stream_that_fails_after_its_first_piece_is_not() -> None:
    watching = Watching()
    studio = Studio()
    async with Client(backend=studio, model="m", retry=Retry(attempts=2, backoff_s=0), hooks=[watching]) as client:
        pieces: list[bytes] = []
        with pytest.raises(RateLimitError) as caught:
            async with client.stream_speech("Hello") as stream:
                async for data in stream:
                    pieces.append(data)
                    studio.failures = [RateLimitError("busy")]

    assert (pieces, len(studio.asked), studio.open_now) == ([b"la"] * 3, 1, 0)
    assert (caught.value.model, caught.value.maybe_billed) == ("m", True)
    assert watching.told == [("error", "speak", None, False, caught.value)]


async def test_a_stream_without_a_piece_is_interrupted() -> None:
    async with Client(backend=Studio(pieces=0), retry=None) as client:
        with pytest.raises(StreamInterrupted):
            async with client.stream_speech("Hello"):
                pass


@pytest.mark.parametrize("error", [None, KeyError("mine")])
async def test_leaving_a_stream_frees_what_it_holds(error: Exception | None) -> None:
    watching = Watching()
    studio = Studio()
    async with Client(backend=studio, hooks=[watching]) as client:
        try:
            async with client.stream_speech("Hello") as stream:
                assert await anext(aiter(stream)) == b"la"
                assert studio.open_now == 1
                if error is not None:
                    raise error
        except KeyError:
            pass

    assert studio.open_now == 0
    assert watching.told == [("after", "speak", None, False, None)]


async def test_cancelling_a_stream_frees_what_it_holds() -> None:
    studio = Studio()
    began = asyncio.Event()

    async def listen() -> None:
        async with Client(backend=studio) as client, client.stream_speech("Hello"):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(listen())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert studio.open_now == 0


async def test_a_stream_knows_what_it_cost() -> None:
    price = {"m": Price(input_usd=2, output_usd=0)}
    async with Client(backend=Studio(), model="m", prices=price) as client:
        async with client.stream_speech("Hello") as stream:
            _ = [data async for data in stream]

    assert (stream.usage, stream.cost_usd) == (_USAGE, 2.0)


async def test_a_stream_is_iterated_inside_its_block_alone() -> None:
    async with Client(backend=Studio()) as client:
        with pytest.raises(TypeError, match="inside its block"):
            aiter(client.stream_speech("Hello"))


async def test_a_budget_holds_these_calls_too() -> None:
    studio = Studio()
    async with Client(backend=studio) as client:
        async with asyncllm.budget(tokens=1000) as spent:
            await client.speak("Hello")
            with pytest.raises(BudgetExceededError):
                await client.speak("Hello")
            with pytest.raises(BudgetExceededError):
                async with client.stream_speech("Hello"):
                    pass

    assert (spent.tokens, len(studio.asked)) == (1_000_000, 1)


async def test_a_call_has_a_deadline() -> None:
    class Slow(Studio):
        async def speak(self, request: SpeechRequest, /) -> Speech:
            await asyncio.Event().wait()
            raise AssertionError

    async with Client(backend=Slow()) as client:
        with pytest.raises(TotalTimeoutError):
            await client.speak("Hello", timeouts=Timeouts(total_s=0.01))


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (WAV, "audio/wav"),
        (MP3, "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"\x1aE\xdf\xa3", "audio/webm"),
        (b"\0\0\0 ftypM4A ", "audio/mp4"),
        (b"\0\0\0 ftypisom", "video/mp4"),
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"who knows", "application/octet-stream"),
        (b"R", "application/octet-stream"),
    ],
)
def test_a_file_is_known_by_its_first_bytes(data: bytes, kind: str) -> None:
    assert media_type_of(data) == kind


async def test_bytes_get_the_name_of_their_kind() -> None:
    assert await read_upload(PNG, "images", "image") == MediaFile(PNG, "image.png", "image/png")
    assert await read_upload(b"raw", "audio", "audio") == MediaFile(b"raw", "audio")


async def test_a_file_is_known_by_its_name_where_its_bytes_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.PCM"
    path.write_bytes(b"raw")

    assert await read_upload(str(path), "audio", "audio") == MediaFile(b"raw", "noise.PCM", "audio/pcm")


async def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.touch()

    with pytest.raises(InvalidRequestError, match="the file of audio is empty"):
        await read_upload(path, "audio", "audio")


# -- nouns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noun",
    [
        MediaFile(CANARY.encode(), f"{CANARY}.wav", "audio/wav"),
        Line("a", CANARY),
        Transcript(text=CANARY, body=CANARY.encode()),
        Speech(data=CANARY.encode()),
        Image(data=CANARY.encode(), revised_prompt=CANARY),
        Images(images=(Image(url=CANARY),)),
        AudioChunk(CANARY.encode()),
        ImageFrame(image=Image(url=CANARY)),
        SpeechRequest(model="m", text=CANARY, instructions=CANARY, lines=(Line("a", CANARY),)),
        TranscribeRequest(model="m", audio=MediaFile(CANARY.encode(), CANARY), prompt=CANARY, extra={"a": CANARY}),
        ImageRequest(model="m", prompt=CANARY),
        ModerateRequest(model="m", inputs=(CANARY,)),
        RerankRequest(model="m", query=CANARY, documents=(CANARY,)),
        Ranking(ranks=(), body=CANARY.encode()),
    ],
)
def test_nothing_private_shows_in_a_repr(noun: object) -> None:
    assert CANARY not in repr(noun)


def test_an_answer_decodes_its_body_on_demand() -> None:
    assert Transcript(text="a", body=b'{"a":1}').raw == {"a": 1}
    assert Transcript(text="a").raw is None


# -- without an event loop ---------------------------------------------------------------------------------------


def test_the_same_calls_wait_where_there_is_no_loop() -> None:
    studio = Studio()
    with asyncllm.sync.Client(backend=studio, model="m") as client:
        assert client.transcribe(WAV, duration_s=3).text == CANARY
        assert client.isolate(WAV).data == MP3
        assert client.speak("Hello", voice="a").data == MP3
        assert len(client.generate_image("A cat", n=1)) == 1
        assert len(client.edit_image(PNG, "A dog", mask=PNG)) == 1
        assert not client.moderate("Hello").flagged
        assert client.rerank("q", ["a"], top_n=1)[0].index == 0
        with client.stream_speech("Hello") as stream:
            assert list(stream) == [b"la"] * 3
        assert (stream.usage, stream.cost_usd) == (_USAGE, None)
        with client.stream_image("A cat", images=PNG) as frames:
            assert [frame.is_final for frame in frames] == [False, True]

    assert len(studio.asked) == 9


def test_a_stream_that_is_left_early_is_freed_where_there_is_no_loop() -> None:
    studio = Studio()
    with asyncllm.sync.Client(backend=studio) as client:
        with client.stream_speech("Hello") as stream:
            for data in stream:
                assert data == b"la"
                break
        assert studio.open_now == 0
