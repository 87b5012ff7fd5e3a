"""The calls themselves, as `Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, Unpack, cast

import msgspec

from asyncllm.backend import (
    ImageEditor,
    ImageMaker,
    ImageRequest,
    Isolator,
    MediaRequest,
    Moderator,
    Reranker,
    SpeechMaker,
    Transcriber,
)
from asyncllm.calls import Model
from asyncllm.errors import InvalidRequestError
from asyncllm.media import Images, MediaFile, Moderation, Ranking, Speech, Transcript
from asyncllm.media_calls.options import (
    Dialogue,
    ImageOptions,
    IsolateOptions,
    MediaOptions,
    RerankOptions,
    SpeechOptions,
    TranscribeOptions,
    Upload,
)
from asyncllm.media_calls.requests import (
    image_request,
    isolate_request,
    moderate_request,
    rerank_request,
    speech_request,
    transcribe_request,
)
from asyncllm.media_calls.streams import ImageStream, Prepared, SpeechStream
from asyncllm.media_calls.uploads import check_upload, read_upload
from asyncllm.middleware.observe import Observer
from asyncllm.place import Target, lacking
from asyncllm.trail import Kind
from asyncllm.types import ImagePart, TextPart, Timeouts
from asyncllm.watchdog import Watchdog

__all__ = ["MediaCalls"]

R = TypeVar("R", bound=MediaRequest)
A = TypeVar("A", Transcript, Speech, Images, Moderation, Ranking)

_replace = msgspec.structs.replace


class MediaCalls(ABC):
    """Sound, pictures, moderation and ranking, over what a client has for every call.

    Each method raises `UnsupportedError` if the backend lacks the call or an option of it, `InvalidRequestError` naming
    an argument that cannot be right, both before anything is sent, and `APIError`.
    """

    _timeouts: Timeouts
    _dog: Watchdog
    _observer: Observer

    async def transcribe(self, audio: Upload, **options: Unpack[TranscribeOptions]) -> Transcript:
        """Write down what is said in a recording: a path, the bytes of a file, or a `MediaFile`."""
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, Transcriber):
            raise lacking(target, "transcribe")
        file = await read_upload(audio, "audio", "audio")
        request = _for(target, transcribe_request(file, options, self._timeouts))
        return await self._once("transcribe", target, request, lambda: backend.transcribe(request))

    async def isolate(self, audio: Upload, **options: Unpack[IsolateOptions]) -> Speech:
        """Free the voice in a recording of the noise around it."""
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, Isolator):
            raise lacking(target, "isolate")
        file = await read_upload(audio, "audio", "audio")
        request = _for(target, isolate_request(file, options, self._timeouts))
        return await self._once("isolate", target, request, lambda: backend.isolate(request))

    async def speak(self, text: str | Dialogue, **options: Unpack[SpeechOptions]) -> Speech:
        """Make sound of a text: speech, or music, effects and dialogues where the backend's `mode` has them.

        A dialogue's text is a list of `Line(voice, text)`.
        """
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, SpeechMaker):
            raise lacking(target, "speak")
        request = _for(target, speech_request(text, options, self._timeouts))
        return await self._once("speak", target, request, lambda: backend.speak(request))

    def stream_speech(self, text: str | Dialogue, **options: Unpack[SpeechOptions]) -> SpeechStream:
        """Make sound as `speak` does, and have its bytes as they come.

            async with client.stream_speech("Hello", voice="alloy") as stream:
                async for data in stream: ...

        Leaving the block stops the service. A sound that breaks off raises `StreamInterrupted`.
        """
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, SpeechMaker):
            raise lacking(target, "speak")
        request = _for(target, speech_request(text, options, self._timeouts, stream=True))

        async def prepare() -> Prepared:
            return Prepared("speak", target, request, lambda: backend.open_speech(request))

        return SpeechStream(prepare, self._dog, self._observer)

    async def generate_image(self, prompt: str, **options: Unpack[ImageOptions]) -> Images:
        """Make pictures of a prompt: all `n` of them."""
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, ImageMaker):
            raise lacking(target, "generate_image")
        request = _for(target, image_request(prompt, options, self._timeouts))
        return await self._once("generate_image", target, request, lambda: backend.generate_image(request))

    async def edit_image(
        self,
        images: Upload | Sequence[Upload],
        prompt: str,
        *,
        mask: Upload | None = None,
        **options: Unpack[ImageOptions],
    ) -> Images:
        """Change pictures as a prompt says; the transparent parts of `mask` say where, in the first of them."""
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, ImageEditor):
            raise lacking(target, "edit_image")
        request = _for(target, image_request(prompt, options, self._timeouts))
        request = await _with_files(request, _uploads(images, mask), mask)
        return await self._once("edit_image", target, request, lambda: backend.edit_image(request))

    def stream_image(
        self,
        prompt: str,
        *,
        images: Upload | Sequence[Upload] | None = None,
        mask: Upload | None = None,
        partial_images: int = 2,
        **options: Unpack[ImageOptions],
    ) -> ImageStream:
        """Make pictures as `generate_image` does, or change `images` as `edit_image` does, and see them come.

            async with client.stream_image("A lighthouse", partial_images=3) as stream:
                async for frame in stream: ...

        The frames with `is_final` are the pictures asked for; before each there are at most `partial_images` others.
        Leaving the block stops the service. An answer without its final frames raises `StreamInterrupted`.
        """
        target = self._target(options.get("model"))
        backend = target.place.backend
        kind: Kind = "generate_image" if images is None else "edit_image"
        if not isinstance(backend, ImageMaker) or not (images is None or isinstance(backend, ImageEditor)):
            raise lacking(target, kind)
        asked = image_request(prompt, options, self._timeouts, stream=True, partial_images=partial_images)
        asked = _for(target, asked)
        if images is None and mask is not None:
            raise InvalidRequestError("a mask is for images to be changed, and there are none", field="mask")
        given = [] if images is None else _uploads(images, mask)

        async def prepare() -> Prepared:
            request = await _with_files(asked, given, mask)
            return Prepared(kind, target, request, lambda: backend.open_image(request))

        return ImageStream(prepare, self._dog, self._observer)

    async def moderate(
        self, content: str | Sequence[str | TextPart | ImagePart], **options: Unpack[MediaOptions]
    ) -> Moderation:
        """Judge whether content is harmful: one verdict a text, or a single one for the parts of one input."""
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, Moderator):
            raise lacking(target, "moderate")
        request = _for(target, moderate_request(content, options, self._timeouts))
        return await self._once("moderate", target, request, lambda: backend.moderate(request))

    async def rerank(self, query: str, documents: Sequence[str], **options: Unpack[RerankOptions]) -> Ranking:
        """Put documents in the order in which they answer a query, best first."""
        target = self._target(options.get("model"))
        backend = target.place.backend
        if not isinstance(backend, Reranker):
            raise lacking(target, "rerank")
        request = _for(target, rerank_request(query, documents, options, self._timeouts))
        return await self._once("rerank", target, request, lambda: backend.rerank(request))

    @abstractmethod
    def _target(self, model: Model | None) -> Target:
        """Where a call for `model` goes."""

    @abstractmethod
    async def _once(self, kind: Kind, target: Target, request: Any, call: Callable[[], Awaitable[A]]) -> A:
        """Make a call in the layers of its place."""


def _for(target: Target, request: R) -> R:
    return _replace(request, model=target.model)


def _uploads(images: object, mask: object) -> list[Any]:
    """The pictures to change, checked without reading any."""
    given: list[Any] = [images] if isinstance(images, str | bytes | MediaFile) or hasattr(images, "__fspath__") else []
    if isinstance(images, list | tuple):
        given = list(cast("Sequence[Any]", images))
    if not given:
        raise InvalidRequestError("images is a picture or a list of at least one", field="images")
    for position, image in enumerate(given):
        check_upload(image, f"images[{position}]" if len(given) > 1 else "images")
    if mask is not None:
        check_upload(mask, "mask")
    return given


async def _with_files(request: ImageRequest, images: Sequence[Upload], mask: Upload | None) -> ImageRequest:
    if not images:
        return request
    fields = [f"images[{position}]" if len(images) > 1 else "images" for position in range(len(images))]
    files = [await read_upload(image, field, "image") for image, field in zip(images, fields, strict=True)]
    request = _replace(request, images=tuple(files))
    return request if mask is None else _replace(request, mask=await read_upload(mask, "mask", "image"))
