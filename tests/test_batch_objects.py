"""Objects in stores of the clouds, against a server of the S3 protocol."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncllm.batch.places import Place, place_of
from asyncllm.batch.places import objects as objects_module
from asyncllm.errors import (
    APIConnectionError,
    AsyncLLMError,
    AuthenticationError,
    ConfigError,
    InputError,
    InternalServerError,
    OutputExistsError,
    OverloadedError,
    PermissionDeniedError,
    UnsupportedError,
    WriteError,
)
from asyncllm.testing import FaultyServer, Status
from places import content_of, put

if TYPE_CHECKING:
    from s3_server import S3Server

pytest_plugins = ["s3_server"]

MIB = 1024 * 1024
BIG = os.urandom(MIB) * 20
SECRET = "a-secret-of-tests"


@pytest.fixture
def key() -> str:
    return f"{uuid.uuid4().hex}/a b/ü#%20.jsonl"


@pytest.fixture
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is over 4 MiB goes in parts."""
    monkeypatch.setattr(objects_module, "_AT_ONCE", 4 * MIB)


def place(server: S3Server, key: str, **options: Any) -> Place:
    return place_of(f"s3://{server.bucket}/{key}", options=server.options(**options))


# -- reading and writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"small", BIG], ids=["empty", "small", "big"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.usefixtures("small_requests")
async def test_what_was_written_is_read(s3_server: S3Server, key: str, content: bytes, overwrite: bool) -> None:
    there = place(s3_server, key)

    assert await there.fingerprint() is None
    await put(there, content[:10], content[10:], overwrite=overwrite)

    assert s3_server.get(key) == content
    assert await content_of(there) == content
    assert s3_server.keys(key.partition("/")[0]) == [key]
    assert s3_server.uploads() == []


async def test_a_fingerprint_tells_contents_apart(s3_server: S3Server, key: str) -> None:
    s3_server.put(key, b"a")
    first = await place(s3_server, key).fingerprint()
    s3_server.put(key, b"b")

    assert first is not None
    assert first != await place(s3_server, key).fingerprint()


async def test_an_object_is_packed_by_its_name(s3_server: S3Server, key: str) -> None:
    there = place(s3_server, f"{key}.gz")

    await put(there, b"a" * 1000)

    assert s3_server.get(f"{key}.gz")[:2] == b"\x1f\x8b"
    assert await content_of(there) == b"a" * 1000


async def test_an_object_that_is_not_there_is_named(s3_server: S3Server, key: str) -> None:
    with pytest.raises(InputError, match="nothing is there; check the key and the bucket") as raised:
        await content_of(place(s3_server, key))

    assert f"s3://{s3_server.bucket}/{key}" in str(raised.value)


async def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    with pytest.raises(WriteError, match="s3://no-such/x cannot be written: its bucket is not there"):
        await put(place_of("s3://no-such/x", options=s3_server.options()), b"a")


async def test_an_object_that_changes_while_it_is_read_is_an_error(s3_server: S3Server, key: str) -> None:
    s3_server.put(key, BIG)

    async with place(s3_server, key).read() as pieces:
        await anext(pieces)
        s3_server.put(key, BIG[::-1])
        with pytest.raises(InputError, match="has changed while it was read"):
            await anext(pieces)


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("content", [b"new", BIG], ids=["small", "big"])
async def test_what_is_there_is_not_written_over_unasked(s3_server: S3Server, key: str, content: bytes) -> None:
    s3_server.put(key, b"old")

    with pytest.raises(OutputExistsError, match="is there already.*overwrite=True"):
        await put(place(s3_server, key), content)

    assert s3_server.get(key) == b"old"


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("content", [b"new", BIG], ids=["small", "big"])
async def test_what_comes_there_meanwhile_is_not_written_over_either(
    s3_server: S3Server, key: str, content: bytes
) -> None:
    with pytest.raises(OutputExistsError):
        async with place(s3_server, key).write(overwrite=False) as write:
            await write(content)
            s3_server.put(key, b"theirs")

    assert s3_server.get(key) == b"theirs"
    assert s3_server.keys(key.partition("/")[0]) == [key]


async def test_the_very_content_found_there_is_ones_own(s3_server: S3Server, key: str) -> None:
    async with place(s3_server, key).write(overwrite=False) as write:
        await write(b"mine")
        s3_server.put(key, b"mine")  # as when an answer got lost and the request was sent again

    assert s3_server.get(key) == b"mine"


async def test_nothing_is_sent_if_the_block_raises(s3_server: S3Server, key: str) -> None:
    with pytest.raises(RuntimeError):
        async with place(s3_server, key).write(overwrite=True) as write:
            await write(BIG)
            raise RuntimeError

    assert s3_server.keys(key) == []
    assert s3_server.uploads() == []


