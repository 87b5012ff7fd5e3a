"""`/v1/files`, to OpenAI's own SDK and on the wire."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
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


def kept(store: ServerStore) -> list[Path]:
    """The files that bytes of tenants are in."""
    return [path for path in (store.folder / "files").rglob("*") if not path.is_dir()]


async def test_a_file_is_kept_listed_read_and_deleted(tmp_path: Path) -> None:
    data = b'{"a": 1}\n' * 50_000
    async with filing(tmp_path / "w") as (url, store), sdk_of(url) as sdk:
        made = await sdk.files.create(file=("../ins\u202etru.jsonl", io.BytesIO(data)), purpose="fine-tune")
        again = await sdk.files.retrieve(made.id)
        content = await sdk.files.content(made.id)
        listed = [file.id async for file in sdk.files.list()]
        empty = await sdk.files.create(file=b"", purpose="user_data")
        assert (await sdk.files.content(empty.id)).content == b""
        await sdk.files.delete(empty.id)
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
        assert kept(store) == []


async def test_a_list_is_read_page_by_page(tmp_path: Path) -> None:
    async with filing(tmp_path / "w") as (url, _), sdk_of(url) as sdk:
        purposes: list[Any] = ["batch", "user_data", "batch", "vision", "assistants"]
        ids = [(await sdk.files.create(file=b"x", purpose=purpose)).id for purpose in purposes]
        newest = [file.id async for file in sdk.files.list(limit=2)]
        oldest = [file.id async for file in sdk.files.list(limit=2, order="asc")]
        batch = [file.id async for file in sdk.files.list(limit=1, purpose="batch")]
        page = await sdk.files.list(after=ids[2])
        await sdk.files.delete(ids[2])
        after = await sdk.files.list(after=ids[2])

    assert sorted(ids) == sorted(newest) == sorted(oldest) == oldest == newest[::-1]
    assert sorted(batch) == sorted([ids[0], ids[2]])
    assert [file.id for file in page.data] == [file.id for file in after.data]  # it is a place, whatever stands there


async def test_a_query_that_cannot_be_is_refused_by_the_field(tmp_path: Path) -> None:
    queries = {
        "limit=0": "limit", "limit=10001": "limit", "limit=x": "limit", "order=up": "order", "after=x": "after",
        "after=..%2f..%2fetc": "after", "&".join(["a=b"] * 99): "query",
    }  # fmt: skip
    async with filing(tmp_path / "w") as (url, _), aiohttp.ClientSession() as http:
        for query, param in queries.items():
            async with http.get(f"{url}/v1/files?{query}") as reply:
                assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


async def test_a_form_that_is_no_upload_is_refused_by_the_field(tmp_path: Path) -> None:
    forms: list[tuple[dict[str, Any], str]] = [
        ({"purpose": "batch"}, "file"),
        ({"file": b"x"}, "purpose"),
        ({"purpose": "batch_output", "file": b"x"}, "purpose"),
        ({"purpose": "evals", "file": b"x"}, "purpose"),
        ({"purpose": "batch", "file": "x"}, "file"),
        ({"purpose": "batch", "file": b"x", "path": "/etc"}, "path"),
        ({"purpose": "batch", "file": b"x", "expires_after[seconds]": "3600"}, "expires_after"),
        (
            {"purpose": "batch", "file": b"x", "expires_after[anchor]": "created_at", "expires_after[seconds]": "9"},
            "expires_after[seconds]",
        ),
    ]
    async with filing(tmp_path / "w") as (url, store), aiohttp.ClientSession() as http:
        for fields, param in forms:
            form = aiohttp.FormData(default_to_multipart=True)
            for name, value in fields.items():
                form.add_field(name, value, filename="x" if isinstance(value, bytes) else None)
            async with http.post(f"{url}/v1/files", data=form) as reply:
                assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)
        assert kept(store) == []


async def test_there_is_so_much_room_for_a_tenant(tmp_path: Path) -> None:
    async with filing(tmp_path / "w", max_stored_bytes=100, max_file_bytes=80, max_stored_files=3) as (url, store):
        async with sdk_of(url) as sdk:
            first = await sdk.files.create(file=b"x" * 60, purpose="user_data")
            for size, told in ((60, "100 bytes in all"), (81, "more than 80 bytes")):
                with pytest.raises(openai.APIStatusError, match=told) as caught:
                    await sdk.files.create(file=b"y" * size, purpose="user_data")
                assert caught.value.status_code == 413
            await sdk.files.delete(first.id)
            for _ in range(3):
                await sdk.files.create(file=b"z", purpose="user_data")
            with pytest.raises(openai.APIStatusError, match="room for 3 files"):
                await sdk.files.create(file=b"z", purpose="user_data")
            assert len(kept(store)) == 1  # what is the same is kept once


async def test_a_file_that_expires_is_gone(tmp_path: Path) -> None:
    async with filing(tmp_path / "w") as (url, store), sdk_of(url) as sdk:
        made = await sdk.files.create(
            file=b"x", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        file = await store.tenants.file("local", made.id)
        assert file is not None
        await store._writer.write(lambda db: db.execute("UPDATE tenant_file SET expires_at = ?", (time.time(),)))
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(made.id)
        assert [one async for one in sdk.files.list()] == []
        await store.upkeep.expire()
        assert kept(store) == []

    assert made.expires_at == made.created_at + 3600


async def test_only_ids_that_were_given_out_name_anything(tmp_path: Path) -> None:
    ids = [
        "..", "%2e%2e", "..%2f..%2fstore.db", "%00", "a%5cb", "%2fetc%2fpasswd", "x" * 4096, "file-" + "0" * 26,
        "file-" + "0" * 25 + "%00", "file-" + "A" * 26, "file_" + "0" * 26, "batch_" + "0" * 26,
        "file-%F0%9D%9F%98" + "0" * 25, "*", "file-%25", "%E2%80%AE", "%ff",
    ]  # fmt: skip
    async with filing(tmp_path / "w") as (url, _):
        for id_ in ids:
            for path in (f"files/{id_}", f"files/{id_}/content", f"batches/{id_}"):
                reply = await asked(url, f"GET /v1/{path}")
                assert reply.startswith(b"HTTP/1.1 404 ")
                assert str(tmp_path).encode() not in reply


async def asked(url: str, line: str) -> bytes:
    address = url.removeprefix("http://")
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode())
    reply = await reader.read()
    writer.close()
    return reply


async def test_links_that_were_put_in_the_place_of_bytes_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 5)
    async with filing(tmp_path / "w") as (url, store), sdk_of(url) as sdk:
        made = await sdk.files.create(file=b"bytes", purpose="user_data")
        (path,) = kept(store)
        path.unlink()
        path.symlink_to(secret)
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.files.content(made.id)
        assert str(tmp_path) not in str(caught.value)
        again = await sdk.files.create(file=b"bytes", purpose="user_data")  # which puts the bytes back
        assert (await sdk.files.content(again.id)).content == b"bytes"
        folder = path.parent.rename(path.parent.with_name("elsewhere"))
        path.parent.symlink_to(folder)
        with pytest.raises(openai.InternalServerError):
            await sdk.files.content(made.id)

    assert secret.read_bytes() == b"s" * 5
    assert all(one.stat().st_mode & 0o077 == 0 for one in store.folder.rglob("*"))


async def test_a_server_without_a_store_says_how_it_gets_one() -> None:
    async with Client(model="echo:x") as client, served(client) as url, sdk_of(url) as sdk:
        for call in (sdk.files.list(), sdk.files.create(file=b"x", purpose="batch"), sdk.batches.list()):
            with pytest.raises(openai.NotFoundError, match="--store") as caught:
                await call
            assert caught.value.code == "no_store"


BEGINNING = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
    b'content-disposition: form-data; name="file"; filename="x"\r\n\r\n'
)


async def sent(url: str, *pieces: bytes, then: bytes = b"") -> bytes:
    """What is replied to a form in chunks, each of which is told to have a length of its own."""
    address = url.removeprefix("http://")
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/files HTTP/1.1\r\nhost: {address}\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        "transfer-encoding: chunked\r\n\r\n".encode()
    )
    for piece in pieces:
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    writer.write(then)
    async with asyncio.timeout(20):
        reply = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return reply


@pytest.mark.parametrize(
    ("pieces", "then", "status"),
    [
        ([BEGINNING, b"x" * 3000, b"\r\n--b--\r\n"], b"0\r\n\r\n", b"200"),
        ([BEGINNING, *[b"x" * 3000] * 4], b"", b"413"),
        ([BEGINNING, b"x"], b"", b"408"),
        ([BEGINNING, b"x"], b"0\r\n\r\n", b"400"),
        ([BEGINNING * 20], b"", b"400"),
        ([b"nothing of the kind"], b"0\r\n\r\n", b"400"),
    ],
    ids=["right", "large", "slow", "broken off", "parts", "no form"],
)
async def test_an_upload_is_counted_as_it_comes(
    pieces: list[bytes], then: bytes, status: bytes, tmp_path: Path
) -> None:
    async with filing(tmp_path / "w", max_file_bytes=10_000, body_timeout_s=0.3) as (url, store):
        reply = await sent(url, *pieces, then=then)
        assert list((store.folder / "drafts").glob("*")) == []

    assert reply.startswith(b"HTTP/1.1 " + status)
    assert (b"connection: close" in reply) == (status == b"408")


async def test_the_documents_have_what_openai_has(tmp_path: Path) -> None:
    async with filing(tmp_path / "w") as (url, _), aiohttp.ClientSession() as http:
        async with http.get(f"{url}/v1/files") as reply:
            told = json.loads(await reply.read())

    assert told == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
