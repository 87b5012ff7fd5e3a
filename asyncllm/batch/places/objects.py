"""Objects in the stores of the clouds, through obstore (extra `s3`).

What is read is fetched in ranges of one version, so that a broken connection costs no more than a range, and an object
that changes meanwhile is an error. What is written is spooled on this machine first and becomes an object in one step;
an object that is not to be replaced is guarded by the store itself, with a conditional request.

obstore's own texts may carry addresses with signatures in them, so no error repeats them.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from asyncllm.batch.places.mishaps import explained, read_error, write_error
from asyncllm.batch.places.protocol import Write
from asyncllm.batch.spool import Spool
from asyncllm.errors import ConfigError, InputError, OutputExistsError
from asyncllm.finishing import finish

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["ObjectPlace", "SCHEMES", "object_place"]

SCHEMES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
"""What an address begins with, and obstore's class for it."""

_ADDRESS = re.compile(r"([a-z0-9]+)://([A-Za-z0-9][A-Za-z0-9._-]*)/(.*)", re.IGNORECASE | re.DOTALL)
_RANGE = 8 * 1024 * 1024
_AT_ONCE = 32 * 1024 * 1024
"""Up to here an object is sent in one request, which the store can make conditional; what is larger goes in parts."""
_PARTS = 9000  # S3 takes 10,000
_PARTS_IN_FLIGHT = 4
_ABORT_S = 30.0
_FORGOTTEN = timedelta(days=1)

_DEFAULTS: dict[str, dict[str, Any]] = {"s3": {"copy_if_not_exists": "multipart"}, "gs": {}, "az": {}}
_PLAIN_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_CLIENT: dict[str, Any] = {"timeout": "5m", "connect_timeout": "10s"}
_RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_OF_CLIENT = (
    "allow_http", "allow_invalid_certificates", "connect_timeout", "default_headers", "proxy_ca_certificate",
    "proxy_excludes", "proxy_url", "read_timeout", "root_certificate", "timeout", "user_agent",
)  # fmt: skip


