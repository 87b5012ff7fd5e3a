"""The files that batches write: one array, an item for each request, in the order of the requests.

V1 writes texts, `{"text", "num_prompt_tokens", "num_completion_tokens", "tokens"}`, and has no form for an error. V2
writes replies in OpenAI's form, error objects whose `code` is a status, and `null`.

Source: https://github.com/scaleapi/llm-engine (`batch_completion.py` of the server's request types).
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import Raw

from asyncllm.batch_http import refused
from asyncllm.dialect import read_reply
from asyncllm.dialect.lenient import decode
from asyncllm.errors import InternalServerError, ResponseValidationError
from asyncllm.events import Event, Started
from asyncllm_llmengine.replies import read_output

__all__ = ["read_item", "read_items"]

_array = msgspec.json.Decoder(list[Raw])
_values = msgspec.json.Decoder(list[Any])
_encode = msgspec.json.Encoder().encode
_document = msgspec.json.Decoder(dict[str, Any])
_NULL = b"null"


def read_items(content: bytes, count: int) -> list[Raw]:
    """The items of a file, which are `count`. Raises `ResponseValidationError`: otherwise none is sure to be whose."""
    try:
        items = _array.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # such as NaN, which Python's writers write
        items = [Raw(_encode(item)) for item in decode(content, _values, "the file of outcomes")]
    if len(items) != count:
        raise ResponseValidationError(f"the file of outcomes has {len(items)} of them for {count} requests")
    return items


def read_item(item: bytes, *, model: str, sent: bytes, limit: int | None) -> list[Event]:
    """Events of one answer; `sent` is its request, which no error text repeats, and `limit` its most tokens in V1.

    Raises `APIError`.
    """
    if item.strip() == _NULL:
        raise InternalServerError("the batch has no result for this request", code="no_result")
    document = decode(item, _document, "an outcome")
    text = document.get("text")
    if isinstance(text, str):
        return [Started(model, None, item), *read_output(text, document, limit)]
    error: object = document.get("error")
    if isinstance(error, dict):
        status = cast("dict[str, object]", error).get("code")
        raise refused(status if type(status) is int and 400 <= status < 600 else None, item, sent)
    return read_reply(item, sent=sent)
