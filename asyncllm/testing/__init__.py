"""The kit for those who write backends, and for those who test code that uses them.

    ScriptedBackend, ScriptedTransport  play what they are told at the two seams, `Backend` and `Transport`
    ScriptedJobs                        a backend whose jobs go as they are told to
    FaultyServer                        a real server on 127.0.0.1 that misbehaves as its script says
    ManualClock, VirtualTimeLoop        time that moves when told to, and an event loop on which waiting takes none
    Recorder, ReplayBackend             what a backend gave, kept in a file and played again
    OpenAIMock                          a script that answers as OpenAI's service does, without a model
    BackendConformance                  the checks that every backend passes, first-party ones included

Nothing here needs pytest to be imported: a conformance check is a plain method with plain asserts, which pytest finds
and anybody can call.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncllm.testing.conformance import BackendConformance
    from asyncllm.testing.mock import Failure, OpenAIMock
    from asyncllm.testing.ops import (
        Chunk,
        Comment,
        Fin,
        Gzip,
        HalfClose,
        Named,
        Newline,
        Op,
        Pause,
        Rst,
        Slice,
        Sse,
        SseItem,
        Stall,
        Status,
        parse_script,
    )
    from asyncllm.testing.recording import NotRecordedError, RecordedCall, Recorder, Recording, ReplayBackend
    from asyncllm.testing.scripted_backend import Script, ScriptedBackend, Step
    from asyncllm.testing.scripted_jobs import ScriptedJobs, ScriptedLook
    from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport, in_pieces
    from asyncllm.testing.seen import SeenRequest
    from asyncllm.testing.server import FaultyServer
    from asyncllm.testing.time import ManualClock, StuckError, VirtualTimeLoop, run_virtual
    from asyncllm.testing.tls import Authority, Tls
    from asyncllm.testing.wire import compressed, openai_chunks, openai_reply, openai_stream, sse_event, sse_pieces

__all__ = [
    "Authority",
    "BackendConformance",
    "Chunk",
    "Comment",
    "Failure",
    "FaultyServer",
    "Fin",
    "Gzip",
    "HalfClose",
    "ManualClock",
    "Named",
    "Newline",
    "NotRecordedError",
    "Op",
    "OpenAIMock",
    "Pause",
    "RecordedCall",
    "Recorder",
    "Recording",
    "ReplayBackend",
    "Rst",
    "Script",
    "ScriptedBackend",
    "ScriptedJobs",
    "ScriptedLook",
    "ScriptedReply",
    "ScriptedTransport",
    "SeenRequest",
    "Slice",
    "Sse",
    "SseItem",
    "Stall",
    "Status",
    "Step",
    "StuckError",
    "Tls",
    "VirtualTimeLoop",
    "compressed",
    "in_pieces",
    "openai_chunks",
    "openai_reply",
    "openai_stream",
    "parse_script",
    "run_virtual",
    "sse_event",
    "sse_pieces",
]

_HOME = {
    "conformance": ["BackendConformance"],
    "mock": ["Failure", "OpenAIMock"],
    "ops": [
        "Chunk",
        "Comment",
        "Fin",
        "Gzip",
        "HalfClose",
        "Named",
        "Newline",
        "Op",
        "Pause",
        "Rst",
        "Slice",
        "Sse",
        "SseItem",
        "Stall",
        "Status",
        "parse_script",
    ],
    "recording": ["NotRecordedError", "RecordedCall", "Recorder", "Recording", "ReplayBackend"],
    "scripted_backend": ["Script", "ScriptedBackend", "Step"],
    "scripted_jobs": ["ScriptedJobs", "ScriptedLook"],
    "scripted_transport": ["ScriptedReply", "ScriptedTransport", "in_pieces"],
    "seen": ["SeenRequest"],
    "server": ["FaultyServer"],
    "time": ["ManualClock", "StuckError", "VirtualTimeLoop", "run_virtual"],
    "tls": ["Authority", "Tls"],
    "wire": ["compressed", "openai_chunks", "openai_reply", "openai_stream", "sse_event", "sse_pieces"],
}
_LAZY = {name: f"asyncllm.testing.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'asyncllm.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
