"""The door for plugin authors: what a backend is, what it is given, and what it may be asked beside `open`.

A backend is an object with two methods, made by a function that an entry point names:

    [project.entry-points."asyncllm.backends"]
    echo = "asyncllm_echo:connect"

    def connect(config: Config, context: Context, /) -> Backend: ...

`connect` checks its configuration and opens nothing: no sockets, no files, no threads. What else a backend can do it
shows by having the method of an optional protocol; the client asks once, with `isinstance`. Beside `connect` there may
be `about(name: str) -> About`, which fills a row of the table of backends, and `describe() -> str`, which tells
`asyncllm doctor` what the backend would run on.
"""

from typing import TypeAlias

from asyncllm.backend.config import Config, Secret
from asyncllm.backend.contract import About, Backend, Clock, Connect, Context
from asyncllm.backend.http import HttpCall, HttpReply, Transport
from asyncllm.backend.jobs import (
    Batches,
    BatchItem,
    BatchLimits,
    BatchOutcome,
    BatchRequest,
    BatchState,
    DubRequest,
    FiledBatches,
    JobBackend,
    JobCall,
    JobRequest,
    JobState,
    JobStatus,
    VideoRequest,
)
from asyncllm.backend.media import (
    ImageEditor,
    ImageMaker,
    ImageRequest,
    IsolateRequest,
    Isolator,
    MediaEvents,
    MediaRequest,
    ModerateRequest,
    Moderator,
    Reranker,
    RerankRequest,
    SpeechMaker,
    SpeechRequest,
    Transcriber,
    TranscribeRequest,
    require_options,
)
from asyncllm.backend.optional import Embedder, EmbedRequest, Health, ModelGetter, Models, PromptChecker, Tokenizer
from asyncllm.support import require_supported
from asyncllm.types import Request

AnyRequest: TypeAlias = Request | EmbedRequest | MediaRequest
"""What a backend is asked, whichever call it is."""

__all__ = [
    "About",
    "AnyRequest",
    "Backend",
    "BatchItem",
    "BatchLimits",
    "BatchOutcome",
    "BatchRequest",
    "BatchState",
    "Batches",
    "Clock",
    "Config",
    "Connect",
    "Context",
    "DubRequest",
    "EmbedRequest",
    "Embedder",
    "FiledBatches",
    "Health",
    "HttpCall",
    "HttpReply",
    "ImageEditor",
    "ImageMaker",
    "ImageRequest",
    "IsolateRequest",
    "Isolator",
    "JobBackend",
    "JobCall",
    "JobRequest",
    "JobState",
    "JobStatus",
    "MediaEvents",
    "MediaRequest",
    "ModelGetter",
    "Models",
    "ModerateRequest",
    "Moderator",
    "PromptChecker",
    "RerankRequest",
    "Reranker",
    "Secret",
    "SpeechMaker",
    "SpeechRequest",
    "Tokenizer",
    "TranscribeRequest",
    "Transcriber",
    "Transport",
    "VideoRequest",
    "require_options",
    "require_supported",
]
