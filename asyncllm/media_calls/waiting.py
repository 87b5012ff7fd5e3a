"""The same calls for code without an event loop, as `sync.Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, Unpack

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

__all__ = ["WaitingMediaCalls", "WaitingStream"]

T = TypeVar("T")


class Runner(Protocol):
    """Who awaits things on the background loop."""

    def run(self, call: Callable[[], Awaitable[T]], /) -> T:
        """Await `call()` over there and return its result here."""
        ...


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

    def stream_speech(self, text: str | Dialogue, **options: Unpack[SpeechOptions]) -> WaitingStream[bytes]:
        """Make sound and have its bytes as they come: `with client.stream_speech(...) as stream:`."""
        client, runner = self._over_there()

        async def make() -> MediaStream[bytes]:
            return client.stream_speech(text, **options)

        return WaitingStream(runner, runner.run(make))

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
    ) -> WaitingStream[ImageFrame]:
        """Make or change pictures and see them come: `with client.stream_image(...) as stream:`."""
        client, runner = self._over_there()

        async def make() -> MediaStream[ImageFrame]:
            return client.stream_image(prompt, images=images, mask=mask, partial_images=partial_images, **options)

        return WaitingStream(runner, runner.run(make))

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


class WaitingStream(Generic[T]):
    """The pieces of one call: iterate inside `with`."""

    def __init__(self, runner: Runner, stream: MediaStream[T]) -> None:
        self._runner = runner
        self._stream = stream

    def __enter__(self) -> Self:
        self._runner.run(self._stream.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(lambda: self._stream.__aexit__(None, None, None))

    def __iter__(self) -> Iterator[T]:
        pieces = aiter(self._stream)
        while (piece := self._runner.run(lambda: _next(pieces))) is not None:
            yield piece

    @property
    def usage(self) -> Usage:
        """What the call has consumed, as far as it is known."""
        return self._stream.usage

    @property
    def cost_usd(self) -> float | None:
        """US dollars, or `None` where no price is known."""
        return self._stream.cost_usd


async def _next(pieces: AsyncIterator[T]) -> T | None:
    # A StopAsyncIteration does not pass through a future.
    return await anext(pieces, None)
