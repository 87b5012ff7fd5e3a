"""Outcomes as bytes of a store, and what is asked as a digest.

MessagePack of our own nouns: an answer without the body it came in, or an error by its class, its message and its
facts. A digest is of everything that can change the answer, so of deadlines not.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Any, Final, cast

import msgspec

from asyncllm import errors
from asyncllm.batch.rows import Answer, AnyAsk, Asked, Outcome, asked_of
from asyncllm.errors import AsyncLLMError, CorruptStoreError
from asyncllm.types import Embeddings, Request, Response, Timeouts, Usage

__all__ = ["decode_outcome", "digest", "encode_answer", "encode_error"]

_KEY_BYTES: Final = 16


def _plain(value: Any) -> Any:
    if isinstance(value, array):
        return value.tobytes()
    raise NotImplementedError(f"a {type(value).__name__} cannot be kept")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain, order="deterministic")
_canonical = msgspec.json.Encoder(order="deterministic")  # which has whole numbers of any size
_responses = msgspec.msgpack.Decoder(Response)
_anything = msgspec.msgpack.Decoder(tuple[str, str, msgspec.Raw])
_errors = msgspec.msgpack.Decoder(tuple[str, dict[str, Any]])


def digest(asked: AnyAsk) -> bytes:
    """Tells what is asked from anything else that is, wherever it stands. Raises `TypeError` for what is no data."""
    same = msgspec.structs.replace(asked, timeouts=Timeouts())
    if isinstance(same, Request):
        same = msgspec.structs.replace(same, stream=False, idempotency_key=None)
    return hashlib.sha256(_canonical.encode([type(same).__name__, same])).digest()[:_KEY_BYTES]


def encode_answer(asked: AnyAsk, answer: Answer) -> bytes:
    """An answer, less what can be made anew from the rest of it, with which call of which model it answers."""
    if isinstance(answer, Response):
        return _encoder.encode((asked_of(asked), asked.model, msgspec.structs.replace(answer, body=None, parsed=None)))
    rows = [row if isinstance(row, array) else array("f", row) for row in answer.vectors]
    told = {"usage": answer.usage, "model": answer.model, "cost_usd": answer.cost_usd}
    return _encoder.encode(("embed", asked.model, {**told, "vectors": rows}))


def encode_error(error: AsyncLLMError) -> bytes:
    """An error, less what it may hold of content. One of a plugin's own class is of the nearest class that is ours."""
    kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    if kind is not type(error):
        error.retryable = error.retryable  # what its class says of all is a fact of this one
    facts = {name: value for name, value in error.facts().items() if isinstance(value, str | int | float | bool)}
    return _encoder.encode(("error", kind.__name__, [error.message, facts]))


def decode_outcome(body: bytes, *, index: int, name: str | None = None, attempts: int = 1) -> Outcome:
    """The outcome that was encoded, of the row at `index`. Raises `CorruptStoreError`."""
    place: Any = {"index": index, "id": name, "attempts": attempts}
    try:
        kind, word, told = _anything.decode(body)
        if kind == "error":
            return Outcome(error=_error(word, *_errors.decode(told)), **place)
        if kind == "embed":
            return Outcome(asked="embed", model=word, answer=_embeddings(msgspec.msgpack.decode(told)), **place)
        if kind in ("chat", "complete"):
            return Outcome(asked=cast("Asked", kind), model=word, answer=_responses.decode(told), **place)
        raise ValueError(kind)  # it is told as all else that is wrong here
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
        kind = AsyncLLMError  # of another version
    return kind(message, **facts)
