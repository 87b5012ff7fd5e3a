"""Documents that depart from their types, read all the same: one odd field must not cost a paid answer.

What stands beside an answer (an id, a count, a probability) is left out where it is of another type. What the answer
consists of is never guessed at: where that does not fit, the document is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any, TypeVar, cast, get_args

import msgspec
from msgspec import Struct

from asyncllm.errors import ResponseValidationError

__all__ = ["convert", "decode", "make_whole"]

T = TypeVar("T")

_BODY_LIMIT = 65536
_BESIDE = {
    "audio_tokens", "bytes", "cache_write_tokens", "cached_tokens", "completion_tokens", "completion_tokens_details",
    "context_length", "context_tokens", "context_window", "cost", "created", "extra_content", "finish_reason",
    "generated_tokens", "google", "id", "index", "input_length", "input_tokens", "input_tokens_details", "logprob",
    "logprobs", "max_context_length", "max_model_len", "model", "object", "output_tokens", "output_tokens_details",
    "owned_by", "prompt_tokens", "prompt_tokens_details", "reasoning", "reasoning_content", "reasoning_details",
    "reasoning_tokens", "refusal", "sequence_number", "status", "stop_reason", "thought_signature", "top_logprobs",
    "usage",
}  # fmt: skip


def decode(body: bytes, decoder: msgspec.json.Decoder[T], what: str, *, halves_in: Collection[str] = ()) -> T:
    """Decode `body`, leniently where the strict way fails. Raises `ResponseValidationError`.

    No text holds half of a surrogate pair, except at either end of the fields named in `halves_in`: the caller has the
    other half, or will have.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as strict:
        try:
            document = json.loads(body.decode("utf-8", "replace").lstrip("\ufeff"), parse_constant=lambda _: None)
            return msgspec.convert(_fitted(_tidy(document, halves_in), decoder.type), decoder.type, strict=False)
        except (ValueError, RecursionError) as lenient:
            # The texts of these errors name places, but a JSON error may quote what it found there.
            told = next((error for error in (lenient, strict) if isinstance(error, msgspec.ValidationError)), None)
            reason = "it is not JSON" if told is None else str(told)
            raise ResponseValidationError(
                f"{what} of {len(body)} bytes cannot be read: {reason}", body=body[:_BODY_LIMIT]
            ) from None


def convert(document: dict[str, Any], kind: type[T], what: str) -> T:
    """A part of a document that is decoded already, read as leniently. Raises `ResponseValidationError`."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError:
        try:
            return msgspec.convert(_fitted(document, kind), kind, strict=False)
        except msgspec.ValidationError as error:
            raise ResponseValidationError(f"{what} cannot be read: {error}") from None


def make_whole(text: str) -> str:
    """`text` with the halves of a pair joined and any other half replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _tidy(value: Any, halves_in: Collection[str], name: str = "") -> Any:
    """`value` without what JSON can say and no field here means: infinite numbers, and halves of characters."""
    if isinstance(value, str):
        return value if value.isascii() else _tidy_text(value, keep_halves=name in halves_in)
    if isinstance(value, float):  # numbers too large for a float come out of the parser as infinity
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        inside: Collection[str] = () if name == "arguments" else halves_in  # where names are the model's own
        return {_tidy_text(key): _tidy(item, inside, key) for key, item in items}
    if isinstance(value, list):
        return [_tidy(item, halves_in) for item in cast("list[Any]", value)]
    return value


def _tidy_text(text: str, *, keep_halves: bool = False) -> str:
    head, tail = "", ""
    if keep_halves and "\udc00" <= text[:1] <= "\udfff":
        head, text = text[0], text[1:]
    if keep_halves and "\ud800" <= text[-1:] <= "\udbff":
        text, tail = text[:-1], text[-1]
    return f"{head}{make_whole(text)}{tail}"


def _fitted(value: Any, kind: Any) -> Any:
    """`value` without the fields of `_BESIDE` that do not fit the struct `kind`, which may be optional or in a list."""
    if isinstance(value, list):
        return [_fitted(item, kind) for item in cast("list[Any]", value)]
    struct = _struct(kind)
    if struct is None or not isinstance(value, dict):
        return value
    fitted: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        item = cast("dict[str, Any]", value).get(field.encode_name)
        if item is None or (not item and _struct(field.type)):
            continue  # some languages write an empty object as an empty list
        item = msgspec.Raw(msgspec.json.encode(item)) if field.type is msgspec.Raw else _fitted(item, field.type)
        if field.name == "content" and isinstance(item, list) and not _struct(field.type):
            item = _joined(cast("list[Any]", item))
        if field.name in _BESIDE:
            item = _convertible(item, field.type)
        if item is not None:
            fitted[field.encode_name] = item
    return fitted


def _joined(parts: list[Any]) -> Any:
    """The text of content that comes in parts, as prompts do, where all of them are text."""
    texts: list[str] = []
    for item in parts:
        part = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        text = part.get("text") if part.get("type") in ("text", "output_text") else None
        if not isinstance(text, str):
            return parts
        texts.append(text)
    return "".join(texts)


def _convertible(item: Any, kind: Any) -> Any:
    """`item`, or the text of a number where a text is wanted, or `None` if it cannot be a `kind`."""
    for candidate in (item, str(item)) if type(item) is int else (item,):
        try:
            msgspec.convert(candidate, kind, strict=False)
        except msgspec.ValidationError:
            continue
        return candidate
    return None


def _struct(kind: Any) -> type[Struct] | None:
    """The struct inside `kind`: `S`, `S | None` and `list[S] | None` have one."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    return next((struct for part in get_args(kind) if (struct := _struct(part))), None)