@pytest.mark.usefixtures("small_requests")
async def test_a_cancelled_upload_takes_its_parts_back(s3_server: S3Server, key: str) -> None:
    started = asyncio.Event()
    async with proxy(s3_server, on_request=started.set) as port:
        task = asyncio.create_task(
            put(place(s3_server, key, endpoint=f"http://127.0.0.1:{port}"), BIG, BIG, overwrite=True)
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert s3_server.keys(key) == []
    assert s3_server.uploads() == []


@pytest.mark.usefixtures("small_requests")
async def test_drafts_of_yesterday_are_removed_and_those_of_today_are_not(
    s3_server: S3Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = f"{key}.asyncllm-parts/of-another"
    s3_server.put(draft, b"x")

    await put(place(s3_server, key), BIG)
    assert s3_server.keys(key) == [key, draft]

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(UTC) + timedelta(days=1, minutes=1)

    monkeypatch.setattr(objects_module, "datetime", Tomorrow)
    s3_server.client.delete_object(Bucket=s3_server.bucket, Key=key)
    await put(place(s3_server, key), BIG)
    assert s3_server.keys(key) == [key]


# -- the network -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def proxy(server: S3Server, *, cut_after: int | None = None, on_request: Any = None) -> AsyncIterator[int]:
    """Stands before the server, and once cuts a connection after so many bytes of a reply."""
    cuts = [cut_after] if cut_after is not None else []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        passed = 0
        try:
            while data := await reader.read(65_536):
                passed += len(data)
                if replies and cuts and passed > cuts[0]:
                    cuts.clear()
                    writer.transport.abort()
                    return
                if not replies and on_request is not None:
                    on_request()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, back, replies=False), pump(there, writer, replies=True))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
    assert not cuts


async def test_a_connection_that_breaks_in_the_middle_is_taken_up_again(s3_server: S3Server, key: str) -> None:
    s3_server.put(key, BIG)

    async with proxy(s3_server, cut_after=3 * MIB) as port:
        assert await content_of(place(s3_server, key, endpoint=f"http://127.0.0.1:{port}")) == BIG


async def test_a_store_that_does_not_answer_is_a_connection_error() -> None:
    gone = place_of("s3://b/k", options={**OPTIONS, "endpoint": "http://127.0.0.1:9", "max_retries": 0})

    with pytest.raises(APIConnectionError, match="s3://b/k cannot be read: the store did not answer") as raised:
        await gone.fingerprint()

    assert raised.value.retryable


OPTIONS: dict[str, Any] = {
    "region": "us-east-1", "allow_http": True, "max_retries": 0, "access_key_id": "AKIDOFTESTS",
    "secret_access_key": SECRET,
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", PermissionDeniedError),
        (401, "Unauthorized", AuthenticationError),
        (500, "InternalError", InternalServerError),
        (503, "SlowDown", OverloadedError),
        (400, "InvalidRequest", AsyncLLMError),
    ],
)
async def test_what_a_store_answers_is_the_error_of_its_status(status: int, code: str, kind: type[Exception]) -> None:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message><RequestId>R1</RequestId></Error>".encode()
    async with FaultyServer([Status(status, {}, body)]) as server:
        there = place_of("s3://b/k", options={**OPTIONS, "endpoint": server.url})
        with pytest.raises(kind) as raised:
            await put(there, b"x", overwrite=True)

    assert isinstance(raised.value, AsyncLLMError)
    assert (raised.value.status, raised.value.code, raised.value.request_id) == (status, code, "R1")
    assert SECRET not in f"{raised.value!r}{raised.value.__cause__!r}{raised.getrepr(style='long')}"


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket/folder/", f"s3://user:{SECRET}@bucket/key",
        f"s3://bucket/key?X-Amz-Signature={SECRET}",
    ],
)  # fmt: skip
def test_an_address_that_names_no_object_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/key, gs://bucket/key or az://container/key") as raised:
        place_of(address)

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "options", "said"),
    [
        ("s3://b/k", {"endpont": "x"}, "there is no option 'endpont'"),
        ("s3://b/k", {"virtual_hosted_style_request": SECRET}, "check the names and types"),
        ("s3://b/k", {"region": object()}, "check the names and types"),
        ("az://c/k", {}, "set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    address: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)

    with pytest.raises(ConfigError, match=said) as raised:
        place_of(address, options=options)

    assert SECRET not in str(raised.value)
    assert raised.value.field == "options"


@pytest.mark.parametrize("address", ["gs://b/k", "az://c/k", "S3://b/k"])
def test_each_store_has_its_scheme(address: str) -> None:
    options = {"account_name": "x"} if address.startswith("az") else {}

    assert place_of(address, options=options).name == address.lower()


def test_a_place_shows_no_key() -> None:
    there = place_of("s3://b/k", options={**OPTIONS})

    assert SECRET not in f"{there!r}{there.name}"


async def test_plain_http_is_refused_until_it_is_allowed(s3_server: S3Server, key: str) -> None:
    with pytest.raises(UnsupportedError, match="allow_http=True"):
        await place(s3_server, key, allow_http=False).fingerprint()


def test_object_stores_without_obstore_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'asyncllm\[s3\]'"):
        place_of("s3://b/k")


def test_credentials_come_from_the_environment(s3_server: S3Server, key: str) -> None:
    s3_server.put(key, b"found")
    script = (
        "import asyncio, sys\n"
        "from asyncllm.batch.places import place_of\n"
        "async def main():\n"
        "    async with place_of(sys.argv[1]).read() as pieces:\n"
        "        print([piece async for piece in pieces])\n"
        "asyncio.run(main())\n"
    )
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIDOFTESTS", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_server.port}", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", script, f"s3://{s3_server.bucket}/{key}"],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("[b'found']\n", "")
