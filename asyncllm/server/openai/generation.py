"""`POST /v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
from starlette.types import Receive, Scope, Send

from asyncllm.client import Client
from asyncllm.dialect.answers import write_chat_reply, write_completion_reply
from asyncllm.dialect.pieces import ChunkWriter
from asyncllm.dialect.served import read_chat_request, read_completion_request
from asyncllm.errors import AsyncLLMError, InvalidRequestError
from asyncllm.server.bodies import read_body
from asyncllm.server.departure import Watched
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.models import Served
from asyncllm.server.replies import send_json, told_of
from asyncllm.server.settings import ServerSettings
from asyncllm.server.streams import EventStream
from asyncllm.stream import Stream
from asyncllm.types import ContentPart, FilePart, ImagePart, Request
from asyncllm.watchdog import Watchdog

__all__ = ["Generation"]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Streamed(msgspec.Struct):
    stream_options: _StreamOptions | None = None


_streamed = msgspec.json.Decoder(_Streamed)


class Generation(Endpoint):
    """Chats, or with `is_chat` false text completions."""

    def __init__(
        self, client: Client, served: Served, settings: ServerSettings, dog: Watchdog, *, is_chat: bool
    ) -> None:
        self._client = client
        self._served = served
        self._settings = settings
        self._dog = dog
        self._is_chat = is_chat

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        body = await read_body(scope, receive, self._settings)
        asked = (read_chat_request if self._is_chat else read_completion_request)(body)
        self._check(asked)
        name, model = self._served.find(asked.model)
        # Any other field that no noun has a place for is ignored, as OpenAI's own server ignores it.
        extra = {field: asked.extra[field] for field in self._settings.passed_fields & asked.extra.keys()}
        asked = msgspec.structs.replace(asked, model="", extra=extra)
        call = self._client.ask(asked, model=model)
        id_ = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{request_id}"
        if asked.stream:
            await self._stream(scope, receive, send, call, self._writer(body, id_, name))
            return
        async with Watched(receive):
            response = await call.whole()
        write = write_chat_reply if self._is_chat else write_completion_reply
        # The names are the server's: which model and which call of whose stand behind them is not told.
        known = msgspec.structs.replace(response, request_id=None, model=None)
        await send_json(send, write(known, id_=id_, model=name, created=int(time.time())))

    def _check(self, asked: Request) -> None:
        settings = self._settings
        if len(asked.messages) > settings.max_messages:
            raise InvalidRequestError(f"a conversation has at most {settings.max_messages} messages", field="messages")
        if isinstance(asked.sampling.n, int) and asked.sampling.n > settings.max_choices:
            raise InvalidRequestError(f"n is at most {settings.max_choices}", field="n")
        for position, message in enumerate(asked.messages):
            for part in () if isinstance(message.content, str) else message.content:
                _check_part(part, f"messages[{position}].content", settings)

    def _writer(self, body: bytes, id_: str, model: str) -> ChunkWriter:
        try:
            options = _streamed.decode(body).stream_options or _StreamOptions()
        except msgspec.ValidationError:
            raise InvalidRequestError(
                "include_usage and continuous_usage_stats are true or false", field="stream_options"
            ) from None
        return ChunkWriter(
            id_=id_,
            model=model,
            created=int(time.time()),
            is_chat=self._is_chat,
            include_usage=bool(options.include_usage),
            continuous_usage=bool(options.continuous_usage_stats),
        )

    async def _stream(self, scope: Scope, receive: Receive, send: Send, call: Stream, writer: ChunkWriter) -> None:
        settings = self._settings
        async with AsyncExitStack() as opened:
            async with Watched(receive):
                await opened.enter_async_context(call)  # from then on its first event is there
            reply = EventStream(
                _pieces(call, writer),
                dog=self._dog,
                send_timeout_s=settings.send_timeout_s,
                keep_alive_s=settings.keep_alive_s,
                keep_alive=writer.keep_alive,
                headers={},
            )
            await reply(scope, receive, send)


def _check_part(part: ContentPart, field: str, settings: ServerSettings) -> None:
    if isinstance(part, ImagePart) and isinstance(part.url, str) and not part.url.startswith("data:"):
        if not settings.fetch_urls:
            raise InvalidRequestError("addresses are not fetched here: send the picture as a data: URL", field=field)
        if not part.url.lower().startswith(("http://", "https://")):
            raise InvalidRequestError("the address of a picture begins with http:// or https://", field=field)
    if isinstance(part, FilePart) and isinstance(part.file_id, str):
        raise InvalidRequestError("there are no files here to name by their ids: send the file itself", field=field)


async def _pieces(call: Stream, writer: ChunkWriter) -> AsyncIterator[bytes]:
    try:
        async for batch in call.batches:
            yield writer.write(batch)
    except AsyncLLMError as error:
        yield writer.fail(told_of(error))
    else:
        yield writer.end()
