"""What tests of batches share: requests, a backend that is connected to a server, and outcomes by their ids."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asyncllm import Message, Sampling
from asyncllm.backend import Batches, BatchItem, BatchRequest, Config, Context, Secret, Transport
from asyncllm.registry import Registry
from asyncllm.testing import FaultyServer, ManualClock
from asyncllm.testing.server import Scripts
from asyncllm.transport import AiohttpTransport
from asyncllm.types import Request

__all__ = ["KEY", "batch", "chat", "outcomes", "results", "serving", "text", "write_input"]

KEY = "sk-batches-5e1f0c7a2b"
MODEL = "gpt-x"


def chat(told: str, model: str = MODEL, **sampling: Any) -> Request:
    """A chat of one turn."""
    return Request(model=model, messages=(Message("user", told),), sampling=Sampling(**sampling))


def text(told: str, model: str = MODEL, **sampling: Any) -> Request:
    """A text completion."""
    return Request(model=model, prompt=told, sampling=Sampling(**sampling))


def batch(*told: str, token: str = "token-1", make: Any = chat, **fields: Any) -> BatchRequest:
    """A batch with one item for each text: `row-0`, `row-1` and so on."""
    items = [BatchItem(f"row-{at}", make(one)) for at, one in enumerate(told)]
    return BatchRequest(model=MODEL, items=items, token=token, **fields)


@asynccontextmanager
async def serving(
    scripts: Scripts,
    name: str,
    path: str = "",
    *,
    transport: Transport | None = None,
    key: str | None = KEY,
    **options: Any,
) -> AsyncIterator[tuple[FaultyServer, Any]]:
    """A server, and the backend `name` connected to it over real sockets, whose clock waits for nobody."""
    real = transport or AiohttpTransport()
    async with FaultyServer(scripts) as server:
        config = Config(backend=name, base_url=server.url + path, api_key=Secret(key) if key else None, options=options)
        context = Context(transport=real, clock=ManualClock(instant=True), env={})
        backend: Any = Registry().load(name)(config, context)
        try:
            yield server, backend
        finally:
            await backend.aclose()
            await real.aclose()


async def outcomes(backend: Batches, id_: str, requests: BatchRequest | None = None) -> dict[str, Any]:
    """All outcomes of a batch, by the ids of their items."""
    known = {item.id: item.request for item in requests.items} if requests is not None else {}
    async with backend.batch_outcomes(id_, known) as found:
        return {outcome.id: outcome async for outcome in found}


def write_input(folder: Path, prompts: Sequence[str]) -> Path:
    """The prompts as a file of rows, each called by its place."""
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"id": index, "prompt": text}) + "\n" for index, text in enumerate(prompts)))
    return path


def results(folder: Path) -> list[tuple[int, str | None, bool]]:
    """Of each row of the output: what it is called, its text, and whether it has no error."""
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return [(row["id"], row["text"], row["error"] is None) for row in rows]
