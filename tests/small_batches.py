"""A small batch whose every outcome is known, for stores that something happens to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncllm import Client
from asyncllm.batch import run
from asyncllm.batch.report import BatchReport
from asyncllm.errors import BadRequestError
from asyncllm.events import Event, Events, Finished, TextDelta
from asyncllm.types import Request
from asyncllm.workspace.batches import BatchStore

__all__ = ["SmallBatch", "memory_folder", "storing"]

BAD = 7
"""Each row whose number this divides is refused."""


class SmallBatch:
    """A file of `count` requests. What is asked of each is written down in `asked`."""

    def __init__(self, folder: Path, count: int, *, width: int = 40) -> None:
        self.folder = self.output_folder = folder
        self.count = count
        self.width = width
        self.asked: list[int] = []
        self.source = folder / "in.jsonl"
        self.source.write_bytes(b"".join(self._line(index) for index in range(count)))

    def _line(self, index: int) -> bytes:
        body = {"messages": [{"role": "user", "content": f"{index} {'x' * self.width}"}]}
        line = {"custom_id": f"row-{index}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        return msgspec.json.encode(line) + b"\n"

    def store(self) -> Path:
        """Where the store of the batch is."""
        return self.folder / "store"

    async def ask(self, request: Request) -> str:
        """The prompt, the other way round; some are refused."""
        prompt = request.messages[-1].text
        index = int(prompt.partition(" ")[0])
        self.asked.append(index)
        if index % BAD == BAD - 1:
            raise BadRequestError("this is not answered", status=400, code="bad")
        return prompt[::-1]

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """It is a backend itself."""
        yield self._events(await self.ask(request))

    async def _events(self, text: str) -> AsyncGenerator[Event]:
        yield TextDelta(text)
        yield Finished("stop")

    async def aclose(self) -> None:
        """Nothing is held."""

    async def run(self, **options: Any) -> BatchReport:
        """Run it to its end."""
        given: Any = {"store": self.store(), "concurrency": 4, "reserve_bytes": 0, **options}
        async with Client(backend=self, retry=None, env={}) as client:
            return await client.run_batch(self.source, self.output, model="m", **given)

    def put_back(self, files: dict[str, bytes]) -> None:
        """Begin anew, from a store that is `files`."""
        shutil.rmtree(self.store(), ignore_errors=True)
        for name in ("out.jsonl", "out.errors.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        self.asked.clear()
        self.store().mkdir()
        for name, content in files.items():
            (self.store() / name).write_bytes(content)

    @property
    def output(self) -> Path:
        """Where its results go."""
        return self.output_folder / "out.jsonl"

    def results(self) -> list[tuple[str, str | None]]:
        """Name and text of every row in both files, `None` for a text that was refused. Fails if the order is wrong."""
        found: dict[int, tuple[str, str | None]] = {}
        for name in ("out.jsonl", "out.errors.jsonl"):
            path = self.output_folder / name
            lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []
            numbers = [int(line["id"].removeprefix("batch_req_")) for line in lines]
            assert numbers == sorted(set(numbers))
            assert not found.keys() & set(numbers)
            found |= {number: (line["custom_id"], _text(line)) for number, line in zip(numbers, lines, strict=True)}
        return [found[number] for number in sorted(found)]

    def expected(self) -> list[tuple[str, str | None]]:
        """What `results` has to be."""
        tail = "x" * self.width
        return [
            (f"row-{index}", None if index % BAD == BAD - 1 else f"{tail} {str(index)[::-1]}")
            for index in range(self.count)
        ]

    def bodies(self) -> list[str | None]:
        """What the outcome of each row says."""
        return [text for _, text in self.expected()]


def _text(line: dict[str, Any]) -> str | None:
    body = line["response"]["body"]
    return None if "error" in body else str(body["choices"][0]["message"]["content"])


@contextmanager
def storing(monkeypatch: pytest.MonkeyPatch, kind: type[BatchStore] = BatchStore, **options: Any) -> Iterator[None]:
    """Within the block batches run on stores of that kind."""
    make: Callable[..., BatchStore] = partial(kind, **options)
    with monkeypatch.context() as patch:
        patch.setattr(run, "BatchStore", make)
        yield


@contextmanager
def memory_folder() -> Generator[Path]:
    """A folder in memory where the machine has such, as the disk has no part in what is shown."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="asyncllm-", dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)
        for child in Path(folder).iterdir():
            if child.is_dir():
                shutil.rmtree(child)
