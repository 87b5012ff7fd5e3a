"""A call that is made for a request, whole or streamed, in whichever API it was asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, ClassVar, Protocol

import msgspec

from asyncllm.errors import AsyncLLMError, InvalidRequestError, UnsupportedError
from asyncllm.estimate import estimated_input, estimated_tokens
from asyncllm.events import Event
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.departure import Watched
from asyncllm.server.incoming import Incoming
from asyncllm.server.limits.admission import Ticket
from asyncllm.server.replies import send_json, told_of
from asyncllm.server.settings import ServerSettings
from asyncllm.server.streams import send_events
from asyncllm.stream import Stream
from asyncllm.types import ContentPart, FilePart, ImagePart, Request, Response

__all__ = ["Generation", "Writer", "check_asked", "check_part"]


class Writer(Protocol):
    """Writes one answer in the form of an API's streams."""

    def write(self, events: Sequence[Event]) -> bytes:
        """What `events` come to."""
        ...

    def end(self) -> bytes:
        """What comes after the last event."""
        ...

    def fail(self, error: AsyncLLMError) -> bytes:
        """What comes in place of the rest."""
        ...

    def keep_alive(self) -> bytes:
        """What breaks a silence."""
        ...


class Generation(Endpoint):
    """One route that generates."""

    unmet: ClassVar[Mapping[str, str]] = {}
    """Fields that ask for another answer than is given here, and what to do instead: they are refused unless they are
    passed on. Any other field that no noun has a place for is ignored, as the APIs' own servers ignore it."""
    moot: ClassVar[Mapping[str, Any]] = {}
    """Of these fields, the value that asks for no other answer; what is empty or false never does."""

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        body = await read_body(incoming, settings)
        asked = self.read(body)
        check_asked(asked, settings)
        name, model, client = self.find(incoming, asked.model)
        extra = self._passed(asked)
        asked = msgspec.structs.replace(asked, model="", extra=extra)
        if asked.stream:
            writer = self.writer(body, incoming.id, name)
            async with self.admit(incoming, name, estimated_tokens(asked), estimated_input(asked)) as ticket:
                call = client.ask(await self._complete(incoming, asked), model=model)
                with _naming(extra):
                    await self._stream(incoming, call, writer, ticket)
            return
        async with self.admit(incoming, name, estimated_tokens(asked), estimated_input(asked)) as ticket:
            call = client.ask(await self._complete(incoming, asked), model=model)
            with _naming(extra):
                async with Watched(incoming.receive):
                    response = await call.whole()
            ticket.begin()
            ticket.count(response)
        # The names are the server's: which model and which call of whose stand behind them is not told.
        known = msgspec.structs.replace(response, request_id=None, model=None)
        await send_json(incoming.send, self.reply(body, known, incoming.id, name))

    @abstractmethod
    def read(self, body: bytes) -> Request:
        """What is asked. Raises `InvalidRequestError`."""

    @abstractmethod
    def reply(self, body: bytes, response: Response, request_id: str, model: str) -> Any:
        """The whole answer as a document. Raises `InvalidRequestError`."""

    @abstractmethod
    def writer(self, body: bytes, request_id: str, model: str) -> Writer:
        """Who writes the streamed answer. Raises `InvalidRequestError`."""

    async def _complete(self, incoming: Incoming, asked: Request) -> Request:
        """What is asked, with all that it names by an address."""
        if not self.service.settings.fetch_urls:
            return asked
        async with Watched(incoming.receive):
            return await self.service.pictures.fetch(asked)

    def _passed(self, asked: Request) -> dict[str, Any]:
        """The fields that go to the backend as they are. Raises `InvalidRequestError` for those of `unmet`."""
        passed = self.service.settings.passed_fields
        for field, fix in self.unmet.items():
            value = asked.extra.get(field)
            if value and value != self.moot.get(field) and field not in passed:
                raise InvalidRequestError(f"{field} is not served here: {fix}", field=field)
        return {field: asked.extra[field] for field in passed & asked.extra.keys()}

    async def _stream(self, incoming: Incoming, call: Stream, writer: Writer, ticket: Ticket) -> None:
        async with AsyncExitStack() as opened, Watched(incoming.receive) as watched:
            await opened.enter_async_context(call)  # from then on its first event is there
            ticket.begin()
            try:
                await send_events(
                    incoming.send,
                    _pieces(call, writer, ticket),
                    watched,
                    dog=self.service.dog,
                    settings=self.service.settings,
                    keep_alive=writer.keep_alive,
                )
            finally:
                ticket.count(call.response)


@contextmanager
def _naming(extra: Mapping[str, Any]) -> Generator[None]:
    """A backend that takes no further fields is told of by the names of those that were sent."""
    try:
        yield
    except UnsupportedError as error:
        if error.field != "extra" or not extra:
            raise
        told = " and ".join(extra)
        raise UnsupportedError(f"this model takes no {told}: leave it out", field=next(iter(extra))) from None


def check_asked(asked: Request, settings: ServerSettings) -> None:
    """Raise `InvalidRequestError` for what goes over the server's limits, or has something fetched."""
    if len(asked.messages) > settings.max_messages:
        raise InvalidRequestError(f"a conversation has at most {settings.max_messages} messages", field="messages")
    if isinstance(asked.sampling.n, int) and asked.sampling.n > settings.max_choices:
        raise InvalidRequestError(f"n is at most {settings.max_choices}", field="n")
    for position, message in enumerate(asked.messages):
        for part in () if isinstance(message.content, str) else message.content:
            check_part(part, f"messages[{position}].content", settings)


def check_part(part: ContentPart, field: str, settings: ServerSettings) -> None:
    """Raise `InvalidRequestError` for a part, at `field`, that has something fetched or names what is not there."""
    is_address = isinstance(part, ImagePart) and isinstance(part.url, str) and not part.url.startswith("data:")
    if is_address and not settings.fetch_urls:
        raise InvalidRequestError("addresses are not fetched here: send the picture as a data: URL", field=field)
    if isinstance(part, FilePart) and isinstance(part.file_id, str):
        raise InvalidRequestError("there are no files here to name by their ids: send the file itself", field=field)


async def _pieces(call: Stream, writer: Writer, ticket: Ticket) -> AsyncIterator[bytes]:
    try:
        async for batch in call.batches:
            ticket.events += len(batch)
            yield writer.write(batch)
    except AsyncLLMError as error:
        ticket.fail(error)
        yield writer.fail(told_of(error))
    else:
        yield writer.end()
