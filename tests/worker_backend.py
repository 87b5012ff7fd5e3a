"""A backend that does what its prompts say, for workers in processes of their own: `installed` makes it known there."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asyncllm.backend import Backend, Config, Context, EmbedRequest
from asyncllm.errors import APIStatusError, ConfigError, EngineDeadError, RateLimitError
from asyncllm.events import Event, Events, Finished, Started, TextDelta, UsageReport
from asyncllm.types import Embeddings, Request, Usage

if TYPE_CHECKING:
    import pytest  # which the environment of Ray has not

__all__ = ["Call", "calls", "connect", "installed"]


class Call:
    """A line of the log: which process did what with which prompt."""

    def __init__(self, line: str) -> None:
        pid, self.what, self.prompt = line.split(" ", 2)
        self.pid = int(pid)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the backend `obedient` known here, and to every worker that is started from here."""
    metadata = folder / "obedient-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: obedient\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[asyncllm.backends]\nobedient = worker_backend:connect\n")
    monkeypatch.syspath_prepend(folder)


def calls(log: Path) -> list[Call]:
    """What the workers have done by now."""
    return [Call(line) for line in log.read_text().splitlines()] if log.exists() else []


def connect(config: Config, context: Context, /) -> Backend:
    """`log` is a file that calls are written down in; `broken` keeps the backend from being made."""
    if config.options.get("broken") == "connect":
        raise ConfigError("there is no such model", field="model")
    return Obedient(config, context)


class ObedientError(APIStatusError):
    """An error that only this plugin knows."""

    retryable = True


class Obedient:
    """Repeats the prompt and says which process it is, unless told otherwise."""

    def __init__(self, config: Config, context: Context) -> None:
        self._log = str(config.options["log"])
        self._broken = config.options.get("broken")
        self._key = config.api_key.reveal() if config.api_key else context.env.get("OBEDIENT_KEY", "")

    def _write(self, what: str, prompt: str) -> None:
        file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{os.getpid()} {what} {prompt}\n".encode())
        os.close(file)

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Do what the first word of the prompt says."""
        prompt = request.messages[-1].text if request.is_chat else str(request.prompt)
        if self._broken == "load":
            raise ConfigError("the model cannot be loaded", field="model")
        self._write("begin", prompt)
        word = prompt.split()[0]
        try:
            if word == "wait":
                await asyncio.sleep(float(prompt.split()[1]))
            elif word == "fail":
                raise RateLimitError("too many", status=429, code="slow", request_id="r-1", retryable=False)
            elif word == "fail-own":
                raise ObedientError("not now", status=418, retry_after_s=0.01)
            elif word == "bug":
                raise KeyError("the prompt of a row")
            elif word == "dead":
                raise EngineDeadError("the engine has ended", retryable=False)
            elif word == "hang":
                time.sleep(1000)  # noqa: ASYNC251  # what it is for: the whole process stands still
            elif word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            text = self._key if word == "key" else f"{os.getpid()} {prompt}"
            yield self._events(request.model, text)
            self._write("end", prompt)
        except asyncio.CancelledError:
            self._write("cancelled", prompt)
            raise

    async def _events(self, model: str, text: str) -> AsyncGenerator[Event]:
        yield Started(model)
        yield TextDelta(text)
        yield UsageReport(Usage(input_tokens=1, output_tokens=1))
        yield Finished("stop")

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        """A vector that tells the length of the text."""
        return Embeddings(vectors=tuple([float(len(text)), 0.5] for text in request.texts), model=request.model)

    async def aclose(self) -> None:
        """Say that it was closed."""
        self._write("closed", "-")
