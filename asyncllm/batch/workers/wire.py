"""What goes between a batch and a worker process: MessagePack of these, each preceded by its length in four bytes."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from asyncllm.backend import EmbedRequest
from asyncllm.batch.rows import AnyAsk
from asyncllm.batch.workers.recipe import Recipe
from asyncllm.calls import Model
from asyncllm.types import Request

__all__ = [
    "Answered",
    "Begin",
    "Cancel",
    "Frames",
    "Ping",
    "Pong",
    "Question",
    "Ready",
    "Refused",
    "downward",
    "question_of",
    "to_frame",
    "upward",
]

_LENGTH: Final = 4


class Begin(Struct, frozen=True, array_like=True, tag="begin"):
    """The first of all: what the worker is."""

    recipe: Recipe
    environ: dict[str, str]
    """The variables of the process that has started it."""


class Question(Struct, frozen=True, array_like=True, tag="ask"):
    """A row to be asked: exactly one of `request` and `embed`."""

    number: int
    model: str | list[str] | None
    """Goes before the model of the row."""
    request: Request | None = None
    embed: EmbedRequest | None = None

    @property
    def asked(self) -> AnyAsk:
        """What the row asks."""
        asked = self.request or self.embed
        assert asked is not None  # as `question_of` makes it
        return asked


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for that row any more."""

    number: int


class Ping(Struct, frozen=True, array_like=True, tag="ping"):
    """Is anybody there?"""


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """There is a client, to be asked."""


class Refused(Struct, frozen=True, array_like=True, tag="refused"):
    """There can be no such client, for the reason that `codec.encode_error` wrote."""

    error: bytes


class Answered(Struct, frozen=True, array_like=True, tag="answered"):
    """What became of a row, as `codec` writes it."""

    number: int
    body: bytes


class Pong(Struct, frozen=True, array_like=True, tag="pong"):
    """Somebody is."""


downward: Final = msgspec.msgpack.Decoder(Begin | Question | Cancel | Ping)
"""Reads what a worker is told."""
upward: Final = msgspec.msgpack.Decoder(Ready | Refused | Answered | Pong)
"""Reads what a worker tells."""

_encoder = msgspec.msgpack.Encoder()


def question_of(number: int, asked: AnyAsk, model: Model | None) -> Question:
    """The row as a worker is asked it."""
    told = model if model is None or isinstance(model, str) else list(model)
    if isinstance(asked, Request):
        return Question(number, told, asked, None)
    return Question(number, told, None, asked)


def to_frame(message: Struct) -> bytes:
    """The message as it is sent."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH, "big") + body


class Frames:
    """Bytes in, the bodies of messages out."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Every message that has come in whole by now."""
        rest = self._rest
        rest += data
        found: list[bytes] = []
        start = 0
        while len(rest) >= start + _LENGTH:
            begin = start + _LENGTH
            end = begin + int.from_bytes(rest[start:begin], "big")
            if len(rest) < end:
                break
            found.append(bytes(rest[begin:end]))
            start = end
        del rest[:start]
        return found
