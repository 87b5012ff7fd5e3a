"""Outcomes as bytes of a store, and what is asked as a digest.

MessagePack of our own nouns: an answer without the body it came in, or an error by its class, its message and its
facts. A digest is of everything that can change the answer, so of deadlines not.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Any, Final

import msgspec

from asyncllm import errors
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.errors import AsyncLLMError, CorruptStoreError
from asyncllm.types import Embeddings, Request, Response, Timeouts, Usage

__all__ = ["decode_outcome", "digest", "encode_answer", "encode_error"]

_KEY_BYTES: Final = 16


def _plain(value: Any) -> Any:
    if isinstance(value, array):
        return value.tobytes()
    raise NotImplementedError(f"a {type(value).__name__} cannot be kept")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain, order="deterministic")
_responses = msgspec.msgpack.Decoder(tuple[str, Response])
_anything = msgspec.msgpack.Decoder(tuple[str, Any])


def digest(asked: AnyAsk) -> bytes:
    """Tells what is asked from anything else that is, wherever it stands. Raises `TypeError` for what is no data."""
    same = msgspec.structs.replace(asked, timeouts=Timeouts())
    if isinstance(same, Request):
        same = msgspec.structs.replace(same, stream=False, idempotency_key=None)
    return hashlib.sha256(_encoder.encode([type(same).__name__, same])).digest()[:_KEY_BYTES]


def encode_answer(answer: Answer) -> bytes:
    """An answer, less what can be made anew from the rest of it."""
    if isinstance(answer, Response):
        return _encoder.encode(("response", msgspec.structs.replace(answer, body=None, parsed=None)))
    rows = [row if isinstance(row, array) else array("f", row) for row in answer.vectors]
    told = {"usage": answer.usage, "model": answer.model, "cost_usd": answer.cost_usd}
    return _encoder.encode(("embeddings", {**told, "vectors": rows}))


def encode_error(error: AsyncLLMError) -> bytes:
    """An error, less what it may hold of content."""
    facts = {name: value for name, value in error.facts().items() if isinstance(value, str | int | float | bool)}
    return _encoder.encode(("error", [type(error).__name__, error.message, facts]))


def decode_outcome(body: bytes) -> Answer | AsyncLLMError:
    """What was encoded. Raises `CorruptStoreError`."""
    try:
        if body[:10] == b"\x92\xa8response":
            return _responses.decode(body)[1]
        kind, told = _anything.decode(body)
        return _embeddings(told) if kind == "embeddings" else _error(*told)
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError) as error:
        raise CorruptStoreError("an outcome in the store is none that this version has written") from error


def _embeddings(told: dict[str, Any]) -> Embeddings:
    return Embeddings(
        vectors=tuple(_floats(row) for row in told["vectors"]),
        usage=msgspec.convert(told["usage"], Usage),
        model=told["model"],
        cost_usd=told["cost_usd"],
    )


def _floats(row: bytes) -> array[float]:
    vector = array("f")
    vector.frombytes(row)
    return vector


def _error(name: str, message: str, facts: dict[str, Any]) -> AsyncLLMError:
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, AsyncLLMError)):
        kind = AsyncLLMError  # of a plugin that has classes of its own
    return kind(message, **facts)
