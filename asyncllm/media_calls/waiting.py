"""The same calls for code without an event loop, as `sync.Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar, Unpack

from asyncllm.media import ImageFrame, Images, Moderation, Ranking, Speech, Transcript
from asyncllm.media_calls.calls import MediaCalls
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
from asyncllm.media_calls.streams import MediaStream
from asyncllm.types import ImagePart, TextPart, Usage
from asyncllm.waiting import Runner, WaitingStream

__all__ = ["WaitingMedia", "WaitingMediaCalls"]

T = TypeVar("T")


class WaitingMediaCalls(ABC):
    """Sound, pictures, moderation and ranking, each as in `asyncllm.Client`."""

    def transcribe(self, audio: Upload, **options: Unpack[TranscribeOptions]) -> Transcript:
        """Write down what is said in a recording."""
        client, runner = self._over_there()
        return runner.run(lambda: client.transcribe(audio, **options))

    def isolate(self, audio: Upload, **options: Unpack[IsolateOptions]) -> Speech:
        """Free the voice in a recording of the noise around it."""
        client, runner = self._over_there()
        return runner.run(lambda: client.isolate(audio, **options))

    def speak(self, text: str | Dialogue, **options: Unpack[SpeechOptions]) -> Speech:
        """Make sound of a text."""
        client, runner = self._over_there()
        return runner.run(lambda: client.speak(text, **options))

    def stream_speech(self, text: str | Dialogue, **options: Unpack[SpeechOptions]) -> WaitingMedia[bytes]:
        """Make sound and have its bytes as they come: `with client.stream_speech(...) as stream:`."""
        client, runner = self._over_there()

        async def make() -> MediaStream[bytes]:
            return client.stream_speech(text, **options)

        return WaitingMedia(runner, runner.run(make))

    def generate_image(self, prompt: str, **options: Unpack[ImageOptions]) -> Images:
        """Make pictures of a prompt."""
        client, runner = self._over_there()
        return runner.run(lambda: client.generate_image(prompt, **options))

    def edit_image(
        self,
        images: Upload | Sequence[Upload],
        prompt: str,
        *,
        mask: Upload | None = None,
        **options: Unpack[ImageOptions],
    ) -> Images:
        """Change pictures as a prompt says."""
        client, runner = self._over_there()
        return runner.run(lambda: client.edit_image(images, prompt, mask=mask, **options))

    def stream_image(
        self,
        prompt: str,
        *,
        images: Upload | Sequence[Upload] | None = None,
        mask: Upload | None = None,
        partial_images: int = 2,
        **options: Unpack[ImageOptions],
    ) -> WaitingMedia[ImageFrame]:
        """Make or change pictures and see them come: `with client.stream_image(...) as stream:`."""
        client, runner = self._over_there()

        async def make() -> MediaStream[ImageFrame]:
            return client.stream_image(prompt, images=images, mask=mask, partial_images=partial_images, **options)

        return WaitingMedia(runner, runner.run(make))

    def moderate(
        self, content: str | Sequence[str | TextPart | ImagePart], **options: Unpack[MediaOptions]
    ) -> Moderation:
        """Judge whether content is harmful."""
        client, runner = self._over_there()
        return runner.run(lambda: client.moderate(content, **options))

    def rerank(self, query: str, documents: Sequence[str], **options: Unpack[RerankOptions]) -> Ranking:
        """Put documents in the order in which they answer a query."""
        client, runner = self._over_there()
        return runner.run(lambda: client.rerank(query, documents, **options))

    @abstractmethod
    def _over_there(self) -> tuple[MediaCalls, Runner]:
        """The asynchronous client, and who awaits its calls."""


class WaitingMedia(WaitingStream[T]):
    """The pieces of one call: iterate inside `with`."""

    def __init__(self, runner: Runner, stream: MediaStream[T]) -> None:
        super().__init__(runner, stream)
        self._stream = stream

    @property
    def usage(self) -> Usage:
        """What the call has consumed, as far as it is known."""
        return self._stream.usage

    @property
    def cost_usd(self) -> float | None:
        """US dollars, or `None` where no price is known."""
        return self._stream.cost_usd
