"""An asyncio-native, typed SDK for language models with pluggable backends.

    async with asyncllm.Client(model="llamacpp:smollm2") as client:
        print((await client.chat("Hello")).text)

The nouns are imported here and now; whatever needs a network, an event loop or a file is imported when it is first
named, so that `import asyncllm` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncllm.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncLLMError,
    AuthenticationError,
    BadRequestError,
    BodyTooLargeError,
    BudgetExceededError,
    ByteIdleTimeoutError,
    ConfigError,
    ConflictError,
    ConnectTimeoutError,
    ContentFilterError,
    ContextLengthExceededError,
    EngineDeadError,
    EventIdleTimeoutError,
    EventTooLargeError,
    FirstEventTimeoutError,
    InternalServerError,
    InvalidRequestError,
    JobFailedError,
    MaxRoundsExceededError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PluginError,
    PoolTimeoutError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    RedirectRefusedError,
    ResourceExhaustedError,
    ResponseValidationError,
    StreamInterrupted,
    TotalTimeoutError,
    UnprocessableEntityError,
    UnsupportedError,
    WrongLoopError,
)
from asyncllm.events import (
    Event,
    Events,
    Finished,
    LogprobsDelta,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    Skipped,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.media import (
    Image,
    ImageFrame,
    Images,
    Line,
    MediaFile,
    Moderation,
    Rank,
    Ranking,
    Segment,
    Speech,
    Transcript,
    Verdict,
    Word,
)
from asyncllm.types import (
    AudioPart,
    Choice,
    Constraint,
    ContentPart,
    Embeddings,
    Failure,
    FilePart,
    FinishReason,
    Grammar,
    ImagePart,
    JsonSchema,
    Limits,
    Message,
    ModelInfo,
    Price,
    PriceTier,
    PromptCheck,
    ReasoningBlock,
    Regex,
    Request,
    Response,
    ResponseChoice,
    Role,
    Sampling,
    SamplingOptions,
    TextPart,
    Timeouts,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

if TYPE_CHECKING:
    from asyncllm import instances as instances
    from asyncllm import prices as prices
    from asyncllm import sync as sync
    from asyncllm import tokens as tokens
    from asyncllm.adapters import data_stream_part, smooth
    from asyncllm.backend import Secret
    from asyncllm.budgets import Budget, budget
    from asyncllm.cache import DiskCache, MemoryCache
    from asyncllm.client import Client
    from asyncllm.config import Deployment, Group, Settings
    from asyncllm.hooks import Hook
    from asyncllm.hooks.logs import LogCalls
    from asyncllm.hooks.otel import OpenTelemetry
    from asyncllm.hooks.usage import AfterCall, CallRecord, Gate, Totals
    from asyncllm.media_calls import ImageStream, SpeechStream
    from asyncllm.middleware.hedge import Hedge
    from asyncllm.middleware.limits import Limiter
    from asyncllm.middleware.retry import Retry
    from asyncllm.stream import Stream, TextStream
    from asyncllm.toolruns.rounds import ToolRun
    from asyncllm.toolruns.stream import ToolEnded, ToolEvent, ToolStarted, ToolStream
    from asyncllm.toolruns.toolbox import ToolResult
    from asyncllm.tools import FinalResult, FunctionTool
    from asyncllm.trail import Trail

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AfterCall",
    "AsyncLLMError",
    "AudioPart",
    "AuthenticationError",
    "BadRequestError",
    "BodyTooLargeError",
    "Budget",
    "BudgetExceededError",
    "ByteIdleTimeoutError",
    "CallRecord",
    "Choice",
    "Client",
    "ConfigError",
    "ConflictError",
    "ConnectTimeoutError",
    "Constraint",
    "ContentFilterError",
    "ContentPart",
    "ContextLengthExceededError",
    "Deployment",
    "DiskCache",
    "Embeddings",
    "EngineDeadError",
    "Event",
    "EventIdleTimeoutError",
    "EventTooLargeError",
    "Events",
    "Failure",
    "FilePart",
    "FinalResult",
    "FinishReason",
    "Finished",
    "FirstEventTimeoutError",
    "FunctionTool",
    "Gate",
    "Grammar",
    "Group",
    "Hedge",
    "Hook",
    "Image",
    "ImageFrame",
    "ImagePart",
    "ImageStream",
    "Images",
    "InternalServerError",
    "InvalidRequestError",
    "JobFailedError",
    "JsonSchema",
    "Limiter",
    "Limits",
    "Line",
    "LogCalls",
    "LogprobsDelta",
    "MaxRoundsExceededError",
    "MediaFile",
    "MemoryCache",
    "Message",
    "ModelInfo",
    "Moderation",
    "NotFoundError",
    "OpenTelemetry",
    "OverloadedError",
    "PermissionDeniedError",
    "PluginError",
    "PoolTimeoutError",
    "Price",
    "PriceTier",
    "PromptCheck",
    "ProtocolError",
    "QuotaExceededError",
    "Rank",
    "Ranking",
    "RateLimitError",
    "ReasoningBlock",
    "ReasoningBlockDelta",
    "ReasoningDelta",
    "RedirectRefusedError",
    "RefusalDelta",
    "Regex",
    "Request",
    "ResourceExhaustedError",
    "Response",
    "ResponseChoice",
    "ResponseValidationError",
    "Retry",
    "Role",
    "Sampling",
    "SamplingOptions",
    "Secret",
    "Segment",
    "Settings",
    "Skipped",
    "Speech",
    "SpeechStream",
    "Started",
    "Stream",
    "StreamInterrupted",
    "TextDelta",
    "TextPart",
    "TextStream",
    "Timeouts",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "ToolEnded",
    "ToolEvent",
    "ToolResult",
    "ToolRun",
    "ToolStarted",
    "ToolStream",
    "TotalTimeoutError",
    "Totals",
    "Trail",
    "Transcript",
    "UnprocessableEntityError",
    "UnsupportedError",
    "Usage",
    "UsageReport",
    "Verdict",
    "Word",
    "WrongLoopError",
    "budget",
    "data_stream_part",
    "instances",
    "prices",
    "smooth",
    "sync",
    "tokens",
]

__version__ = "0.1.0"

_LAZY = {
    "AfterCall": "asyncllm.hooks.usage",
    "Budget": "asyncllm.budgets",
    "CallRecord": "asyncllm.hooks.usage",
    "Client": "asyncllm.client",
    "Deployment": "asyncllm.config",
    "DiskCache": "asyncllm.cache",
    "FinalResult": "asyncllm.tools",
    "FunctionTool": "asyncllm.tools",
    "Gate": "asyncllm.hooks.usage",
    "Group": "asyncllm.config",
    "Hedge": "asyncllm.middleware.hedge",
    "Hook": "asyncllm.hooks",
    "ImageStream": "asyncllm.media_calls",
    "Limiter": "asyncllm.middleware.limits",
    "LogCalls": "asyncllm.hooks.logs",
    "MemoryCache": "asyncllm.cache",
    "OpenTelemetry": "asyncllm.hooks.otel",
    "Retry": "asyncllm.middleware.retry",
    "Secret": "asyncllm.backend",
    "Settings": "asyncllm.config",
    "SpeechStream": "asyncllm.media_calls",
    "Stream": "asyncllm.stream",
    "TextStream": "asyncllm.stream",
    "ToolEnded": "asyncllm.toolruns.stream",
    "ToolEvent": "asyncllm.toolruns.stream",
    "ToolResult": "asyncllm.toolruns.toolbox",
    "ToolRun": "asyncllm.toolruns.rounds",
    "ToolStarted": "asyncllm.toolruns.stream",
    "ToolStream": "asyncllm.toolruns.stream",
    "Totals": "asyncllm.hooks.usage",
    "Trail": "asyncllm.trail",
    "budget": "asyncllm.budgets",
    "data_stream_part": "asyncllm.adapters",
    "smooth": "asyncllm.adapters",
}


def __getattr__(name: str) -> Any:
    if name in ("instances", "prices", "sync", "tokens"):
        return import_module(f"asyncllm.{name}")
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'asyncllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
