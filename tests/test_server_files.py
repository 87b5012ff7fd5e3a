"""`/v1/files`, to OpenAI's own SDK and on the wire."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from asyncllm import Client
from asyncllm.workspace.served import ServerStore
from served import served


@asynccontextmanager
async def filing(folder: Path, **settings: Any) -> AsyncGenerator[tuple[str, ServerStore]]:
    async with ServerStore(folder) as store, Client(model="echo:x") as client:
        async with served(client, store=store, **settings) as url:
            yield url, store


@asynccontextmanager
async def sdk_of(url: str, key: str = "none") -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key=key, max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


async def test_a_file_is_kept_listed_read_and_deleted(tmp_path: Path) -> None:
    data = b'{"a": 1}\n' * 50_000
    async with filing(tmp_path / "w") as (url, store), sdk_of(url) as sdk:
        made = await sdk.files.create(file=("../ins\u202etru.jsonl", io.BytesIO(data)), purpose="fine-tune")
        again = await sdk.files.retrieve(made.id)
        content = await sdk.files.content(made.id)
        listed = [file.id async for file in sdk.files.list()]
        removed = await sdk.files.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(made.id)

        assert again == made
        assert (made.bytes, made.filename, made.purpose, made.status) == (
            len(data), "../instru.jsonl", "fine-tune", "processed",
        )  # fmt: skip
        assert content.content == data
        assert content.response.headers["content-disposition"].startswith('attachment; filename=".._instru.jsonl";')
        assert (listed, removed.deleted) == ([made.id], True)
        assert [path for path in store.folder.rglob("*") if path.is_file() and "store.db" not in path.name] == []
