"""What a backend says of itself in the table of backends is what it has."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from asyncllm.backend import (
    About,
    Backend,
    Config,
    Context,
    Embedder,
    ImageEditor,
    ImageMaker,
    Isolator,
    JobBackend,
    JobCall,
    ModelGetter,
    Models,
    Moderator,
    PromptChecker,
    Reranker,
    Secret,
    SpeechMaker,
    Transcriber,
)
from asyncllm.client import Client
from asyncllm.clock import LoopClock
from asyncllm.registry import Registry
from asyncllm.testing import ScriptedTransport

PROTOCOLS: dict[str, type] = {
    "check_prompt": PromptChecker,
    "edit_image": ImageEditor,
    "embed": Embedder,
    "generate_image": ImageMaker,
    "get_model": ModelGetter,
    "isolate": Isolator,
    "list_models": Models,
    "moderate": Moderator,
    "rerank": Reranker,
    "speak": SpeechMaker,
    "transcribe": Transcriber,
}
"""The optional protocol behind a call of the client."""

OPTIONS: dict[str, dict[str, object]] = {}
"""What a backend cannot be connected without."""

LOCAL = {"llamacpp", "vllm"}
"""Those that run in this process and take neither address nor key."""


def about(name: str) -> About:
    tell = Registry().beside(name, "about")
    assert tell is not None
    told: About = tell(name)
    return told


def connected(name: str) -> Backend:
    config = Config(backend=name, options=OPTIONS.get(name, {}))
    if name not in LOCAL:
        config = msgspec.structs.replace(config, base_url="http://127.0.0.1:9", api_key=Secret("sk-about"))
    return Registry().load(name)(config, Context(transport=ScriptedTransport(()), clock=LoopClock(), env={}))


@pytest.mark.parametrize("name", Registry().names())
def test_a_backend_has_the_calls_that_it_tells_of(name: str) -> None:
    told = about(name)
    backend = connected(name)

    has = {call for call, protocol in PROTOCOLS.items() if isinstance(backend, protocol)}
    if isinstance(backend, JobBackend):
        has |= backend.job_calls

    assert has == set(told.calls) & {*PROTOCOLS, *get_args(JobCall)}
    assert all(hasattr(Client, call) for call in told.calls)
    assert told.summary
