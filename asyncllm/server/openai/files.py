"""`/v1/files`: what tenants keep here, mostly for batches and from them."""

from __future__ import annotations

import asyncio
import os
import re
import time
import unicodedata
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from msgspec import Meta, Struct
from msgspec.structs import fields

from asyncllm.batch.threads import in_thread
from asyncllm.errors import CorruptStoreError, InvalidRequestError
from asyncllm.server.described import Described
from asyncllm.server.http.bounds import Bytes, words
from asyncllm.server.http.departure import SlowReader, Watched
from asyncllm.server.http.forms import Form, Upload, read_form
from asyncllm.server.http.queries import read_query
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import objects
from asyncllm.server.openai.uploads import read_texts
from asyncllm.server.replies import send_json
from asyncllm.server.stored import FILE, Stored, missing, place_after
from asyncllm.workspace.tenants import StoredFile, is_id, new_id

__all__ = ["ExpiresAfter", "File", "FileContent", "FileRemoval", "Files", "Seconds", "Uploads", "listed"]

PURPOSES: Final = ("batch", "fine-tune", "user_data", "assistants", "vision")
_PIECE = 64 * 2**10
_MAX_NAME = 255
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._ -]")

Seconds = Annotated[int, Meta(ge=3600, le=30 * 86_400)]
"""For which a file is kept."""


class ExpiresAfter(Struct):
    """When a file goes by itself."""

    anchor: Literal["created_at"]
    seconds: Seconds


class _Told(Struct, kw_only=True, rename={"anchor": "expires_after[anchor]", "seconds": "expires_after[seconds]"}):
    purpose: Annotated[str, words(*PURPOSES)]
    anchor: Literal["created_at"] | None = None
    seconds: Seconds | None = None


class _Form(_Told, forbid_unknown_fields=True, kw_only=True):
    file: Bytes


class _Query(Struct):
    after: Annotated[str, Meta(extra_json_schema={"pattern": f"^{FILE}[0-9a-z]{{26}}$"})] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    order: Annotated[str, words("asc", "desc")] = "desc"
    purpose: str | None = None


class Uploads(Stored):
    """Keeps a file."""

    described = Described(body=_Form, is_form=True, max_bytes="max_file_bytes", reply=objects.FileObject)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings, store, tenant = self.service.settings, self.store, incoming.caller.tenant
        room = {"max_bytes": settings.max_stored_bytes, "max_files": settings.max_stored_files}
        await store.tenants.check_room(tenant, **room)
        drafts = store.tenants.blobs.drafts
        async with read_form(incoming, settings, max_file_bytes=settings.max_file_bytes, folder=drafts) as form:
            upload = form.file("file")
            file = _file(form, upload)
            await store.tenants.add_file(tenant, file, upload.path, **room)
        await send_json(incoming.send, _written(file))


class Files(Stored):
    """The files that are kept."""

    described = Described(query=_Query, reply=objects.FilePage)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        asked = read_query(incoming, _Query)
        if asked.order not in ("asc", "desc"):
            raise InvalidRequestError("order is asc or desc", field="order")
        found = await self.store.tenants.files(
            incoming.caller.tenant,
            after=place_after(FILE, asked.after),
            count=asked.limit + 1,
            is_descending=asked.order == "desc",
            purpose=asked.purpose,
        )
        await send_json(incoming.send, listed([_written(file) for file in found], asked.limit))


class File(Stored):
    """What is known of a file."""

    described = Described(reply=objects.FileObject, absent="file")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, _written(await self.file_of(incoming, incoming.scope["path_params"]["id"])))


class FileRemoval(Stored):
    """Keeps a file no longer."""

    described = Described(reply=objects.Removed, absent="file")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        id_ = incoming.scope["path_params"]["id"]
        if not is_id(FILE, id_) or not await self.store.tenants.remove_file(incoming.caller.tenant, id_):
            raise missing("file", id_)
        await send_json(incoming.send, {"id": id_, "object": "file", "deleted": True})


class FileContent(Stored):
    """The bytes of a file: all of them, whatever range is asked for."""

    described = Described(reply=Bytes, reply_type="application/octet-stream", absent="file")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        file = await self.file_of(incoming, incoming.scope["path_params"]["id"])
        opened = await in_thread(lambda: self.store.tenants.blobs.open(incoming.caller.tenant, file.digest, file.size))
        try:
            async with Watched(incoming.receive):
                await self._send(incoming, file, opened)
        finally:
            os.close(opened)

    async def _send(self, incoming: Incoming, file: StoredFile, opened: int) -> None:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % file.size),
            (b"content-disposition", _disposition(file.filename)),
            (b"x-content-type-options", b"nosniff"),
            (b"accept-ranges", b"none"),
        ]
        left = file.size
        piece = await in_thread(lambda: os.read(opened, _PIECE))
        await incoming.send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            left -= len(piece)
            # The last piece ends the reply: a client that has all that was told may ask the next at once.
            message = {"type": "http.response.body", "body": piece, "more_body": left > 0}
            try:
                async with asyncio.timeout(self.service.settings.send_timeout_s):
                    await incoming.send(message)
            except TimeoutError:
                raise SlowReader from None
            if left <= 0:
                return
            piece = await in_thread(lambda: os.read(opened, _PIECE))
            if not piece:
                raise CorruptStoreError("the bytes of a file ended while they were read")


def listed(documents: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """A page of a list, of which one more than `count` was looked for."""
    shown = documents[:count]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, **ends, "has_more": len(documents) > count}


def _file(form: Form, upload: Upload) -> StoredFile:
    unknown = {name for name, _ in (*form.values, *form.uploads)} - {field.encode_name for field in fields(_Form)}
    if unknown:
        raise InvalidRequestError(f"a file has no {min(unknown)!r}", field=min(unknown))
    told = read_texts(form, _Told)
    if told.purpose not in PURPOSES:
        raise InvalidRequestError(f"purpose is one of {', '.join(PURPOSES)}", field="purpose")
    if (told.anchor is None) != (told.seconds is None):
        raise InvalidRequestError("expires_after has its anchor, created_at, and its seconds", field="expires_after")
    now = time.time()
    return StoredFile(
        id=new_id(FILE),
        purpose=told.purpose,
        filename=_shown(upload.filename),
        size=upload.size,
        digest=upload.sha256.hex(),
        created_at=now,
        expires_at=None if told.seconds is None else now + told.seconds,
    )


def _shown(filename: str) -> str:
    """What is kept of a name: what can be shown, and not without end."""
    return "".join(letter for letter in filename if unicodedata.category(letter)[0] != "C")[:_MAX_NAME] or "file"


def _disposition(filename: str) -> bytes:
    plain = _NOT_PLAIN.sub("_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}".encode("ascii")


def _written(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