def object_place(address: str, options: dict[str, Any]) -> ObjectPlace:
    """The place of `s3://bucket/key`, `gs://bucket/key` or `az://container/key`. The key is taken as it is written.

    Credentials, region and endpoint come from the environment, by the names that the clouds' own tools know
    (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, ...), and
    from the machine's own identity where it has one. Files of profiles such as `~/.aws/credentials` are not
    read. `options` go over them, by obstore's names: `endpoint`, `region`, `access_key_id`, `account_name`,
    `allow_http`, `timeout`, `credential_provider`, `max_retries`, ...

    Raises `ConfigError`, which repeats neither secrets nor values.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not parts[3] or parts[3].endswith("/") or "?" in parts[3] or "\n" in parts[3]:
        raise ConfigError(
            "an object's address is s3://bucket/key, gs://bucket/key or az://container/key, without user name, "
            "password or query; keys and endpoints go into the environment or into options",
            field="location",
        )
    if find_spec("obstore") is None:
        raise ConfigError("object stores need obstore: pip install 'asyncllm[s3]'", field="location")
    scheme = parts[1].lower()
    plain = os.environ.get(_PLAIN_HTTP[scheme], "").lower() in ("1", "true")  # obstore reads it where it is given none
    client = {**_CLIENT, "allow_http": plain, **{name: options.pop(name) for name in _OF_CLIENT if name in options}}
    retries = {**_RETRIES, **{name: options.pop(name) for name in _RETRIES if name in options}}
    make = getattr(importlib.import_module("obstore.store"), SCHEMES[scheme])
    try:
        store = make(parts[2], client_options=client, retry_config=retries, **{**_DEFAULTS[scheme], **options})
    except Exception as error:  # obstore's own, and those of Python for values of other types
        raise ConfigError(
            f"{scheme}://{parts[2]} cannot be reached with these options and this environment: {explained(error)}",
            field="options",
        ) from None
    return ObjectPlace(f"{scheme}://{parts[2]}/{parts[3]}", store, parts[3])


class ObjectPlace:
    """One object. `name` is its address."""

    def __init__(self, name: str, store: ObjectStore, key: str) -> None:
        self.name = name
        self._store = store
        self._key = key

    async def fingerprint(self) -> str | None:
        """ETag and size."""
        found = await self._head()
        return None if found is None else f"{found['e_tag']}-{found['size']}"

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """See `Place`. Raises `InputError` as well where the object is replaced before its end was read."""
        found = await self._head()
        if found is None:
            raise InputError(f"{self.name} cannot be read: nothing is there; check the key and the bucket")
        yield self._pieces(found)

    @asynccontextmanager
    async def write(self, *, overwrite: bool) -> AsyncGenerator[Write]:
        """See `Place`. A process that is killed while it sends leaves parts that only the store's own rules remove."""
        if not overwrite and await self._is_there():
            raise self._exists()
        with Spool() as spool:
            yield spool.write
            if spool.size <= _AT_ONCE:
                await self._put(spool, overwrite=overwrite)
            elif overwrite:
                await self._upload(spool, self._key)
            else:
                await self._upload_and_move(spool)

    async def _head(self) -> ObjectMeta | None:
        try:
            return await self._store.head_async(self._key)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise read_error(error, self.name) from None

    async def _is_there(self) -> bool:
        try:
            await self._store.head_async(self._key)
        except FileNotFoundError:
            return False
        except Exception as error:
            if type(error).__name__ == "PermissionDeniedError":
                return False  # who may write need not be allowed to look, and the store looks once more itself
            raise write_error(error, self.name) from None
        return True

    async def _pieces(self, found: ObjectMeta) -> AsyncIterator[bytes]:
        for start in range(0, found["size"], _RANGE):
            end = min(start + _RANGE, found["size"])
            try:
                reply = await self._store.get_async(
                    self._key, options={"range": (start, end), "if_match": found["e_tag"]}
                )
                piece = bytes(await reply.bytes_async())
            except Exception as error:
                raise read_error(error, self.name) from None
            if len(piece) != end - start:
                raise InputError(f"{self.name} has changed while it was read; read it again")
            yield piece

    async def _put(self, spool: Spool, *, overwrite: bool) -> None:
        content = b"".join([piece async for piece in spool.pieces(_AT_ONCE)])
        mode: Literal["overwrite", "create"] = "overwrite" if overwrite else "create"
        try:
            await self._store.put_async(self._key, content, mode=mode, use_multipart=False)
        except Exception as error:
            await self._unless_ours(error, spool)

    async def _upload(self, spool: Spool, key: str) -> None:
        """Send the object in parts, which are taken back if this ends early."""
        ended_early = False

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in spool.pieces():
                if ended_early:
                    raise asyncio.CancelledError  # at which obstore takes its parts back
                yield piece

        async def put() -> None:
            size = max(_RANGE, -(-spool.size // _PARTS))
            await self._store.put_async(key, pieces(), chunk_size=size, max_concurrency=_PARTS_IN_FLIGHT)

        task = asyncio.create_task(put())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            ended_early = True
            with suppress(Exception):  # the cancellation is what counts
                await finish(task, _ABORT_S)
            raise
        except Exception as error:
            raise write_error(error, self.name) from None

    async def _upload_and_move(self, spool: Spool) -> None:
        """Parts cannot be sent on a condition, so they go under a name of their own and are moved on the condition."""
        folder = f"{self._key}.asyncllm-parts"
        await self._remove_forgotten(folder)
        draft = f"{folder}/{uuid.uuid4().hex}"
        await self._upload(spool, draft)
        try:
            await self._store.copy_async(draft, self._key, overwrite=False)
        except Exception as error:
            await self._unless_ours(error, spool)
        finally:
            with suppress(Exception):  # the next write removes it
                await self._store.delete_async(draft)

    async def _remove_forgotten(self, folder: str) -> None:
        """Remove what processes that were killed have left, a day after the fact: nobody can tell before."""
        with suppress(Exception):  # it does no harm where it is
            found: ObjectMeta
            for found in await self._store.list(prefix=folder).collect_async():  # pyright: ignore[reportUnknownMemberType]
                if datetime.now(UTC) - found["last_modified"] > _FORGOTTEN:
                    await self._store.delete_async(found["path"])

    async def _unless_ours(self, error: Exception, spool: Spool) -> None:
        """Raise what `error` means, unless it complains of the very content that was to be written.

        A request whose answer got lost is sent again, and finds what it has done itself.
        """
        if type(error).__name__ != "AlreadyExistsError":
            raise write_error(error, self.name) from None
        found = await self._head()
        if found is None or found["size"] != spool.size:
            raise self._exists()
        theirs = self._pieces(found)
        async for ours in spool.pieces(_RANGE):
            if ours != await anext(theirs, b""):
                raise self._exists()

    def _exists(self) -> OutputExistsError:
        return OutputExistsError(
            f"{self.name} is there already: write to another key, or pass overwrite=True (--overwrite) to replace it"
        )
