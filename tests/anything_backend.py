"""A backend that takes whatever it is asked and answers with all there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from asyncllm.backend import (
    EmbedRequest,
    ImageRequest,
    MediaEvents,
    ModerateRequest,
    RerankRequest,
    SpeechRequest,
    TranscribeRequest,
)
from asyncllm.events import (
    Event,
    Events,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.media import (
    AudioChunk,
    Image,
    Images,
    MediaEvent,
    Moderation,
    Rank,
    Ranking,
    Segment,
    Speech,
    Transcript,
    Verdict,
    Word,
)
from asyncllm.types import Embeddings, PromptCheck, Request, TokenLogprob, Tokens, Usage

__all__ = ["Anything"]

_USAGE = Usage(input_tokens=3, output_tokens=2, cached_tokens=1)


class Anything:
    """Everything that a server can ask for."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """See `Backend`."""
        yield self._events(request)

    async def _events(self, request: Request) -> AsyncGenerator[Event]:
        for index in range(request.sampling.n if isinstance(request.sampling.n, int) else 1):
            yield ReasoningDelta("hm", index)
            yield TextDelta("hi\u2028", index)
            if request.sampling.logprobs is True:
                yield LogprobsDelta((TokenLogprob("hi", -0.5, top=(TokenLogprob("ho", -1.5),)),), index)
            if request.tools:
                yield ToolCallDelta(0, "call_1", request.tools[0].name, "{}", index)
            yield Finished("stop", None, index, "END")
        yield UsageReport(_USAGE)

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """See `Embedder`."""
        return Embeddings(vectors=tuple((0.5, 1.0) for _ in request.texts), usage=Usage(input_tokens=3))

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        """See `PromptChecker`."""
        return PromptCheck(tokens=len(request.messages), limit=None)

    async def tokenize(self, request: Request, /) -> Tokens:
        """See `Tokenizer`."""
        return Tokens(ids=(1, 2), limit=100 if request.messages else None)

    async def detokenize(self, request: Request, /) -> str:
        """See `Tokenizer`."""
        return str(request.prompt)

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        """See `Transcriber`."""
        if not request.verbose:
            return Transcript(text="hi\u2028", usage=Usage(input_tokens=3, output_tokens=2, input_audio_tokens=1))
        words = (Word(text="hi", start_s=0.0, end_s=0.5, speaker="a"),)
        segments = (Segment(text="hi", start_s=0.0, end_s=0.5),)
        return Transcript(text="hi", language="en", duration_s=0.5, segments=segments, words=words, usage=_USAGE)

    async def speak(self, request: SpeechRequest, /) -> Speech:
        """See `SpeechMaker`."""
        return Speech(data=request.text.encode("utf-8", "replace"))

    @asynccontextmanager
    async def open_speech(self, request: SpeechRequest, /) -> AsyncGenerator[AsyncIterator[MediaEvent]]:
        """See `SpeechMaker`."""
        yield self._sound(request)

    async def _sound(self, request: SpeechRequest) -> AsyncGenerator[MediaEvent]:
        yield AudioChunk(b"ID3", media_type="audio/mpeg")
        yield AudioChunk(request.text.encode("utf-8", "replace"))

    async def generate_image(self, request: ImageRequest, /) -> Images:
        """See `ImageMaker`."""
        count = request.n if isinstance(request.n, int) else 1
        picture = Image(data=b"\x89PNG", media_type="image/png", revised_prompt="a cat")
        named = Image(url="https://example.org/1.png")
        return Images(images=(picture,) * count + (named,), size="1x1", quality="low", usage=_USAGE)

    def open_image(self, request: ImageRequest, /) -> MediaEvents:
        """See `ImageMaker`: nobody asks for it here."""
        raise NotImplementedError

    async def edit_image(self, request: ImageRequest, /) -> Images:
        """See `ImageEditor`."""
        return await self.generate_image(request)

    async def moderate(self, request: ModerateRequest, /) -> Moderation:
        """See `Moderator`."""
        verdict = Verdict(flagged=True, categories={"violence": True}, scores={"violence": 0.9})
        return Moderation(verdicts=(verdict,) * max(1, len(request.inputs)))

    async def rerank(self, request: RerankRequest, /) -> Ranking:
        """See `Reranker`."""
        count = len(request.documents)
        kept = request.top_n if isinstance(request.top_n, int) else count
        ranks = tuple(Rank(at, 1 / (at + 1)) for at in range(count))[:kept]
        return Ranking(ranks=ranks, usage=Usage(input_tokens=3))

    async def aclose(self) -> None:
        """Nothing is held."""
