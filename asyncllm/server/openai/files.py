"""`/v1/files`: what tenants keep here, mostly for batches and from them."""

from __future__ import annotations

import asyncio
import os
import re
import time
import unicodedata
from typing import Any, Final
from urllib.parse import quote

from asyncllm.batch.threads import in_thread
from asyncllm.errors import InvalidRequestError
from asyncllm.server.departure import SlowReader, Watched
from asyncllm.server.forms import Form, Upload, read_form
from asyncllm.server.incoming import Incoming
from asyncllm.server.replies import send_json
from asyncllm.server.stored import FILE, Stored, missing, page_of
from asyncllm.workspace.tenants import StoredFile, is_id, new_id

__all__ = ["File", "FileContent", "FileRemoval", "Files", "Uploads", "listed", "seconds_after"]

PURPOSES: Final = ("batch", "fine-tune", "user_data", "assistants", "vision")
_FIELDS = {"purpose", "file", "expires_after[anchor]", "expires_after[seconds]"}
_PIECE = 64 * 2**10
_MAX_NAME = 255
_SHORTEST_S, _LONGEST_S = 3600, 30 * 86_400
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._ -]")


class Uploads(Stored):
    """`POST /v1/files`."""

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
    """`GET /v1/files`."""

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        page = page_of(incoming, FILE, most=10_000, usual=10_000)
        found = await self.store.tenants.files(
            incoming.caller.tenant,
            after=page.after,
            count=page.count + 1,
            is_descending=page.is_descending,
            purpose=page.purpose,
        )
        await send_json(incoming.send, listed([_written(file) for file in found], page.count))


class File(Stored):
    """`GET /v1/files/{id}`."""

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, _written(await self.file_of(incoming, incoming.scope["path_params"]["id"])))


class FileRemoval(Stored):
    """`DELETE /v1/files/{id}`."""

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        id_ = incoming.scope["path_params"]["id"]
        if not is_id(FILE, id_) or not await self.store.tenants.remove_file(incoming.caller.tenant, id_):
            raise missing("file", id_)
        await send_json(incoming.send, {"id": id_, "object": "file", "deleted": True})


class FileContent(Stored):
    """`GET /v1/files/{id}/content`: all of it, whatever range is asked for."""

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
        await incoming.send({"type": "http.response.start", "status": 200, "headers": headers})
        while piece := await in_thread(lambda: os.read(opened, _PIECE)):
            try:
                async with asyncio.timeout(self.service.settings.send_timeout_s):
                    await incoming.send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                raise SlowReader from None
        await incoming.send({"type": "http.response.body", "body": b""})


def listed(documents: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """A page of a list, of which one more than `count` was looked for."""
    shown = documents[:count]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, **ends, "has_more": len(documents) > count}


def seconds_after(anchor: str | None, seconds: str | None) -> float | None:
    """How long a file is kept, from `expires_after`. Raises `InvalidRequestError`."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequestError('the anchor of expires_after is "created_at"', field="expires_after")
    if seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 9):
        raise InvalidRequestError("the seconds of expires_after are a whole number", field="expires_after")
    if not _SHORTEST_S <= int(seconds) <= _LONGEST_S:
        told = f"the seconds of expires_after are from {_SHORTEST_S} to {_LONGEST_S}"
        raise InvalidRequestError(told, field="expires_after")
    return float(seconds)


def _file(form: Form, upload: Upload) -> StoredFile:
    names = {name for name, _ in (*form.values, *form.uploads)}
    if names - _FIELDS:
        raise InvalidRequestError(f"a file has no {min(names - _FIELDS)!r}", field=min(names - _FIELDS))
    purpose = form.text("purpose")
    if purpose not in PURPOSES:
        raise InvalidRequestError(f"purpose is one of {', '.join(PURPOSES)}", field="purpose")
    kept_s = seconds_after(form.text("expires_after[anchor]"), form.text("expires_after[seconds]"))
    now = time.time()
    return StoredFile(
        id=new_id(FILE),
        purpose=purpose,
        filename=_shown(upload.filename),
        size=upload.size,
        digest=upload.sha256.hex(),
        created_at=now,
        expires_at=None if kept_s is None else now + kept_s,
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
