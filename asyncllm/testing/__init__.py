"""The kit for those who write backends, and for those who test code that uses them.

    ScriptedBackend, ScriptedTransport  play what they are told at the two seams, `Backend` and `Transport`
    FaultyServer                        a real server on 127.0.0.1 that misbehaves as its script says
    ManualClock, VirtualTimeLoop        time that moves when told to, and an event loop on which waiting takes none
    BackendConformance                  the checks that every backend passes, first-party ones included

Nothing here needs pytest to be imported: a conformance check is a plain method with plain asserts, which pytest finds
and anybody can call.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncllm.testing.conformance import BackendConformance
    from asyncllm.testing.ops import Chunk, Fin, HalfClose, Op, Pause, Rst, Slice, Sse, Stall, Status
    from asyncllm.testing.scripted_backend import Script, ScriptedBackend, Step
    from asyncllm.testing.scripted_transport import ScriptedReply, ScriptedTransport, in_pieces
    from asyncllm.testing.server import FaultyServer, SeenRequest
    from asyncllm.testing.time import ManualClock, StuckError, VirtualTimeLoop, run_virtual
    from asyncllm.testing.wire import openai_chunks, openai_reply, openai_stream, sse_event

__all__ = [
    "BackendConformance",
    "Chunk",
    "FaultyServer",
    "Fin",
    "HalfClose",
    "ManualClock",
    "Op",
    "Pause",
    "Rst",
    "Script",
    "ScriptedBackend",
    "ScriptedReply",
    "ScriptedTransport",
    "SeenRequest",
    "Slice",
    "Sse",
    "Stall",
    "Status",
    "Step",
    "StuckError",
    "VirtualTimeLoop",
    "in_pieces",
    "openai_chunks",
    "openai_reply",
    "openai_stream",
    "run_virtual",
    "sse_event",
]

_HOME = {
    "conformance": ["BackendConformance"],
    "ops": ["Chunk", "Fin", "HalfClose", "Op", "Pause", "Rst", "Slice", "Sse", "Stall", "Status"],
    "scripted_backend": ["Script", "ScriptedBackend", "Step"],
    "scripted_transport": ["ScriptedReply", "ScriptedTransport", "in_pieces"],
    "server": ["FaultyServer", "SeenRequest"],
    "time": ["ManualClock", "StuckError", "VirtualTimeLoop", "run_virtual"],
    "wire": ["openai_chunks", "openai_reply", "openai_stream", "sse_event"],
}
_LAZY = {name: f"asyncllm.testing.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'asyncllm.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
